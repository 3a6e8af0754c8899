"""What is said of a storm is what its machines went through."""

from __future__ import annotations

import pytest

from bench import storm
from bench.firmware import GaveUpError, Patience, expanded

STAGES = ("DHCPACK", "NBP", "script", "kernel", "initramfs", "agent", "inventory")


def machine(number: int, began: float, seconds: float, again: int = 0, late: int = 0) -> dict[str, object]:
    """As the load describes it."""
    return {
        "id": f"m-{number}",
        "began": began,
        "stages": dict.fromkeys(STAGES, seconds),
        "again": again,
        "late": late,
    }


def test_the_clock_runs_from_the_first_discover_to_the_last_inventory() -> None:
    """A machine that began late, or was known late, does not count."""
    machines = [machine(1, 100.0, 3.0), machine(2, 101.0, 30.0, again=2, late=1)]
    rows = storm.rows(machines, {"m-1": 110.0, "m-2": 140.0})
    found = {row.what: (row.ours, row.met) for row in rows}
    assert found["s to the last inventory of 2 machines at the manager"] == (40.0, True)
    assert found["s to the inventory at the manager, median"] == (24.5, None)
    assert found["requests that were sent again"] == (2, None)
    assert found["requests that were sent again twice or more"] == (1, False)


def test_a_larger_storm_has_no_target() -> None:
    """The target for a thousand machines is held against five thousand."""
    machines = [machine(number, 100.0, 3.0) for number in range(storm.MACHINES + 1)]
    rows = storm.rows(machines, {f"m-{number}": 300.0 for number in range(storm.MACHINES + 1)})
    assert rows[0].met is None


def test_patience() -> None:
    """A first time-out counts as a late one, or nobody ever gives up."""
    patience = Patience()
    patience.silence("DHCPDISCOVER", 1, 3)
    patience.silence("DHCPDISCOVER", 2, 3)
    assert (patience.again, patience.late) == (2, 1)
    with pytest.raises(GaveUpError, match="no answer to DHCPDISCOVER, 3 times"):
        patience.silence("DHCPDISCOVER", 3, 3)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("chain http://h/x", "chain http://h/x"),
        ("mac=${netX/mac:hexhyp}&uuid=${uuid}", "mac=<netX/mac:hexhyp>&uuid=<uuid>"),
        ("${a}${b}", "<a><b>"),
    ],
)
def test_settings_are_expanded(line: str, told: str) -> None:
    """A simulated machine asks for its script with the names of settings instead of their values."""
    assert expanded(line, lambda name: f"<{name}>") == told

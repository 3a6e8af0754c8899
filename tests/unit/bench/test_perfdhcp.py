"""perfdhcp's words become the right numbers, and the search for the best rate ends."""

from __future__ import annotations

import pytest

from bench import perfdhcp
from bench.perfdhcp import Step

REPORT = """\
Running: perfdhcp -4 -l load0 -R 20000 -r 250 -p 3 -W 100000 10.77.0.1
Scenario: basic.
Multi-thread mode enabled.
***Rate statistics***
Rate: 240.59 4-way exchanges/second, expected rate: 250

***Malformed Packets***
Malformed packets: 0
***Statistics for: DISCOVER-OFFER***
sent packets: 750
received packets: 735
drops: 15
drops ratio: 2 %
orphans: 0
rejected leases: 0
non unique addresses: 0

min delay: 0.107 ms
avg delay: 19.676 ms
max delay: 131.904 ms
std deviation: 29.006 ms
collected packets: 0

***Statistics for: REQUEST-ACK***
sent packets: 735
received packets: 732
drops: 3
drops ratio: 0.408 %
orphans: 0
rejected leases: 0
non unique addresses: 0

min delay: 0.496 ms
avg delay: 18.507 ms
max delay: 132.251 ms
std deviation: 27.870 ms
collected packets: 0
"""


def test_report_is_read() -> None:
    """Drops of the first half are overlooked, or its wait at the end makes a server slower than it is."""
    assert perfdhcp.read(250, 3.0, REPORT) == Step(250, 244.0, 2.0, 38.183)


def test_no_answer_at_all() -> None:
    """A server that is dead breaks the bench; with nothing received, perfdhcp prints words where numbers were."""
    silent = REPORT.replace("received packets: 735", "received packets: 0").replace(
        "drops ratio: 2 %", "drops ratio: 100 %"
    )
    silent = silent.replace("received packets: 732", "received packets: 0").replace("0.408 %", "-nan %")
    silent = silent.replace("avg delay: 19.676 ms", "avg delay: n/a").replace("avg delay: 18.507 ms", "avg delay: n/a")
    assert perfdhcp.read(250, 3.0, silent) == Step(250, 0.0, 100.0, None)


def test_no_report() -> None:
    """Something that is no report is measured as zero."""
    with pytest.raises(ValueError, match="no statistics"):
        perfdhcp.read(250, 3.0, "usage: perfdhcp")


def searched(capacity: float, offered: tuple[int, ...] = (500, 1000, 2000, 4000, 8000)) -> list[Step]:
    """All steps against a server that does `capacity` exchanges a second and drops the rest."""

    def step(rate: int) -> Step:
        done = min(float(rate), capacity)
        return Step(rate, done, 100 * (1 - done / rate), 1.0)

    steps = [step(rate) for rate in offered]
    while (rate := perfdhcp.next_rate(steps)) is not None:
        assert rate not in {one.offered for one in steps}
        steps.append(step(rate))
    return steps


@pytest.mark.parametrize("capacity", [40, 130, 499, 500, 3990, 7999, 8000, 8001, 20_000, 100_000])
def test_search_comes_close(capacity: float) -> None:
    """A server looks as fast as the next lower step of the ladder, or the search never ends."""
    found = perfdhcp.best(searched(capacity))
    assert found <= capacity
    assert found >= min(capacity, perfdhcp.HIGHEST_RATE) / perfdhcp.CLOSE_ENOUGH - 1


def test_search_gives_up() -> None:
    """A server that does nothing is asked for ever."""
    assert perfdhcp.best(searched(0.0)) == 0.0

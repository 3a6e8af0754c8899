"""The way back to Sidero's own provider: it finds what it would have written itself."""

from __future__ import annotations

from dataclasses import replace

from provider.domain.machine import Outcome, Record, RecordKind
from provider.planning import adoption, way_back
from provider.planning.adoption import Left
from provider.wire import omni as wire
from tests.unit.planning.omni_world import INSTALLED, ago
from tests.unit.planning.test_adoption import NEW, ON, WHOLE, adopt, machine, wipe_record


def opened(sealed: str) -> str:
    return sealed.removeprefix("sealed-")


DONE_SINCE = replace(
    NEW,
    records=(
        wipe_record(""),
        wipe_record("w-2", event=5, at=3),
        Record(RecordKind.WIPE, "w-3", ago(days=2), outcome=Outcome.FAILED),
        Record(RecordKind.REBOOT, "r-2", ago(days=2)),
        Record(RecordKind.POWER_OFF, "off-2", ago(days=2), wipe_id="w-2"),
    ),
    last_reboot_at=ago(hours=1),
    last_power_on_at=ago(hours=2),
)


def test_what_it_should_remember() -> None:
    """It wipes, reboots or switches again what we did, once it is back; or it loses what only it knew."""
    assert way_back.remembered(WHOLE, DONE_SINCE, opened) == replace(
        WHOLE,
        wipe=wire.WipeStatus("w-2", 5, True, "token"),
        reboot=wire.RebootStatus("r-2", ago(hours=1)),
        power=wire.PowerOperation(ON, ago(hours=2), "off-2", "w-2"),
    )


def test_of_a_machine_that_it_never_had() -> None:
    """A machine that came to us since is wiped by it; or it hears of things that never were."""
    assert way_back.remembered(Left(), NEW, opened) == Left()
    assert way_back.remembered(Left(), DONE_SINCE, opened) == Left(
        wipe=wire.WipeStatus("w-2", 5, True, "token"),
        reboot=wire.RebootStatus("r-2", ago(hours=1)),
        power=wire.PowerOperation(wire.PowerState.UNKNOWN, ago(hours=2), "off-2", "w-2"),
    )


def test_nothing_done_since() -> None:
    """What was taken over is written back as something else."""
    taken = adoption.after(machine(), adopt(INSTALLED, WHOLE))
    assert way_back.remembered(WHOLE, taken.facts, lambda sealed: sealed.removeprefix("sealed-")) == WHOLE
    assert not adoption.is_ahead(WHOLE, taken.facts)

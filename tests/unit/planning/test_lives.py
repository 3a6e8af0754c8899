"""The lives of a machine at Omni, and what our status there remembers of the present one."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from provider.domain.machine import Facts, Record, RecordKind
from provider.planning import lifecycle, lives, omni, witness
from provider.planning.omni import Seen, Teardown
from provider.planning.witness import Witness
from provider.wire import omni as wire
from tests.unit.planning.omni_world import ACCEPTED, NOW, ON, POLICY, ago, facts, machine, rebooted, wiped

FIRST, SECOND, THIRD = ago(days=9), ago(days=5), ago(days=1)


def joined(made: datetime) -> Record:
    return Record(RecordKind.JOINED, lives.mark(made), NOW)


def removed(made: datetime, at: datetime = NOW) -> Record:
    return Record(RecordKind.REMOVED, lives.mark(made), at)


@pytest.mark.parametrize(
    ("records", "made", "is_over", "written"),
    [
        pytest.param((), FIRST, False, [joined(FIRST)], id="first sight"),
        pytest.param((joined(FIRST),), FIRST, False, [], id="seen again"),
        pytest.param((joined(FIRST),), SECOND, False, [removed(FIRST), joined(SECOND)], id="replaced unseen"),
        pytest.param((joined(SECOND),), FIRST, True, [], id="a backup of an earlier one"),
        pytest.param((joined(FIRST), removed(FIRST)), FIRST, True, [], id="given up, and brought back"),
        pytest.param((joined(FIRST), removed(FIRST)), SECOND, False, [joined(SECOND)], id="joined again"),
        pytest.param((joined(FIRST), removed(FIRST), joined(SECOND)), SECOND, False, [], id="and seen again"),
        pytest.param((joined(FIRST), removed(FIRST), joined(SECOND)), FIRST, True, [], id="backup of the first"),
        pytest.param((joined(SECOND), removed(FIRST)), SECOND, False, [], id="the backup was given up, not this"),
        pytest.param((Record(RecordKind.REMOVED, "", SECOND),), FIRST, True, [], id="given up, by our clock"),
        pytest.param((Record(RecordKind.REMOVED, "", SECOND),), THIRD, False, [joined(THIRD)], id="joined after it"),
        pytest.param((), None, False, [], id="Omni does not say when"),
        pytest.param((removed(FIRST),), None, True, [], id="perhaps given up"),
    ],
)
def test_lives(records: tuple[Record, ...], made: datetime | None, is_over: bool, written: list[Record]) -> None:
    """A machine that joined again is taken for one of a backup and never touched, or the other way round and wiped."""
    known = facts(ON, *records)
    assert lives.is_over(made, known) is is_over
    assert [Record(kind, mark, NOW) for kind, mark in lives.to_record(made, known)] == written


@pytest.mark.parametrize("ahead", [timedelta(minutes=-4), timedelta(0), timedelta(minutes=4)])
def test_our_clock_tells_no_lives_apart(ahead: timedelta) -> None:
    """A machine joins again seconds after its removal, and our clock is four minutes ahead: it is pending for ever."""
    gone = removed(FIRST, at=NOW + ahead)
    assert not lives.is_over(NOW + timedelta(seconds=5), facts(ON, joined(FIRST), gone))
    assert lives.is_over(FIRST, facts(ON, joined(FIRST), gone))


def test_removal_of_a_backups_resource_ends_no_other_life() -> None:
    """Omni was restored from the wrong backup, tidied up, and restored again: the machine is wiped while it is in use."""
    known = facts(ON, joined(SECOND), wiped())
    dying = Seen(ACCEPTED, finalizers=("bm1.Bootwright",), created=FIRST, tearing_down=True)
    step = omni.teardown("bm1", dying, machine(ACCEPTED, known), has_status=False, now=NOW, policy=POLICY)
    assert step is Teardown.RELEASE


# --- the witness -----------------------------------------------------------------------------------------------------

STATUS = wire.InfraMachineStatus(
    wiped_node_unique_token="plain", last_reboot_id="r", last_reboot_timestamp=ago(hours=1)
)


def recalled(known: Facts, said: str, made: datetime | None = SECOND) -> list[Record]:
    return list(witness.recalled(Witness(STATUS, said), made, known, NOW, seal=lambda plain: f"sealed {plain}"))


@pytest.mark.parametrize("wipe_id", ["", "w2"])
def test_store_of_yesterday(wipe_id: str) -> None:
    """A store from before the last wipe has a machine wiped that is in use, and rebooted once more."""
    said = witness.statement(wiped(wipe_id, event=7), SECOND)
    wipe, reboot = recalled(facts(ON, wiped("w1", event=3)), said)
    assert (wipe.kind, wipe.request_id, wipe.install_event, wipe.manager_token) == (
        RecordKind.WIPE,
        wipe_id,
        7,
        "sealed plain",
    )
    assert (reboot.kind, reboot.request_id, reboot.at) == (RecordKind.REBOOT, "r", ago(hours=1))
    known = facts(ON, wiped("w1", event=3), wipe, reboot)
    spec = replace(ACCEPTED, wipe_id=wipe_id, install_event_id=8, cluster_talos_version="1.13.7")
    wanted = machine(spec, known).desired
    assert not lifecycle.requires_wipe(wanted, known)
    assert lifecycle.is_installed(wanted, known)


@pytest.mark.parametrize(
    ("known", "said", "made"),
    [
        pytest.param(facts(ON), "", SECOND, id="never wiped"),
        pytest.param(facts(ON), witness.statement(wiped(), FIRST), SECOND, id="of an earlier life"),
        pytest.param(facts(ON), witness.statement(wiped(), FIRST), None, id="of who knows which life"),
        pytest.param(facts(ON), '{"life": 1}', SECOND, id="somebody wrote something else"),
        pytest.param(facts(ON), "[" * 100_000, SECOND, id="or tries to break us"),
        pytest.param(
            facts(ON, wiped(), rebooted("r", hours=1)), witness.statement(wiped(), SECOND), SECOND, id="known"
        ),
    ],
)
def test_nothing_to_recall(known: Facts, said: str, made: datetime | None) -> None:
    """A machine counts as wiped that is not."""
    assert recalled(known, said, made) == []


def test_no_statement_without_a_wipe() -> None:
    """A machine counts as wiped once its status was written."""
    assert witness.statement(None, FIRST) == ""
    assert witness.statement(wiped(), None) == ""

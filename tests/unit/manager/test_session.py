"""The provider's end of the link, as scripts: what comes in, what is to be done."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from provider.domain.machine import Desired
from provider.kit.jsontypes import JsonObject
from provider.manager.messages import Ack, DesiredMessage, DesiredState, Heartbeat, Hello, Resync, Welcome
from provider.manager.session import WINDOW, Close, Compare, Desire, Forget, LinkSession, SkipTo, TellAll
from provider.store import outbox

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Item:
    sequence: int
    kind: str = "event"
    machine_id: str = "m-1"
    document: JsonObject = field(default_factory=lambda: {"name": "x.happened", "data": {}})
    at: datetime = NOW


def session(oldest: int, following: int) -> LinkSession:
    return LinkSession(Hello(provider="rack", next_sequence=following), oldest)


def welcomed(oldest: int, following: int, last: int) -> LinkSession:
    opened = session(oldest, following)
    opened.received(Welcome(last_sequence=last))
    return opened


def test_goes_on_where_the_manager_is() -> None:
    """Items are skipped or sent twice after a reconnect."""
    opened = session(oldest=4, following=9)
    assert opened.received(Welcome(last_sequence=5)) == [Compare(5)]
    assert opened.compared(NOW) == [Forget(5)]
    assert [message.sequence for message in opened.items([Item(6), Item(7)])] == [6, 7]
    assert opened.received(Ack(sequence=7)) == [Forget(7)]
    assert opened.received(Ack(sequence=6)) == []


def test_nothing_goes_out_before_the_welcome() -> None:
    """Items are sent that the manager has, or to one that did not answer."""
    assert session(1, 9).room == 0
    assert session(1, 9).items([Item(1)]) == []
    assert isinstance(session(1, 9).received(Ack(sequence=1))[0], Close)


def test_window_is_bounded() -> None:
    """A slow manager gets the whole outbox at once."""
    opened = welcomed(1, 5000, 0)
    sent = opened.items([Item(number) for number in range(1, 1000)])
    assert len(sent) == WINDOW
    assert opened.room == 0
    opened.received(Ack(sequence=10))
    assert opened.room == 10


def test_manager_that_lost_its_state_hears_everything() -> None:
    """A manager restored from an old backup never learns what it has forgotten."""
    opened = session(oldest=50, following=60)
    assert isinstance(opened.received(Welcome(last_sequence=7))[0], TellAll)
    assert [message.sequence for message in opened.items([Item(50)])] == [50]


@pytest.mark.parametrize(("oldest", "following"), [(1, 1), (3, 9)])
def test_lost_outbox_counts_on_from_the_manager(oldest: int, following: int) -> None:
    """A provider whose state was lost sends numbers that the manager drops as old."""
    commands = session(oldest, following).received(Welcome(last_sequence=100))
    assert [type(command) for command in commands] == [TellAll, SkipTo]
    assert commands[1] == SkipTo(100)


def test_other_item_by_the_same_number_is_noticed() -> None:
    """State was lost and new numbers grew into the old ones: items are taken for those that the manager has."""
    opened = session(oldest=1, following=9)
    opened.received(Welcome(last_sequence=5, last_at=NOW))
    commands = opened.compared(NOW - timedelta(hours=1))
    assert [type(command) for command in commands] == [TellAll, SkipTo]


def test_requests_are_handed_on() -> None:
    """What the manager wants does not arrive."""
    opened = welcomed(1, 1, 0)
    wanted = DesiredMessage(machine="m-1", revision=3, state=DesiredState())
    assert opened.received(wanted) == [Desire("m-1", 3, Desired(revision=3))]
    assert isinstance(opened.received(Resync())[0], TellAll)
    assert opened.received(Heartbeat()) == []


@pytest.mark.parametrize("message", [Ack(sequence=999), Welcome(last_sequence=0)])
def test_nonsense_closes_the_link(message: Ack | Welcome) -> None:
    """A manager that acknowledges what was never sent makes us forget it."""
    assert isinstance(welcomed(1, 9, 0).received(message)[0], Close)


def test_foreign_protocol_is_refused() -> None:
    """A manager of another version is talked to in a language that it does not speak."""
    assert isinstance(session(1, 1).received(Welcome(last_sequence=0, protocol=99))[0], Close)


def test_all_that_may_be_on_its_way_counts_as_sent() -> None:
    """Items of forgotten machines are taken back that the manager may have: it never hears that they are gone."""
    assert outbox.MAY_BE_SENT >= WINDOW

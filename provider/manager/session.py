"""
The provider's end of one connection as a pure machine: messages in, commands and messages out.

    hello            -> is sent first
    welcome(n, at)   -> compare what the manager has with the outbox; send nothing before all of that is performed
    items            -> the outbox beyond `sent` goes out, as long as the window has room
    ack(n)           -> forget up to n; there is room again
    desired, resync  -> hand on

The outbox holds numbers up to `next_sequence - 1`, from the first that no manager acknowledged: `oldest`. Where the manager's
last number n lies tells what happened since:

| n | Meaning | What we do |
|---|---|---|
| below `oldest - 1` | the manager lost its state, or is another one | tell everything again |
| in between | nothing, or the link was cut | go on after n |
| in between, but our item n has another time | our state was lost, and numbers were given twice | as in the next line |
| `next_sequence` or above | our state was lost | tell everything, and number all that is kept after n |

Telling comes before renumbering: if we are killed between the two, the next welcome shows the same loss again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from provider.domain.machine import Desired
from provider.kit.jsontypes import JsonObject
from provider.manager import messages
from provider.manager.messages import Ack, DesiredMessage, Error, FromManager, FromProvider, Heartbeat, Resync, Welcome

WINDOW = 256
"""Items on their way without an acknowledgement."""

SAME_TIME = timedelta(milliseconds=1)
"""Managers written in other languages keep milliseconds."""


class Item(Protocol):
    """One thing to tell; `store.outbox.OutboxItem` is one."""

    @property
    def sequence(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def machine_id(self) -> str: ...
    @property
    def document(self) -> JsonObject: ...
    @property
    def at(self) -> datetime: ...


@dataclass(frozen=True)
class Compare:
    """Look up the item with this number in the outbox and call `compared`."""

    sequence: int


@dataclass(frozen=True)
class Forget:
    """The manager has everything up to `sequence` on disk."""

    sequence: int


@dataclass(frozen=True)
class TellAll:
    """Put the observed state of every machine into the outbox again."""

    why: str


@dataclass(frozen=True)
class SkipTo:
    """The manager has seen numbers up to `sequence` that we gave to nothing we know of: number everything after it."""

    sequence: int


@dataclass(frozen=True)
class Desire:
    """The manager wants this."""

    machine_id: str
    revision: int
    desired: Desired


@dataclass(frozen=True)
class Complaint:
    """The manager could not use one of our messages; there is nothing to do but to log it."""

    field: str
    message: str
    machine_id: str


@dataclass(frozen=True)
class Close:
    """The link cannot go on."""

    why: str


Command = Compare | Forget | TellAll | SkipTo | Desire | Complaint | Close


@dataclass
class LinkSession:
    """One connection from hello to its end. Perform commands in their order, each before the next message is read."""

    hello: messages.Hello
    """The first message; its `next_sequence` is the outbox as it was before the link."""
    oldest: int
    """The first number that no manager acknowledged; `next_sequence` if there is none."""
    told_from: int | None = None
    """The oldest item at the time when everything was last told; as long as it is still the oldest, nothing of that
    has been acknowledged, and telling it once more would only make the outbox longer."""
    welcome: Welcome | None = None
    sent: int = 0
    """The last number that went out, or that the manager had."""
    acknowledged: int = 0
    _in_flight: deque[int] = field(default_factory=deque)

    @property
    def room(self) -> int:
        """How many items may go out now."""
        return 0 if self.welcome is None else WINDOW - len(self._in_flight)

    def items(self, found: Sequence[Item]) -> list[FromProvider]:
        """Items of the outbox that follow `sent`, as messages; they count as sent."""
        going = found[: self.room]
        for item in going:
            self.sent = item.sequence
            self._in_flight.append(item.sequence)
        return [_message(item) for item in going]

    def received(self, message: FromManager) -> list[Command]:
        """What is to be done about a message."""
        match message:
            case Heartbeat():
                return []
            case Error():
                return [Complaint(message.field, message.message, message.machine)]
            case Welcome():
                return self._welcomed(message)
        if self.welcome is None:
            return [Close(f"the manager sent {message.type} before its welcome")]
        match message:
            case Ack():
                return self._acknowledged(message.sequence)
            case DesiredMessage():
                return [Desire(message.machine, message.revision, message.state.domain(message.revision))]
            case Resync():
                return [TellAll("the manager asks for it")]

    def compared(self, at: datetime | None) -> list[Command]:
        """The answer to `Compare`: the time of that item in our outbox, None if it is not there."""
        theirs = None if self.welcome is None else self.welcome.last_at
        if at is None or theirs is None or abs(theirs - at) < SAME_TIME:
            return [Forget(self.sent)]
        return _start_anew(self.sent, "the manager knows another item by that number: our state was lost")

    def _welcomed(self, message: Welcome) -> list[Command]:
        if self.welcome is not None:
            return [Close("the manager welcomed twice")]
        if message.protocol not in self.hello.protocols:
            return [Close(f"the manager wants to speak protocol {message.protocol}, which we did not offer")]
        self.welcome = message
        last = self.sent = self.acknowledged = message.last_sequence
        if last >= self.hello.next_sequence:
            return _start_anew(last, "the manager has seen numbers that we never gave: our state was lost")
        if last < self.oldest - 1:
            self.sent = self.acknowledged = self.oldest - 1
            if self.oldest == self.told_from:
                return []
            return [TellAll("the manager lacks what another has acknowledged: its state was lost")]
        return [Compare(last)] if last >= self.oldest else []

    def _acknowledged(self, sequence: int) -> list[Command]:
        if sequence > self.sent:
            return [Close(f"the manager acknowledged {sequence}, which was not sent")]
        if sequence <= self.acknowledged:
            return []
        self.acknowledged = sequence
        while self._in_flight and self._in_flight[0] <= sequence:
            self._in_flight.popleft()
        return [Forget(sequence)]


def _start_anew(last: int, why: str) -> list[Command]:
    return [TellAll(why), SkipTo(last)]


def _message(item: Item) -> FromProvider:
    if item.kind == "observed":
        return messages.Observed(sequence=item.sequence, machine=item.machine_id, state=item.document, at=item.at)
    data = item.document.get("data")
    return messages.Event(
        sequence=item.sequence,
        machine=item.machine_id,
        name=str(item.document.get("name", "")),
        data=data if isinstance(data, dict) else {},
        at=item.at,
    )

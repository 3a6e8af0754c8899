"""
The provider's end of the link as a pure machine: what came in, what is to be done.

    opened          -> send hello
    welcome(n)      -> forget what the manager has; send the rest from n + 1
    items           -> send them, as long as the window has room
    ack(n)          -> forget up to n; there is room again
    desired, resync -> hand on

The manager may have lost its state (it welcomes with less than we have forgotten) or we ours (with more than we ever sent):
both are answered by telling everything again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from provider.domain.machine import Desired
from provider.kit.jsontypes import JsonObject
from provider.manager import messages
from provider.manager.messages import Ack, DesiredMessage, Error, FromManager, FromProvider, Heartbeat, Resync, Welcome

WINDOW = 256
"""Items on their way without an acknowledgement."""


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
class Forget:
    """The manager has everything up to `sequence`."""

    sequence: int


@dataclass(frozen=True)
class SkipTo:
    """The manager has seen a number that we never gave: count on from there."""

    sequence: int


@dataclass(frozen=True)
class TellAll:
    """Put the observed state of everything into the outbox again."""

    why: str


@dataclass(frozen=True)
class Desire:
    """The manager wants this."""

    machine_id: str
    revision: int
    desired: Desired


@dataclass(frozen=True)
class Close:
    """The link cannot go on."""

    why: str


Command = Forget | SkipTo | TellAll | Desire | Close


@dataclass
class LinkSession:
    """One connection from hello to its end. `oldest` and `next_sequence` describe the outbox when it was opened."""

    provider: str
    version: str
    labels: dict[str, str]
    next_sequence: int
    oldest: int
    """The first number still in the outbox; `next_sequence` if it is empty."""
    welcomed: bool = False
    sent: int = 0
    """The last number that went out, or that the manager had."""
    acknowledged: int = 0
    complaints: list[str] = field(default_factory=list)

    def opened(self) -> messages.Hello:
        """The first message."""
        return messages.Hello(
            provider=self.provider, version=self.version, labels=self.labels, next_sequence=self.next_sequence
        )

    @property
    def room(self) -> int:
        """How many items may go out now."""
        return WINDOW - (self.sent - self.acknowledged) if self.welcomed else 0

    def items(self, found: Sequence[Item]) -> list[FromProvider]:
        """Items of the outbox that follow `sent`, as messages."""
        going: list[FromProvider] = []
        for item in found[: max(0, self.room)]:
            going.append(_message(item))
            self.sent = item.sequence
        return going

    def received(self, message: FromManager) -> list[Command]:
        """What is to be done about a message."""
        match message:
            case Heartbeat():
                return []
            case Error(field=where, message=text):
                self.complaints.append(f"{where}: {text}")
                return []
            case Welcome():
                return self._welcome(message)
        if not self.welcomed:
            return [Close("the manager spoke before its welcome")]
        match message:
            case Ack(sequence=sequence):
                return self._ack(sequence)
            case DesiredMessage():
                return [Desire(message.machine, message.revision, message.state.domain(message.revision))]
            case Resync():
                return [TellAll("the manager asks for it")]
        return []

    def _welcome(self, message: Welcome) -> list[Command]:
        if self.welcomed:
            return [Close("the manager welcomed twice")]
        if message.protocol < 1:
            return [Close(f"the manager speaks protocol {message.protocol}, which is none")]
        self.welcomed = True
        last = message.last_sequence
        self.sent = self.acknowledged = last
        if last >= self.next_sequence:
            return [SkipTo(last), TellAll("the manager has seen numbers that we never gave: our state was lost")]
        if last < self.oldest - 1:
            # What is missing cannot be had any more; the state of all machines makes up for it.
            self.sent = self.acknowledged = self.oldest - 1
            return [TellAll("the manager lacks what we have forgotten: its state was lost")]
        return [Forget(last)]

    def _ack(self, sequence: int) -> list[Command]:
        if sequence > self.sent:
            return [Close(f"the manager acknowledged {sequence}, which was never sent")]
        if sequence <= self.acknowledged:
            return []
        self.acknowledged = sequence
        return [Forget(sequence)]


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

"""
The outbox: what the manager has not acknowledged yet, numbered in the transaction that made it true.

Sequence numbers only grow, whatever is deleted, and have no gaps; `manager.link` sends in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete
from sqlmodel import Session, col, select

from provider.kit.signal import Signal
from provider.store.database import Database
from provider.store.tables import CounterRow, OutboxRow

_COUNTER = "outbox"


@dataclass(frozen=True)
class OutboxItem:
    """One thing to tell: the whole observed state of a machine, or one event."""

    sequence: int
    kind: str
    """`observed` or `event`."""
    machine_id: str
    document: dict[str, object]
    at: datetime


def add(session: Session, kind: str, machine_id: str, document: dict[str, object], at: datetime) -> None:
    """Queue one item inside the caller's transaction."""
    counter = _counter(session)
    counter.value += 1
    session.add(OutboxRow(sequence=counter.value, kind=kind, machine_id=machine_id, document=document, at=at))


class Outbox:
    """The link's view of the outbox; `rang` rings after each commit that may have added to it."""

    def __init__(self, database: Database, rang: Signal) -> None:
        self._database = database
        self._rang = rang

    async def after(self, sequence: int, limit: int) -> list[OutboxItem]:
        """The next items after a sequence number, in order."""

        def read(session: Session) -> list[OutboxItem]:
            query = select(OutboxRow).where(OutboxRow.sequence > sequence).order_by(col(OutboxRow.sequence))
            found = session.exec(query.limit(limit)).all()
            return [OutboxItem(row.sequence, row.kind, row.machine_id, row.document, row.at) for row in found]

        return await self._database.read(read)

    async def acknowledge(self, sequence: int) -> None:
        """Forget everything up to and including `sequence`: the manager has it."""

        def write(session: Session) -> None:
            session.exec(delete(OutboxRow).where(col(OutboxRow.sequence) <= sequence))

        await self._database.write(write)

    async def next_sequence(self) -> int:
        """The number that the next item will get."""

        def read(session: Session) -> int:
            counter = session.get(CounterRow, _COUNTER)
            return 1 if counter is None else counter.value + 1

        return await self._database.read(read)

    async def skip_to(self, sequence: int) -> None:
        """Number the next item after `sequence`, because the manager has seen that one: our own state was lost."""

        def write(session: Session) -> None:
            counter = _counter(session)
            if counter.value >= sequence:
                return
            kept = session.exec(select(OutboxRow).order_by(col(OutboxRow.sequence))).all()
            session.exec(delete(OutboxRow))
            session.expunge_all()
            counter = _counter(session)
            counter.value = sequence
            for row in kept:
                add(session, row.kind, row.machine_id, row.document, row.at)

        await self._database.write(write)

    async def wait(self, after: int) -> None:
        """Return when there is something newer than `after`."""
        while True:
            ring = self._rang.ticket()
            if await self.next_sequence() > after + 1:
                return
            await ring.wait()


def _counter(session: Session) -> CounterRow:
    counter = session.get(CounterRow, _COUNTER)
    if counter is None:
        counter = CounterRow(name=_COUNTER)
        session.add(counter)
    return counter

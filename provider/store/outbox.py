"""
The outbox: what the manager has not acknowledged yet, numbered in the transaction that made it true.

Sequence numbers only grow, whatever is deleted; `manager.link` sends in their order. They have gaps only where a machine was
forgotten that the manager had not heard of.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert
from sqlmodel import Session, SQLModel, col, select

from provider.domain.event import DISCOVERED, FORGOTTEN
from provider.kit.signal import Signal
from provider.store.database import Database
from provider.store.tables import CounterRow, OutboxRow

_COUNTER = "outbox"
_ACKNOWLEDGED = "outbox acknowledged"
_INSERT = insert(SQLModel.metadata.tables["outbox"])

MAY_BE_SENT = 256
"""The first so many items may be on their way to the manager, or with it; those after them cannot (`session.WINDOW`)."""


@dataclass(frozen=True)
class OutboxItem:
    """One thing to tell: the whole observed state of a machine, or one event."""

    sequence: int
    kind: str
    """`observed` or `event`."""
    machine_id: str
    document: dict[str, object]
    at: datetime


@dataclass(frozen=True, slots=True)
class News:
    """An item before it has its number."""

    kind: str
    machine_id: str
    document: dict[str, object]
    at: datetime


def add(session: Session, news: Sequence[News]) -> None:
    """Queue items inside the caller's transaction."""
    if not news:
        return
    counter = _counter(session)
    values = [
        {
            "sequence": sequence,
            "kind": each.kind,
            "machine_id": each.machine_id,
            "document": each.document,
            "at": each.at,
        }
        for sequence, each in enumerate(news, counter.value + 1)
    ]
    counter.value += len(news)
    session.connection().execute(_INSERT, values)  # As rows, which nobody looks at, they would cost five times as much.


def forget(session: Session, machine_ids: Collection[str], at: datetime, reason: str) -> None:
    """
    The machines are gone: tell the manager, or if it cannot have heard of one, take back what it was to hear.

    So what strangers leave behind here is bounded even while the manager is away: the items that it may have stay as they
    are, and of those that it cannot have nothing is left.
    """
    in_order = select(OutboxRow.sequence).order_by(col(OutboxRow.sequence))
    first_unsent = session.exec(in_order.offset(MAY_BE_SENT).limit(1)).first()
    first_named: dict[str, object] = {}
    if first_unsent is not None:
        unsent = (col(OutboxRow.machine_id).in_(machine_ids), col(OutboxRow.sequence) >= first_unsent)
        taken_back = select(OutboxRow.machine_id, OutboxRow.document).where(*unsent).order_by(col(OutboxRow.sequence))
        for machine_id, document in session.exec(taken_back).all():
            first_named.setdefault(machine_id, document.get("name"))
        session.exec(delete(OutboxRow).where(*unsent))
    forgotten: dict[str, object] = {"name": FORGOTTEN, "data": {"reason": reason}}
    unheard_of = {machine_id for machine_id, name in first_named.items() if name == DISCOVERED}
    add(session, [News("event", each, forgotten, at) for each in machine_ids if each not in unheard_of])


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
            _acknowledged(session, sequence)

        await self._database.write(write)

    async def oldest(self) -> int:
        """The first number that no manager has acknowledged, whether there is still an item by it or not."""

        def read(session: Session) -> int:
            acknowledged = session.get(CounterRow, _ACKNOWLEDGED)
            if acknowledged is not None:
                return acknowledged.value + 1
            first = session.exec(select(OutboxRow.sequence).order_by(col(OutboxRow.sequence)).limit(1)).first()
            return _following(session) if first is None else first

        return await self._database.read(read)

    async def next_sequence(self) -> int:
        """The number that the next item will get."""
        return await self._database.read(_following)

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
            _acknowledged(session, sequence)
            add(session, [News(row.kind, row.machine_id, row.document, row.at) for row in kept])

        await self._database.write(write)

    async def wait(self, after: int) -> None:
        """Return when there is something newer than `after`."""
        while True:
            ring = self._rang.ticket()
            if await self.after(after, 1):
                return
            await ring.wait()


def _following(session: Session) -> int:
    counter = session.get(CounterRow, _COUNTER)
    return 1 if counter is None else counter.value + 1


def _counter(session: Session, name: str = _COUNTER) -> CounterRow:
    """A counter; kept at hand for a transaction, which asks for it with every item."""
    counter = session.info.get(name)
    if not isinstance(counter, CounterRow) or counter not in session:
        counter = session.get(CounterRow, name) or CounterRow(name=name)
        session.add(counter)
        session.info[name] = counter
    return counter


def _acknowledged(session: Session, sequence: int) -> None:
    counter = _counter(session, _ACKNOWLEDGED)
    counter.value = max(counter.value, sequence)

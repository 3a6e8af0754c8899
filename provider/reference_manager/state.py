"""
What the manager knows and wants, in SQLite.

Two rules make delivery exactly-once in effect: an item is applied only if its number is higher than the provider's last one,
and item and number are written in one transaction before anything is acknowledged. `log` keeps every applied item, so that
anybody can check that nothing was lost, applied twice or out of order.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import JSON, Column, UniqueConstraint, delete, event, func, insert
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, col, create_engine, select

from provider.domain.errors import NotFoundError, RefusedError
from provider.domain.event import FORGOTTEN
from provider.kit.jsontypes import JsonObject
from provider.kit.threads import Threads
from provider.manager.messages import DesiredMessage, DesiredState, Event, Hello, Observed

T = TypeVar("T")

LOG_KEPT = 100_000
"""Items; the oldest are forgotten."""


class Table(SQLModel, registry=registry()):
    """Base of the tables; a registry of their own keeps them out of the provider's database."""


class ProviderRow(Table, table=True):
    """A provider that said hello once."""

    __tablename__ = "provider"

    id: str = Field(primary_key=True)
    version: str = ""
    labels: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    last_sequence: int = 0
    last_at: str | None = None
    """When the item with that number happened."""


class MachineRow(Table, table=True):
    """A machine of a provider: what it said last, and what we want of it."""

    __tablename__ = "machine"

    provider: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    state: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    observed_at: str = ""
    desired: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    revision: int = 0
    """0: nobody has wanted anything yet."""


class LogRow(Table, table=True):
    """One applied item."""

    __tablename__ = "log"
    __table_args__ = (UniqueConstraint("provider", "sequence"),)

    id: int | None = Field(default=None, primary_key=True)
    provider: str
    sequence: int
    kind: str
    machine: str
    name: str
    """Of an event; the phase of an observed state."""
    data: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    at: str
    """When it happened, at the provider."""
    received_at: str


class State:
    """All of it; every method is one transaction in one thread, and returns when it is on disk."""

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", _prepare)
        Table.metadata.create_all(self._engine)
        self._thread = Threads("manager-state", 1)

    def close(self) -> None:
        """Wait for the last transaction; blocks."""
        self._thread.close()
        self._engine.dispose()

    async def hello(self, hello: Hello) -> tuple[int, datetime | None]:
        """Take a provider's first words; gives the last number that is stored of it, and the time of that item."""

        def write(session: Session) -> tuple[int, datetime | None]:
            row = session.get(ProviderRow, hello.provider) or ProviderRow(id=hello.provider)
            row.version, row.labels = hello.version, dict(hello.labels)
            session.add(row)
            return row.last_sequence, None if row.last_at is None else datetime.fromisoformat(row.last_at)

        return await self._run(write)

    async def apply(self, provider: str, items: Sequence[Observed | Event]) -> int:
        """Store items in their order, dropping those that are not newer; gives the last number stored."""

        def write(session: Session) -> int:
            row = session.get(ProviderRow, provider)
            assert row is not None  # noqa: S101 - hello comes first
            news = []
            for item in items:
                if item.sequence > row.last_sequence:
                    row.last_sequence, row.last_at = item.sequence, item.at.isoformat()
                    news.append(item)
            if news:
                _observe(session, provider, news)
                _log(session, provider, news)
            return row.last_sequence

        return await self._run(write)

    async def wanted(self, provider: str) -> list[DesiredMessage]:
        """What is wanted of the machines of a provider."""

        def read(session: Session) -> list[DesiredMessage]:
            rows = session.exec(
                select(MachineRow).where(MachineRow.provider == provider, MachineRow.revision > 0)
            ).all()
            return [_desired_message(row) for row in rows]

        return await self._run(read)

    async def want(self, machine: str, change: Callable[[DesiredState], DesiredState]) -> tuple[str, DesiredMessage]:
        """
        Change what is wanted of one machine; gives its provider and the message to send there.

        Raises:
            NotFoundError: If there is no such machine; and what `change` raises.
        """

        def write(session: Session) -> tuple[str, DesiredMessage]:
            row = _find(session, machine)
            row.desired = change(DesiredState.model_validate(row.desired)).model_dump(mode="json")
            row.revision += 1
            session.add(row)
            return row.provider, _desired_message(row)

        return await self._run(write)

    async def providers(self) -> list[JsonObject]:
        """All that ever said hello."""
        return await self._run(lambda session: [row.model_dump() for row in session.exec(select(ProviderRow)).all()])

    async def machines(self) -> list[JsonObject]:
        """All machines."""
        return await self._run(lambda session: [row.model_dump() for row in session.exec(select(MachineRow)).all()])

    async def machine(self, machine: str) -> JsonObject:
        """
        One machine, by id or its unambiguous beginning.

        Raises:
            NotFoundError: If there is none, or more than one.
        """
        return await self._run(lambda session: _find(session, machine).model_dump())

    async def log(self, after: int, limit: int) -> list[JsonObject]:
        """Applied items after a row id, oldest first."""

        def read(session: Session) -> list[JsonObject]:
            query = select(LogRow).where(col(LogRow.id) > after).order_by(col(LogRow.id)).limit(limit)
            return [row.model_dump() for row in session.exec(query).all()]

        return await self._run(read)

    async def _run(self, work: Callable[[Session], T]) -> T:
        return await self._thread.run(self._transaction, work)

    def _transaction(self, work: Callable[[Session], T]) -> T:
        with Session(self._engine) as session:
            result = work(session)
            session.commit()
            return result


# --- what people can want --------------------------------------------------------------------------------------------


def accepted(state: DesiredState) -> DesiredState:
    """It is ours."""
    return state.model_copy(update={"acceptance": "accepted"})


def rejected(state: DesiredState) -> DesiredState:
    """It is not ours: leave it alone."""
    return state.model_copy(update={"acceptance": "rejected"})


def cordoned(state: DesiredState) -> DesiredState:
    """Leave it alone for now."""
    return state.model_copy(update={"cordoned": True})


def uncordoned(state: DesiredState) -> DesiredState:
    """Go on with it."""
    return state.model_copy(update={"cordoned": False})


def released(state: DesiredState) -> DesiredState:
    """Nobody uses it any more: wipe it."""
    return _wiped(state, allocation=None)


def wiped(state: DesiredState) -> DesiredState:
    """Wipe it again, whatever it is used for."""
    return _wiped(state)


def rebooted(state: DesiredState) -> DesiredState:
    """Reboot it once."""
    return state.model_copy(update={"reboot_id": _new_id()})


def powered_off(state: DesiredState) -> DesiredState:
    """Keep it off until this is withdrawn (`powered_on`) or it is wiped."""
    return state.model_copy(update={"power_off_id": _new_id()})


def powered_on(state: DesiredState) -> DesiredState:
    """Withdraw a power-off."""
    return state.model_copy(update={"power_off_id": ""})


def allocated(profile: str, arguments: Sequence[str]) -> Callable[[DesiredState], DesiredState]:
    """Run a boot profile on it."""

    def change(state: DesiredState) -> DesiredState:
        if state.acceptance != "accepted":
            raise RefusedError("the machine is not accepted", hint="accept it first: bootwright manager accept ID")
        allocation = {"profile": profile, "arguments": list(arguments)}
        return DesiredState.model_validate({**state.model_dump(), "allocation": allocation})

    return change


def _wiped(state: DesiredState, **changes: object) -> DesiredState:
    if state.acceptance != "accepted":
        raise RefusedError("the machine is not accepted", hint="accept it first: bootwright manager accept ID")
    return state.model_copy(update={"wipe_id": _new_id(), **changes})


def _new_id() -> str:
    return secrets.token_hex(6)


# --- rows ------------------------------------------------------------------------------------------------------------


def _observe(session: Session, provider: str, items: Sequence[Observed | Event]) -> None:
    """Keep the latest observed state of each machine, and nothing of one that was forgotten."""
    latest: dict[str, Observed] = {}
    gone: set[str] = set()
    for item in items:
        if isinstance(item, Observed):
            latest[item.machine] = item
        elif item.name == FORGOTTEN:
            gone.add(item.machine)
            latest.pop(item.machine, None)
    ours = col(MachineRow.provider) == provider
    if gone:  # With what was wanted of them: nobody has accepted what comes by their ids later, be it the next item.
        session.exec(delete(MachineRow).where(ours, col(MachineRow.id).in_(gone)))
    known = {row.id: row for row in session.exec(select(MachineRow).where(ours, col(MachineRow.id).in_(latest))).all()}
    for machine, seen in latest.items():
        row = known.get(machine) or MachineRow(provider=provider, id=machine)
        row.state, row.observed_at = dict(seen.state), seen.at.isoformat()
        session.add(row)


def _log(session: Session, provider: str, items: Sequence[Observed | Event]) -> None:
    received_at = datetime.now(UTC).isoformat()
    entries = [
        {
            "provider": provider,
            "sequence": item.sequence,
            "kind": item.type,
            "machine": item.machine,
            "name": item.name if isinstance(item, Event) else str(item.state.get("phase", "")),
            "data": dict(item.data) if isinstance(item, Event) else {},
            "at": item.at.isoformat(),
            "received_at": received_at,
        }
        for item in items
    ]
    session.execute(insert(LogRow), entries)
    newest = session.exec(select(func.max(LogRow.id))).one() or 0
    session.exec(delete(LogRow).where(col(LogRow.id) <= newest - LOG_KEPT))


def _find(session: Session, machine: str) -> MachineRow:
    rows = session.exec(select(MachineRow).where(col(MachineRow.id).startswith(machine, autoescape=True))).all()
    exact = [row for row in rows if row.id == machine] or list(rows)
    if len(exact) == 1:
        return exact[0]
    if not exact:
        raise NotFoundError(f"there is no machine {machine!r}", hint="list them with: bootwright manager machines")
    raise NotFoundError(f"{machine!r} may be any of {', '.join(row.id for row in exact)}", hint="write more of the id")


def _desired_message(row: MachineRow) -> DesiredMessage:
    return DesiredMessage(machine=row.id, revision=row.revision, state=DesiredState.model_validate(row.desired))


def _prepare(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")

"""
Machines in the store, and the one way to change them.

`MachineStore.change(id, edit)` runs `edit` on the machine in one transaction and, in the same transaction, writes down
what follows from it: the event when the phase changed, and the observed document for the manager's outbox when it
differs from the one sent last. So a change is never visible without being told, and never told without being on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TypeVar

from sqlalchemy import ColumnElement, bindparam, delete, insert
from sqlalchemy.orm import aliased, defer
from sqlmodel import Session, SQLModel, col, or_, select

from provider.domain import smbios
from provider.domain.errors import NotFoundError, RefusedError
from provider.domain.event import DISCOVERED, Event
from provider.domain.mac import MacAddress
from provider.domain.machine import Attachment, Desired, Evidence, Identity, Machine, Outcome, RecordKind
from provider.domain.operation import Operation, OperationState
from provider.domain.secret import Secret
from provider.kit.signal import Signal
from provider.planning import forgetting, lifecycle, observed
from provider.planning import identity as identities
from provider.planning.forgetting import Names
from provider.store import outbox, rows, tickets
from provider.store.database import Database
from provider.store.tables import BmcRow, EventRow, MachineRow, MacRow, OperationRow, RecordRow
from provider.store.tickets import ShownTicket, TicketRefusedError

T = TypeVar("T")

Scalar = str | int | float | bool | None

EVENTS_KEPT = 500
"""Per machine; older ones are forgotten."""

WARNINGS_KEPT = 20
"""Likewise: whoever asks for scripts in a machine's name may say something else of it each time."""

_TWINS = 100
"""Machines with the same UUID or serial that are looked at."""

_FORGET_EVERY = 64
"""One event in so many has us look for older ones."""

_INSERT_EVENT = insert(SQLModel.metadata.tables["event"])

_NOT_FOR_THE_MANAGER = ("dhcp.", "pxe.", "tftp.", "boot.file_served", "wipe.progressed", "phase.changed")
"""Events of every packet, and those that the observed document tells better."""


@dataclass(frozen=True, slots=True)
class Noted:
    """An event; `at` is when it happened, not when it is written."""

    at: datetime
    machine_id: str
    name: str
    data: dict[str, Scalar]


@dataclass
class Edit:
    """
    What a change may do to one machine: set fields of `row` and `bmc`, and call these.

    Lives inside one transaction only. It holds all rows of the machine and keeps them in step, so that what follows from
    the change is derived without reading them again: reading them is most of what a change costs.
    """

    session: Session
    now: datetime
    policy: lifecycle.Policy
    row: MachineRow
    bmc: BmcRow | None
    newest: OperationRow | None
    macs: list[MacRow]
    records: list[RecordRow]
    noted: list[Noted] = field(default_factory=list)
    """Events, written when all is done."""

    @cached_property
    def machine(self) -> Machine:
        """How it stood at the first look: look before you change."""
        return self.machine_now()

    @cached_property
    def plan(self) -> lifecycle.Plan:
        """What was to be done with it at the first look."""
        return self.plan_for(self.machine)

    def machine_now(self) -> Machine:
        """With all that was changed."""
        return rows.machine(self.row, self.macs, self.bmc, self.newest, self.records)

    def plan_for(self, machine: Machine) -> lifecycle.Plan:
        """What is to be done with it, if it stands so."""
        policy = self.policy.of(machine.identity.macs)
        return lifecycle.decide(self.row.id, machine.desired, machine.facts, self.now, policy)

    def desire(self, wanted: Desired) -> None:
        """Replace the desired state."""
        rows.set_desired(self.row, wanted)

    def note(self, name: str, **data: Scalar) -> None:
        """Add an event."""
        self.noted.append(Noted(self.now, self.row.id, name, data))

    def record(
        self,
        kind: RecordKind,
        request_id: str,
        outcome: Outcome = Outcome.DONE,
        detail: str = "",
        *,
        install_event: int = 0,
        manager_token: str = "",
        wipe_id: str = "",
        at: datetime | None = None,
    ) -> None:
        """Write down that a request was answered, `at` a time (default: now)."""
        row = RecordRow(
            machine_id=self.row.id,
            kind=kind.value,
            request_id=request_id,
            at=at or self.now,
            outcome=outcome.value,
            detail=detail,
            install_event=install_event,
            manager_token=manager_token,
            wipe_id=wipe_id,
        )
        self.session.add(row)
        self.records.append(row)

    def begin(self, operation: Operation) -> None:
        """Add an operation."""
        self.newest = OperationRow(
            id=operation.id,
            machine_id=operation.machine_id,
            kind=operation.kind.value,
            request_id=operation.request_id,
            state=operation.state.value,
            attempt=operation.attempt,
            wipe_plan=rows.dump(rows.WIPE_PLAN, operation.wipe_plan),
            created_at=operation.created_at,
            install_event=operation.install_event,
            manager_token=operation.manager_token,
        )
        self.session.add(self.newest)

    def mint(self, purpose: str, lifetime: timedelta) -> Secret:
        """Make a ticket for the machine; an earlier one stays good until it expires."""
        return tickets.mint(self.session, purpose, self.row.id, self.now, lifetime)

    def operation(self, operation_id: str) -> OperationRow:
        """
        The row of an operation of this machine that is not over.

        Raises:
            NotFoundError: If there is none, or it is over.
        """
        row = self.session.get(OperationRow, operation_id)
        if row is None or self.is_over(operation_id):
            raise NotFoundError(f"machine {self.row.id} has no operation {operation_id} under way")
        return row

    def is_over(self, operation_id: str) -> bool:
        """
        Whether an operation of this machine has ended.

        Raises:
            NotFoundError: If the machine never had it.
        """
        row = self.session.get(OperationRow, operation_id)
        if row is None or row.machine_id != self.row.id:
            raise NotFoundError(f"machine {self.row.id} never had an operation {operation_id}")
        return row.state not in (OperationState.PLANNED.value, OperationState.RUNNING.value)

    def attach(self, mac: MacAddress, attachment: Attachment) -> None:
        """Write down where DHCP saw an interface of the machine; nothing if it is another's by now, or seen there before."""
        row = next((each for each in self.macs if each.mac == mac), None)
        if row is None or rows.attachment(row) == attachment:
            return
        row.interface, row.relay = attachment.interface, attachment.relay
        row.circuit_id, row.remote_id = attachment.circuit_id, attachment.remote_id
        self.note("machine.attached", mac=mac, **asdict(attachment))

    def show(self, evidence: Evidence) -> None:
        """Add evidence to the machine, and give it the BMC that was configured for it; one that has a machine keeps it."""
        row = self.row
        merged = identities.merged(rows.identity(row, [each.mac for each in self.macs]), evidence)
        row.uuid, row.serial = merged.uuid, merged.serial
        row.board_serial, row.chassis_serial = merged.board_serial, merged.chassis_serial
        if evidence.firmware is not None:
            row.firmware = evidence.firmware.value
        known = {each.mac for each in self.macs}
        new = [MacRow(mac=mac, machine_id=row.id) for mac in merged.macs if mac not in known]
        self.session.add_all(new)
        self.macs = sorted([*self.macs, *new], key=lambda each: each.mac)
        if self.bmc is None:
            free = self.session.exec(_FREE_BMCS).all()
            self.bmc = next((bmc for bmc in free if selects(bmc.selects, bmc.selector, merged)), None)
            if self.bmc is not None:
                self.bmc.machine_id = row.id

    def warn(self, warning: str) -> None:
        """Keep a warning for the machine's operator."""
        if warning not in (self.row.warnings or ()):
            self.row.warnings = [*(self.row.warnings or ()), warning][-WARNINGS_KEPT:]
            self.note("identity.conflicted", warning=warning)


@dataclass(frozen=True)
class Changed:
    """What a change led to."""

    machine: Machine
    plan: lifecycle.Plan
    at: datetime
    """As of when."""
    absorbed: tuple[Identity, ...] = ()
    """Machines that turned out to be parts of this one, and are gone."""


class MachineStore:
    """Repository of machines; `outbox_rang` and `events_rang` ring after a commit that added to them."""

    def __init__(self, database: Database, policy: lifecycle.Policy, clock: Callable[[], datetime]) -> None:
        self._database = database
        self.policy = policy
        self._clock = clock
        self.outbox_rang = Signal()
        self.events_rang = Signal()

    async def change(self, machine_id: str, edit: Callable[[Edit], None]) -> Changed:
        """
        Edit one machine and write what follows, in one transaction.

        Raises:
            NotFoundError: If there is no such machine; and whatever `edit` raises, with nothing changed.
        """
        changed = await self._database.write(lambda session: self._change(session, machine_id, edit))
        self._ring()
        return changed

    async def identify(
        self,
        evidence: Evidence,
        edit: Callable[[Edit], T],
        *,
        attachments: Mapping[MacAddress, Attachment] | None = None,
        ticket: ShownTicket | None = None,
    ) -> tuple[Changed, T]:
        """
        Find or make the machine that shows this evidence, and edit it; also gives what `edit` gave.

        `attachments` are where DHCP saw interfaces of it before. With a `ticket`, it must be the machine that it was made
        for, or that one turns out to be a part of it; else nothing is changed.

        Raises:
            TicketRefusedError: If the ticket is not good.
            RefusedError: If the evidence claims to be several established machines at once; and whatever `edit` raises.
        """

        def write(session: Session) -> tuple[Changed, T]:
            owner = None if ticket is None else tickets.redeem(session, ticket, self._clock())
            found, absorbed = self._identify(session, evidence)
            if owner not in (None, found.row.id, *(part.id for part in absorbed)):
                reason = f"the ticket is of {owner}, the agent shows itself as {found.row.id}"
                raise TicketRefusedError(reason, machine_id=owner)
            for mac, attachment in (attachments or {}).items():
                found.attach(mac, attachment)
            given = edit(found)
            return replace(_follow_up(found), absorbed=absorbed), given

        result = await self._database.write(write)
        self._ring()
        return result

    async def forget(self, machine_ids: Collection[str], names: Names, reason: str) -> list[Identity]:
        """
        Delete machines, with all that hangs on them, and tell the manager; gives those that are gone.

        A machine that somebody claims, or that has told us of itself, stays, whoever wants it forgotten.
        """

        def write(session: Session) -> list[Identity]:
            gone = [
                machine.identity
                for machine in _load(session, machine_ids)
                if forgetting.is_unclaimed(machine) and not names.have(machine.identity)
            ]
            self._delete(session, [identity.id for identity in gone], reason)
            return gone

        gone = await self._database.write(write)
        self._ring()
        return gone

    async def get(self, machine_id: str) -> Machine:
        """
        One machine.

        Raises:
            NotFoundError: If there is none.
        """
        return await self._database.read(lambda session: self._open(session, machine_id).machine)

    async def operation_to_do(self, machine_id: str) -> Operation | None:
        """
        The operation that is under way and still wanted: the one question of every agent, and far cheaper than `get`.

        Raises:
            NotFoundError: If there is no such machine.
        """

        def read(session: Session) -> Operation | None:
            row, _bmc, newest = _row(session, machine_id)
            operation = None if newest is None else rows.operation(newest)
            if operation is None or not lifecycle.is_under_way(operation):
                return None
            return operation if lifecycle.is_wanted(operation, rows.desired(row)) else None

        return await self._database.read(read)

    async def all(self) -> list[Machine]:
        """All machines, the oldest first."""
        return await self._database.read(_load)

    async def with_uuid(self, uuid: str) -> list[Machine]:
        """Those that have this UUID, in either byte order."""

        def read(session: Session) -> list[Machine]:
            spelt = col(MachineRow.uuid).in_((uuid, smbios.byte_swapped(uuid)))
            return _load(session, session.exec(select(MachineRow.id).where(spelt)).all())

        return await self._database.read(read)

    async def agent_tokens(self) -> list[tuple[str, str]]:
        """Machine id and token hash of each agent that is connected."""

        def read(session: Session) -> list[tuple[str, str]]:
            connected = session.exec(select(MachineRow).where(col(MachineRow.agent_token_sha256).is_not(None))).all()
            return [(row.id, row.agent_token_sha256) for row in connected if row.agent_token_sha256 is not None]

        return await self._database.read(read)

    def now(self) -> datetime:
        """The time by which events and facts are dated."""
        return self._clock()

    async def note(self, machine_id: str, name: str, *, at: datetime | None = None, **data: Scalar) -> None:
        """Add an event that changes no fact, dated `at` (default: now); a machine that is gone is none."""
        await self.note_all([Noted(at or self._clock(), machine_id, name, data)])

    async def note_all(self, noted: Sequence[Noted]) -> None:
        """The same for many events, in one transaction."""

        def write(session: Session) -> None:
            named = {each.machine_id for each in noted}
            known = set(session.exec(select(MachineRow.id).where(col(MachineRow.id).in_(named))).all())
            news = _add_events(session, [each for each in noted if each.machine_id in known])
            outbox.add(session, news)

        await self._database.write(write)
        self._ring()

    async def events(self, machine_id: str | None, after: int, limit: int) -> list[Event]:
        """The events after an id, oldest first; `after` 0 gives the last `limit`."""
        return await self._database.read(lambda session: _events(session, machine_id, after, limit))

    async def resync(self) -> None:
        """Put the observed state of every machine into the outbox again."""

        def write(session: Session) -> None:
            for machine_id in session.exec(select(MachineRow.id).order_by(col(MachineRow.first_seen))).all():
                edit = self._open(session, machine_id)
                edit.row.published_sha256 = ""
                _follow_up(edit)

        await self._database.write(write)
        self._ring()

    def _ring(self) -> None:
        self.outbox_rang.ring()
        self.events_rang.ring()

    def _change(self, session: Session, machine_id: str, edit: Callable[[Edit], None]) -> Changed:
        found = self._open(session, machine_id)
        edit(found)
        return _follow_up(found)

    def _open(self, session: Session, machine_id: str) -> Edit:
        row, bmc, newest = _row(session, machine_id)
        macs = session.exec(_MACS, params={"id": machine_id}).all()
        records = session.exec(_RECORDS, params={"id": machine_id}).all()
        return Edit(session, self._clock(), self.policy, row, bmc, newest, list(macs), list(records))

    def _delete(self, session: Session, machine_ids: Sequence[str], reason: str) -> None:
        if not machine_ids:
            return
        session.flush()  # A ticket of theirs that is being used goes with them.
        session.exec(delete(MachineRow).where(col(MachineRow.id).in_(machine_ids)))
        outbox.forget(session, machine_ids, self._clock(), reason)

    def _identify(self, session: Session, evidence: Evidence) -> tuple[Edit, tuple[Identity, ...]]:
        believed = identities.believe(evidence)
        candidates = _candidates(session, believed)
        settled = frozenset(each.identity.id for each in candidates if each.settled)
        known = [each.identity for each in candidates]
        found = identities.match(believed, known, settled)
        if found.conflict:
            named = f"MAC address {', '.join(believed.macs)}" if believed.macs else f"UUID {believed.uuid}"
            raise RefusedError(f"a machine with {named} {found.conflict}")
        if found.steals:
            session.exec(delete(MacRow).where(col(MacRow.mac).in_(found.steals)))
        self._delete(session, found.absorbs, f"it is a part of {found.machine_id}")
        edit = self._new(session, believed) if found.machine_id is None else self._open(session, found.machine_id)
        edit.show(believed)
        for warning in found.warnings:
            edit.warn(warning)
        return edit, tuple(each for each in known if each.id in found.absorbs)

    def _new(self, session: Session, evidence: Evidence) -> Edit:
        new = identities.new_id(evidence, is_taken=lambda taken: session.get(MachineRow, taken) is not None)
        edit = Edit(session, self._clock(), self.policy, MachineRow(id=new), None, None, [], [])
        edit.row.first_seen = edit.now
        session.add(edit.row)
        session.flush()  # Before all rows that refer to it.
        edit.note(DISCOVERED, **_shown(evidence))
        return edit


def _follow_up(edit: Edit) -> Changed:
    """Derive plan and document from the rows as they are now; write event and outbox where they differ."""
    row = edit.row
    machine = edit.machine_now()
    plan = edit.plan_for(machine)
    if row.announced_phase != plan.phase.value:
        edit.note("phase.changed", **{"from": row.announced_phase, "to": plan.phase.value, "rule": plan.rule})
        row.announced_phase = plan.phase.value
    document = observed.document(machine, plan)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    news = _add_events(edit.session, edit.noted)
    if row.published_sha256 != digest:
        news.append(outbox.News("observed", row.id, document, edit.now))
        row.published_sha256 = digest
    outbox.add(edit.session, news)
    return Changed(machine, plan, edit.now)


def _add_events(session: Session, noted: Sequence[Noted]) -> list[outbox.News]:
    """Write events for people; gives those that are of interest to the manager."""
    if not noted:
        return []
    values = [{"machine_id": each.machine_id, "at": each.at, "name": each.name, "data": each.data} for each in noted]
    session.connection().execute(_INSERT_EVENT, values)  # As rows they would cost five times as much.
    for machine_id in {each.machine_id for each in noted if each.at.microsecond % _FORGET_EVERY == 0}:  # As by chance.
        _forget_old_events(session, machine_id)
    told = [each for each in noted if not each.name.startswith(_NOT_FOR_THE_MANAGER)]
    return [outbox.News("event", each.machine_id, {"name": each.name, "data": each.data}, each.at) for each in told]


def _forget_old_events(session: Session, machine_id: str) -> None:
    newest = select(EventRow.id).where(EventRow.machine_id == machine_id).order_by(col(EventRow.id).desc())
    oldest_kept = session.exec(newest.offset(EVENTS_KEPT - 1).limit(1)).first()
    if oldest_kept is not None:
        session.exec(delete(EventRow).where(col(EventRow.machine_id) == machine_id, col(EventRow.id) < oldest_kept))


_Each = aliased(OperationRow)
_NEWEST = (
    select(_Each.id)
    .where(_Each.machine_id == MachineRow.id)
    .order_by(col(_Each.created_at).desc(), col(_Each.id).desc())
    .limit(1)
    .scalar_subquery()
)
_WHOLE = (
    select(MachineRow, BmcRow, OperationRow)
    .outerjoin(BmcRow, col(BmcRow.machine_id) == col(MachineRow.id))
    .outerjoin(OperationRow, col(OperationRow.id) == _NEWEST)
)
"""A machine, its BMC and its newest operation; of the last two, what there is."""

# Made once, because making a query takes as long as running it.
_ONE = _WHOLE.where(col(MachineRow.id) == bindparam("id"))
_MACS = select(MacRow).where(col(MacRow.machine_id) == bindparam("id")).order_by(col(MacRow.mac))
_RECORDS = select(RecordRow).where(col(RecordRow.machine_id) == bindparam("id")).order_by(col(RecordRow.id))
_FREE_BMCS = select(BmcRow).where(col(BmcRow.machine_id).is_(None))


def _shown(evidence: Evidence) -> dict[str, Scalar]:
    """By what a machine was first seen: its network card, or only the UUID by which a manager knows it."""
    return {"mac": evidence.macs[0]} if evidence.macs else {"uuid": evidence.uuid}


def _row(session: Session, machine_id: str) -> tuple[MachineRow, BmcRow | None, OperationRow | None]:
    found = session.exec(_ONE, params={"id": machine_id}).first()
    if found is None:
        raise NotFoundError(f"there is no machine {machine_id}", hint="list them with: bootwright machine list")
    row, bmc, newest = found
    return row, bmc, newest


def _load(session: Session, machine_ids: Collection[str] | None = None) -> list[Machine]:
    """Machines, by default all, the oldest first."""
    found, of_macs, of_records = _WHOLE, select(MacRow), select(RecordRow)
    if machine_ids is not None:
        found = found.where(col(MachineRow.id).in_(machine_ids))
        of_macs = of_macs.where(col(MacRow.machine_id).in_(machine_ids))
        of_records = of_records.where(col(RecordRow.machine_id).in_(machine_ids))
    macs, records = defaultdict[str, list[MacRow]](list), defaultdict[str, list[RecordRow]](list)
    for mac in session.exec(of_macs.order_by(col(MacRow.mac))).all():
        macs[mac.machine_id].append(mac)
    for record in session.exec(of_records.order_by(col(RecordRow.id))).all():
        records[record.machine_id].append(record)
    ordered = session.exec(found.order_by(col(MachineRow.first_seen))).all()
    return [rows.machine(row, macs[row.id], bmc, newest, records[row.id]) for row, bmc, newest in ordered]


_BRIEFLY = select(
    MachineRow, or_(col(MachineRow.inventory).is_not(None), col(MachineRow.acceptance) != "pending")
).options(defer(MachineRow.inventory))  # type: ignore[arg-type]  # SQLModel says what it is in a row
"""A machine without its inventory, which is most of it, and whether it is settled."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A machine that evidence may belong to."""

    identity: Identity
    settled: bool


def _candidates(session: Session, evidence: Evidence) -> list[_Candidate]:
    """All machines that share a MAC address with the evidence, and the first that share UUID (in either byte order) or serial."""
    owners = select(MacRow.machine_id).where(col(MacRow.mac).in_(evidence.macs))
    known: ColumnElement[bool] = col(MachineRow.id).in_(owners)
    same: list[ColumnElement[bool]] = []
    if evidence.uuid:
        same.append(col(MachineRow.uuid).in_((evidence.uuid, smbios.byte_swapped(evidence.uuid))))
    if evidence.serial:
        same.append(col(MachineRow.serial) == evidence.serial)
    if same:
        twins = select(MachineRow.id).where(or_(*same)).order_by(col(MachineRow.first_seen)).limit(_TWINS)
        known = or_(known, col(MachineRow.id).in_(twins))
    found = session.exec(_BRIEFLY.where(known).order_by(col(MachineRow.id))).all()
    if not found:
        return []
    macs = defaultdict[str, list[str]](list)
    theirs = col(MacRow.machine_id).in_([row.id for row, _settled in found])
    for mac, machine_id in session.exec(select(MacRow.mac, MacRow.machine_id).where(theirs)).all():
        macs[machine_id].append(mac)
    return [_Candidate(rows.identity(row, macs[row.id]), settled) for row, settled in found]


def selects(kind: str, selector: str, identity: Identity) -> bool:
    """Whether a BMC's selector names this machine."""
    match kind:
        case "mac":
            return selector in identity.macs
        case "uuid":
            return bool(identity.uuid) and identity.uuid in (
                selector.lower(),
                smbios.byte_swapped(selector.lower()),
            )
        case "id":
            return selector == identity.id
        case _:
            return selector == identity.serial


def _events(session: Session, machine_id: str | None, after: int, limit: int) -> list[Event]:
    query = select(EventRow)
    if machine_id is not None:
        query = query.where(EventRow.machine_id == machine_id)
    if after:
        found: Iterable[EventRow] = session.exec(
            query.where(col(EventRow.id) > after).order_by(col(EventRow.id)).limit(limit)
        ).all()
    else:
        newest = session.exec(query.order_by(col(EventRow.id).desc()).limit(limit)).all()
        found = reversed(newest)
    return [Event(row.id or 0, row.machine_id, row.at, row.name, row.data) for row in found]

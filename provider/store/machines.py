"""
Machines in the store, and the one way to change them.

`MachineStore.change(id, edit)` runs `edit` on the machine in one transaction and, in the same transaction, writes down
what follows from it: the event when the phase changed, and the observed document for the manager's outbox when it
differs from the one sent last. So a change is never visible without being told, and never told without being on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property

from sqlalchemy import ColumnElement, delete
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from provider.domain import smbios
from provider.domain.errors import NotFoundError, RefusedError
from provider.domain.event import DISCOVERED, Event
from provider.domain.mac import MacAddress
from provider.domain.machine import Attachment, Desired, Evidence, Identity, Machine, Outcome, RecordKind
from provider.domain.operation import Operation, OperationState
from provider.kit.signal import Signal
from provider.planning import forgetting, lifecycle, observed
from provider.planning import identity as identities
from provider.planning.forgetting import Names
from provider.store import outbox, rows
from provider.store.database import Database
from provider.store.tables import BmcRow, EventRow, MachineRow, MacRow, OperationRow, RecordRow

Scalar = str | int | float | bool | None

EVENTS_KEPT = 500
"""Per machine; older ones are forgotten."""

WARNINGS_KEPT = 20
"""Likewise: whoever asks for scripts in a machine's name may say something else of it each time."""

_TWINS = 100
"""Machines with the same UUID or serial that are looked at."""

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
    What a change may do to one machine: set fields of `row`, and call these.

    Lives inside one transaction only.
    """

    session: Session
    row: MachineRow
    now: datetime

    @cached_property
    def machine(self) -> Machine:
        """How it stood at the first look: look before you change. Most edits never do, and loading it costs the most."""
        return _load(self.session, self.row)

    def desire(self, wanted: Desired) -> None:
        """Replace the desired state."""
        rows.set_desired(self.row, wanted)

    def note(self, name: str, **data: Scalar) -> None:
        """Add an event."""
        add_event(self.session, self.row.id, self.now, name, data)

    def record(self, kind: RecordKind, request_id: str, outcome: Outcome = Outcome.DONE, detail: str = "") -> None:
        """Write down that a request was answered."""
        self.session.add(
            RecordRow(
                machine_id=self.row.id,
                kind=kind.value,
                request_id=request_id,
                at=self.now,
                outcome=outcome.value,
                detail=detail,
            )
        )

    def begin(self, operation: Operation) -> None:
        """Add an operation."""
        self.session.add(
            OperationRow(
                id=operation.id,
                machine_id=operation.machine_id,
                kind=operation.kind.value,
                request_id=operation.request_id,
                state=operation.state.value,
                attempt=operation.attempt,
                wipe_plan=rows.dump(rows.WIPE_PLAN, operation.wipe_plan),
                created_at=operation.created_at,
            )
        )

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
        row = self.session.get(MacRow, mac)
        if row is None or row.machine_id != self.row.id or rows.attachment(row) == attachment:
            return
        row.interface, row.relay = attachment.interface, attachment.relay
        row.circuit_id, row.remote_id = attachment.circuit_id, attachment.remote_id
        self.note("machine.attached", mac=mac, **asdict(attachment))

    def bmc(self) -> BmcRow | None:
        """The row of the machine's BMC."""
        return self.session.exec(select(BmcRow).where(BmcRow.machine_id == self.row.id)).first()


@dataclass(frozen=True)
class Changed:
    """What a change led to."""

    machine: Machine
    plan: lifecycle.Plan


class MachineStore:
    """Repository of machines; `outbox_rang` and `events_rang` ring after a commit that added to them."""

    def __init__(self, database: Database, policy: lifecycle.Policy, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._policy = policy
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

    async def identify(self, evidence: Evidence) -> tuple[Changed, tuple[Identity, ...]]:
        """
        Find or make the machine that shows this evidence; also gives the machines that were absorbed by it, and are gone.

        Raises:
            RefusedError: If the evidence claims to be several established machines at once.
        """
        result = await self._database.write(lambda session: self._identify(session, evidence))
        self._ring()
        return result

    async def forget(self, machine_ids: Collection[str], names: Names, reason: str) -> list[Identity]:
        """
        Delete machines, with all that hangs on them, and tell the manager; gives those that are gone.

        A machine that somebody claims, or that has told us of itself, stays, whoever wants it forgotten.
        """

        def write(session: Session) -> list[Identity]:
            machines = [_load(session, row) for row in session.exec(_with_ids(machine_ids)).all()]
            gone = [
                machine.identity
                for machine in machines
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
        return await self._database.read(lambda session: _load(session, _row(session, machine_id)))

    async def all(self) -> list[Machine]:
        """All machines, the oldest first."""
        return await self._database.read(_load_all)

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
            add_events(session, [each for each in noted if each.machine_id in known])

        await self._database.write(write)
        self._ring()

    async def events(self, machine_id: str | None, after: int, limit: int) -> list[Event]:
        """The events after an id, oldest first; `after` 0 gives the last `limit`."""
        return await self._database.read(lambda session: _events(session, machine_id, after, limit))

    async def resync(self) -> None:
        """Put the observed state of every machine into the outbox again."""

        def write(session: Session) -> None:
            for row in session.exec(select(MachineRow).order_by(col(MachineRow.first_seen))).all():
                row.published_sha256 = ""
                self._follow_up(session, row)

        await self._database.write(write)
        self._ring()

    def _ring(self) -> None:
        self.outbox_rang.ring()
        self.events_rang.ring()

    def _change(self, session: Session, machine_id: str, edit: Callable[[Edit], None]) -> Changed:
        row = _row(session, machine_id)
        edit(Edit(session, row, self._clock()))
        return self._follow_up(session, row)

    def _follow_up(self, session: Session, row: MachineRow) -> Changed:
        """Derive plan and document from the rows as they are now; write event and outbox where they differ."""
        session.flush()
        now = self._clock()
        machine = _load(session, row)
        plan = lifecycle.decide(row.id, machine.desired, machine.facts, now, self._policy)
        if row.announced_phase != plan.phase.value:
            data: dict[str, Scalar] = {"from_": row.announced_phase, "to": plan.phase.value, "rule": plan.rule}
            add_event(session, row.id, now, "phase.changed", data)
            row.announced_phase = plan.phase.value
        document = observed.document(machine, plan)
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
        if row.published_sha256 != digest:
            outbox.add(session, "observed", row.id, document, now)
            row.published_sha256 = digest
        return Changed(machine, plan)

    def _delete(self, session: Session, machine_ids: Sequence[str], reason: str) -> None:
        if not machine_ids:
            return
        session.exec(delete(MachineRow).where(col(MachineRow.id).in_(machine_ids)))
        outbox.forget(session, machine_ids, self._clock(), reason)

    def _identify(self, session: Session, evidence: Evidence) -> tuple[Changed, tuple[Identity, ...]]:
        believed = identities.believe(evidence)
        candidates = _candidates(session, believed)
        settled = frozenset(row.id for row in candidates if row.inventory is not None or row.acceptance != "pending")
        known = [_identity(session, row) for row in candidates]
        found = identities.match(believed, known, settled)
        if found.conflict:
            raise RefusedError(f"a machine with MAC address {', '.join(believed.macs)} {found.conflict}")
        session.exec(delete(MacRow).where(col(MacRow.mac).in_(found.steals)))
        self._delete(session, found.absorbs, f"it is a part of {found.machine_id}")
        session.flush()
        row = self._found_or_new(session, believed, found.machine_id)
        _show(session, row, believed)
        for warning in found.warnings:
            self._warn(session, row, warning)
        return self._follow_up(session, row), tuple(each for each in known if each.id in found.absorbs)

    def _found_or_new(self, session: Session, evidence: Evidence, machine_id: str | None) -> MachineRow:
        if machine_id is not None:
            return _row(session, machine_id)
        now = self._clock()
        new = identities.new_id(evidence, is_taken=lambda taken: session.get(MachineRow, taken) is not None)
        row = MachineRow(id=new, first_seen=now)
        session.add(row)
        session.flush()
        add_event(session, row.id, now, DISCOVERED, {"mac": evidence.macs[0]})
        return row

    def _warn(self, session: Session, row: MachineRow, warning: str) -> None:
        if warning not in (row.warnings or ()):
            row.warnings = [*(row.warnings or ()), warning][-WARNINGS_KEPT:]
            add_event(session, row.id, self._clock(), "identity.conflicted", {"warning": warning})


def add_event(session: Session, machine_id: str, at: datetime, name: str, data: dict[str, Scalar]) -> None:
    """Write an event for people and, if it is of interest there, for the manager."""
    add_events(session, [Noted(at, machine_id, name, data)])


def add_events(session: Session, noted: Sequence[Noted]) -> None:
    """The same for many."""
    events = [EventRow(machine_id=each.machine_id, at=each.at, name=each.name, data=dict(each.data)) for each in noted]
    session.add_all(events)
    session.flush()
    for row in events:
        if row.id is not None and row.id % 64 == 0:
            _forget_old_events(session, row.machine_id)
    for each in noted:
        if not each.name.startswith(_NOT_FOR_THE_MANAGER):
            outbox.add(session, "event", each.machine_id, {"name": each.name, "data": dict(each.data)}, each.at)


def _forget_old_events(session: Session, machine_id: str) -> None:
    newest = select(EventRow.id).where(EventRow.machine_id == machine_id).order_by(col(EventRow.id).desc())
    oldest_kept = session.exec(newest.offset(EVENTS_KEPT - 1).limit(1)).first()
    if oldest_kept is not None:
        session.exec(delete(EventRow).where(col(EventRow.machine_id) == machine_id, col(EventRow.id) < oldest_kept))


def _row(session: Session, machine_id: str) -> MachineRow:
    row = session.get(MachineRow, machine_id)
    if row is None:
        raise NotFoundError(f"there is no machine {machine_id}", hint="list them with: bootwright machine list")
    return row


def _load(session: Session, row: MachineRow) -> Machine:
    macs = session.exec(select(MacRow).where(MacRow.machine_id == row.id).order_by(col(MacRow.mac))).all()
    bmc = session.exec(select(BmcRow).where(BmcRow.machine_id == row.id)).first()
    records = session.exec(select(RecordRow).where(RecordRow.machine_id == row.id).order_by(col(RecordRow.id))).all()
    operations = select(OperationRow).where(OperationRow.machine_id == row.id)
    newest = session.exec(operations.order_by(col(OperationRow.created_at).desc(), col(OperationRow.id).desc())).first()
    return rows.machine(row, macs, bmc, newest, list(records))


def _load_all(session: Session) -> list[Machine]:
    return [_load(session, row) for row in session.exec(select(MachineRow).order_by(col(MachineRow.first_seen))).all()]


def _identity(session: Session, row: MachineRow) -> Identity:
    return rows.identity(row, list(session.exec(select(MacRow.mac).where(MacRow.machine_id == row.id)).all()))


def _candidates(session: Session, evidence: Evidence) -> list[MachineRow]:
    """All machines that share a MAC address with the evidence, and the first that share UUID (in either byte order) or serial."""
    owners = session.exec(select(MacRow.machine_id).where(col(MacRow.mac).in_(evidence.macs))).all()
    found = {row.id: row for row in session.exec(_with_ids(owners)).all()}
    same: list[ColumnElement[bool]] = []
    if evidence.uuid:
        same.append(col(MachineRow.uuid).in_((evidence.uuid, smbios.byte_swapped(evidence.uuid))))
    if evidence.serial:
        same.append(col(MachineRow.serial) == evidence.serial)
    if same:
        twins = select(MachineRow).where(or_(*same)).order_by(col(MachineRow.first_seen)).limit(_TWINS)
        found |= {row.id: row for row in session.exec(twins).all()}
    return [found[machine_id] for machine_id in sorted(found)]


def _with_ids(machine_ids: Collection[str]) -> SelectOfScalar[MachineRow]:
    return select(MachineRow).where(col(MachineRow.id).in_(machine_ids))


def _show(session: Session, row: MachineRow, evidence: Evidence) -> None:
    """Add the evidence to the machine."""
    merged = identities.merged(_identity(session, row), evidence)
    row.uuid, row.serial = merged.uuid, merged.serial
    row.board_serial, row.chassis_serial = merged.board_serial, merged.chassis_serial
    if evidence.firmware is not None:
        row.firmware = evidence.firmware.value
    for mac in evidence.macs:
        if session.get(MacRow, mac) is None:
            session.add(MacRow(mac=mac, machine_id=row.id))
    session.flush()
    _claim_bmc(session, row, merged)


def _claim_bmc(session: Session, row: MachineRow, identity: Identity) -> None:
    """Give the machine the BMC that was configured for it; a BMC that has a machine keeps it."""
    if session.exec(select(BmcRow).where(BmcRow.machine_id == row.id)).first() is not None:
        return
    for bmc in session.exec(select(BmcRow).where(col(BmcRow.machine_id).is_(None))).all():
        if selects(bmc.selects, bmc.selector, identity):
            bmc.machine_id = row.id
            return


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

"""BMCs: who may use which, with passwords sealed (`sealing.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlmodel import Session, col, select

from provider.domain.bmc import Bmc
from provider.domain.errors import RefusedError
from provider.store import rows
from provider.store.database import Database
from provider.store.machines import selects
from provider.store.sealing import Sealer
from provider.store.tables import BmcRow, MachineRow, MacRow


@dataclass(frozen=True)
class BmcAssignment:
    """A BMC of the settings and the machine that it is meant for."""

    bmc: Bmc
    selects: str
    """`mac`, `uuid` or `serial`; `id` if it was given to the machine with this id."""
    selector: str


class BmcOrigin(StrEnum):
    """Who told us of a BMC. Where several did, the settings win over the manager, and the manager over what we found out."""

    SETTINGS = "settings"
    MANAGER = "manager"
    AGENT = "agent"


class BmcStore:
    """Repository of BMCs."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def replace_all(self, assignments: Sequence[BmcAssignment]) -> None:
        """Make the store hold exactly the BMCs of the settings, and bind them to the machines that are known."""

        def write(session: Session) -> None:
            wanted = {assignment.bmc.name: assignment for assignment in assignments}
            for row in session.exec(select(BmcRow).where(BmcRow.origin == BmcOrigin.SETTINGS)).all():
                if row.name not in wanted:
                    session.delete(row)
            for assignment in assignments:
                self._put(session, assignment)
            session.flush()
            _bind(session)

        await self._database.write(write)

    async def assign(self, machine_id: str, bmc: Bmc, origin: BmcOrigin) -> None:
        """
        Give a machine its BMC, in place of one of the same origin or of a lesser one.

        Raises:
            RefusedError: If a stronger word has given it another, or the BMC is another machine's.
        """

        await self._database.write(lambda session: self.give(session, machine_id, bmc, origin) and None)

    def give(self, session: Session, machine_id: str, bmc: Bmc, origin: BmcOrigin) -> BmcRow:
        """
        The same inside a transaction, with the row that it made.

        Raises:
            RefusedError: As above; nothing was changed then.
        """
        named = session.get(BmcRow, bmc.name)
        if named is not None and named.machine_id not in (None, machine_id):
            raise RefusedError(f"BMC {bmc.name} is the one of {named.machine_id}", hint="each machine has its own BMC")
        had = session.exec(select(BmcRow).where(BmcRow.machine_id == machine_id)).all()
        for row in had:
            if _rank(row.origin) < _rank(origin):
                raise RefusedError(f"{machine_id} has its BMC, {row.name}, by the {row.origin}")
        if named is not None and _rank(named.origin) < _rank(origin):
            raise RefusedError(f"BMC {bmc.name} is in the {named.origin}")
        for row in had:
            if row is not named:
                session.delete(row)
        session.flush()
        self._put(session, BmcAssignment(bmc, "id", machine_id), origin)
        session.flush()
        given = session.get_one(BmcRow, bmc.name)
        given.machine_id = machine_id
        return given

    async def withdraw(self, machine_id: str, origin: BmcOrigin) -> bool:
        """Take from a machine the BMC that it has by this origin; whether it had one."""

        def write(session: Session) -> bool:
            found = session.exec(
                select(BmcRow).where(col(BmcRow.machine_id) == machine_id, col(BmcRow.origin) == origin.value)
            ).all()
            for row in found:
                session.delete(row)
            return bool(found)

        return await self._database.write(write)

    async def machines(self, origin: BmcOrigin) -> list[str]:
        """The ids of the machines that have their BMC by this origin."""

        def read(session: Session) -> list[str]:
            given = session.exec(select(BmcRow.machine_id).where(col(BmcRow.origin) == origin.value)).all()
            return [machine_id for machine_id in given if machine_id is not None]

        return await self._database.read(read)

    async def of(self, machine_id: str) -> Bmc | None:
        """The machine's BMC with its password, or None."""

        def read(session: Session) -> Bmc | None:
            row = session.exec(select(BmcRow).where(BmcRow.machine_id == machine_id)).first()
            if row is None:
                return None
            return Bmc(row.address, row.user, self._sealer.unseal(row.sealed_password), row.port, row.kind, row.system)

        return await self._database.read(read)

    def _put(self, session: Session, assignment: BmcAssignment, origin: BmcOrigin = BmcOrigin.SETTINGS) -> None:
        bmc = assignment.bmc
        row = session.get(BmcRow, bmc.name)
        if row is None:
            row = BmcRow(
                name=bmc.name,
                address=bmc.address,
                port=bmc.port,
                kind=bmc.kind,
                system=bmc.system,
                user=bmc.user,
                sealed_password=b"",
                selects="",
                selector="",
            )
            session.add(row)
        if (row.selects, row.selector) != (assignment.selects, assignment.selector):
            row.selects, row.selector, row.machine_id = assignment.selects, assignment.selector, None
        row.kind, row.user, row.origin = bmc.kind, bmc.user, origin.value
        row.sealed_password = self._sealer.seal(bmc.password)
        row.failures, row.last_error, row.retry_at = 0, "", None


def _rank(origin: str) -> int:
    return list(BmcOrigin).index(BmcOrigin(origin))


def _bind(session: Session) -> None:
    """Bind free BMCs to known machines without one."""
    taken = {row.machine_id for row in session.exec(select(BmcRow)).all()}
    free = session.exec(select(BmcRow).where(col(BmcRow.machine_id).is_(None))).all()
    if not free:
        return
    for machine in session.exec(select(MachineRow).order_by(col(MachineRow.first_seen))).all():
        if machine.id in taken:
            continue
        macs = list(session.exec(select(MacRow.mac).where(MacRow.machine_id == machine.id)).all())
        identity = rows.identity(machine, macs)
        for bmc in free:
            if bmc.machine_id is None and selects(bmc.selects, bmc.selector, identity):
                bmc.machine_id = machine.id
                break

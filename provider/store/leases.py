"""DHCP leases on disk: `save` returns after the commit, and many callers share one."""

from __future__ import annotations

from sqlalchemy import delete
from sqlmodel import Session, col, select

from provider.domain.lease import Lease
from provider.store import rows
from provider.store.database import Database
from provider.store.tables import LeaseRow


class LeaseStore:
    """Repository of leases; one per interface and address."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[Lease]:
        """All leases, expired ones too: the same client gets the same address again."""
        return await self._database.read(
            lambda session: [rows.lease(row) for row in session.exec(select(LeaseRow)).all()]
        )

    async def save(self, lease: Lease) -> None:
        """Write one lease; when this returns, it survives `kill -9` and a power cut."""

        def write(session: Session) -> None:
            session.merge(
                LeaseRow(
                    interface=lease.interface,
                    address=lease.address,
                    mac=lease.mac,
                    expires_at=lease.expires_at,
                    declined=lease.declined,
                )
            )

        await self._database.write(write)

    async def release(self, interface: str, address: str) -> None:
        """Forget one lease."""

        def write(session: Session) -> None:
            session.exec(delete(LeaseRow).where(col(LeaseRow.interface) == interface, col(LeaseRow.address) == address))

        await self._database.write(write)

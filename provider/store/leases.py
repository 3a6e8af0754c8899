"""DHCP leases and the operator's reservations on disk. Whatever is saved is there when the call returns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Address

from sqlalchemy import delete
from sqlmodel import Session, col, select

from provider.domain.lease import Lease, Reservation
from provider.store import rows
from provider.store.database import Database
from provider.store.tables import LeaseRow, ReservationRow

_PUT = (
    "INSERT INTO lease (address, mac, uuid, circuit_id, remote_id, expires_at, declined)"
    " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6"
    " FROM json_each(?) WHERE true"
    " ON CONFLICT (address) DO UPDATE SET mac = excluded.mac, uuid = excluded.uuid, circuit_id = excluded.circuit_id,"
    " remote_id = excluded.remote_id, expires_at = excluded.expires_at, declined = excluded.declined"
)
"""
All leases in one statement: a boot storm leases thousands of addresses a second.

SQLite's driver lets go of the interpreter's lock at each row that it is given, and waits for the loop to give it back.
"""


class LeaseStore:
    """Repository of leases, one for each address, and of reservations, likewise."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[Lease]:
        """All leases, expired ones too: the same client gets the same address again."""
        return await self._database.read(
            lambda session: [rows.lease(row) for row in session.exec(select(LeaseRow)).all()]
        )

    async def of(self, address: IPv4Address) -> Lease | None:
        """The lease of this address, expired or not."""

        def read(session: Session) -> Lease | None:
            row = session.get(LeaseRow, str(address))
            return None if row is None else rows.lease(row)

        return await self._database.read(read)

    async def save(self, leases: Sequence[Lease]) -> None:
        """
        Write leases in one commit; of two for one address the later counts. Then they survive `kill -9` and a power cut.

        Raises:
            TemporaryError: If the disk does not take them.
        """
        values = json.dumps([rows.lease_values(lease) for lease in leases])

        def write(session: Session) -> None:
            session.connection().exec_driver_sql(_PUT, (values,))

        await self._database.write(write, urgent=True)  # Clients do not wait for long, and each waits for this.

    async def reservations(self) -> list[Reservation]:
        """All reservations, by address."""

        def read(session: Session) -> list[Reservation]:
            return sorted(
                map(rows.reservation, session.exec(select(ReservationRow)).all()), key=lambda one: one.address
            )

        return await self._database.read(read)

    async def reserve(self, reservation: Reservation) -> None:
        """Write one, in place of what was reserved at its address."""

        def write(session: Session) -> None:
            session.merge(
                ReservationRow(
                    address=str(reservation.address),
                    by=reservation.by.value,
                    value=reservation.value,
                    remote_id=reservation.remote_id,
                )
            )

        await self._database.write(write)

    async def unreserve(self, address: IPv4Address) -> None:
        """Forget the one at this address."""

        def write(session: Session) -> None:
            session.exec(delete(ReservationRow).where(col(ReservationRow.address) == str(address)))

        await self._database.write(write)

"""Tickets of boot scripts: good once, for minutes, for one machine. The database knows only their hashes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from provider.domain.errors import NotFoundError, RefusedError
from provider.domain.secret import Secret
from provider.store.database import Database
from provider.store.tables import TicketRow

AGENT = "agent"
INSTALL = "install"


class TicketStore:
    """Mints and redeems."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def mint(self, purpose: str, machine_id: str, lifetime: timedelta) -> Secret:
        """
        Make a ticket; one that was minted earlier for the same machine stays good until it expires.

        Raises:
            NotFoundError: If the machine was forgotten meanwhile.
        """
        ticket = secrets.token_urlsafe(24)

        def write(session: Session) -> None:
            now = self._clock()
            session.exec(delete(TicketRow).where(col(TicketRow.expires_at) < now))
            row = TicketRow(sha256=digest(ticket), purpose=purpose, machine_id=machine_id, expires_at=now + lifetime)
            session.add(row)

        try:
            await self._database.write(write)
        except IntegrityError as error:
            raise NotFoundError(
                f"machine {machine_id} was forgotten", hint="it is a new one when it asks again"
            ) from error
        return Secret(ticket)

    async def redeem(self, purpose: str, ticket: str, nonce: str) -> str:
        """
        Use a ticket; gives the machine it was made for. The same nonce may come again: its answer was lost.

        Raises:
            RefusedError: If it is unknown, expired, or was used with another nonce; `machine_id` on the error names
                the machine it was made for, where that is known.
        """

        def write(session: Session) -> str:
            row = session.get(TicketRow, digest(ticket))
            if row is None or row.purpose != purpose:
                raise TicketRefusedError("the ticket is unknown or has expired", machine_id=None)
            if row.nonce is not None and row.nonce != nonce:
                raise TicketRefusedError("the ticket was used by another", machine_id=row.machine_id)
            if row.expires_at < self._clock():
                raise TicketRefusedError("the ticket has expired", machine_id=row.machine_id)
            row.nonce = nonce
            return row.machine_id

        return await self._database.write(write)


class TicketRefusedError(RefusedError):
    """A ticket is not good; `machine_id` is whose it was, if it ever was one."""

    def __init__(self, message: str, *, machine_id: str | None) -> None:
        super().__init__(message, hint="a machine gets a new ticket with its next boot script")
        self.machine_id = machine_id


def digest(text: str) -> str:
    """What is kept of a ticket or token: enough to recognise it, useless to whoever reads the database."""
    return hashlib.sha256(text.encode()).hexdigest()

"""Tickets of boot scripts: good once, for minutes, for one machine. The database knows only their hashes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlmodel import Session, col

from provider.domain.errors import NotFoundError, RefusedError
from provider.domain.secret import Secret
from provider.store.database import Database
from provider.store.tables import MachineRow, TicketRow

AGENT = "agent"
INSTALL = "install"


@dataclass(frozen=True)
class ShownTicket:
    """A ticket as somebody shows it. The same nonce may come again: its answer was lost."""

    purpose: str
    ticket: str = field(repr=False)
    nonce: str


class TicketStore:
    """For those who change nothing else along with it."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def redeem(self, shown: ShownTicket) -> str:
        """See the function."""
        return await self._database.write(lambda session: redeem(session, shown, self._clock()))


def mint(session: Session, purpose: str, machine_id: str, now: datetime, lifetime: timedelta) -> Secret:
    """
    Make a ticket; one that was minted earlier for the same machine stays good until it expires.

    Raises:
        NotFoundError: If the machine was forgotten meanwhile.
    """
    if session.get(MachineRow, machine_id) is None:  # At hand already for whoever edits it.
        raise NotFoundError(f"machine {machine_id} was forgotten", hint="it is a new one when it asks again")
    ticket = secrets.token_urlsafe(24)
    session.exec(delete(TicketRow).where(col(TicketRow.expires_at) < now))
    session.add(TicketRow(sha256=digest(ticket), purpose=purpose, machine_id=machine_id, expires_at=now + lifetime))
    return Secret(ticket)


def redeem(session: Session, shown: ShownTicket, now: datetime) -> str:
    """
    Use a ticket; gives the machine it was made for.

    Raises:
        TicketRefusedError: If it is unknown, expired, or was used with another nonce.
    """
    row = session.get(TicketRow, digest(shown.ticket))
    if row is None or row.purpose != shown.purpose:
        raise TicketRefusedError("the ticket is unknown or has expired", machine_id=None)
    if row.nonce is not None and row.nonce != shown.nonce:
        raise TicketRefusedError("the ticket was used by another", machine_id=row.machine_id)
    if row.expires_at < now:
        raise TicketRefusedError("the ticket has expired", machine_id=row.machine_id)
    row.nonce = shown.nonce
    return row.machine_id


class TicketRefusedError(RefusedError):
    """A ticket is not good; `machine_id` is the machine that it was made for, where that is known."""

    def __init__(self, message: str, *, machine_id: str | None) -> None:
        super().__init__(message, hint="a machine gets a new ticket with its next boot script")
        self.machine_id = machine_id


def digest(text: str) -> str:
    """What is kept of a ticket or token: enough to recognise it, useless to whoever reads the database."""
    return hashlib.sha256(text.encode()).hexdigest()

"""What we keep for a manager between its visits: secrets by name, sealed (`sealing.py`)."""

from __future__ import annotations

from sqlmodel import Session

from provider.domain.secret import Secret
from provider.store.database import Database
from provider.store.sealing import Sealer
from provider.store.tables import KeepsakeRow


class KeepsakeStore:
    """Repository of keepsakes."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def get(self, name: str) -> Secret | None:
        """
        What is kept under a name.

        Raises:
            PermanentError: If it was sealed with another key.
        """

        def read(session: Session) -> bytes | None:
            row = session.get(KeepsakeRow, name)
            return None if row is None else row.sealed

        sealed = await self._database.read(read)
        return None if sealed is None else self._sealer.unseal(sealed)

    async def put(self, name: str, secret: Secret) -> None:
        """Keep it, in place of what was there; it is on disk when this returns."""
        sealed = self._sealer.seal(secret)
        await self._database.write(lambda session: session.merge(KeepsakeRow(name=name, sealed=sealed)) and None)

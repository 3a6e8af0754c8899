"""Which boot loader ran on each firmware, by MAC address."""

from __future__ import annotations

from collections.abc import Mapping

from sqlmodel import Session, select

from provider.domain.mac import MacAddress
from provider.planning.loader import Loader
from provider.store.database import Database
from provider.store.tables import LoaderRow


class LoaderStore:
    """Repository of what was learned about firmware."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> dict[MacAddress, Loader]:
        """All of it."""

        def read(session: Session) -> dict[MacAddress, Loader]:
            return {MacAddress(row.mac): Loader(row.loader) for row in session.exec(select(LoaderRow)).all()}

        return await self._database.read(read)

    async def save(self, proven: Mapping[MacAddress, Loader]) -> None:
        """
        Write down what ran.

        Raises:
            TemporaryError: If the disk does not take it.
        """

        def write(session: Session) -> None:
            for mac, loader in proven.items():
                session.merge(LoaderRow(mac=mac, loader=loader.value))

        await self._database.write(write)

"""What was learned about each firmware, by MAC address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlmodel import Session, col, delete, select

from provider.domain.mac import MacAddress
from provider.planning.loader import Loader
from provider.planning.proxy_style import Style
from provider.store.database import Database
from provider.store.tables import FirmwareRow


@dataclass(frozen=True, slots=True)
class Proven:
    """What worked there last; None if nothing of the kind was tried, or nothing worked."""

    loader: Loader | None = None
    style: Style | None = None


class FirmwareStore:
    """Repository of what was learned about firmware."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> dict[MacAddress, Proven]:
        """All of it."""

        def read(session: Session) -> dict[MacAddress, Proven]:
            return {MacAddress(row.mac): _proven(row) for row in session.exec(select(FirmwareRow)).all()}

        return await self._database.read(read)

    async def save(self, proven: Mapping[MacAddress, Proven]) -> None:
        """
        Write down what worked, in place of what did before; where nothing did, the firmware is forgotten.

        Raises:
            TemporaryError: If the disk does not take it.
        """

        def write(session: Session) -> None:
            for mac, each in proven.items():
                if each == Proven():
                    session.execute(delete(FirmwareRow).where(col(FirmwareRow.mac) == mac))
                else:
                    session.merge(FirmwareRow(mac=mac, loader=each.loader, proxy_style=each.style))

        await self._database.write(write)


def _proven(row: FirmwareRow) -> Proven:
    return Proven(
        None if row.loader is None else Loader(row.loader),
        None if row.proxy_style is None else Style(row.proxy_style),
    )

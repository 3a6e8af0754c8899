"""What is learned of firmware, over restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from provider.domain.mac import MacAddress
from provider.kit.clock import utc_now
from provider.planning.loader import Loader
from provider.reconcile.loaders import Loaders
from provider.reconcile.machines import Machines
from provider.store.database import Database
from provider.store.loaders import LoaderStore
from provider.store.machines import MachineStore
from tests.integration.test_store import POLICY

MAC = MacAddress("52:54:00:12:34:56")
OTHER = MacAddress("52:54:00:12:34:57")


async def _saved(database: Database) -> dict[MacAddress, Loader]:
    """Wait until something is in the store."""
    async with asyncio.timeout(30):
        while not (found := await LoaderStore(database).load()):
            await asyncio.sleep(0.01)
    return found


def test_what_ran_is_remembered(tmp_path: Path) -> None:
    """After a restart, a machine with Secure Boot must fail once more before it boots."""

    async def main() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/bootwright.db")
        machines = Machines(MachineStore(database, POLICY, utc_now))
        loaders = Loaders(machines, LoaderStore(database), default=None, chosen={OTHER: Loader.SIGNED})
        await loaders.load()
        assert loaders.loader(MAC, begins=True) is Loader.IPXE
        assert loaders.loader(OTHER, begins=True) is Loader.SIGNED, "it is in the settings"
        async with asyncio.TaskGroup() as group:
            task = group.create_task(loaders.run())
            loaders.note(MAC, "tftp.sent", file="snponly.efi", bytes=1, seconds=0.1)
            assert loaders.loader(MAC, begins=False) is Loader.IPXE, "still the same boot"
            assert loaders.loader(MAC, begins=True) is Loader.SIGNED
            loaders.note(MAC, "tftp.sent", file="shimx64.efi", bytes=1, seconds=0.1)
            loaders.note(MAC, "tftp.sent", file="grub/grub.cfg", bytes=1, seconds=0.1)
            assert await _saved(database) == {MAC: Loader.SIGNED}
            task.cancel()
        again = Loaders(machines, LoaderStore(database), default=None, chosen={})
        await again.load()
        assert again.loader(MAC, begins=True) is Loader.SIGNED
        database.close()

    asyncio.run(main())

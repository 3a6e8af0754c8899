"""What is learned of firmware, over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from provider.domain.mac import MacAddress
from provider.kit.clock import utc_now
from provider.planning.loader import Loader
from provider.planning.proxy_style import Attempt, Style
from provider.reconcile import firmwares
from provider.reconcile.firmwares import Choice, Firmwares
from provider.reconcile.machines import Machines, Scalar
from provider.store.database import Database
from provider.store.firmwares import FirmwareStore, Proven
from provider.store.machines import MachineStore
from tests.integration.test_store import POLICY

MAC = MacAddress("52:54:00:12:34:56")
OTHER = MacAddress("52:54:00:12:34:57")


class Registry(Machines):
    """The registry of machines, and what was noted there."""

    def __init__(self, database: Database) -> None:
        super().__init__(MachineStore(database, POLICY, utc_now))
        self.noted: list[tuple[MacAddress, str, dict[str, Scalar]]] = []

    def note(self, mac: MacAddress, name: str, **data: Scalar) -> None:
        self.noted.append((mac, name, data))
        super().note(mac, name, **data)


class Bench:
    """What a test drives: the learner, and firmware that boots once a minute."""

    def __init__(self, database: Database) -> None:
        self.registry = Registry(database)
        self.store = FirmwareStore(database)
        self.learner = self.fresh()
        self._noon = utc_now()
        self._minutes = 0

    def fresh(self) -> Firmwares:
        """A learner after a restart."""
        loaders = Choice[Loader](None, {OTHER: Loader.SIGNED})
        styles = Choice[Style](None, {OTHER: Style.MENU})
        return Firmwares(self.registry, self.store, loaders=loaders, styles=styles)

    def boots(self, mac: MacAddress = MAC) -> tuple[Loader, Style]:
        """UEFI firmware sends a DHCPDISCOVER beside another server, and gets an offer."""
        self._minutes += 1
        attempt = Attempt(self._minutes, 0, self._noon + timedelta(minutes=self._minutes))
        loader = self.learner.loader(mac, begins=True)
        style = self.learner.style(mac, Style.TWO_STEP, attempt)
        self.learner.note(mac, "dhcp.offered", stage="firmware", mode="proxy", style=style.value)
        return loader, style

    def fetches(self, file: str, mac: MacAddress = MAC) -> None:
        """It fetches a file by TFTP."""
        self.learner.note(mac, "tftp.sent", file=file, bytes=1, seconds=0.1)

    async def saved(self, expected: dict[MacAddress, Proven]) -> None:
        """Wait until this is in the store."""
        async with asyncio.timeout(30):
            while await self.store.load() != expected:
                await asyncio.sleep(0.01)


def on_a_bench(folder: Path, main: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    """Run `main` while what is learned gets saved."""

    async def run(database: Database) -> None:
        bench = Bench(database)
        await bench.learner.load()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(bench.learner.run())
            await main(bench)
            task.cancel()

    database = Database.open(f"sqlite:///{folder}/bootwright.db")
    try:
        asyncio.run(run(database))
    finally:
        database.close()


def test_what_ran_is_remembered(tmp_path: Path) -> None:
    """After a restart, a machine with Secure Boot must fail once more before it boots."""

    async def main(bench: Bench) -> None:
        assert bench.boots() == (Loader.IPXE, Style.TWO_STEP)
        assert bench.boots(OTHER) == (Loader.SIGNED, Style.MENU), "it is in the settings"
        bench.fetches("snponly.efi")
        assert bench.learner.loader(MAC, begins=False) is Loader.IPXE, "still the same boot"
        assert bench.boots() == (Loader.SIGNED, Style.TWO_STEP), "whoever fetched has accepted the style"
        bench.fetches("shimx64.efi")
        bench.fetches("grub/grub.cfg")
        await bench.saved({MAC: Proven(Loader.SIGNED, Style.TWO_STEP)})
        bench.learner = bench.fresh()
        await bench.learner.load()
        assert bench.boots() == (Loader.SIGNED, Style.TWO_STEP)
        assert [name for _mac, name, _data in bench.registry.noted if "." in name].count("loader.refused") == 1

    on_a_bench(tmp_path, main)


def test_grub_that_is_not_heard_is_explained(tmp_path: Path) -> None:
    """Beside a server that names itself in siaddr GRUB asks that one, and nobody learns why the machine does not come."""

    async def main(bench: Bench) -> None:
        for file in ("snponly.efi", "shimx64.efi", "grubx64.efi"):
            bench.boots()
            bench.fetches(file)
        bench.boots()
        reasons = [str(data["reason"]) for _mac, name, data in bench.registry.noted if name == "loader.refused"]
        assert ["Secure Boot" in reasons[0], "siaddr" in reasons[1]] == [True, True]

    on_a_bench(tmp_path, main)


def test_style_that_was_accepted_is_remembered(tmp_path: Path) -> None:
    """After a restart firmware is offered a style that it refuses; or an operator does not hear why it took so long."""

    async def main(bench: Bench) -> None:
        assert bench.boots() == (Loader.IPXE, Style.TWO_STEP)
        assert bench.boots() == (Loader.IPXE, Style.COMPLETE), "it fetched nothing: the loader is not to blame"
        changes = [data for _mac, name, data in bench.registry.noted if name == "proxy.style_changed"]
        assert [(data["before"], data["now"]) for data in changes] == [("two-step", "complete")]
        assert "fetched nothing" in str(changes[0]["reason"])
        bench.fetches("snponly.efi")
        await bench.saved({MAC: Proven(None, Style.COMPLETE)})
        bench.learner.note(MAC, "dhcp.offered", stage="ipxe", mode="proxy")
        await bench.saved({MAC: Proven(Loader.IPXE, Style.COMPLETE)})
        bench.learner = bench.fresh()
        await bench.learner.load()
        assert [bench.boots()[1] for _ in range(3)] == [Style.COMPLETE, Style.COMPLETE, Style.MENU]
        assert (await bench.store.load())[MAC].style is Style.COMPLETE, "what is being tried is not kept"

    on_a_bench(tmp_path, main)


@pytest.mark.parametrize(
    ("name", "data", "ran"),
    [
        ("tftp.sent", {"file": "snponly.efi"}, None),
        ("tftp.failed", {"file": "snponly.efi", "reason": "it took too long"}, None),
        ("dhcp.offered", {"stage": "ipxe", "mode": "proxy"}, Loader.IPXE),  # We did not see who fetched it.
        ("tftp.sent", {"file": "grub/grub.cfg"}, Loader.SIGNED),
    ],
)
def test_signs_of_a_style_that_works(tmp_path: Path, name: str, data: dict[str, Scalar], ran: Loader | None) -> None:
    """Firmware that boots, or whose download was lost, is offered another style."""

    async def main(bench: Bench) -> None:
        bench.boots()
        bench.learner.note(MAC, name, **data)
        assert bench.boots()[1] is Style.TWO_STEP
        await bench.saved({MAC: Proven(ran, Style.TWO_STEP)})

    on_a_bench(tmp_path, main)


def test_http_boot_after_pxe_is_no_sign(tmp_path: Path) -> None:
    """OVMF whose PXE failed boots by HTTP in the same minute, and its iPXE is taken for a success of the PXE offer."""

    async def main(bench: Bench) -> None:
        bench.boots()
        bench.learner.note(MAC, "dhcp.offered", stage="firmware", mode="proxy")
        bench.learner.note(MAC, "dhcp.offered", stage="ipxe", mode="proxy")
        assert bench.boots()[1] is Style.COMPLETE
        await bench.saved({MAC: Proven(Loader.IPXE, None)})

    on_a_bench(tmp_path, main)


def test_strangers_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who makes up MAC addresses fills our memory or our disk (invariant 7)."""
    monkeypatch.setattr(firmwares, "FIRMWARES", 10)

    async def main(bench: Bench) -> None:
        bench.boots()
        assert bench.boots()[1] is Style.COMPLETE
        strangers = [MacAddress(f"02:00:00:00:00:{number:02x}") for number in range(100)]
        for mac in strangers:
            bench.boots(mac)
            bench.learner.note(mac, "dhcp.offered", stage="ipxe", mode="proxy")
            # Else more is waiting than is kept, and a slow disk loses it.
            async with asyncio.timeout(30):
                while mac not in await bench.store.load():
                    await asyncio.sleep(0)
        assert bench.boots()[1] is Style.TWO_STEP, "forgotten"
        await bench.saved({mac: Proven(Loader.IPXE, Style.TWO_STEP) for mac in strangers[-9:]})

    on_a_bench(tmp_path, main)

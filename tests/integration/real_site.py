"""A real Omni above us, and a machine that boots from us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration import real_omni, real_talos_agent
from tests.integration.omni_process import Booted, Ipxe
from tests.integration.provider_process import ADDRESS, ProviderProcess, provider_process
from tests.integration.real_omni import SURROUNDINGS, Member, RealOmni
from tests.integration.test_omni_daemon import MAC, UUID, operator
from tests.integration.test_serve import Daemon, configuration
from tests.integration.wires import wire

PATIENCE = 40.0  # seconds; Omni itself tries some things again only after half a minute.


def settings(folder: Path, omni: RealOmni, key: str, **manager: object) -> dict[str, object]:
    """A provider whose manager this Omni is."""
    (folder / "key").write_text(key)
    account = {"endpoint": omni.endpoint, "key_file": "key", "ca_file": str(omni.ca_file)}
    return {
        "manager": {"kind": "omni", **account, **manager},
        "talos": {"factory_url": f"http://{SURROUNDINGS}"},
        "provider": {"state_dir": str(folder / "state"), "labels": {"rack": "12"}},
        "power": {"minimum_reboot_interval": "1s", "poll_interval": "2s"},
    }


@contextlib.contextmanager
def serving(folder: Path, omni: RealOmni, key: str, **manager: object) -> Iterator[ProviderProcess]:
    """Run it, and stop it in order."""
    with provider_process(folder, **settings(folder, omni, key, **manager)) as process:
        yield process


@contextlib.contextmanager
def doomed(folder: Path, omni: RealOmni, key: str) -> Iterator[ProviderProcess]:
    """Run it, and let it have no last words."""
    assets = Path(os.environ.get("BOOTWRIGHT_ASSETS_DIR", ".bootwright/assets")).resolve()
    daemon = Daemon(configuration(folder, assets, **settings(folder, omni, key)))
    with wire(f"{ADDRESS}/24") as cable:
        daemon.start()
        try:
            yield ProviderProcess(folder, assets, cable, daemon)
        finally:
            daemon.kill()


@dataclass(frozen=True)
class Site:
    """Omni, a provider, and a machine."""

    omni: RealOmni
    provider: ProviderProcess
    machine: Ipxe

    async def booted(self) -> Booted:
        """What it would start now."""
        return await asyncio.to_thread(self.machine.booted)

    def script(self) -> str:
        """What it is told to boot."""
        return self.machine.script()

    async def member(self) -> Member:
        """It joins Omni with the configuration that it has from us."""
        member = Member(UUID, self.provider.boot("GET", "/config").text)
        await member.join()
        await self.until(lambda: self.omni.infra_machine(UUID))
        return member

    async def until(self, holds: Callable[[], Awaitable[object]], said: str = "") -> None:
        """Wait until it holds."""
        end = time.monotonic() + PATIENCE
        while not await holds():
            assert time.monotonic() < end, said or "it never came to be"
            await asyncio.sleep(0.1)

    async def told(self, words: str) -> None:
        """Wait until the machine is told that."""

        async def is_told() -> bool:
            return words in self.script()

        await self.until(is_told, f"{words!r} is not in:\n{self.script()}")

    async def status(self, **wanted: Any) -> None:
        """Wait until Omni has that in the machine's status."""

        async def has() -> bool:
            status = await self.omni.status(UUID)
            return all(getattr(status, name) == value for name, value in wanted.items())

        await self.until(has, f"{wanted}, but it is {await self.omni.status(UUID)}")

    def events(self) -> list[str]:
        """What happened to the machine."""
        found = operator(self.provider, f"/v1/events?machine={UUID}&limit=1000")["events"]
        return [event["name"] for event in found]

    async def wipes(self) -> int:
        """How many ended well."""
        return self.events().count("wipe.finished")

    async def happened(self, event: str) -> None:
        """Wait until that happened to the machine."""

        async def has() -> bool:
            return event in self.events()

        await self.until(has, f"no {event} among {self.events()}")

    def link(self) -> Any:
        """What `bootwright status` says of Omni."""
        return operator(self.provider, "/v1/status")["manager"]

    async def says(self, words: str) -> None:
        """Wait until it says that."""

        async def is_said() -> bool:
            return words in self.link()["last_error"]

        await self.until(is_said, f"{words!r}, but it is {self.link()}")

    async def connected(self) -> None:
        """Wait until there is a link."""

        async def is_connected() -> bool:
            return bool(self.link()["connected"])

        await self.until(is_connected, str(self.link()))

    async def ready(self, **agent: str) -> Member:
        """The machine joined, was accepted and wiped, and is ready for a cluster."""
        member = await self.member()
        await self.omni.configure(UUID, acceptance_status="ACCEPTED")
        await self.omni.give_bmc(UUID)
        with self.agent(await self.booted(), **agent):
            await self.status(ready_to_use=True, power_state=2)
        return member

    @contextlib.asynccontextmanager
    async def fake_agent(self, booted: Booted) -> AsyncIterator[None]:
        """Our own making of Sidero's agent."""
        with self.agent(booted):
            yield

    @contextlib.asynccontextmanager
    async def real_agent(self, booted: Booted) -> AsyncIterator[None]:
        """The real one, with the kernel line that the machine has from us; not at a BMC, which this machine has not."""
        arguments = " ".join([*booted.arguments, "metal.provider.test.mode=1"])
        ca = self.provider.boot("GET", "/ca.pem").body
        async with real_talos_agent.running(real_talos_agent.Machined(UUID), arguments, ca):
            yield

    @contextlib.contextmanager
    def agent(self, booted: Booted, **more: str) -> Iterator[None]:
        """Sidero's agent, as the kernel line says where it finds us."""
        ca = self.provider.folder / "ca.pem"
        ca.write_bytes(self.provider.boot("GET", "/ca.pem").body)
        command = [sys.executable, "-m", "provider.lab.omni.talos_agent", "--uuid", UUID, "--ca", str(ca)]
        command += ["--address", booted.argument("metal.provider.address"), "--restarts-after", "0.5"]
        command += [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", value)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.kill()


@contextlib.asynccontextmanager
async def at(omni: RealOmni, serving: AbstractContextManager[ProviderProcess]) -> AsyncIterator[Site]:
    """This provider under this Omni, as soon as it knows how machines join."""
    with serving as provider:
        here = Site(omni, provider, Ipxe(provider, UUID, MAC))

        async def is_told_how_to_join() -> bool:
            return provider.boot("GET", "/config").status == 200

        await here.until(is_told_how_to_join, str(here.link()))
        yield here


def with_omni(folder: Path, use: Callable[[RealOmni], Awaitable[None]], **flags: str | None) -> None:
    """Run something beside an Omni."""

    async def main() -> None:
        async with real_omni.running(folder / "omni", **flags) as omni:
            await use(omni)

    asyncio.run(main())


def at_site(folder: Path, use: Callable[[Site], Awaitable[None]], **flags: str | None) -> None:
    """Run something where an Omni has a provider."""

    async def main(omni: RealOmni) -> None:
        async with at(omni, serving(folder, omni, await omni.create_provider("bm"))) as here:
            await use(here)

    with_omni(folder, main, **flags)

"""The real Omni above us, and a machine from its first boot to its removal; skipped where there is none (`real_omni.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration import real_omni, real_talos_agent
from tests.integration.omni_process import FILES, Booted, Ipxe
from tests.integration.provider_process import ProviderProcess, provider_process
from tests.integration.real_omni import SURROUNDINGS, VARIABLE, Member, RealOmni
from tests.integration.test_omni_daemon import MAC, UUID, operator

pytestmark = [
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no Omni"),
    pytest.mark.timeout(300),
]

PATIENCE = 40.0  # seconds; Omni itself tries some things again only after half a minute.


@contextlib.contextmanager
def serving(folder: Path, omni: RealOmni, key: str) -> Iterator[ProviderProcess]:
    """A provider whose manager this Omni is."""
    (folder / "key").write_text(key)
    manager = {"kind": "omni", "endpoint": omni.endpoint, "key_file": "key", "ca_file": str(omni.ca_file)}
    talos = {"factory_url": f"http://{SURROUNDINGS}"}
    provider = {"state_dir": str(folder / "state"), "labels": {"rack": "12"}}
    power = {"minimum_reboot_interval": "1s"}
    with provider_process(folder, provider=provider, manager=manager, talos=talos, power=power) as process:
        yield process


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

    async def wipes(self) -> int:
        """How many ended well."""
        events = operator(self.provider, f"/v1/events?machine={UUID}&limit=1000")["events"]
        return [event["name"] for event in events].count("wipe.finished")

    @contextlib.asynccontextmanager
    async def fake_agent(self, booted: Booted) -> AsyncIterator[None]:
        """Ours of Sidero's agent, where the kernel line says that it finds us."""
        ca = self.provider.folder / "ca.pem"
        ca.write_bytes(self._ca())
        arguments = ["--uuid", UUID, "--ca", str(ca), "--address", booted.argument("metal.provider.address")]
        command = [sys.executable, "-m", "provider.lab.omni.talos_agent", *arguments]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.kill()
            await process.wait()

    @contextlib.asynccontextmanager
    async def real_agent(self, booted: Booted) -> AsyncIterator[None]:
        """The real one, with the kernel line that the machine has from us; not at a BMC, which this machine has not."""
        arguments = " ".join([*booted.arguments, "metal.provider.test.mode=1"])
        async with real_talos_agent.running(real_talos_agent.Machined(UUID), arguments, self._ca()):
            yield

    def _ca(self) -> bytes:
        return self.provider.boot("GET", "/ca.pem").body


@contextlib.asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    async with real_omni.running(folder / "omni") as omni:
        key = await omni.create_provider("bm")
        with serving(folder, omni, key) as provider:
            here = Site(omni, provider, Ipxe(provider, UUID, MAC))

            async def is_told_how_to_join() -> bool:
                return provider.boot("GET", "/config").status == 200

            await here.until(is_told_how_to_join)
            yield here


def at_site(folder: Path, use: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        async with site(folder) as here:
            await use(here)

    asyncio.run(main())


@pytest.mark.parametrize("real_agent", [False, True], ids=["fake-agent", "real-agent"])
def test_a_machine_from_its_first_boot_to_its_removal(tmp_path: Path, real_agent: bool) -> None:
    """We and our fakes agree with each other, and not with Omni, or not with Sidero's agent."""
    if real_agent and (real_talos_agent.VARIABLE not in os.environ or os.geteuid() != 0):
        pytest.skip(f"{real_talos_agent.VARIABLE} names no talos-metal-agent, or we are not root")

    async def use(here: Site) -> None:
        agent = here.real_agent if real_agent else here.fake_agent
        omni = here.omni
        booted = await here.booted()
        assert (booted.kernel, booted.initrds) == (FILES["kernel-amd64"], (FILES["initramfs-amd64.xz"],))
        member = await here.member()
        async with agent(booted):
            await asyncio.sleep(1)
            assert await here.wipes() == 0, "it is pending"
            await omni.configure(UUID, acceptance_status="ACCEPTED")
            await omni.give_bmc(UUID)
            await here.status(ready_to_use=True, power_state=2, wiped_node_unique_token=member.unique_token)
            assert await here.wipes() == 1

        await omni.allocate(UUID)
        await here.told("installing Talos v1.13.6")
        await member.say("install", 0, "unix.Reboot")
        await here.status(installed=True)
        await here.told("going on to the next boot device")
        await member.say("boot", 1)

        await omni.configure(UUID, requested_reboot_id="again")
        await here.status(last_reboot_id="again")
        assert omni.power.told == ["pxeboot", "reboot", "reboot"], "into the installation, and because a user wanted it"

        await omni.configure(UUID, cordoned=True)
        await here.told("nothing to boot from here")
        await omni.configure(UUID, cordoned=False)
        await here.told("going on to the next boot device")

        await omni.release(UUID)
        await here.told("starting the agent")
        await here.status(ready_to_use=False)
        async with agent(await here.booted()):
            await here.status(ready_to_use=True, installed=False)
        assert await here.wipes() == 2

        await omni.remove(UUID)

        async def is_gone() -> bool:
            return await omni.infra_machine(UUID) is None

        await here.until(is_gone)
        assert await omni.find("InfraMachineStatuses.omni.sidero.dev", UUID) is None

    at_site(tmp_path, use)

"""
Moving from Sidero's real provider to ours and back, under a real Omni; skipped where there are none (`real_omni.py`,
`real_sidero.py`). The machines' agents are real ones where there are any (`real_talos_agent.py`), else fake ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provider.lab.omni import names
from tests.integration import real_omni, real_sidero
from tests.integration.move_fleet import Box, Fleet, Words, fleet, listening, until
from tests.integration.omni_process import Ipxe
from tests.integration.provider_process import ADDRESS, ProviderProcess
from tests.integration.real_omni import SURROUNDINGS, RealOmni
from tests.integration.real_sidero import SideroProvider
from tests.integration.test_omni_daemon import operator
from tests.integration.test_serve import configuration, serving
from tests.integration.wires import Wire, wire

pytestmark = [
    *(
        pytest.mark.skipif(each.VARIABLE not in os.environ, reason=f"{each.VARIABLE} names no program")
        for each in (real_omni, real_sidero)
    ),
    pytest.mark.timeout(600),
]

THEIRS = f"{ADDRESS}:{real_sidero.PORT}"
"""Where agents find Sidero's provider."""
SILENCE = 31.0
"""Seconds after its last heartbeat, until it counts as stopped."""
SETTLED = 5.0
"""Seconds in which our daemon reads each power state, and does whatever it wants to do; its intervals are short here."""
POLL = 31.0
"""It looks at its machines each 30 seconds, and says nothing new meanwhile."""


@dataclass
class Site:
    """Omni, a cable, and the machines on it."""

    folder: Path
    omni: RealOmni
    key: str
    cable: Wire
    fleet: Fleet
    words: Words

    def theirs(self) -> contextlib.AbstractAsyncContextManager[SideroProvider]:
        """Sidero's provider is at work."""
        return real_sidero.running(self.folder, self.omni, "bm", self.key)

    @contextlib.contextmanager
    def ours(self) -> Iterator[ProviderProcess]:
        """Ours is."""
        with serving(self.configuration()) as daemon:
            yield ProviderProcess(self.folder, self.folder, self.cable, daemon)

    def configuration(self) -> Path:
        (self.folder / "key").write_text(self.key)
        manager = {
            "kind": "omni",
            "endpoint": self.omni.endpoint,
            "key_file": str(self.folder / "key"),
            "ca_file": str(self.omni.ca_file),
        }
        return configuration(
            self.folder,
            Path(os.environ.get("BOOTWRIGHT_ASSETS_DIR", ".bootwright/assets")).resolve(),
            provider={"state_dir": str(self.folder / "state")},
            manager=manager,
            talos={
                "factory_url": f"http://{SURROUNDINGS}",
                "agent_port": real_sidero.PORT,
                "agent_tls": False,
            },
            power={"minimum_reboot_interval": "1s", "poll_interval": "2s"},
        )

    async def adopt(self, *more: str) -> str:
        """The command; gives what it says."""
        command = [sys.executable, "-m", "provider", "omni", "adopt", "--config", str(self.configuration()), *more]
        process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def status(self, box: Box, **wanted: Any) -> None:
        """Wait until Omni has that in the machine's status."""

        async def has() -> bool:
            status = await self.omni.status(box.uuid)
            return all(getattr(status, name) == value for name, value in wanted.items())

        await until(has, f"{box.number}: {wanted}, but it is {await self.omni.status(box.uuid)}")

    async def left(self) -> list[str]:
        """What lies in the provider's own namespace: kinds and machines."""
        found = []
        for kind in ("BMCConfiguration", "MachineStatus", "PowerOperation", "WipeStatus", "RebootStatus"):
            listed = await self.omni.admin.list("infra-provider:bm", f"{kind}.bm.infraprovider.sidero.dev")
            found += [f"{kind} {each.metadata.id}" for each in listed]
        return found

    async def finalizers(self, box: Box) -> list[str]:
        found = await self.omni.find(names.INFRA_MACHINE, box.uuid)
        return [] if found is None else sorted(found.metadata.finalizers)


@contextlib.asynccontextmanager
async def site(folder: Path, count: int) -> AsyncIterator[Site]:
    async with real_omni.running(folder / "omni") as omni, fleet(folder, count) as machines, listening(omni) as words:
        key = await omni.create_provider("bm")
        with wire(f"{ADDRESS}/24") as cable:
            yield Site(folder, omni, key, cable, machines, words)


def at_site(folder: Path, use: Callable[[Site], Awaitable[None]], count: int = 5) -> None:
    async def main() -> None:
        async with site(folder, count) as here:
            await use(here)

    asyncio.run(main())


# --- a life under Sidero's provider ----------------------------------------------------------------------------------


async def live_under_theirs(here: Site) -> None:
    """One machine in use, one ready, one pending, one that a user switched off, one that a user rebooted."""
    used, ready, pending, off, rebooted = here.fleet.boxes[:5]
    async with here.theirs() as theirs:
        for box in here.fleet.boxes[:5]:
            await box.join(here.omni, await theirs.configuration())
            await box.agent.start(THEIRS)
        for box in (used, ready, off, rebooted):
            await here.omni.configure(box.uuid, acceptance_status="ACCEPTED")
            await here.omni.give_bmc(box.uuid, box.power_api)
        for box in (used, ready, off, rebooted):
            await here.status(box, ready_to_use=True)
            assert box.wipes == 1
        for box in (used, off, rebooted):
            await install(here, box)
        await here.omni.configure(rebooted.uuid, requested_reboot_id="once")
        await here.status(rebooted, last_reboot_id="once")
        await here.omni.configure(off.uuid, power_off_request_id="sleep")
        await here.status(off, last_power_off_id="sleep")
        off.power.is_on = False  # Omni shuts it down by Talos.
        for box in (used, ready, rebooted):
            await here.status(box, power_state=2)
        await here.status(off, power_state=1)
        assert pending.wipes == 0


async def install(here: Site, box: Box) -> None:
    """A cluster gets it: it is rebooted into the cluster's Talos, which installs itself."""
    assert box.member is not None
    reboots = box.reboots
    await here.omni.allocate(box.uuid, box.cluster)
    await until(lambda: rebooted_more(box, reboots), "no reboot into the cluster's Talos", 60)
    await box.agent.stop()
    await box.member.say("install", 0, "unix.Reboot")
    await here.status(box, installed=True)


async def rebooted_more(box: Box, than: int) -> bool:
    return box.reboots > than


# --- what we do with them --------------------------------------------------------------------------------------------


async def take_over(here: Site) -> str:
    """The command, once Sidero's provider is silent; gives what it says."""
    await asyncio.sleep(SILENCE)
    rehearsed = await here.adopt("--dry-run")
    assert not (here.folder / "state").exists() or "0 of" in rehearsed
    said = await here.adopt()
    assert said.splitlines()[:-1] == rehearsed.splitlines()[:-1]
    return said


async def settled(provider: ProviderProcess) -> None:
    """The link is up, and everything is done that follows from that."""

    async def is_connected() -> bool:
        return bool(operator(provider, "/v1/status")["manager"]["connected"])

    await until(is_connected)
    await asyncio.sleep(SETTLED)


def happened(provider: ProviderProcess, box: Box) -> list[str]:
    """What our daemon knows of a machine."""
    return [event["name"] for event in operator(provider, f"/v1/events?machine={box.uuid}&limit=1000")["events"]]


async def boots_agent(box: Box, provider: ProviderProcess) -> None:
    """It boots from the network, and is told to boot an agent."""
    booted = await asyncio.to_thread(Ipxe(provider, box.uuid, box.mac).booted)
    assert "starting the agent" in booted.script, booted.script
    await box.agent.start(booted.argument("metal.provider.address"))


async def wipe_again(here: Site, box: Box, provider: ProviderProcess) -> None:
    """It boots once more, its cluster lets it go, and it is wiped."""
    script = Ipxe(provider, box.uuid, box.mac).script()
    assert "going on to the next boot device" in script, script
    wipes, reboots = box.wipes, box.reboots
    await here.omni.release(box.uuid, box.cluster)
    await until(lambda: rebooted_more(box, reboots), "no reboot into the agent")
    await boots_agent(box, provider)
    await here.status(box, ready_to_use=True, installed=False)
    assert box.wipes == wipes + 1


async def remove(here: Site, box: Box) -> None:
    """A user removes it from Omni, and nothing of it stays there."""
    await here.omni.remove(box.uuid)

    async def is_gone() -> bool:
        return await here.omni.infra_machine(box.uuid) is None

    await until(is_gone, f"{box.number} is not let go: {await here.finalizers(box)}")
    assert await here.omni.find(names.INFRA_MACHINE_STATUS, box.uuid) is None
    assert not [each for each in await here.left() if box.uuid in each]


# --- the tests -------------------------------------------------------------------------------------------------------


def test_there(tmp_path: Path) -> None:
    """The change of providers wipes, reboots or switches a machine, takes back what Omni was told, or leaves finalizers."""

    async def use(here: Site) -> None:
        used, ready, pending, off, rebooted = here.fleet.boxes
        await live_under_theirs(here)
        mark, before = len(here.words.said), here.fleet.done_to_them()
        said = await take_over(here)
        assert "will be wiped" not in said.replace("will be wiped once accepted", "")
        with here.ours() as ours:
            await settled(ours)
            assert here.fleet.done_to_them() == before
            assert here.words.taken_back(mark) == []
            assert "agent.enrolled" in happened(ours, ready), (
                "we answer where Sidero's provider did: its agent comes to us"
            )
            await here.status(off, power_state=1, last_power_off_id="sleep", installed=True)

            await here.omni.configure(pending.uuid, acceptance_status="ACCEPTED")
            await here.omni.give_bmc(pending.uuid, pending.power_api)
            await here.status(pending, ready_to_use=True)
            await here.omni.configure(off.uuid, power_off_request_id="")
            await here.status(off, power_state=2, last_power_off_id="")
            await here.omni.configure(rebooted.uuid, requested_reboot_id="twice")
            await here.status(rebooted, last_reboot_id="twice")
            assert here.words.taken_back(mark) == []
            assert [box.wipes for box in here.fleet.boxes] == [1] * 5

            await wipe_again(here, used, ours)
            for box in (off, rebooted):
                await here.omni.release(box.uuid, box.cluster)
            for box in here.fleet.boxes:
                await remove(here, box)
            assert await here.left() == []

    at_site(tmp_path, use)


def test_there_and_back_again(tmp_path: Path) -> None:
    """Sidero's provider, back at work, wipes what we have wiped, or cannot let a machine go that we had."""

    async def use(here: Site) -> None:
        used, ready, pending, off, rebooted, late = here.fleet.boxes
        await live_under_theirs(here)
        await take_over(here)
        with here.ours() as ours:
            await settled(ours)
            await wipe_again(here, used, ours)
            await install(here, used)
            for box in (pending, late):
                if box is late:
                    await late.join(here.omni, ours.boot("GET", "/config").text)
                    await boots_agent(late, ours)
                await here.omni.configure(box.uuid, acceptance_status="ACCEPTED")
                await here.omni.give_bmc(box.uuid, box.power_api)
                await here.status(box, ready_to_use=True)
                await install(here, box)
            await here.omni.configure(rebooted.uuid, requested_reboot_id="twice")
            await here.status(rebooted, last_reboot_id="twice", power_state=2)
            await asyncio.sleep(SETTLED)
            mark, before = len(here.words.said), here.fleet.done_to_them()
        async with here.theirs() as theirs:
            await asyncio.sleep(POLL)
            assert here.fleet.done_to_them() == before
            assert set(here.words.taken_back(mark)) <= {late.uuid, pending.uuid}, "whose BMCs it does not know"
            for box in (used, off, rebooted):
                assert "exit" in await theirs.script(box.uuid)
            await remove(here, ready)
            with pytest.raises(AssertionError, match="at work as provider"):
                await here.adopt()
            before = here.fleet.done_to_them()
        await take_over(here)
        with here.ours() as ours:
            await settled(ours)
            assert here.fleet.done_to_them() == before

    at_site(tmp_path, use, count=6)

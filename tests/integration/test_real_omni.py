"""The real Omni above us, and a machine from its first boot to its removal; skipped where there is none (`real_omni.py`)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import grpc
import pytest

from provider.lab.omni import names
from tests.integration import real_talos_agent
from tests.integration.omni_process import FILES
from tests.integration.real_omni import VARIABLE
from tests.integration.real_site import Site, at_site
from tests.integration.test_omni_daemon import UUID

pytestmark = [
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no Omni"),
    pytest.mark.timeout(300),
]


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


def test_labels_for_machine_classes(tmp_path: Path) -> None:
    """Users cannot select machines by what we know of them."""

    async def use(here: Site) -> None:
        await here.ready()

        async def has_labels() -> bool:
            status = await here.omni.find(names.MACHINE_STATUS, UUID, names.DEFAULT)
            return status is not None and status.metadata.labels[f"{names.COPIED_LABEL_PREFIX}bm/rack"] == "12"

        await here.until(has_labels)
        status = await here.omni.find(names.MACHINE_STATUS, UUID, names.DEFAULT)
        assert names.READY_LABEL in status.metadata.labels

    at_site(tmp_path, use)


def test_rejoining_after_a_wipe_in_strict_mode(tmp_path: Path) -> None:
    """A machine that we wiped lost its token, and is locked out for ever."""

    async def use(here: Site) -> None:
        member = await here.ready()
        await here.status(wiped_node_unique_token=member.unique_token)
        member.unique_token = ""
        await member.join()

        async def is_known() -> bool:
            return bool((await here.omni.infra_machine(UUID)).node_unique_token == member.unique_token)

        await here.until(is_known)
        await here.status(ready_to_use=True)
        assert await here.wipes() == 1, "another token is no reason for another wipe"

    at_site(tmp_path, use, join_tokens_mode="strict")


def test_a_user_switches_a_machine_off(tmp_path: Path) -> None:
    """What a user switched off we switch on again; or it stays off when it is wanted again."""

    async def use(here: Site) -> None:
        omni = here.omni
        await here.ready()
        await omni.allocate(UUID)

        async def is_rebooted() -> bool:
            return omni.power.told == ["pxeboot", "reboot"]

        await here.until(is_rebooted, f"not into the installation: {omni.power.told}")
        with pytest.raises(grpc.aio.AioRpcError):  # It asks Talos to shut down, which is not there.
            await omni.manage("MachinePowerOff", machine_id=UUID)

        async def request() -> str:
            return str((await omni.infra_machine(UUID)).power_off_request_id)

        await here.until(request, "Omni does not pass the request on")
        await asyncio.sleep(1)  # It has to reach us before the machine is off: else it has failed, and is switched on.
        omni.power.is_on = False
        await here.status(power_state=1, last_power_off_id=await request())
        assert await is_rebooted(), "and since then it was left alone"
        await omni.manage("MachinePowerOn", machine_id=UUID)
        await here.status(power_state=2, last_power_off_id="")
        assert omni.power.told[2:] == ["pxeboot", "poweron"]

    at_site(tmp_path, use)


def test_a_preference_for_off_waits_until_omni_knows_the_machine(tmp_path: Path) -> None:
    """It is switched off before Omni has looked at it, and never gets to know it."""

    async def use(here: Site) -> None:
        await here.ready()
        await here.omni.configure(UUID, power_state="OFF")
        await asyncio.sleep(3)
        assert (await here.omni.infra_machine(UUID)).preferred_power_state == 1
        assert "poweroff" not in here.omni.power.told

    at_site(tmp_path, use)

"""The real talos-metal-agent against us, over TLS by our own authority; skipped where there is none (`real_talos_agent.py`)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from provider.domain.machine import AgentKind
from provider.domain.operation import OperationKind
from provider.http.tls import Authority
from provider.kit.clock import utc_now
from provider.lab.omni.talos_agent.faults import Faults
from provider.lab.omni.talos_agent.machine import Ipmi
from provider.lab.omni.talos_agent.machine import Machine as FakeMachine
from provider.planning.lifecycle import NEXT_AGENT, Operate
from provider.reconcile.worker import _operate
from tests.integration import real_talos_agent
from tests.integration.real_talos_agent import VARIABLE, Machined
from tests.integration.talos_rig import ACCEPTED, QUICK, UUID, Rig, at_site, until

pytestmark = pytest.mark.skipif(
    VARIABLE not in os.environ or os.geteuid() != 0,
    reason=f"{VARIABLE} names no talos-metal-agent (a static binary), or we are not root",
)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_the_real_agent_is_set_up_wiped_and_rebooted(tmp_path: Path, secure: bool) -> None:
    """Both readings of the protocol are ours, and both are wrong."""
    authority = Authority.open(tmp_path / "tls", utc_now()) if secure else None

    async def use(rig: Rig) -> None:
        machined = Machined(UUID)
        address = f"{'https://' if secure else ''}127.0.0.1:{rig.port}"
        arguments = f"talos.platform=metal metal.provider.address={address} metal.provider.test.mode=1"
        async with real_talos_agent.running(machined, arguments, authority.ca_pem if authority else b"") as output:
            try:
                machine_id = await rig.connected()
                assert machined.wiped == []
                await rig.desire(machine_id, ACCEPTED)
                await rig.phase(machine_id, "ready")
            except TimeoutError:
                pytest.fail(output.read_text(encoding="utf-8"))
            assert machined.wiped == [[("vda", 0), ("vdb", 0)]]
            bmc = await rig.side.bmcs.of(machine_id)
            assert bmc is not None
            assert bmc.kind == "api"
            assert (await rig.side.store.get(machine_id)).facts.agent.kind is AgentKind.TALOS
            step = Operate(OperationKind.REBOOT, NEXT_AGENT)
            await rig.side.machines.change(machine_id, lambda edit: _operate(step, edit))
            await rig.happened(machine_id, "reboot.finished")
            assert machined.reboots == 1
            await rig.start_again()
            await rig.happened(machine_id, "agent.enrolled", times=2)
            assert len(machined.wiped) == 1

    at_site(tmp_path, use, authority=authority)


def test_a_wipe_of_the_real_agent_is_stopped(tmp_path: Path) -> None:
    """Talos goes on with a wipe that we cancelled, on the disks of a machine that is not to be touched any more."""

    async def use(rig: Rig) -> None:
        machined = Machined(UUID, wipe_seconds=60)
        arguments = f"metal.provider.address=127.0.0.1:{rig.port} metal.provider.test.mode=1"
        async with real_talos_agent.running(machined, arguments):
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await until(lambda: bool(machined.wiping))
            await rig.desire(machine_id, type(ACCEPTED)())
            await rig.happened(machine_id, "wipe.interrupted")
            await rig.happened(machine_id, "wipe.stopped")
            assert machined.reboots == 1
            assert not machined.wiping
            machined.wipe_seconds = 0
            await rig.desire(machine_id, ACCEPTED)
            await rig.phase(machine_id, "ready")
            assert len(await rig.wipes(machine_id)) == 1
            assert (len(machined.wiped), machined.reboots) == (1, 1)

    at_site(tmp_path, use)


def test_a_wipe_of_the_real_agent_outlives_us(tmp_path: Path) -> None:
    """A daemon that starts again takes the wipe of before for its own, counts it twice, or is done before Talos is."""

    async def use(rig: Rig) -> None:
        machined = Machined(UUID, wipe_seconds=1)
        arguments = f"metal.provider.address=127.0.0.1:{rig.port} metal.provider.test.mode=1"
        async with real_talos_agent.running(machined, arguments):
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await until(lambda: bool(machined.wiping))
            await rig.start_again()
            await rig.happened(machine_id, "wipe.started", times=2)
            assert machined.wiped == []
            await until(lambda: len(machined.wiping) == 2)
            await rig.phase(machine_id, "ready")
            assert (len(machined.wiped), machined.reboots) == (2, 0)
            assert len(await rig.wipes(machine_id)) == 1
            assert "wipe.interrupted" in await rig.names(machine_id)

    at_site(tmp_path, use)


def test_the_real_agent_in_a_crowd(tmp_path: Path) -> None:
    """Hundreds of other agents, of which some flood us, keep a real one from being served."""
    others = [FakeMachine(f"4c4c4544-0042-3510-8052-{number:012x}", Ipmi("10.0.0.9")) for number in range(300)]

    async def use(rig: Rig) -> None:
        machined = Machined(UUID)
        arguments = f"metal.provider.address=127.0.0.1:{rig.port} metal.provider.test.mode=1"
        async with contextlib.AsyncExitStack() as stack:
            for number, machine in enumerate(others):
                source = f"127.1.{number // 200}.{number % 200 + 1}"
                faults = Faults(garbage=b"\xff\xff\xff" if number % 10 == 0 else b"")
                await stack.enter_async_context(rig.agent(machine, faults=faults, source=source, restarts_after=1.0))
            await stack.enter_async_context(real_talos_agent.running(machined, arguments))
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.phase(machine_id, "ready")
            await until(lambda: sum(machine.hellos > 0 for machine in others) >= 270, 60)
            assert machined.wiped == [[("vda", 0), ("vdb", 0)]]
            assert not any(machine.wipes for machine in others)

    at_site(tmp_path, use, patience=replace(QUICK, greets_every=timedelta(seconds=10), hello=timedelta(seconds=20)))

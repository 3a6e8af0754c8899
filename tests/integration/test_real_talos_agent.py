"""The real talos-metal-agent against us, over TLS by our own authority; skipped where there is none (`real_talos_agent.py`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provider.domain.machine import AgentKind
from provider.domain.operation import OperationKind
from provider.http.tls import Authority
from provider.kit.clock import utc_now
from provider.planning.lifecycle import NEXT_AGENT, Operate
from provider.reconcile.worker import _operate
from tests.integration import real_talos_agent
from tests.integration.real_talos_agent import VARIABLE, Machined
from tests.integration.talos_rig import ACCEPTED, UUID, Rig, at_site, until

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
    """The real agent goes on when we cancel its call, and the next wipe is not one of its own."""

    async def use(rig: Rig) -> None:
        machined = Machined(UUID, wipe_seconds=60)
        arguments = f"metal.provider.address=127.0.0.1:{rig.port} metal.provider.test.mode=1"
        async with real_talos_agent.running(machined, arguments):
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.happened(machine_id, "wipe.started")
            await rig.desire(machine_id, type(ACCEPTED)())
            await rig.happened(machine_id, "wipe.interrupted")
            machined.wipe_seconds = 0
            await rig.desire(machine_id, ACCEPTED)
            await rig.phase(machine_id, "ready")
            assert len(await rig.wipes(machine_id)) == 1
            await until(lambda: len(machined.wiped) == 1)

    at_site(tmp_path, use)

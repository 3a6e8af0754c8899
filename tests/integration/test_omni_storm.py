"""Many machines of one Omni at one moment: our side as the daemon has it, a fake Omni, and an agent in Talos for each machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import unquote

import pytest

from provider.domain.bmc import Bmc, PowerState
from provider.http.talos_agents import Limits
from provider.kit.clock import utc_now
from provider.lab.omni import names, resources
from provider.lab.omni.fake import FakeOmni, Options
from provider.lab.omni.join import JoinRequest
from provider.lab.omni.talos_agent.agent import TalosAgent
from provider.lab.omni.talos_agent.machine import Machine, WipeState
from provider.manager.omni.credentials import Credentials
from provider.manager.omni.link import OmniLink
from provider.manager.omni.presence import Provider
from provider.reconcile.omni import OmniDesk
from provider.reconcile.talos_agents import Patience
from provider.store.keepsakes import KeepsakeStore
from provider.store.outbox import Outbox
from provider.store.sealing import Sealer
from tests.integration.talos_rig import TALOS_POLICY, Rig, at_site, until
from tests.integration.test_reconcile import RecordingBmc

pytestmark = pytest.mark.timeout(180)

MACHINES = 200
"""A thousand, each on a tunnel of its own, take a minute: `./dev bench omni` has those, and looks at their wipes too."""

PATIENCE = 60.0  # seconds


async def linked(rig: Rig, omni: FakeOmni, folder: Path) -> OmniLink:
    """Our link to it."""
    side, sealer = rig.side, Sealer.open(folder / "secret.key")
    desk = OmniDesk(
        side.machines,
        side.bmcs,
        side.workers,
        KeepsakeStore(side.database, sealer),
        sealer,
        provider_id="bm",
        labels={},
        policy=TALOS_POLICY,
        clock=utc_now,
    )
    await desk.load()
    return OmniLink(
        url=omni.endpoint,
        credentials=Credentials.load(await omni.desk.create_provider("bm")),
        ca_file=None,
        us=Provider("bm", "BM", "1", desk.installation, {}),
        outbox=Outbox(side.database, side.store.outbox_rang),
        desk=desk,
        clock=utc_now,
    )


async def join(omni: FakeOmni, machines: list[Machine]) -> None:
    """All of them join, and Omni is told of their BMCs."""
    await until(lambda: bool(omni.desk.providers()[0]["status"]))
    config = omni.state.get(names.INFRA, names.JOIN_CONFIG, "bm")
    arguments = resources.spec_of(config).config.kernel_args
    token = unquote(arguments[0].partition("jointoken=")[2])
    for number, machine in enumerate(machines):
        await omni.desk.provision(JoinRequest(uuid=machine.uuid, token=token))
        await omni.desk.set_bmc(machine.uuid, f"10.9.{number >> 8}.{number & 255}", username="u", password="p")


class Bmcs:
    """A BMC for each machine, which is on."""

    def __init__(self) -> None:
        self._each: dict[Bmc, RecordingBmc] = {}

    def power(self, bmc: Bmc) -> RecordingBmc:
        if bmc not in self._each:
            self._each[bmc] = RecordingBmc()
            self._each[bmc].state = PowerState.ON
        return self._each[bmc]


def ready(omni: FakeOmni) -> int:
    statuses = omni.state.list(names.INFRA, names.INFRA_MACHINE_STATUS)
    return sum(resources.spec_of(each).ready_to_use for each in statuses)


def test_accepted_at_once_while_streams_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many machines that are accepted at one moment one is wiped twice or never, because a watch broke in the middle."""
    machines = [Machine(f"5c7b0d5e-5b7c-4d35-9d3b-{number:012x}") for number in range(1, MACHINES + 1)]

    async def use(rig: Rig) -> None:
        async with FakeOmni(Options()) as omni, asyncio.TaskGroup() as group:
            monkeypatch.setattr(rig.side.bmc, "power", Bmcs().power)
            link = await linked(rig, omni, tmp_path)
            tasks = [group.create_task(link.run())]
            for machine in machines:
                agent = TalosAgent(f"127.0.0.1:{rig.port}", machine, restarts_after=PATIENCE)
                tasks.append(group.create_task(agent.run()))
            await join(omni, machines)
            await until(lambda: all(each.hellos for each in machines), PATIENCE)
            for machine in machines:
                await omni.desk.accept(machine.uuid)
            for share in (10, 3, 2):
                await until(lambda: sum(bool(each.wipes) for each in machines) >= MACHINES // share, PATIENCE)  # noqa: B023 - waited for in the same turn
                omni.faults.reset_streams()
            await until(lambda: ready(omni) == MACHINES, PATIENCE)
            omni.faults.reset_streams()
            await until(lambda: omni.calls.open_streams.total() > 0, PATIENCE)
            for task in tasks:
                task.cancel()
        assert [[wipe.state for wipe in each.wipes] for each in machines] == [[WipeState.DONE]] * MACHINES

    at_site(tmp_path, use, patience=Patience(), limits=Limits(tunnels_per_address=MACHINES))

"""Our side of Omni over a real store, beside a fake Omni in the same process; agents and BMCs are played by the tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from provider.domain.bmc import Bmc
from provider.domain.machine import Machine, Outcome, RecordKind
from provider.domain.secret import Secret
from provider.kit.clock import utc_now
from provider.lab.omni import names
from provider.lab.omni.fake import FakeOmni, Options
from provider.lab.omni.join import JoinRequest
from provider.lab.omni.resources import Resource
from provider.manager.omni.credentials import Credentials
from provider.manager.omni.link import OmniLink
from provider.manager.omni.presence import Provider
from provider.planning import agents, omni
from provider.reconcile.machines import Machines
from provider.reconcile.omni import OmniDesk
from provider.reconcile.worker import Workers
from provider.store.bmcs import BmcOrigin, BmcStore
from provider.store.database import Database
from provider.store.keepsakes import KeepsakeStore
from provider.store.machines import Edit, MachineStore
from provider.store.outbox import Outbox
from provider.store.sealing import Sealer
from tests.integration.omni_client import MACHINE
from tests.integration.test_reconcile import POLICY, RecordingBmc

PATIENCE = 20.0  # seconds


class Side:
    """Our side: store, machines, desk. Made anew from the same folder, it is a daemon that was started again."""

    def __init__(self, folder: Path, clock: Callable[[], datetime] = utc_now) -> None:
        folder.mkdir(exist_ok=True)
        self.policy = omni.policy(POLICY, agents.Choice())
        self.database = Database.open(f"sqlite:///{folder / 'bootwright.db'}")
        sealer = Sealer.open(folder / "secret.key")
        store = MachineStore(self.database, self.policy, clock)
        self.machines = Machines(store)
        self.bmcs = BmcStore(self.database, sealer)
        self.bmc = RecordingBmc()
        self.outbox = Outbox(self.database, store.outbox_rang)
        self.workers = Workers(self.machines, self.bmcs, self.bmc, clock=clock)
        self.desk = OmniDesk(
            self.machines,
            self.bmcs,
            self.workers,
            KeepsakeStore(self.database, sealer),
            sealer,
            provider_id="bm",
            labels={"site": "rack-12"},
            policy=self.policy,
            clock=clock,
        )
        self.clock = clock

    async def load(self) -> None:
        await self.machines.load()
        await self.desk.load()

    async def machine(self, uuid: str = MACHINE) -> Machine:
        """The machine as we have it."""
        machine_id = self.desk._ids[uuid]
        return await self.machines.store.get(machine_id)

    async def change(self, edit: Callable[[Edit], None], uuid: str = MACHINE) -> None:
        await self.machines.change((await self.machine(uuid)).id, edit)

    async def give_bmc(self, uuid: str = MACHINE) -> None:
        machine = await self.machine(uuid)
        number = int(uuid[-2:], 16)
        await self.bmcs.assign(machine.id, Bmc(f"10.9.0.{number}", "ops", Secret("pw")), BmcOrigin.AGENT)
        await self.change(lambda edit: edit.note("bmc.configured", by="agent"), uuid)

    async def wiped(self, uuid: str = MACHINE) -> None:
        """An agent wiped it, for what is wanted now."""
        wanted = (await self.machine(uuid)).desired

        def edit(edit: Edit) -> None:
            edit.record(
                RecordKind.WIPE,
                wanted.wipe_id,
                Outcome.DONE,
                install_event=wanted.install_event,
                manager_token=wanted.manager_token,
            )

        await self.change(edit, uuid)


@dataclass
class Rig:
    """Both sides. `link` runs ours."""

    omni: FakeOmni
    key: str
    folder: Path
    side: Side = field(init=False)

    def __post_init__(self) -> None:
        self.side = Side(self.folder)

    async def start(self) -> None:
        await self.side.load()

    async def start_again(self) -> None:
        """As after `kill -9`: nothing is kept but the store."""
        self.side.database.close()
        self.side = Side(self.folder)
        await self.side.load()

    def make_link(
        self, key: str = "", ca_file: Path | None = None, clock: Callable[[], datetime] = utc_now
    ) -> OmniLink:
        side = self.side
        us = Provider("bm", "BM", "1", side.desk.installation, {})
        return OmniLink(
            url=self.omni.endpoint,
            credentials=Credentials.load(key or self.key),
            ca_file=ca_file or self.omni.ca_file,
            us=us,
            outbox=side.outbox,
            desk=side.desk,
            clock=clock,
            first_pause=timedelta(milliseconds=50),
        )

    @contextlib.asynccontextmanager
    async def link(self, **more: Any) -> AsyncIterator[OmniLink]:
        link = self.make_link(**more)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(link.run())
            try:
                yield link
            finally:
                task.cancel()

    async def join(self, uuid: str = MACHINE) -> None:
        """A machine calls Omni."""
        await until(lambda: bool(self.omni.desk.providers()[0]["status"]))
        await self.omni.desk.provision(JoinRequest(uuid=uuid, token=self.token()))

    def token(self) -> str:
        found: Any = self.omni.desk.providers()[0]["join"]
        return unquote(found["config"]["kernel_args"][0].partition("jointoken=")[2])

    def infra(self, uuid: str = MACHINE) -> Any:
        """The InfraMachine as a view, None if there is none."""
        seen: Any = {each["id"]: each for each in self.omni.desk.machines()}.get(uuid)
        return None if seen is None else seen["infra"]

    def force(self, edit: Callable[[Resource], Resource], uuid: str = MACHINE) -> None:
        """Change an InfraMachine as only Omni itself does."""
        resource = self.omni.state.get(names.INFRA, names.INFRA_MACHINE, uuid)
        self.omni.state.modify(resource, edit, resource.owner)

    def status(self, uuid: str = MACHINE) -> Any:
        """The spec of our InfraMachineStatus at Omni, None if there is none."""
        seen: Any = {each["id"]: each for each in self.omni.desk.machines()}.get(uuid)
        return None if seen is None or seen["status"] is None else seen["status"]["spec"]

    def written(self, kind: str = names.INFRA_MACHINE_STATUS) -> list[Any]:
        """What we wrote of a kind, in order."""
        log: Any = self.omni.desk.log()
        return [each for each in log if each["resource"] and each["resource"]["type"] == kind]


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(patience):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


def rigged(folder: Path, use: Callable[[Rig], Awaitable[None]], options: Options | None = None) -> None:
    """Run something against a fresh fake and a fresh store."""

    async def main() -> None:
        async with asyncio.timeout(100), FakeOmni(options or Options()) as omni:
            rig = Rig(omni, await omni.desk.create_provider("bm"), folder / "ours")
            await rig.start()
            try:
                await use(rig)
            finally:
                rig.side.database.close()

    asyncio.run(main())

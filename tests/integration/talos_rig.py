"""Our side of machines that wait in Talos: real desks and workers over a real store, and the listener; agents are fakes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from provider.domain.bmc import Bmc
from provider.domain.event import Event
from provider.domain.mac import MacAddress
from provider.domain.machine import (
    Acceptance,
    AgentKind,
    Desired,
    Evidence,
    Machine,
    Outcome,
    PreferredPower,
    Record,
    RecordKind,
)
from provider.domain.secret import Secret
from provider.http.talos_agents import Limits, TalosAgentListener, tls
from provider.http.tls import Authority
from provider.kit.clock import utc_now
from provider.lab.omni.talos_agent.agent import TalosAgent
from provider.lab.omni.talos_agent.machine import Ipmi
from provider.lab.omni.talos_agent.machine import Machine as FakeMachine
from provider.planning import agents, lifecycle, omni
from provider.reconcile.agents import AgentDesk
from provider.reconcile.machines import Machines
from provider.reconcile.talos_agents import Patience, TalosAgentDesk
from provider.reconcile.worker import Workers
from provider.store.bmcs import BmcStore
from provider.store.database import Database
from provider.store.machines import MachineStore
from provider.store.sealing import Sealer
from provider.store.tickets import TicketStore
from tests.integration.test_reconcile import POLICY, RecordingBmc

PATIENCE = 20.0  # seconds

UUID = "4c4c4544-0042-3510-8052-b4c04f4e4e31"
SWAPPED = "44454c4c-4200-1035-8052-b4c04f4e4e31"
OTHER_UUID = "4c4c4544-0042-3510-8052-b4c04f4e4e32"

ACCEPTED = Desired(acceptance=Acceptance.ACCEPTED, preferred_power=PreferredPower.ON)
TALOS_POLICY = replace(
    omni.policy(POLICY, agents.Choice(site=AgentKind.TALOS)), wipe_retry_after=timedelta(milliseconds=100)
)
QUICK = Patience(
    returns=timedelta(seconds=2),
    greets_every=timedelta(milliseconds=300),
    hello=timedelta(seconds=1),
    proof_of_life=timedelta(seconds=0.5),
    reboot=timedelta(seconds=1),
    work=timedelta(seconds=1),
)


class Side:
    """All objects of a daemon that matter here. Made anew from the same folder, it is one that was started again."""

    def __init__(
        self,
        folder: Path,
        port: int,
        patience: Patience,
        limits: Limits,
        policy: lifecycle.Policy,
        authority: Authority | None,
    ) -> None:
        self.database = Database.open(f"sqlite:///{folder / 'bootwright.db'}")
        self.store = MachineStore(self.database, policy, utc_now)
        self.machines = Machines(self.store)
        self.bmcs = BmcStore(self.database, Sealer.open(folder / "secret.key"))
        self.bmc = RecordingBmc()
        self.agents = AgentDesk(
            self.machines, TicketStore(self.database, utc_now), lost_after=timedelta(minutes=1), clock=utc_now
        )
        self.workers = Workers(self.machines, self.bmcs, self.bmc, clock=utc_now)
        self.macs: dict[str, MacAddress] = {}
        """By address."""
        self.desk = TalosAgentDesk(
            self.machines,
            self.agents,
            self.bmcs,
            mac_of=lambda address: self.macs.get(address),
            power_api=self._power_api,
            clock=utc_now,
            patience=patience,
        )
        credentials = None if authority is None else tls(authority)
        self.listener = TalosAgentListener(self.desk, port, credentials, limits)
        self.tasks: list[asyncio.Task[None]] = []

    async def _power_api(self, uuid: str) -> Bmc:
        return Bmc("127.0.0.1", "", Secret(""), 4242, "api")

    async def start(self, group: asyncio.TaskGroup) -> None:
        await self.machines.load()
        await self.agents.load()
        await self.desk.load()
        self.listener.open("127.0.0.1")
        runs = (self.machines.run, self.workers.run, self.agents.watch, self.desk.watch, self.listener.run)
        self.tasks = [group.create_task(_ignoring_cancellation(run)) for run in runs]

    async def stop(self) -> None:
        """As a kill: nothing is told to the store any more."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks)
        self.database.close()


async def _ignoring_cancellation(run: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await run()


class Rig:
    """A site, and how to look at it."""

    def __init__(
        self,
        folder: Path,
        patience: Patience,
        limits: Limits,
        policy: lifecycle.Policy,
        authority: Authority | None,
    ) -> None:
        self.port = free_port()
        self._make = lambda: Side(folder, self.port, patience, limits, policy, authority)
        self.side = self._make()
        self._group: asyncio.TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as self._group:
            await self.side.start(self._group)
            try:
                yield
            finally:
                await self.side.stop()

    async def start_again(self) -> None:
        assert self._group is not None
        await self.side.stop()
        self.side = self._make()
        await self.side.start(self._group)

    @contextlib.asynccontextmanager
    async def agent(self, machine: FakeMachine | None = None, **more: Any) -> AsyncIterator[TalosAgent]:
        """A fake agent that runs meanwhile, and is started again whenever it ends."""
        machine = machine or FakeMachine(UUID, Ipmi("10.0.0.9"))
        agent = TalosAgent(f"127.0.0.1:{self.port}", machine, **{"restarts_after": 0.05, **more})
        async with asyncio.TaskGroup() as group:
            running = group.create_task(agent.run())
            try:
                yield agent
            finally:
                running.cancel()

    async def machine(self, uuid: str = UUID) -> Machine | None:
        found = await self.side.store.with_uuid(uuid)
        return found[0] if found else None

    async def known(self, evidence: Evidence) -> Machine:
        """A machine has asked for a script, and shown this."""
        machine, _nothing = await self.side.machines.identify(evidence, lambda _edit: None)
        return machine

    async def connected(self, uuid: str = UUID) -> str:
        """Wait for the machine with its agent; gives its id."""
        await until(lambda: self._is_connected(uuid))
        machine = await self.machine(uuid)
        assert machine is not None
        return machine.id

    async def _is_connected(self, uuid: str) -> bool:
        machine = await self.machine(uuid)
        return machine is not None and machine.facts.agent.connected

    async def desire(self, machine_id: str, wanted: Desired) -> None:
        await self.side.machines.change(machine_id, lambda edit: edit.desire(wanted))

    async def events(self, machine_id: str) -> list[Event]:
        return await self.side.store.events(machine_id, 0, 500)

    async def names(self, machine_id: str) -> list[str]:
        return [event.name for event in await self.events(machine_id)]

    async def happened(self, machine_id: str, name: str, times: int = 1) -> None:
        async def has() -> bool:
            return (await self.names(machine_id)).count(name) >= times

        await until(has)

    async def wipes(self, machine_id: str, outcome: Outcome = Outcome.DONE) -> list[Record]:
        facts = (await self.side.store.get(machine_id)).facts
        return [each for each in facts.records if each.kind is RecordKind.WIPE and each.outcome is outcome]

    async def phase(self, machine_id: str, wanted: str) -> None:
        async def has() -> bool:
            return (await self.side.machines.plan(machine_id))[1].phase.value == wanted

        await until(has)


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(patience):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def at_site(
    folder: Path,
    use: Callable[[Rig], Awaitable[None]],
    *,
    patience: Patience = QUICK,
    limits: Limits | None = None,
    policy: lifecycle.Policy = TALOS_POLICY,
    authority: Authority | None = None,
) -> None:
    """Run something at a site of its own."""

    async def main() -> None:
        rig = Rig(folder, patience, limits or Limits(), policy, authority)
        async with asyncio.timeout(4 * PATIENCE), rig.running():
            await use(rig)

    asyncio.run(main())

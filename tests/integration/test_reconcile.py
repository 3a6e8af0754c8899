"""Desks and workers over a real store: who gets in, what is refused, and what a worker does to a BMC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerState
from provider.domain.errors import NotFoundError, PermanentError, RefusedError, TemporaryError
from provider.domain.inventory import Cpu, Disk, FirmwareKind, Inventory, System
from provider.domain.mac import MacAddress
from provider.domain.machine import (
    Acceptance,
    AgentKind,
    Allocation,
    BootMode,
    Desired,
    Evidence,
    HandOff,
    Machine,
    Outcome,
    Phase,
    RecordKind,
)
from provider.domain.operation import DiskWiped, OperationKind, WipeReport
from provider.domain.secret import Secret
from provider.kit.clock import utc_now
from provider.planning import agents, lifecycle, omni
from provider.planning.boot import BootDecision
from provider.planning.lifecycle import Plan
from provider.reconcile import machines
from provider.reconcile.agents import AgentDesk
from provider.reconcile.boots import BootDesk
from provider.reconcile.desired import ManagerDesk
from provider.reconcile.hand_offs import HandOffs
from provider.reconcile.machines import Machines
from provider.reconcile.operators import Decides, OperatorDesk
from provider.reconcile.worker import Workers
from provider.store.bmcs import BmcAssignment, BmcStore
from provider.store.database import Database
from provider.store.machines import Edit, MachineStore
from provider.store.sealing import Sealer
from provider.store.tickets import TicketStore
from provider.wire.agent import Enrolled, Enrolment, Installed, Progress, Result, Work

MAC = MacAddress("52:54:00:00:00:01")
OTHER = MacAddress("52:54:00:00:00:02")
DISK = Disk(path="/dev/vda", size_bytes=1 << 20, serial="VD1", supports_discard=True)
INVENTORY = Inventory(System(), FirmwareKind.BIOS, "x86_64", Cpu(), 1 << 30, disks=(DISK,))
POLICY = lifecycle.Policy(
    poll_interval=timedelta(minutes=1),
    minimum_reboot_interval=timedelta(minutes=15),
    boot_timeout=timedelta(minutes=10),
    install_timeout=timedelta(hours=4),
    wipe_attempts=3,
    wipe_retry_after=timedelta(minutes=1),
)
PATIENCE = 20.0  # seconds
ACCEPTED = Desired(acceptance=Acceptance.ACCEPTED)


def untouched(_edit: Edit) -> None:
    """Change nothing."""


class RecordingBmc:
    """A BMC that does what it is told and remembers it; `fault` is raised by every call."""

    def __init__(self) -> None:
        self.state = PowerState.OFF
        self.told: list[object] = []
        self.fault: Exception | None = None
        self.refuses_override = False

    def power(self, _bmc: Bmc) -> RecordingBmc:
        return self

    async def read(self) -> PowerState:
        if self.fault is not None:
            raise self.fault
        return self.state

    async def act(self, action: PowerAction) -> None:
        if self.fault is not None:
            raise self.fault
        self.told.append(action)
        self.state = PowerState.OFF if action is PowerAction.OFF else PowerState.ON

    async def set_next_boot(self, device: NextBoot, _firmware: FirmwareKind | None) -> None:
        if self.refuses_override:
            raise PermanentError("not supported")
        self.told.append(device)


class Site:
    """One provider without sockets."""

    def __init__(self, database: Database, folder: Path, policy: lifecycle.Policy) -> None:
        self.store = MachineStore(database, policy, utc_now)
        tickets = TicketStore(database, utc_now)
        self.machines = Machines(self.store)
        self.bmc = RecordingBmc()
        self.bmcs = BmcStore(database, Sealer.open(folder / "key"))
        self.agents = AgentDesk(self.machines, tickets, lost_after=timedelta(minutes=1), clock=utc_now)
        self._tickets = tickets
        self.boots = self.boot_desk()
        self.manager = ManagerDesk(self.machines)
        self.workers = Workers(self.machines, self.bmcs, self.bmc, clock=utc_now)

    def boot_desk(self) -> BootDesk:
        """One that has learned nothing since it started."""
        return BootDesk(
            self.machines,
            HandOffs(default=None, chosen={}),
            profiles=frozenset({"debian"}),
            ticket_lifetime=timedelta(minutes=5),
            install_ticket_lifetime=timedelta(hours=1),
        )

    async def boot(self, mac: MacAddress = MAC) -> BootDecision:
        return await self.boots.decide(Evidence(macs=(mac,)))

    async def enrol(self, decision: BootDecision, *, nonce: str = "n1", macs: tuple[str, ...] = (MAC,)) -> Enrolled:
        assert decision.ticket is not None
        enrolment = Enrolment(decision.ticket.reveal(), nonce, "", "", "", "", macs, "bios", "1")
        return await self.agents.enrol(enrolment, "10.77.0.100")

    async def agent(self) -> str:
        """Boot, enrol, report; gives the machine's id."""
        enrolled = await self.enrol(await self.boot())
        await self.agents.inventory(enrolled.machine_id, INVENTORY)
        return enrolled.machine_id

    async def events(self, machine_id: str) -> list[str]:
        return [event.name for event in await self.store.events(machine_id, 0, 500)]

    async def until(self, machine_id: str, phase: Phase) -> None:
        """Wait for an event that says so."""
        async with asyncio.timeout(PATIENCE):
            while True:
                ring = self.store.events_rang.ticket()
                if (await self.machines.plan(machine_id))[1].phase is phase:
                    return
                await ring.wait()

    async def happened(self, machine_id: str, name: str) -> None:
        """Wait for an event."""
        async with asyncio.timeout(PATIENCE):
            while True:
                ring = self.store.events_rang.ticket()
                if name in await self.events(machine_id):
                    return
                await ring.wait()

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.workers.run())
            yield
            task.cancel()


def at_site(folder: Path, use: Callable[[Site], Awaitable[None]], policy: lifecycle.Policy = POLICY) -> None:
    async def main() -> None:
        database = Database.open(f"sqlite:///{folder}/db")
        try:
            site = Site(database, folder, policy)
            await site.bmcs.replace_all([BmcAssignment(Bmc("10.0.0.1", "ops", Secret("x")), "mac", MAC)])
            await site.machines.load()
            async with asyncio.timeout(2 * PATIENCE):
                await use(site)
        finally:
            database.close()

    asyncio.run(main())


DONE = Result(
    error="",
    wipe_report=WipeReport((DiskWiped("VD1", "", "/dev/vda", 1 << 20, "discard+zero", verified=True),)),
)


# --- who gets in -------------------------------------------------------------------------------------------------------


def test_replayed_ticket_gets_nothing_and_is_reported(tmp_path: Path) -> None:
    """Somebody who overheard a boot script becomes the agent of another's machine."""

    async def use(site: Site) -> None:
        decision = await site.boot()
        first = await site.enrol(decision)
        again = await site.enrol(decision)
        assert again.machine_id == first.machine_id, "the same agent may repeat what was not answered"
        with pytest.raises(RefusedError, match="used by another"):
            await site.enrol(decision, nonce="n2")
        assert "ticket.refused" in await site.events(first.machine_id)
        assert await site.agents.machine_of(again.token) == first.machine_id

    at_site(tmp_path, use)


def test_ticket_of_another_machine_is_refused(tmp_path: Path) -> None:
    """A machine enrols with the ticket of another, or its try becomes a machine, or costs the other its ticket."""

    async def use(site: Site) -> None:
        decision = await site.boot()
        with pytest.raises(RefusedError, match="shows itself as"):
            await site.enrol(decision, macs=(OTHER,))
        assert "ticket.refused" in await site.events(decision.machine_id)
        assert [machine.id for machine in await site.store.all()] == [decision.machine_id]
        assert (await site.enrol(decision, nonce="n2")).machine_id == decision.machine_id

    at_site(tmp_path, use)


@pytest.mark.parametrize("known_first", [MAC, OTHER])
def test_ticket_of_a_part_is_good_for_the_whole(tmp_path: Path, known_first: MacAddress) -> None:
    """A machine that booted from both of its network cards can never enrol, since each boot is in the name of one of them."""

    async def use(site: Site) -> None:
        await site.boot(known_first)
        decision = await site.boot(OTHER if known_first == MAC else MAC)
        enrolled = await site.enrol(decision, macs=(MAC, OTHER))
        assert site.machines.ids() == {enrolled.machine_id}
        assert (await site.boot()).machine_id == (await site.boot(OTHER)).machine_id == enrolled.machine_id

    at_site(tmp_path, use)


def test_token_goes_with_its_machine(tmp_path: Path) -> None:
    """Tokens of machines that are gone stay in memory."""

    async def use(site: Site) -> None:
        whole = await site.agent()
        await site.enrol(await site.boot(OTHER), macs=(OTHER,))
        desk = AgentDesk(site.machines, site.agents._tickets, lost_after=timedelta(0), clock=utc_now)
        await desk.load()
        await site.machines.identify(Evidence(macs=(MAC, OTHER)), untouched)
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            watching = group.create_task(desk.watch())
            while desk._last_seen:
                await asyncio.sleep(0.01)
            watching.cancel()
        assert list(desk._tokens.values()) == list(desk._token_of) == [whole]

    at_site(tmp_path, use)


def test_token_dies_with_the_next_agent(tmp_path: Path) -> None:
    """The token of an earlier boot stays good for ever."""

    async def use(site: Site) -> None:
        old = await site.enrol(await site.boot())
        new = await site.enrol(await site.boot(), nonce="n2")
        with pytest.raises(RefusedError):
            await site.agents.machine_of(old.token)
        assert await site.agents.machine_of(new.token) == new.machine_id

    at_site(tmp_path, use)


def test_token_survives_a_restart(tmp_path: Path) -> None:
    """After a restart of the daemon every agent must boot again, in the middle of its wipe."""

    async def use(site: Site) -> None:
        enrolled = await site.enrol(await site.boot())
        restarted = AgentDesk(site.machines, site.agents._tickets, lost_after=timedelta(minutes=1), clock=utc_now)
        await restarted.load()
        assert await restarted.machine_of(enrolled.token) == enrolled.machine_id

    at_site(tmp_path, use)


def test_a_request_in_its_name_does_not_end_an_agent(tmp_path: Path) -> None:
    """Anybody on the network can stop a wipe by asking for a boot script in the machine's name."""

    async def use(site: Site) -> None:
        enrolled = await site.enrol(await site.boot())
        await site.boot()
        assert await site.agents.machine_of(enrolled.token) == enrolled.machine_id
        assert (await site.store.get(enrolled.machine_id)).facts.agent.connected

    at_site(tmp_path, use)


# --- the wall in front of the one door ---------------------------------------------------------------------------------


def test_pending_machine_gets_no_work(tmp_path: Path) -> None:
    """A disk of a machine that nobody accepted is erased (invariant 1)."""

    async def use(site: Site) -> None:
        async with site.working():
            machine_id = await site.agent()
            assert await site.agents.next_work(machine_id, 0.3) is None
        assert (await site.store.get(machine_id)).facts.operation is None

    at_site(tmp_path, use)


@pytest.mark.parametrize("change", [{"acceptance": Acceptance.REJECTED}, {"cordoned": True}, {"wipe_id": "w2"}])
def test_wipe_that_is_no_longer_wanted_is_not_handed_out(tmp_path: Path, change: dict[str, object]) -> None:
    """A wipe that was planned is performed although the machine was rejected, cordoned, or asked for another."""

    async def use(site: Site) -> None:
        async with site.working():
            machine_id = await site.agent()
            await site.manager.desire(machine_id, 1, ACCEPTED)
            await site.until(machine_id, Phase.WIPING)
        # No worker any more: nobody closes the operation, and the wall itself must hold.
        await site.manager.desire(machine_id, 2, replace(ACCEPTED, **change))
        work = await site.agents.next_work(machine_id, 0.2)
        assert work is None

    at_site(tmp_path, use)


def test_wipe_under_way_is_stopped_when_the_machine_is_rejected(tmp_path: Path) -> None:
    """The agent goes on erasing after the machine was taken away."""

    async def use(site: Site) -> None:
        async with site.working():
            machine_id = await site.agent()
            await site.manager.desire(machine_id, 1, ACCEPTED)
            work = await site.agents.next_work(machine_id, PATIENCE)
            assert work is not None
            await site.agents.progress(machine_id, work.id, Progress(10))
            await site.manager.desire(machine_id, 2, replace(ACCEPTED, acceptance=Acceptance.REJECTED))
            await site.until(machine_id, Phase.REJECTED)
            await site.happened(machine_id, "wipe.interrupted")
            with pytest.raises(NotFoundError):
                await site.agents.progress(machine_id, work.id, Progress(20))

    at_site(tmp_path, use)


@pytest.mark.parametrize(
    "result",
    [
        Result(error="", wipe_report=WipeReport()),
        Result(error="", wipe_report=None),
        Result(error="", wipe_report=WipeReport((replace(DONE.wipe_report.disks[0], verified=False),))),
        Result(error="", wipe_report=WipeReport((replace(DONE.wipe_report.disks[0], serial="ANOTHER"),))),
        Result(error="disk on fire"),
    ],
)
def test_unproved_wipe_makes_no_machine_ready(tmp_path: Path, result: Result) -> None:
    """A wipe counts as done that was not proved for every disk of its plan (invariant 2)."""

    async def use(site: Site) -> None:
        async with site.working():
            machine_id = await site.agent()
            await site.manager.desire(machine_id, 1, ACCEPTED)
            work = await site.agents.next_work(machine_id, PATIENCE)
            assert work is not None
            await site.agents.result(machine_id, work.id, result)
            plan = (await site.machines.plan(machine_id))[1]
            assert plan.phase is Phase.PREPARING
            assert plan.boot_mode is BootMode.AGENT
            assert "wipe.failed" in await site.events(machine_id)

    at_site(tmp_path, use)


def test_result_of_an_abandoned_wipe_counts_for_nothing(tmp_path: Path) -> None:
    """A late report of an interrupted wipe makes the machine ready (invariant 2)."""

    async def use(site: Site) -> None:
        async with site.working():
            machine_id = await site.agent()
            await site.manager.desire(machine_id, 1, ACCEPTED)
            work = await site.agents.next_work(machine_id, PATIENCE)
            assert work is not None
            await site.manager.desire(machine_id, 2, replace(ACCEPTED, wipe_id="w2"))
            second = await site.agents.next_work(machine_id, PATIENCE)
            async with asyncio.timeout(PATIENCE):
                while second is None or second.id == work.id:
                    second = await site.agents.next_work(machine_id, 1)
            await site.agents.result(machine_id, work.id, DONE)
            assert (await site.machines.plan(machine_id))[1].phase is Phase.WIPING
            await site.agents.result(machine_id, second.id, DONE)
            assert (await site.machines.plan(machine_id))[1].phase is Phase.READY

    at_site(tmp_path, use)


# --- with the Talos agent ----------------------------------------------------------------------------------------------

OMNI = omni.policy(replace(POLICY, minimum_reboot_interval=timedelta(0)), agents.Choice(AgentKind.TALOS))
TOKENS = replace(ACCEPTED, install_event=3, manager_token="sealed-1")


async def in_talos(site: Site) -> str:
    """A machine whose Talos agent has called; gives its id."""
    site.bmc.state = PowerState.ON
    machine_id = (await site.boot()).machine_id

    def connect(edit: Edit) -> None:
        edit.row.agent_connected, edit.row.agent_kind, edit.row.enrolled_at = True, AgentKind.TALOS.value, edit.now

    await site.machines.change(machine_id, connect)
    return machine_id


async def talos_work(site: Site, machine_id: str, kind: OperationKind) -> Work:
    work = await site.agents.next_work(machine_id, PATIENCE, AgentKind.TALOS)
    assert work is not None
    assert work.kind is kind
    return work


def test_talos_wipe_is_recorded_for_what_was_there_before(tmp_path: Path) -> None:
    """The system that is installed after a wipe, or its token, counts as wiped: Omni's facts from before the wipe count."""

    async def use(site: Site) -> None:
        async with site.working():
            machine_id = await in_talos(site)
            await site.manager.desire(machine_id, 1, TOKENS)
            work = await talos_work(site, machine_id, OperationKind.WIPE)
            assert work.wipe_plan is not None
            assert work.wipe_plan.everything
            await site.manager.desire(machine_id, 2, replace(TOKENS, install_event=4, manager_token="sealed-2"))
            await site.agents.result(machine_id, work.id, Result(error=""), AgentKind.TALOS)
            machine, plan = await site.machines.plan(machine_id)
            assert plan.phase is Phase.READY
            (record,) = lifecycle.records_of(machine.facts, RecordKind.WIPE)
            assert (record.install_event, record.manager_token) == (3, "sealed-1")
            told = [event.data for event in await site.store.events(machine_id, 0, 500)]
            assert "sealed" not in str(told)

    at_site(tmp_path, use, OMNI)


def test_our_agent_neither_gets_nor_proves_a_wipe_of_everything(tmp_path: Path) -> None:
    """A machine counts as wiped on the word of an agent that was told no disk."""

    async def use(site: Site) -> None:
        async with site.working():
            machine_id = await in_talos(site)
            await site.manager.desire(machine_id, 1, ACCEPTED)
            work = await talos_work(site, machine_id, OperationKind.WIPE)
            assert await site.agents.next_work(machine_id, 0) is None
            await site.agents.result(machine_id, work.id, Result(error="", wipe_report=WipeReport()))
            assert (await site.machines.plan(machine_id))[1].phase is Phase.PREPARING
            assert "wipe.failed" in await site.events(machine_id)

    at_site(tmp_path, use, OMNI)


def test_failed_bmc_set_up_makes_way_for_the_wipe(tmp_path: Path) -> None:
    """A BMC that cannot be set up keeps a machine from being wiped, or is tried without a pause."""

    async def use(site: Site) -> None:
        await site.bmcs.replace_all([])
        async with site.working():
            machine_id = await in_talos(site)
            await site.manager.desire(machine_id, 1, ACCEPTED)
            work = await talos_work(site, machine_id, OperationKind.SET_UP_BMC)
            await site.agents.result(machine_id, work.id, Result(error="no IPMI here"), AgentKind.TALOS)
            work = await talos_work(site, machine_id, OperationKind.WIPE)
            await site.agents.result(machine_id, work.id, Result(error=""), AgentKind.TALOS)
            machine, plan = await site.machines.plan(machine_id)
            assert (plan.rule, plan.step) == ("bmc-missing", None)
            assert [record.detail for record in machine.facts.records] == ["no IPMI here", ""]

    at_site(tmp_path, use, OMNI)


def test_bmc_set_up_that_ends_with_its_agent_has_failed(tmp_path: Path) -> None:
    """An agent that dies of it is asked again at once, for ever."""

    async def use(site: Site) -> None:
        await site.bmcs.replace_all([])
        async with site.working():
            machine_id = await in_talos(site)
            await site.manager.desire(machine_id, 1, ACCEPTED)
            await talos_work(site, machine_id, OperationKind.SET_UP_BMC)
            await site.machines.change(machine_id, lambda edit: setattr(edit.row, "agent_connected", False))
            await site.happened(machine_id, "set_up_bmc.interrupted")
            machine = (await site.machines.plan(machine_id))[0]
            assert len(lifecycle.records_of(machine.facts, RecordKind.SET_UP_BMC, Outcome.FAILED)) == 1

    at_site(tmp_path, use, OMNI)


def test_power_off_of_the_manager_is_noted_with_its_wipe_id(tmp_path: Path) -> None:
    """A request of an earlier life keeps the machine off in the next one."""

    async def use(site: Site) -> None:
        async with site.working():
            machine_id = (await site.boot()).machine_id
            wanted = replace(ACCEPTED, allocation=Allocation("debian"), wipe_id="w1", power_off_id="p", install_event=1)
            await site.machines.change(machine_id, lambda edit: edit.record(RecordKind.WIPE, "w1"))
            await site.manager.desire(machine_id, 1, wanted)
            async with asyncio.timeout(PATIENCE):
                while not lifecycle.is_kept_off(wanted, (await site.machines.plan(machine_id))[0].facts):
                    await asyncio.sleep(0.01)
            facts = (await site.machines.plan(machine_id))[0].facts
            assert not lifecycle.is_kept_off(replace(wanted, wipe_id="w2"), facts)
            assert PowerAction.OFF not in site.bmc.told

    at_site(tmp_path, use, OMNI)


# --- the whole way -----------------------------------------------------------------------------------------------------


async def _starts_over(site: Site) -> None:
    """An installed machine comes back twice at once: it is sent to its disk another way, also after a restart of ours."""
    decisions = [await site.boot() for _ in range(2)]
    assert [decision.hand_off for decision in decisions] == [HandOff.EXIT, HandOff.SANBOOT]
    assert "hand_off.changed" in await site.events(decisions[0].machine_id)
    site.boots = site.boot_desk()
    assert (await site.boot()).hand_off is HandOff.SANBOOT


def test_workers_sleep_while_there_is_nothing_to_do(tmp_path: Path) -> None:
    """In a boot storm each report of a machine that nobody accepted wakes its worker, or an acceptance wakes none."""

    async def use(site: Site) -> None:
        machine_id = (await site.boot(OTHER)).machine_id
        ring = site.machines.bell(machine_id).ticket()
        await site.machines.change(machine_id, lambda edit: edit.note("agent.inventory_reported"))
        assert not ring.is_set()
        await site.manager.desire(machine_id, 1, ACCEPTED)
        assert ring.is_set()

    at_site(tmp_path, use)


def test_a_change_is_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker reads and plans once more what the change that woke it has planned; or goes by an old plan."""

    async def use(site: Site) -> None:
        machine_id, plans = (await site.boot(OTHER)).machine_id, list[str]()
        plan = site.machines.plan

        async def counted(machine_id: str) -> tuple[Machine, Plan]:
            plans.append(machine_id)
            return await plan(machine_id)

        monkeypatch.setattr(site.machines, "plan", counted)
        await site.manager.desire(machine_id, 1, ACCEPTED)
        machine, _plan = await site.machines.look(machine_id)
        assert (machine.desired.acceptance, plans) == (Acceptance.ACCEPTED, [])
        await site.machines.look(machine_id)
        assert len(plans) == 1, "nobody has told of a change since"
        await site.manager.desire(machine_id, 2, replace(ACCEPTED, wipe_id="w2"))
        await site.machines.quietly_change(machine_id, lambda edit: edit.note("power.changed"))
        await site.machines.look(machine_id)
        assert len(plans) == 2, "there is a newer change"
        await site.manager.desire(machine_id, 3, replace(ACCEPTED, wipe_id="w3"))
        monkeypatch.setattr(machines, "FRESH", timedelta(0))
        await site.machines.look(machine_id)
        assert len(plans) == 3, "it is too long ago"

    at_site(tmp_path, use)


def test_from_acceptance_to_release(tmp_path: Path) -> None:
    """Some step of the lifecycle is not taken, is taken twice, or in another order."""

    async def use(site: Site) -> None:
        site.bmc.state = PowerState.ON
        async with site.working():
            machine_id = await site.agent()
            await site.manager.desire(machine_id, 1, ACCEPTED)
            work = await site.agents.next_work(machine_id, PATIENCE)
            assert work is not None
            assert work.kind is OperationKind.WIPE
            await site.agents.result(machine_id, work.id, DONE)
            await site.agents.result(machine_id, work.id, DONE)
            await _told(site, [PowerAction.OFF])
            await site.manager.desire(machine_id, 2, replace(ACCEPTED, allocation=Allocation("debian")))
            await _told(site, [PowerAction.OFF, NextBoot.NETWORK, PowerAction.ON])
            decision = await site.boot()
            assert (decision.mode, decision.profile) == (BootMode.INSTALL, "debian")
            assert decision.ticket is not None
            installed = Installed(decision.ticket.reveal())
            await site.agents.installed(installed, "10.77.0.100")
            await site.agents.installed(installed, "10.77.0.100")
            assert (await site.boot()).mode is BootMode.DISK
            await _starts_over(site)
            await site.manager.desire(machine_id, 3, replace(ACCEPTED, wipe_id="w2"))
            await _told(
                site,
                [PowerAction.OFF, NextBoot.NETWORK, PowerAction.ON, NextBoot.NETWORK, PowerAction.CYCLE],
            )
            assert not await site.manager.desire(machine_id, 2, replace(ACCEPTED, allocation=Allocation("debian")))
            assert (await site.boot()).mode is BootMode.AGENT
        records = (await site.store.get(machine_id)).facts.records
        assert [record.kind.value for record in records] == ["wipe", "install"]

    at_site(tmp_path, use)


async def _told(site: Site, expected: list[object]) -> None:
    """Wait until the BMC was told this, and see that it was told no more."""
    async with asyncio.timeout(PATIENCE):
        while len(site.bmc.told) < len(expected):
            await site.store.events_rang.ticket().wait()
    assert site.bmc.told == expected


def test_refused_override_does_not_stop_power(tmp_path: Path) -> None:
    """A BMC that cannot set the boot device keeps the machine off (edge case 68)."""

    async def use(site: Site) -> None:
        site.bmc.refuses_override = True
        async with site.working():
            machine = (await site.machines.identify(Evidence(macs=(MAC,)), untouched))[0]
            await site.manager.desire(machine.id, 1, ACCEPTED)
            await _told(site, [PowerAction.ON])

    at_site(tmp_path, use)


@pytest.mark.parametrize(
    "fault", [TemporaryError("no answer", retry_after=timedelta(seconds=1)), PermanentError("login refused")]
)
def test_dead_bmc_is_a_fact_and_the_wipe_goes_on(tmp_path: Path, fault: Exception) -> None:
    """A BMC that fails stops the machine's worker, or nobody learns of it."""

    async def use(site: Site) -> None:
        site.bmc.fault = fault
        async with site.working():
            machine_id = await site.agent()
            await site.manager.desire(machine_id, 1, ACCEPTED)
            work = await site.agents.next_work(machine_id, PATIENCE)
            assert work is not None
            await site.agents.result(machine_id, work.id, DONE)
            await site.happened(machine_id, "bmc.failed")
            machine, plan = await site.machines.plan(machine_id)
            assert plan.phase is Phase.READY
            assert machine.facts.bmc is not None
            assert machine.facts.bmc.last_error == str(fault)
            assert str(fault) in plan.because

    at_site(tmp_path, use)


def test_operators_are_told_who_decides(tmp_path: Path) -> None:
    """With a manager configured, a local command is undone by the manager without a word; without one it does nothing."""

    async def use(site: Site) -> None:
        def desk(manager_url: str | None) -> OperatorDesk:
            decides = Decides(manager_url, "do it there") if manager_url else None
            return OperatorDesk(site.machines, site.bmcs, site.bmc, decides=decides, status=dict)

        machine = (await site.machines.identify(Evidence(macs=(MAC,), serial="SN1"), untouched))[0]
        with pytest.raises(RefusedError, match="decides") as caught:
            await desk("wss://m").accept(machine.id)
        assert "do it there" in caught.value.hint
        alone = desk(None)
        with pytest.raises(RefusedError, match="not accepted"):
            await alone.wipe("sn1")
        accepted = await alone.accept("52-54-00-00-00-01")
        assert accepted["phase"] == "preparing"
        explained = await alone.explain(machine.id[:5])
        assert explained["rule"] == "wipe-due"
        with pytest.raises(NotFoundError):
            await alone.machine("m-nobody")
        assert (await alone.power(machine.id, "on"))["state"] == "on"
        with pytest.raises(PermanentError, match="no power action"):
            await alone.power(machine.id, "explode")

    at_site(tmp_path, use)


def test_two_machines_with_one_uuid_stay_two(tmp_path: Path) -> None:
    """Accepting one machine of a batch with cloned firmware wipes another (invariant 5)."""
    cloned = {"uuid": "4c4c4544-0051-3510-8051-c4c04f373732", "serial": "CLONE"}

    async def use(site: Site) -> None:
        first = (await site.machines.identify(Evidence(macs=(MAC,), **cloned), untouched))[0]
        second = (await site.machines.identify(Evidence(macs=(OTHER,), **cloned), untouched))[0]
        assert first.id != second.id
        assert second.facts.warnings
        await site.manager.desire(first.id, 1, ACCEPTED)
        assert (await site.machines.plan(second.id))[1].phase is Phase.DISCOVERED

    at_site(tmp_path, use)

"""Machines that wait in Talos, with real desks, workers and store: set up, wiped, and never wiped when they should not be."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from provider.domain.bmc import PowerAction
from provider.domain.mac import MacAddress
from provider.domain.machine import Acceptance, AgentKind, Desired, Evidence, Outcome
from provider.domain.operation import OperationKind, OperationState
from provider.http.talos_agents import Limits
from provider.lab.omni.talos_agent.faults import Faults
from provider.lab.omni.talos_agent.machine import Ipmi, WipeState
from provider.lab.omni.talos_agent.machine import Machine as FakeMachine
from provider.planning.lifecycle import NEXT_AGENT, Operate
from provider.reconcile.talos_agents import BMC_USER, Patience, TalosAgentDesk
from provider.reconcile.worker import _operate
from provider.wire.agent import Work
from tests.integration.talos_rig import ACCEPTED, OTHER_UUID, QUICK, SWAPPED, TALOS_POLICY, UUID, Rig, at_site, until

MAC = MacAddress("52:54:00:00:00:01")
OTHER = MacAddress("52:54:00:00:00:02")


def states(machine: FakeMachine) -> list[WipeState]:
    return [wipe.state for wipe in machine.wipes]


# --- the way of a machine ----------------------------------------------------------------------------------------------


def test_accepted_machine_gets_its_bmc_set_up_and_is_wiped(tmp_path: Path) -> None:
    """Any step between acceptance and readiness."""

    async def use(rig: Rig) -> None:
        machine = FakeMachine(UUID, Ipmi("10.0.0.9"))
        async with rig.agent(machine):
            machine_id = await rig.connected()
            await rig.phase(machine_id, "discovered")
            assert machine.wipes == [], "nobody accepted it"
            await rig.desire(machine_id, ACCEPTED)
            await rig.phase(machine_id, "ready")
            bmc = await rig.side.bmcs.of(machine_id)
            assert bmc is not None
            assert (bmc.address, bmc.port, bmc.user) == ("10.0.0.9", 623, BMC_USER)
            assert machine.ipmi is not None
            assert machine.ipmi.users == {BMC_USER: bmc.password.reveal()}
            assert len(bmc.password.reveal()) == 16
            assert [wipe.zeroes for wipe in machine.wipes] == [False]
            assert len(await rig.wipes(machine_id)) == 1
            facts = (await rig.side.store.get(machine_id)).facts
            assert facts.agent.connected
            assert facts.agent.kind is AgentKind.TALOS
            names = await rig.names(machine_id)
            assert names.index("set_up_bmc.finished") < names.index("wipe.started") < names.index("wipe.finished")
            assert bmc.password.reveal() not in str(await rig.events(machine_id))
        await rig.happened(machine_id, "agent.lost")
        assert not (await rig.side.store.get(machine_id)).facts.agent.connected

    at_site(tmp_path, use)


def test_zeroes_are_written_where_the_policy_says_so(tmp_path: Path) -> None:
    """A site that must overwrite every byte has only the tables erased."""

    async def use(rig: Rig) -> None:
        async with rig.agent() as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.happened(machine_id, "wipe.finished")
            assert [wipe.zeroes for wipe in agent.machine.wipes] == [True]

    at_site(tmp_path, use, policy=replace(TALOS_POLICY, wipe_zeroes=True))


def test_machine_in_test_mode_has_a_power_api(tmp_path: Path) -> None:
    """Machines of Sidero's QEMU helper never get ready, because they have no BMC."""

    async def use(rig: Rig) -> None:
        async with rig.agent(FakeMachine(UUID, test_mode=True)):
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.phase(machine_id, "ready")
            bmc = await rig.side.bmcs.of(machine_id)
            assert bmc is not None
            assert (bmc.kind, bmc.name) == ("api", "127.0.0.1:4242")

    at_site(tmp_path, use)


def test_bmc_that_cannot_be_set_up_does_not_hold_up_the_wipe(tmp_path: Path) -> None:
    """A machine without /dev/ipmi0 is never wiped, and nobody sees why."""

    async def use(rig: Rig) -> None:
        async with rig.agent(FakeMachine(UUID)) as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.happened(machine_id, "set_up_bmc.failed")
            await rig.happened(machine_id, "wipe.finished")
            failed = [event for event in await rig.events(machine_id) if event.name == "set_up_bmc.failed"]
            assert "/dev/ipmi0" in str(failed[0].data["error"])
            assert states(agent.machine) == [WipeState.DONE]
            await rig.phase(machine_id, "preparing")

    at_site(tmp_path, use)


def test_reboot_through_the_agent(tmp_path: Path) -> None:
    """The reboot is not answered, or the agent that is going down counts as one that is there."""

    async def use(rig: Rig) -> None:
        async with rig.agent() as agent:
            machine_id = await rig.connected()
            step = Operate(OperationKind.REBOOT, NEXT_AGENT)
            await rig.side.machines.change(machine_id, lambda edit: _operate(step, edit))
            await rig.happened(machine_id, "reboot.finished")
            assert agent.machine.reboots == 1
            facts = (await rig.side.store.get(machine_id)).facts
            assert facts.last_reboot_at is not None
            assert not facts.agent.connected

    at_site(tmp_path, use)


def test_old_agent_without_windows(tmp_path: Path) -> None:
    """An agent of protocol revision 0 is not understood."""

    async def use(rig: Rig) -> None:
        async with rig.agent(faults=Faults(negotiates=False, revisions=(0,))):
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.phase(machine_id, "ready")

    at_site(tmp_path, use)


def test_agent_that_lacks_a_method(tmp_path: Path) -> None:
    """An agent of another version takes everything with it when it does not know one method."""

    async def use(rig: Rig) -> None:
        async with rig.agent(faults=Faults(knows=("Hello", "WipeDisks"))) as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.happened(machine_id, "wipe.finished")
            failed = [event for event in await rig.events(machine_id) if event.name == "set_up_bmc.failed"]
            assert "not implemented (UNIMPLEMENTED)" in str(failed[0].data["error"])
            assert agent.machine.tunnels == 1

    at_site(tmp_path, use)


# --- the wall ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [Desired(), Desired(acceptance=Acceptance.REJECTED), replace(ACCEPTED, cordoned=True)],
    ids=["pending", "rejected", "cordoned"],
)
def test_machine_that_nobody_accepted_is_not_touched(tmp_path: Path, wanted: Desired) -> None:
    """A disk is erased that nobody gave us."""

    async def use(rig: Rig) -> None:
        async with rig.agent() as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, wanted)
            await until(lambda: agent.machine.hellos > 3)
            assert agent.machine.wipes == []
            assert agent.machine.ipmi is not None
            assert agent.machine.ipmi.users == {}

    at_site(tmp_path, use)


@pytest.mark.parametrize(
    "wanted",
    [replace(ACCEPTED, cordoned=True), replace(ACCEPTED, wipe_id="later"), Desired()],
    ids=["cordoned", "another wipe", "withdrawn"],
)
def test_word_that_comes_between_taking_and_wiping_is_heard(
    tmp_path: Path, wanted: Desired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine is cordoned, and wiped a moment later for a wish of before."""

    async def use(rig: Rig) -> None:
        perform = TalosAgentDesk._perform
        seen: list[str] = []

        async def performed(desk: TalosAgentDesk, session: object, work: Work) -> None:
            if work.kind is OperationKind.WIPE and not seen:
                seen.append(work.id)
                await rig.desire(machine_id, wanted)
            await perform(desk, session, work)  # type: ignore[arg-type]

        monkeypatch.setattr(TalosAgentDesk, "_perform", performed)
        async with rig.agent() as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.happened(machine_id, "wipe.interrupted")
            if wanted.wipe_id:
                await rig.happened(machine_id, "wipe.finished")
                assert [each.request_id for each in await rig.wipes(machine_id)] == ["later"]
                assert len(agent.machine.wipes) == 1
                return
            await until(lambda: agent.machine.hellos > 4)
            assert agent.machine.wipes == []
            assert await rig.wipes(machine_id) == []

    at_site(tmp_path, use)


def test_wipe_that_is_no_longer_wanted_is_stopped_and_not_done(tmp_path: Path) -> None:
    """A wipe of before counts for a machine that was cordoned in its midst, or goes on in it."""

    async def use(rig: Rig) -> None:
        machine = FakeMachine(UUID, Ipmi("10.0.0.9"))
        async with rig.agent(machine, faults=Faults(wipe_seconds=30)):
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await until(lambda: bool(machine.wipes))
            await rig.desire(machine_id, replace(ACCEPTED, cordoned=True))
            await until(lambda: states(machine) == [WipeState.BROKEN])
            await rig.happened(machine_id, "wipe.interrupted")
            await rig.happened(machine_id, "wipe.stopped")
            assert machine.reboots == 1, "Talos hears nothing else"
            assert await rig.wipes(machine_id) == []
        async with rig.agent(machine):
            await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.happened(machine_id, "wipe.finished")
            assert states(machine) == [WipeState.BROKEN, WipeState.DONE]
            assert machine.reboots == 1

    at_site(tmp_path, use)


@pytest.mark.parametrize("rebooted", [False, True])
def test_wipe_that_was_going_on_while_we_were_away(tmp_path: Path, rebooted: bool) -> None:
    """A machine is cordoned while we are away, and Talos goes on wiping it; or it is rebooted again and again."""

    async def use(rig: Rig) -> None:
        async with rig.agent(faults=Faults(wipe_seconds=30)) as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await until(lambda: bool(agent.machine.wipes))
            await rig.side.stop()
        rig.side = rig._make()
        await rig.side.machines.load()
        await rig.desire(machine_id, replace(ACCEPTED, cordoned=True))
        if rebooted:
            await rig.side.machines.change(machine_id, lambda edit: setattr(edit.row, "last_script_at", edit.now))
        assert rig._group is not None
        await rig.side.start(rig._group)
        async with rig.agent(agent.machine):
            await rig.happened(machine_id, "agent.enrolled", times=2)
            if not rebooted:
                await rig.happened(machine_id, "wipe.stopped")
        async with rig.agent(agent.machine):
            hellos = agent.machine.hellos
            await until(lambda: agent.machine.hellos > hellos + 3)
        assert agent.machine.reboots == (0 if rebooted else 1)
        assert states(agent.machine) == [WipeState.BROKEN]

    at_site(tmp_path, use)


def test_wipe_that_takes_too_long_fails(tmp_path: Path) -> None:
    """A wipe that hangs is waited for without end, or goes on in the agent when we have given it up."""

    async def use(rig: Rig) -> None:
        async with rig.agent(faults=Faults(wipe_seconds=30)) as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.happened(machine_id, "wipe.failed")
            failed = [event for event in await rig.events(machine_id) if event.name == "wipe.failed"]
            assert "did not answer WipeDisks within 0.3 s" in str(failed[0].data["error"])
            await until(lambda: states(agent.machine)[0] is WipeState.BROKEN)
            assert await rig.wipes(machine_id) == []

    at_site(tmp_path, use, patience=replace(QUICK, fast_wipe=timedelta(seconds=0.3)))


def test_wipe_that_fails_is_tried_again(tmp_path: Path) -> None:
    """An error of the disks counts as done, or ends everything."""

    async def use(rig: Rig) -> None:
        async with rig.agent(faults=Faults(wipe_error="vda: device or resource busy")) as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.happened(machine_id, "wipe.failed", times=2)
            assert await rig.wipes(machine_id) == []
            failures = await rig.wipes(machine_id, Outcome.FAILED)
            assert "device or resource busy" in failures[0].detail
            agent.faults.wipe_error = ""
            await rig.phase(machine_id, "ready")
            assert len(await rig.wipes(machine_id)) == 1

    at_site(tmp_path, use)


def test_agent_that_dies_in_its_wipe(tmp_path: Path) -> None:
    """A wipe counts as done because the agent that began it is gone."""

    async def use(rig: Rig) -> None:
        async with rig.agent(faults=Faults(dies_in_wipe=True)) as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await until(lambda: agent.machine.tunnels > 2)
            assert await rig.wipes(machine_id) == []
            assert set(states(agent.machine)) == {WipeState.BROKEN}
            agent.faults.dies_in_wipe = False
            await rig.phase(machine_id, "ready")
            assert states(agent.machine)[-1] is WipeState.DONE
            assert len(await rig.wipes(machine_id)) == 1

    at_site(tmp_path, use)


STEPS = (
    "agent.enrolled",
    "set_up_bmc.planned",
    "set_up_bmc.finished",
    "wipe.planned",
    "wipe.started",
    "wipe.finished",
)


@pytest.mark.parametrize("step", STEPS)
def test_daemon_that_is_killed_wipes_once_and_believes_no_broken_wipe(tmp_path: Path, step: str) -> None:
    """A crash costs a second wipe of a machine that is in use by then, or makes a half wiped one ready (invariants 2, 9)."""

    async def use(rig: Rig) -> None:
        machine = FakeMachine(UUID, Ipmi("10.0.0.9"))
        async with rig.agent(machine, faults=Faults(wipe_seconds=0.2)):
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await rig.happened(machine_id, step)
            await rig.start_again()
            assert len(await rig.wipes(machine_id)) <= states(machine).count(WipeState.DONE)
            await rig.phase(machine_id, "ready")
            await until(lambda: machine.tunnels >= 2)
            await rig.connected()
            hellos = machine.hellos
            await until(lambda: machine.hellos > hellos + 2)
            assert len(await rig.wipes(machine_id)) == 1
            assert states(machine).count(WipeState.DONE) == 1
            assert states(machine)[-1] is WipeState.DONE
            assert len(machine.wipes) <= 2
            bmc = await rig.side.bmcs.of(machine_id)
            assert bmc is not None
            assert machine.ipmi is not None
            assert machine.ipmi.users == {BMC_USER: bmc.password.reveal()}, "the password that the BMC has is ours"

    at_site(tmp_path, use)


def test_result_is_written_down_though_the_agent_is_gone(tmp_path: Path) -> None:
    """An agent that goes right after its answer costs its machine a second wipe."""

    async def use(rig: Rig) -> None:
        async with rig.agent(faults=Faults(wipe_seconds=0.1)) as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            result = rig.side.agents.result

            async def slow(*given: object, **more: object) -> None:
                agent._cut()
                await asyncio.sleep(0.1)
                await result(*given, **more)  # type: ignore[arg-type]

            await rig.happened(machine_id, "set_up_bmc.finished")
            rig.side.agents.result = slow  # type: ignore[assignment]
            await rig.phase(machine_id, "ready")
            assert states(agent.machine) == [WipeState.DONE]

    at_site(tmp_path, use)


# --- who is who --------------------------------------------------------------------------------------------------------


def test_machine_is_found_in_either_byte_order(tmp_path: Path) -> None:
    """Talos and iPXE spell an old machine's UUID differently, and it is there twice."""

    async def use(rig: Rig) -> None:
        booted = await rig.known(Evidence(macs=(MAC,), uuid=SWAPPED))
        rig.side.macs["127.0.0.1"] = MAC
        async with rig.agent():
            assert await rig.connected() == booted.id
            assert len(await rig.side.store.all()) == 1

    at_site(tmp_path, use)


def test_uuid_of_another_machine_is_refused(tmp_path: Path) -> None:
    """A machine is wiped in another's name: two of a batch have one UUID, or somebody lies."""

    async def use(rig: Rig) -> None:
        victim = await rig.known(Evidence(macs=(MAC,), uuid=UUID))
        liar = await rig.known(Evidence(macs=(OTHER,), uuid=OTHER_UUID))
        await rig.desire(victim.id, ACCEPTED)
        rig.side.macs["127.0.0.1"] = OTHER
        async with rig.agent(FakeMachine(OTHER_UUID), faults=Faults(says_uuid=UUID)) as agent:
            await rig.happened(victim.id, "agent.refused")
            await rig.happened(liar.id, "agent.refused")
            await until(lambda: agent.machine.tunnels > 3)
            agent.faults.says_uuid = "4c4c4544-0042-3510-8052-b4c04f4e4e77"
            await until(lambda: agent.machine.tunnels > 6)
            assert agent.machine.wipes == []
            for machine in (victim, liar):
                assert (await rig.names(machine.id)).count("agent.refused") == 1, "nobody fills a machine's history"
            assert not (await rig.side.store.get(victim.id)).facts.agent.connected
            assert (await rig.side.store.get(liar.id)).identity.uuid == OTHER_UUID

    at_site(tmp_path, use)


def test_two_agents_of_one_machine(tmp_path: Path) -> None:
    """Two machines with one UUID take turns, and a wipe that is meant for one hits the other."""

    async def use(rig: Rig) -> None:
        first, second = FakeMachine(UUID, Ipmi("10.0.0.9")), FakeMachine(UUID, Ipmi("10.0.0.10"))
        async with rig.agent(first, source="127.0.0.8") as one:
            machine_id = await rig.connected()
            async with rig.agent(second, source="127.0.0.9"):
                await rig.happened(machine_id, "agent.refused")
                await rig.desire(machine_id, ACCEPTED)
                await rig.phase(machine_id, "ready")
                assert states(first) == [WipeState.DONE]
                assert second.wipes == []
                assert first.tunnels == 1
                one.deafen()
                await rig.happened(machine_id, "agent.enrolled", times=2)
                enrolled = [event for event in await rig.events(machine_id) if event.name == "agent.enrolled"]
                assert enrolled[-1].data["source"] == "127.0.0.9"
                hellos = second.hellos
                await until(lambda: second.hellos > hellos + 3)
                assert (await rig.side.store.get(machine_id)).facts.agent.connected
                assert second.wipes == [], "it is wiped already"

    at_site(tmp_path, use)


def test_agent_that_does_not_answer_is_none(tmp_path: Path) -> None:
    """A tunnel without an agent behind it makes a machine that is there."""

    async def use(rig: Rig) -> None:
        async with rig.agent(faults=Faults(answers_hello=False)) as agent:
            await until(lambda: agent.machine.tunnels > 1)
            assert await rig.machine() is None
            agent.faults.answers_hello = True
            machine_id = await rig.connected()
            agent.faults.answers_hello = False
            await rig.happened(machine_id, "agent.lost")
            lost = [event for event in await rig.events(machine_id) if event.name == "agent.lost"]
            assert "did not answer Hello" in str(lost[0].data["reason"])

    at_site(tmp_path, use)


def test_agent_that_does_not_come_back_after_a_start_is_lost(tmp_path: Path) -> None:
    """A machine that was switched off while we were down stays connected for ever."""

    async def use(rig: Rig) -> None:
        async with rig.agent():
            machine_id = await rig.connected()
            before = rig.side
            await before.stop()
        rig.side = rig._make()
        assert rig._group is not None
        await rig.side.start(rig._group)
        assert (await rig.side.store.get(machine_id)).facts.agent.connected, "it may come back"
        await rig.happened(machine_id, "agent.lost")

    at_site(tmp_path, use)


def test_agent_whose_machine_was_switched_off_has_to_come_again(tmp_path: Path) -> None:
    """A BMC says that the machine is off, its agent goes on, and both are believed."""

    async def use(rig: Rig) -> None:
        async with rig.agent() as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, replace(ACCEPTED, preferred_power=Desired().preferred_power))
            await until(lambda: PowerAction.OFF in rig.side.bmc.told)
            await until(lambda: agent.machine.tunnels > 1)
            await rig.happened(machine_id, "agent.enrolled", times=2)
            assert states(agent.machine) == [WipeState.DONE]

    at_site(tmp_path, use)


def test_running_operation_is_closed_by_the_next_agent(tmp_path: Path) -> None:
    """The next agent goes on with what another began, as if it had done it."""

    async def use(rig: Rig) -> None:
        async with rig.agent(faults=Faults(wipe_seconds=30)) as agent:
            machine_id = await rig.connected()
            await rig.desire(machine_id, ACCEPTED)
            await until(lambda: bool(agent.machine.wipes))
            await rig.side.stop()
        rig.side = rig._make()
        before = (await rig.side.store.get(machine_id)).facts.operation
        assert before is not None
        assert before.state is OperationState.RUNNING
        assert rig._group is not None
        await rig.side.start(rig._group)
        async with rig.agent(agent.machine):
            await rig.happened(machine_id, "wipe.interrupted")
            await rig.happened(machine_id, "wipe.finished")
            after = (await rig.side.store.get(machine_id)).facts.operation
            assert after is not None
            assert after.id != before.id
            assert states(agent.machine) == [WipeState.BROKEN, WipeState.DONE]

    at_site(tmp_path, use)


# --- many --------------------------------------------------------------------------------------------------------------


def test_five_hundred_agents(tmp_path: Path) -> None:
    """A hall that comes back after a power cut is not served, or not stopped in time."""

    async def use(rig: Rig) -> None:
        machines = [FakeMachine(f"4c4c4544-0000-1000-8000-{number:012x}") for number in range(1, 501)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_run(rig, machine)) for machine in machines]
            await until(lambda: all(machine.hellos for machine in machines), patience=60)
            while sum(each.facts.agent.connected for each in await rig.side.store.all()) < len(machines):
                await asyncio.sleep(0.5)
            loop = asyncio.get_running_loop()
            began = loop.time()
            rig.side.tasks[-1].cancel()
            await asyncio.wait(rig.side.tasks[-1:])
            assert loop.time() - began < 2
            for task in tasks:
                task.cancel()

    at_site(tmp_path, use, patience=Patience(), limits=Limits(tunnels_per_address=500))


async def _run(rig: Rig, machine: FakeMachine) -> None:
    async with rig.agent(machine, restarts_after=5.0):
        await asyncio.Event().wait()

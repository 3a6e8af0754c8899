"""
What Omni wants, row by row of the tables of the way that Sidero's provider takes; the numbers are those of the tables:

4.2 derived values, 4.3 boot mode, 4.4 power, 4.5 reboot, 4.6 wipe, 4.7 BMC. Where we differ, the row says so and why.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.bmc import NextBoot, PowerAction, PowerReading, PowerState
from provider.domain.machine import (
    Acceptance,
    AgentKind,
    AgentPresence,
    BmcFacts,
    BootMode,
    Desired,
    Facts,
    Phase,
    Record,
    RecordKind,
)
from provider.domain.operation import Operation, OperationKind, OperationState, WipePlan
from provider.planning import agents, lifecycle, omni
from provider.planning.lifecycle import Answer, Interrupt, Operate, SetPower
from provider.planning.omni import Seen
from provider.wire import omni as wire
from tests.unit.planning.omni_world import (
    ACCEPTED,
    ALLOCATED,
    CORDONED,
    INSTALLED,
    INTERVAL,
    NOW,
    OFF,
    ON,
    PENDING,
    POLICY,
    REJECTED,
    RESTS_ON,
    UNKNOWN,
    agent,
    ago,
    decide,
    desired,
    facts,
    failed,
    in_our_agent,
    powered_off,
    rebooted,
    removed,
    wiped,
    with_agent,
)

TO_AGENT = SetPower(PowerAction.CYCLE, NextBoot.NETWORK)
SWITCH_ON = SetPower(PowerAction.ON, NextBoot.NETWORK)
SET_UP_BMC = Operate(OperationKind.SET_UP_BMC, "")
NEW_WIPE = replace(ACCEPTED, wipe_id="w2", install_event_id=4)
"""Deallocated: installed once, and to be wiped."""


def everything(wipe_id: str = "", *, zeroes: bool = False, attempt: int = 1) -> Operate:
    plan = WipePlan("m-1", wipe_id, disks=(), everything=True, zeroes=zeroes)
    return Operate(OperationKind.WIPE, wipe_id, plan, attempt)


# --- 4.2 derived values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "records", "installed"),
    [
        pytest.param(0, (), False, id="no event, no wipe"),
        pytest.param(1, (), True, id="an event, no wipe record: 0 counts"),
        pytest.param(3, (wiped(event=3),), False, id="the event that was wiped away"),
        pytest.param(4, (wiped(event=3),), True, id="one more"),
        pytest.param(9, (wiped(event=3),), True, id="grows with each boot: compared by >, never by equality"),
        pytest.param(2, (wiped(event=3),), False, id="less than at the wipe: a restored backup"),
        pytest.param(4, (wiped(event=3, hours=3), wiped("w2", event=4)), False, id="the last wipe counts"),
    ],
)
def test_installed(event: int, records: tuple[Record, ...], installed: bool) -> None:
    """4.2: a machine boots an empty disk for ever, or is installed over and over."""
    known = facts(ON, *records)
    assert lifecycle.is_installed(desired(replace(ALLOCATED, install_event_id=event), known), known) is installed


@pytest.mark.parametrize(
    ("wipe_id", "records", "due"),
    [
        pytest.param("", (), True, id="no wipe yet"),
        pytest.param("", (failed(RecordKind.WIPE, hours=1),), True, id="only failed ones"),
        pytest.param("", (wiped(),), False, id="initial wipe done"),
        pytest.param("w2", (wiped(),), True, id="a new id"),
        pytest.param("w2", (wiped(), wiped("w2")), False, id="answered"),
        # Sidero's provider compares with the last id only, and would wipe: an id that was answered never acts again.
        pytest.param("w1", (wiped("w1"), wiped("w2")), False, id="differs: a restored backup brings an old id back"),
        pytest.param("", (wiped(), wiped("w2")), False, id="differs: or the initial one"),
        pytest.param("", (wiped(hours=2), removed(hours=1)), True, id="removed and back: a new initial wipe"),
        pytest.param("", (wiped(hours=2), removed(hours=1), wiped(minutes=9)), False, id="and that one done"),
        pytest.param("w1", (wiped("w1", hours=2), removed(hours=1)), False, id="other ids stay answered for ever"),
    ],
)
def test_requires_wipe(wipe_id: str, records: tuple[Record, ...], due: bool) -> None:
    """4.2: a disk is wiped twice for one id, or not at all."""
    known = facts(ON, *records)
    wanted = omni.desired(Seen(replace(ACCEPTED, wipe_id=wipe_id), created=NOW), Desired(), known, token="")
    assert lifecycle.requires_wipe(wanted, known) is due


@pytest.mark.parametrize(
    ("asked", "wipe_id", "records", "new", "kept"),
    [
        pytest.param("", "", (), False, False, id="none"),
        pytest.param("p", "", (), True, False, id="not written down yet"),
        pytest.param("p", "", (powered_off("p"),), False, True, id="in force"),
        pytest.param("", "", (powered_off("p"),), False, False, id="withdrawn"),
        pytest.param("p", "w2", (powered_off("p"),), False, False, id="of an earlier wipe id: stale"),
        pytest.param("p2", "", (powered_off("p"),), True, False, id="another one"),
        pytest.param("p", "", (powered_off("p"), powered_off("p2")), True, False, id="only the last counts"),
    ],
)
def test_power_off_in_force(asked: str, wipe_id: str, records: tuple[Record, ...], new: bool, kept: bool) -> None:
    """4.2: an old request keeps a machine off after it was allocated again."""
    known = facts(OFF, *records)
    wanted = desired(replace(INSTALLED, power_off_request_id=asked, wipe_id=wipe_id), known)
    assert lifecycle.is_power_off_new(wanted, known) is new
    assert lifecycle.is_kept_off(wanted, known) is kept


# --- 4.3 boot mode, the first that matches ---------------------------------------------------------------------------

NO_BMC = facts(ON, wiped(), bmc=None)


@pytest.mark.parametrize(
    ("spec", "known", "mode"),
    [
        # Theirs answers 404 to a rejected machine in spite of the mode "disk": that is silence.
        pytest.param(REJECTED, facts(ON, wiped()), BootMode.NOTHING, id="rejected"),
        pytest.param(replace(INSTALLED, cordoned=True), facts(ON, wiped()), BootMode.NOTHING, id="cordoned"),
        pytest.param(PENDING, facts(ON), BootMode.AGENT, id="pending"),
        pytest.param(replace(ACCEPTED, install_event_id=3), facts(ON, wiped()), BootMode.AGENT, id="not allocated"),
        pytest.param(ALLOCATED, NO_BMC, BootMode.AGENT, id="no BMC"),
        pytest.param(ALLOCATED, facts(ON), BootMode.AGENT, id="wipe due"),
        pytest.param(replace(INSTALLED, wipe_id="w2"), facts(ON, wiped()), BootMode.AGENT, id="installed, wipe due"),
        pytest.param(INSTALLED, facts(ON, wiped()), BootMode.DISK, id="installed"),
        pytest.param(ALLOCATED, facts(ON, wiped()), BootMode.INSTALL, id="else"),
        # Theirs sends it into agent mode. A member of a cluster must not drop out because somebody removed its BMC's
        # configuration; it is reported as not ready until there is one.
        pytest.param(INSTALLED, NO_BMC, BootMode.DISK, id="differs: installed, no BMC"),
    ],
)
def test_boot_mode(spec: wire.InfraMachine, known: Facts, mode: BootMode) -> None:
    """4.3: a machine boots something that it should not."""
    plan = decide(spec, known)
    assert plan.boot_mode is mode
    assert plan.because


def test_boot_mode_without_resource() -> None:
    """4.3 "no M" and "tearingDown": a machine that Omni does not know, or no more, is told to install."""
    for seen in (None, Seen(INSTALLED, tearing_down=True)):
        known = facts(ON, wiped())
        wanted = omni.desired(seen, desired(INSTALLED, known), known, token="")
        plan = lifecycle.decide("m-1", wanted, known, NOW, POLICY)
        assert (plan.boot_mode, plan.step) == (BootMode.AGENT, None)


# --- 4.4 power -------------------------------------------------------------------------------------------------------

ASKED = replace(INSTALLED, power_off_request_id="p")
NOTED = Answer(RecordKind.POWER_OFF, "p", "noted: we do not switch it on")
IDLE = replace(ACCEPTED, install_event_id=3)


@pytest.mark.parametrize(
    ("spec", "known", "step"),
    [
        pytest.param(ASKED, facts(ON, wiped()), NOTED, id="any: a new power-off request is written down first"),
        pytest.param(ASKED, facts(OFF, wiped()), NOTED, id="any, off"),
        pytest.param(ASKED, facts(UNKNOWN, wiped()), NOTED, id="any, unknown"),
        pytest.param(ASKED, facts(OFF, wiped(), powered_off("p")), None, id="off, power-off in force"),
        pytest.param(ASKED, facts(ON, wiped(), powered_off("p")), None, id="on, in force: Omni shuts it down, not we"),
        pytest.param(
            replace(ASKED, wipe_id="w2"),
            facts(OFF, wiped(), powered_off("p")),
            SWITCH_ON,
            id="off, the request is of an earlier life",
        ),
        pytest.param(INSTALLED, facts(OFF, wiped()), SetPower(PowerAction.ON), id="off, installed: no PXE"),
        pytest.param(ALLOCATED, facts(OFF, wiped()), SWITCH_ON, id="off, allocated: PXE once"),
        pytest.param(ACCEPTED, facts(OFF), SWITCH_ON, id="off, wipe due: PXE once"),
        pytest.param(RESTS_ON, facts(OFF, wiped()), SWITCH_ON, id="off, preferred on: PXE once"),
        pytest.param(IDLE, facts(OFF, wiped()), None, id="off, preferred off"),
        pytest.param(
            IDLE,
            with_agent(wiped(), last_power_on_at=ago(minutes=16)),
            SetPower(PowerAction.OFF),
            id="on, preferred off",
        ),
        pytest.param(IDLE, with_agent(wiped(), last_power_on_at=ago(minutes=14)), None, id="the same, too early"),
        pytest.param(IDLE, with_agent(wiped(), last_reboot_at=ago(minutes=14)), None, id="the same after a reboot"),
        pytest.param(IDLE, with_agent(wiped()), SetPower(PowerAction.OFF), id="on, switched on by somebody else"),
        pytest.param(RESTS_ON, with_agent(wiped()), None, id="on, preferred on"),
        pytest.param(INSTALLED, facts(ON, wiped()), None, id="on, installed"),
        pytest.param(ACCEPTED, facts(OFF, bmc=None), None, id="no BMC"),
        pytest.param(PENDING, facts(OFF), None, id="not allowed: pending"),
        pytest.param(REJECTED, facts(OFF), None, id="not allowed: rejected"),
        pytest.param(CORDONED, facts(OFF), None, id="not allowed: cordoned"),
        # Theirs reboots it into agent mode: Omni shows no version for a moment while it does not find the cluster.
        pytest.param(
            replace(INSTALLED, cluster_talos_version=""),
            facts(ON, wiped()),
            None,
            id="differs: installed, not allocated: left on, no reboot",
        ),
    ],
)
def test_power(spec: wire.InfraMachine, known: Facts, step: object) -> None:
    """4.4: a machine is switched against Omni's wish."""
    assert decide(spec, known).step == step


def test_only_this_life_counts() -> None:
    """What ended a life is taken for something that happened in the next."""
    assert lifecycle.this_life(facts(ON, wiped(), removed(hours=1))) == ()


@pytest.mark.parametrize("reading", [PowerReading(ON, ago(hours=1), "bmc"), PowerReading()])
def test_note_needs_no_reading(reading: PowerReading) -> None:
    """4.4: a power-off request is not written down while the BMC is silent, and the machine is switched on when it is not."""
    assert decide(ASKED, facts(ON, wiped(), power=reading)).step == NOTED


def test_idle_machine_that_is_off_stays_off() -> None:
    """4.4: it is switched on because an agent of the wrong kind seems to be there still."""
    known = facts(OFF, wiped(), agent=agent(AgentKind.BOOTWRIGHT))
    assert decide(IDLE, known).step is None


def test_rest_has_an_end() -> None:
    """4.4: nobody comes back to switch off a machine whose rest is over."""
    plan = decide(IDLE, with_agent(wiped(), last_power_on_at=ago(minutes=10)))
    assert plan.wake_at is not None
    assert plan.wake_at <= NOW + timedelta(minutes=5)


@pytest.mark.parametrize("spec", [ASKED, replace(ALLOCATED, power_off_request_id="p")])
@pytest.mark.parametrize("state", [ON, OFF, UNKNOWN])
def test_power_off_in_force_moves_nothing(spec: wire.InfraMachine, state: PowerState) -> None:
    """4.4: a machine that somebody switched off is switched on, or cycled while it shuts down."""
    plan = decide(replace(spec, requested_reboot_id="r"), facts(state, wiped(), powered_off("p")))
    assert not isinstance(plan.step, SetPower)
    assert plan.power is None


# --- 4.5 reboot ------------------------------------------------------------------------------------------------------

REBOOT = replace(INSTALLED, requested_reboot_id="r")
DUE = (RecordKind.REBOOT, "r")


@pytest.mark.parametrize(
    ("spec", "known", "step"),
    [
        pytest.param(ACCEPTED, facts(ON), TO_AGENT, id="agent mode needed, no agent: PXE once"),
        pytest.param(NEW_WIPE, facts(ON, wiped()), TO_AGENT, id="deallocated, runs the old system"),
        pytest.param(ALLOCATED, with_agent(wiped()), TO_AGENT, id="install needed, still in agent mode"),
        pytest.param(RESTS_ON, facts(ON, wiped()), None, id="not required to be on: no reboot for the mode"),
        pytest.param(INSTALLED, facts(ON, wiped()), None, id="disk: never for the mode"),
        pytest.param(INSTALLED, with_agent(wiped()), None, id="disk: never, even if it is in agent mode"),
        pytest.param(REBOOT, facts(ON, wiped()), SetPower(PowerAction.CYCLE, None, DUE), id="asked, disk: no PXE"),
        pytest.param(REBOOT, facts(ON, wiped(), rebooted("r", hours=1)), None, id="answered"),
        pytest.param(
            replace(RESTS_ON, requested_reboot_id="r"),
            with_agent(wiped()),
            SetPower(PowerAction.CYCLE, NextBoot.NETWORK, DUE),
            id="asked, agent: PXE once",
        ),
        pytest.param(
            replace(ALLOCATED, requested_reboot_id="r"),
            facts(ON, wiped(), last_script_at=ago(minutes=20), last_script_mode=BootMode.INSTALL),
            SetPower(PowerAction.CYCLE, NextBoot.NETWORK, DUE),
            id="asked, installing: PXE once",
        ),
        pytest.param(
            replace(ACCEPTED, requested_reboot_id="r"),
            facts(ON),
            SetPower(PowerAction.CYCLE, NextBoot.NETWORK, DUE),
            id="a reboot for the mode answers the request",
        ),
        pytest.param(REBOOT, facts(ON, wiped(), last_reboot_at=ago(minutes=14)), None, id="asked, too early"),
        pytest.param(REBOOT, facts(ON, wiped(), last_power_on_at=ago(minutes=14)), None, id="switched on, too early"),
        pytest.param(ACCEPTED, facts(ON, last_power_on_at=ago(minutes=14)), None, id="for the mode, too early"),
        pytest.param(
            ALLOCATED, with_agent(wiped(), last_power_on_at=ago(minutes=14)), None, id="agent to install, too early"
        ),
        pytest.param(REBOOT, facts(ON, wiped(), bmc=None), None, id="no BMC"),
        pytest.param(replace(REBOOT, cordoned=True), facts(ON, wiped()), None, id="cordoned"),
        pytest.param(replace(PENDING, requested_reboot_id="r"), with_agent(), None, id="pending"),
        # Theirs cycles an idle machine that is off, which switches it on and then waits to switch it off again.
        pytest.param(
            replace(IDLE, requested_reboot_id="r"),
            facts(OFF, wiped()),
            Answer(*DUE, "it was off"),
            id="differs: asked, idle and off: answered",
        ),
        # A fresh start is what was asked for: theirs would reboot it once more after the interval.
        pytest.param(
            REBOOT, facts(OFF, wiped()), SetPower(PowerAction.ON, None, DUE), id="differs: asked, off, should run"
        ),
        pytest.param(
            ALLOCATED, facts(ON, wiped()), None, id="install needed, no agent: a backup may have lost the event"
        ),
        pytest.param(
            ALLOCATED,
            facts(ON, wiped(), last_script_at=ago(hours=9), last_script_mode=BootMode.DISK),
            None,
            id="the same, it was sent to its disk",
        ),
        # Theirs waits for a word of the agent. What we told it last is as good.
        pytest.param(
            ALLOCATED,
            facts(ON, wiped(), last_script_at=ago(hours=1), last_script_mode=BootMode.AGENT),
            TO_AGENT,
            id="differs: install needed, the agent fell silent",
        ),
    ],
)
def test_reboot(spec: wire.InfraMachine, known: Facts, step: object) -> None:
    """4.5: a machine is rebooted for nothing, too soon, or not at all."""
    assert decide(spec, known).step == step


def test_reboot_waits_for_the_interval() -> None:
    """4.5: nobody comes back when the interval is over, or the last power-on is forgotten in a restart."""
    known = facts(ON, wiped(), last_power_on_at=ago(minutes=5), last_reboot_at=ago(hours=1))
    plan = decide(REBOOT, known)
    assert plan.step is None
    assert plan.wake_at is not None
    later = NOW + INTERVAL - timedelta(minutes=5)
    fresh = replace(known, power=PowerReading(ON, later, "bmc"))
    assert decide(REBOOT, fresh, at=later).step == SetPower(PowerAction.CYCLE, None, DUE)


def test_no_reboot_during_a_wipe() -> None:
    """4.5, differs: theirs cuts a running wipe off when somebody asks for a reboot; the request waits."""
    wiping = Operation(
        "o", "m-1", OperationKind.WIPE, "", OperationState.RUNNING, ago(seconds=9), started_at=ago(seconds=8)
    )
    known = with_agent(operation=replace(wiping, wipe_plan=everything().wipe_plan))
    plan = decide(replace(ACCEPTED, requested_reboot_id="r"), known)
    assert (plan.phase, plan.step) == (Phase.WIPING, None)


# --- 4.6 wipe --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "known", "step"),
    [
        pytest.param(ACCEPTED, with_agent(), everything(), id="initial wipe: all disks, no inventory needed"),
        pytest.param(NEW_WIPE, with_agent(wiped()), everything("w2"), id="a new wipe id"),
        pytest.param(
            ACCEPTED, with_agent(failed(RecordKind.WIPE, minutes=2)), everything(attempt=2), id="failed: once more"
        ),
        pytest.param(ACCEPTED, with_agent(failed(RecordKind.WIPE, seconds=50)), None, id="failed: not at once"),
        pytest.param(ACCEPTED, with_agent(power=PowerReading()), everything(), id="the BMC need not answer"),
        pytest.param(ACCEPTED, with_agent(bmc=BmcFacts("b", 9, "dead", ago(seconds=-99))), everything(), id="dead BMC"),
        pytest.param(IDLE, with_agent(wiped(), last_power_on_at=NOW), None, id="not required"),
        # The wall.
        pytest.param(PENDING, with_agent(), None, id="pending"),
        pytest.param(REJECTED, with_agent(), None, id="rejected"),
        pytest.param(CORDONED, with_agent(), None, id="cordoned"),
        pytest.param(replace(ACCEPTED, acceptance_status=3), with_agent(), None, id="a number that we do not know"),
        pytest.param(
            replace(ACCEPTED, wipe_id="w1", install_event_id=9),
            with_agent(wiped("w1"), wiped("w2"), last_power_on_at=NOW),
            None,
            id="answered long ago",
        ),
    ],
)
def test_wipe(spec: wire.InfraMachine, known: Facts, step: object) -> None:
    """4.6: a disk is erased that nobody asked for, or a wipe that is due is not done."""
    assert decide(spec, known).step == step


def test_failed_wipes_are_tried_for_ever_but_ever_less() -> None:
    """4.6: Omni cannot ask for another wipe, so a machine that gave up would stay unusable; one that does not pauses."""
    assert decide(ACCEPTED, with_agent(*[failed(RecordKind.WIPE, minutes=7)] * 4)).step is None
    assert decide(ACCEPTED, with_agent(*[failed(RecordKind.WIPE, minutes=8)] * 4)).step == everything(attempt=5)
    assert decide(ACCEPTED, with_agent(*[failed(RecordKind.WIPE, hours=1)] * 50)).step == everything(attempt=51)


def test_zeroes() -> None:
    """4.6: the operator's wish for zeroes does not get to the agent."""
    assert decide(ACCEPTED, with_agent(), replace(POLICY, wipe_zeroes=True)).step == everything(zeroes=True)


GONE = {
    "gone": None,
    "torn down": Seen(ACCEPTED, tearing_down=True),
    "brought back by a backup": Seen(ACCEPTED, created=ago(days=9)),
}


@pytest.mark.parametrize("seen", GONE.values(), ids=GONE.keys())
@pytest.mark.parametrize("operation", [None, OperationState.PLANNED, OperationState.RUNNING])
def test_no_wipe_of_a_machine_that_was_given_up(seen: Seen | None, operation: OperationState | None) -> None:
    """4.6: the resource is gone, or dies, or was dead, and the machine is wiped all the same."""
    running = operation and Operation("o", "m-1", OperationKind.WIPE, "", operation, ago(seconds=9))
    known = with_agent(wiped(hours=9), removed(hours=8), operation=running)
    wanted = omni.desired(seen, replace(Desired(), acceptance=Acceptance.ACCEPTED), known, token="")
    step = lifecycle.decide("m-1", wanted, known, NOW, POLICY).step
    assert step == (Interrupt("o", "it is no longer wanted") if operation else None)


@pytest.mark.parametrize(
    "spec", [PENDING, REJECTED, CORDONED, replace(ACCEPTED, wipe_id="w2"), replace(ACCEPTED, acceptance_status=9)]
)
@pytest.mark.parametrize("state", [OperationState.PLANNED, OperationState.RUNNING])
def test_wipe_under_way_stops(spec: wire.InfraMachine, state: OperationState) -> None:
    """4.6: the wipe id changes, or the acceptance goes, while a wipe runs, and it goes on."""
    wiping = Operation("o", "m-1", OperationKind.WIPE, "", state, ago(seconds=9), wipe_plan=everything().wipe_plan)
    assert decide(spec, with_agent(operation=wiping)).step == Interrupt("o", "it is no longer wanted")


# --- 4.7 BMC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "known", "step"),
    [
        pytest.param(ACCEPTED, with_agent(bmc=None), SET_UP_BMC, id="no BMC: before the wipe"),
        pytest.param(IDLE, with_agent(wiped(), bmc=None), SET_UP_BMC, id="no BMC, wiped"),
        pytest.param(ACCEPTED, with_agent(), everything(), id="a BMC is known, by us or from Omni's BMCConfig: done"),
        pytest.param(
            ACCEPTED,
            with_agent(failed(RecordKind.SET_UP_BMC, seconds=30), bmc=None),
            everything(),
            id="failed: does not hold up the wipe",
        ),
        pytest.param(
            ACCEPTED, with_agent(failed(RecordKind.SET_UP_BMC, minutes=2), bmc=None), SET_UP_BMC, id="failed: again"
        ),
        pytest.param(
            IDLE,
            with_agent(wiped(), *[failed(RecordKind.SET_UP_BMC, minutes=3)] * 3, bmc=None),
            None,
            id="failed three times: after four minutes",
        ),
        pytest.param(ACCEPTED, in_our_agent(bmc=None), Operate(OperationKind.REBOOT, ""), id="only Talos can"),
        pytest.param(ACCEPTED, facts(ON, bmc=None), None, id="no agent"),
        pytest.param(PENDING, with_agent(bmc=None), None, id="pending"),
        pytest.param(REJECTED, with_agent(bmc=None), None, id="rejected"),
        pytest.param(CORDONED, with_agent(bmc=None), None, id="cordoned"),
        # Without a BMC we could not bring it back into agent mode: it waits there.
        pytest.param(
            ALLOCATED, with_agent(wiped(), failed(RecordKind.SET_UP_BMC, seconds=9), bmc=None), None, id="waits"
        ),
    ],
)
def test_bmc(spec: wire.InfraMachine, known: Facts, step: object) -> None:
    """4.7: a BMC is set up of a machine that is not ours, or twice, or never."""
    assert decide(spec, known).step == step


def under_way(kind: OperationKind, request_id: str = "") -> Operation:
    return Operation("o", "m-1", kind, request_id, OperationState.RUNNING, ago(seconds=9), started_at=ago(seconds=8))


def test_bmc_is_set_up_once() -> None:
    """4.7: an account is made once more while the first one is being made."""
    plan = decide(ACCEPTED, with_agent(bmc=None, operation=under_way(OperationKind.SET_UP_BMC)))
    assert (plan.rule, plan.step) == ("wipe-due", None)


@pytest.mark.parametrize(
    ("spec", "request_id"), [(PENDING, lifecycle.NEXT_AGENT), (ACCEPTED, "")], ids=["pending", "accepted, no BMC"]
)
def test_agent_is_told_once_to_reboot(spec: wire.InfraMachine, request_id: str) -> None:
    """A second reboot is planned while the agent performs the first."""
    known = in_our_agent(bmc=None, operation=under_way(OperationKind.REBOOT, request_id))
    assert decide(spec, known, LOOKING_FIRST).step is None


def test_machine_without_bmc_is_not_ready() -> None:
    """4.7: Omni gets a machine whose power nobody can switch."""
    plan = decide(IDLE, with_agent(wiped(), failed(RecordKind.SET_UP_BMC, seconds=9), bmc=None))
    assert (plan.phase, plan.boot_mode, plan.rule) == (Phase.PREPARING, BootMode.AGENT, "bmc-missing")
    assert plan.wake_at is not None


def test_policy_says_whether_a_bmc_is_set_up() -> None:
    """4.7: an account is made on a BMC though the operator does not want that."""
    assert decide(ACCEPTED, with_agent(bmc=None), replace(POLICY, sets_up_bmc=False)).step == everything()


# --- which agent -----------------------------------------------------------------------------------------------------

VERIFIED = replace(POLICY, agent=agents.Choice(AgentKind.TALOS, verified_wipe=True))
LOOKING = replace(POLICY, agent=agents.Choice(AgentKind.TALOS, inventory=True))
LOOKING_FIRST = replace(POLICY, agent=agents.Choice(AgentKind.TALOS, inventory=True, inventory_before_acceptance=True))


@pytest.mark.parametrize(
    ("policy", "spec", "known", "kind", "step"),
    [
        pytest.param(VERIFIED, ACCEPTED, with_agent(), AgentKind.BOOTWRIGHT, TO_AGENT, id="Talos, but ours is to wipe"),
        pytest.param(
            VERIFIED,
            ACCEPTED,
            with_agent(agent=agent(minutes=5), last_script_at=ago(minutes=1)),
            AgentKind.BOOTWRIGHT,
            None,
            id="the same, and it is on its way",
        ),
        pytest.param(
            VERIFIED, RESTS_ON, in_our_agent(wiped()), AgentKind.TALOS, TO_AGENT, id="ours has wiped: Omni waits"
        ),
        pytest.param(
            VERIFIED, IDLE, in_our_agent(wiped()), AgentKind.TALOS, SetPower(PowerAction.OFF), id="or it rests"
        ),
        pytest.param(LOOKING, ACCEPTED, with_agent(), AgentKind.BOOTWRIGHT, TO_AGENT, id="no inventory yet"),
        pytest.param(LOOKING, ACCEPTED, in_our_agent(), AgentKind.TALOS, TO_AGENT, id="inventory done: Talos wipes"),
        pytest.param(LOOKING, PENDING, with_agent(), AgentKind.TALOS, None, id="pending: Omni must see it"),
        pytest.param(LOOKING_FIRST, PENDING, facts(ON), AgentKind.BOOTWRIGHT, None, id="unless the operator wants it"),
        pytest.param(
            LOOKING_FIRST,
            PENDING,
            in_our_agent(),
            AgentKind.TALOS,
            Operate(OperationKind.REBOOT, lifecycle.NEXT_AGENT),
            id="then it goes on by itself",
        ),
        pytest.param(
            LOOKING_FIRST,
            PENDING,
            in_our_agent(last_reboot_at=ago(minutes=9)),
            AgentKind.TALOS,
            None,
            id="not too soon",
        ),
        pytest.param(
            LOOKING_FIRST, PENDING, in_our_agent(inventory_at=None), AgentKind.TALOS, None, id="once it has told"
        ),
        pytest.param(LOOKING, PENDING, in_our_agent(), AgentKind.TALOS, None, id="and by no other way"),
        pytest.param(LOOKING_FIRST, CORDONED, in_our_agent(), AgentKind.TALOS, None, id="nor if it is cordoned"),
    ],
)
def test_agents(policy: lifecycle.Policy, spec: wire.InfraMachine, known: Facts, kind: AgentKind, step: object) -> None:
    """A wipe without the proof that somebody wants, or a machine that waits in an agent that Omni does not see."""
    plan = decide(spec, known, policy)
    assert (plan.agent, plan.step) == (kind, step)


def test_ours_wipes_by_name() -> None:
    """Our agent gets a plan that names no disk."""
    step = decide(ACCEPTED, in_our_agent(), VERIFIED).step
    assert isinstance(step, Operate)
    assert step.wipe_plan is not None
    assert not step.wipe_plan.everything
    assert [disk.serial for disk in step.wipe_plan.disks] == ["D1"]


@pytest.mark.parametrize("known", [with_agent(), in_our_agent()])
@pytest.mark.parametrize("is_everything", [True, False])
def test_work_for_the_other_agent_is_closed(known: Facts, is_everything: bool) -> None:
    """An operation that was planned for one agent is given to the other, or blocks the machine for ever."""
    plan = replace(everything().wipe_plan or WipePlan("", "", ()), everything=is_everything)
    planned = Operation("o", "m-1", OperationKind.WIPE, "", OperationState.PLANNED, ago(seconds=9), wipe_plan=plan)
    step = decide(ACCEPTED, replace(known, operation=planned)).step
    fits = (known.agent.kind is AgentKind.TALOS) is is_everything
    assert isinstance(step, Interrupt) is not fits


# --- everywhere ------------------------------------------------------------------------------------------------------

times = st.none() | st.integers(0, 10_000).map(lambda s: NOW - timedelta(seconds=s))
ids = st.sampled_from(["", "x", "y"])
specs = st.builds(
    wire.InfraMachine,
    preferred_power_state=st.integers(0, 3),
    acceptance_status=st.integers(0, 4),
    cluster_talos_version=st.sampled_from(["", "1.13.7"]),
    wipe_id=ids,
    requested_reboot_id=ids,
    power_off_request_id=ids,
    cordoned=st.booleans(),
    install_event_id=st.integers(0, 5),
)
resources = st.none() | st.builds(Seen, specs, tearing_down=st.booleans(), created=times)
records = st.builds(
    lambda kind, request_id, at, event, wipe_id: Record(kind, request_id, at, install_event=event, wipe_id=wipe_id),
    st.sampled_from(RecordKind),
    ids,
    times.filter(bool),
    st.integers(0, 5),
    ids,
)
operations = st.builds(
    lambda kind, request_id, state, started: Operation(
        "o", "m-1", kind, request_id, state, ago(hours=3), started_at=started
    ),
    st.sampled_from(OperationKind),
    ids,
    st.sampled_from(OperationState),
    times,
)
any_facts = st.builds(
    Facts,
    first_seen=st.just(ago(days=1)),
    power=st.builds(PowerReading, st.sampled_from(PowerState), times),
    agent=st.builds(AgentPresence, st.booleans(), times, kind=st.sampled_from(AgentKind)),
    bmc=st.none() | st.just(BmcFacts("b")),
    operation=st.none() | operations,
    records=st.lists(records, max_size=4).map(lambda found: tuple(sorted(found, key=lambda record: record.at))),
    last_reboot_at=times,
    last_power_on_at=times,
    last_script_at=times,
    last_script_mode=st.none() | st.sampled_from(BootMode),
)


@given(resources, any_facts)
def test_the_wall_holds_everywhere(seen: Seen | None, known: Facts) -> None:
    """Somewhere in the space of all situations: a machine is touched that Omni did not accept, a wipe is repeated, a reboot
    comes too soon, a machine that is kept off is switched on, or one without a BMC or a wipe is called ready."""
    before = Desired(acceptance=Acceptance.ACCEPTED)
    wanted = omni.desired(seen, before, known, token="")
    plan = lifecycle.decide("m-1", wanted, known, NOW, POLICY)
    allowed = (
        seen is not None
        and not seen.tearing_down
        and not seen.spec.cordoned
        and seen.spec.acceptance_status == wire.Acceptance.ACCEPTED
    )
    if isinstance(plan.step, Operate | SetPower | Answer):
        assert allowed
    if isinstance(plan.step, Operate) and plan.step.kind is OperationKind.WIPE:
        assert seen is not None
        assert plan.step.request_id == seen.spec.wipe_id
        assert not lifecycle.is_answered(known, RecordKind.WIPE, seen.spec.wipe_id)
        assert lifecycle.active_operation(known) is None
    up = max(filter(None, (known.last_reboot_at, known.last_power_on_at)), default=None)
    if isinstance(plan.step, Operate) and plan.step.kind is OperationKind.REBOOT and up is not None:
        assert NOW - up >= INTERVAL
    if isinstance(plan.step, SetPower):
        assert known.bmc is not None
        if up is not None and plan.step.action is not PowerAction.ON:
            assert NOW - up >= INTERVAL
        if plan.step.action is not PowerAction.OFF:
            assert not lifecycle.is_kept_off(wanted, known) or plan.phase is Phase.READY
    if plan.phase in (Phase.READY, Phase.INSTALLING):
        assert known.bmc is not None
    if plan.boot_mode in (BootMode.INSTALL, BootMode.DISK):
        assert allowed
        assert not lifecycle.requires_wipe(wanted, known)

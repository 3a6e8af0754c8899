"""The lifecycle, row by row: what is known and wanted on the left, what is decided on the right."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.bmc import NextBoot, PowerAction, PowerReading, PowerState
from provider.domain.inventory import Cpu, Disk, FirmwareKind, Inventory, System
from provider.domain.machine import (
    Acceptance,
    AgentKind,
    AgentPresence,
    Allocation,
    BmcFacts,
    BootMode,
    Desired,
    Facts,
    Outcome,
    Phase,
    PreferredPower,
    Record,
    RecordKind,
)
from provider.domain.operation import Operation, OperationKind, OperationState
from provider.planning import lifecycle
from provider.planning.lifecycle import Answer, Interrupt, Operate, Plan, ReadPower, SetPower

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
POLICY = lifecycle.Policy(
    poll_interval=timedelta(minutes=1),
    minimum_reboot_interval=timedelta(minutes=15),
    boot_timeout=timedelta(minutes=10),
    install_timeout=timedelta(hours=4),
    wipe_attempts=3,
    wipe_retry_after=timedelta(minutes=1),
)
DISK = Disk(path="/dev/vda", size_bytes=1 << 30, serial="VD1", supports_discard=True)
INVENTORY = Inventory(
    system=System(), firmware=FirmwareKind.BIOS, architecture="x86_64", cpu=Cpu(), memory_bytes=1 << 30, disks=(DISK,)
)
ACCEPTED = Desired(acceptance=Acceptance.ACCEPTED)
ALLOCATED = replace(ACCEPTED, allocation=Allocation("debian"))


def ago(**units: float) -> datetime:
    return NOW - timedelta(**units)


def facts(state: PowerState = PowerState.OFF, /, **changes: object) -> Facts:
    """A machine with a BMC that was just read, and no agent."""
    plain = Facts(
        first_seen=ago(days=1), power=PowerReading(state, ago(seconds=1), "bmc"), bmc=BmcFacts("10.0.0.1:623")
    )
    return replace(plain, **changes)


def with_agent(**changes: object) -> Facts:
    """The agent is connected and has reported the disks."""
    return facts(
        PowerState.ON,
        **{
            "agent": AgentPresence(connected=True, enrolled_at=ago(minutes=1)),
            "inventory": INVENTORY,
            "inventory_at": ago(seconds=50),
            "last_script_at": ago(minutes=2),
            "last_script_mode": BootMode.AGENT,
            **changes,
        },
    )


def done(kind: RecordKind, request_id: str = "", **when: float) -> Record:
    return Record(kind, request_id, ago(**when))


def failed(count: int, **when: float) -> tuple[Record, ...]:
    return (Record(RecordKind.WIPE, "", ago(**when), Outcome.FAILED, "disk on fire"),) * count


WIPED = (done(RecordKind.WIPE, hours=2),)
INSTALLED = (*WIPED, done(RecordKind.INSTALL, "i", hours=1))


def wiping(state: OperationState = OperationState.RUNNING, **changes: object) -> Operation:
    operation = Operation("wipe-1", "m-1", OperationKind.WIPE, "", state, ago(seconds=40), started_at=ago(seconds=30))
    return replace(operation, **changes)


def decide(desired: Desired, known: Facts) -> Plan:
    return lifecycle.decide("m-1", desired, known, NOW, POLICY)


ROWS = [
    # desired, facts, phase, boot mode, power, step
    (
        "rejected",
        replace(ACCEPTED, acceptance=Acceptance.REJECTED),
        facts(),
        Phase.REJECTED,
        BootMode.NOTHING,
        None,
        None,
    ),
    ("cordoned", replace(ACCEPTED, cordoned=True), facts(), Phase.CORDONED, BootMode.NOTHING, None, None),
    ("unknown", Desired(), facts(), Phase.DISCOVERED, BootMode.AGENT, None, None),
    ("pending, on", Desired(), with_agent(), Phase.PENDING, BootMode.AGENT, None, None),
    (
        "wipe due, off",
        ACCEPTED,
        facts(),
        Phase.PREPARING,
        BootMode.AGENT,
        PowerState.ON,
        SetPower(PowerAction.ON, NextBoot.NETWORK),
    ),
    (
        "wipe due, runs something else",
        ACCEPTED,
        facts(PowerState.ON),
        Phase.PREPARING,
        BootMode.AGENT,
        PowerState.ON,
        SetPower(PowerAction.CYCLE, NextBoot.NETWORK),
    ),
    (
        "wipe due, booting",
        ACCEPTED,
        facts(PowerState.ON, last_power_on_at=ago(minutes=1)),
        Phase.PREPARING,
        BootMode.AGENT,
        PowerState.ON,
        None,
    ),
    (
        "wipe due, agent script served",
        ACCEPTED,
        facts(PowerState.ON, last_script_at=ago(minutes=1), last_script_mode=BootMode.AGENT),
        Phase.PREPARING,
        BootMode.AGENT,
        PowerState.ON,
        None,
    ),
    (
        "wipe due, rebooted too recently",
        ACCEPTED,
        facts(
            PowerState.ON,
            last_reboot_at=ago(minutes=11),
            last_script_at=ago(minutes=10, seconds=30),
            last_script_mode=BootMode.DISK,
        ),
        Phase.PREPARING,
        BootMode.AGENT,
        PowerState.ON,
        None,
    ),
    (
        "wiping",
        ACCEPTED,
        with_agent(operation=wiping()),
        Phase.WIPING,
        BootMode.AGENT,
        PowerState.ON,
        None,
    ),
    (
        "planned wipe, agent not there",
        ACCEPTED,
        facts(operation=wiping(OperationState.PLANNED, started_at=None)),
        Phase.PREPARING,
        BootMode.AGENT,
        PowerState.ON,
        SetPower(PowerAction.ON, NextBoot.NETWORK),
    ),
    (
        "wipe failed a moment ago",
        ACCEPTED,
        with_agent(records=failed(1, seconds=10)),
        Phase.PREPARING,
        BootMode.AGENT,
        PowerState.ON,
        None,
    ),
    (
        "wipe failed for good",
        ACCEPTED,
        with_agent(records=failed(3, hours=1)),
        Phase.FAILED,
        BootMode.AGENT,
        PowerState.ON,
        None,
    ),
    (
        "ready, still on",
        ACCEPTED,
        with_agent(records=WIPED),
        Phase.READY,
        BootMode.AGENT,
        PowerState.OFF,
        SetPower(PowerAction.OFF),
    ),
    ("ready, off", ACCEPTED, facts(records=WIPED), Phase.READY, BootMode.AGENT, PowerState.OFF, None),
    (
        "ready, should rest on",
        replace(ACCEPTED, preferred_power=PreferredPower.ON),
        facts(records=WIPED),
        Phase.READY,
        BootMode.AGENT,
        PowerState.ON,
        SetPower(PowerAction.ON, NextBoot.NETWORK),
    ),
    (
        "allocated, off",
        ALLOCATED,
        facts(records=WIPED),
        Phase.INSTALLING,
        BootMode.INSTALL,
        PowerState.ON,
        SetPower(PowerAction.ON, NextBoot.NETWORK),
    ),
    (
        "allocated, agent still there",
        ALLOCATED,
        with_agent(records=WIPED),
        Phase.INSTALLING,
        BootMode.INSTALL,
        PowerState.ON,
        SetPower(PowerAction.CYCLE, NextBoot.NETWORK),
    ),
    (
        "allocated, installer at work",
        ALLOCATED,
        facts(PowerState.ON, records=WIPED, last_script_at=ago(minutes=30), last_script_mode=BootMode.INSTALL),
        Phase.INSTALLING,
        BootMode.INSTALL,
        PowerState.ON,
        None,
    ),
    (
        "installed, running",
        ALLOCATED,
        facts(PowerState.ON, records=INSTALLED),
        Phase.INSTALLED,
        BootMode.DISK,
        PowerState.ON,
        None,
    ),
    (
        "installed, off",
        ALLOCATED,
        facts(records=INSTALLED),
        Phase.INSTALLED,
        BootMode.DISK,
        PowerState.ON,
        SetPower(PowerAction.ON),
    ),
    (
        "installed, kept off by request",
        replace(ALLOCATED, power_off_id="p"),
        facts(records=(*INSTALLED, done(RecordKind.POWER_OFF, "p", minutes=5))),
        Phase.INSTALLED,
        BootMode.DISK,
        PowerState.OFF,
        None,
    ),
    (
        "installed, power-off asked",
        replace(ALLOCATED, power_off_id="p"),
        facts(PowerState.ON, records=INSTALLED),
        Phase.INSTALLED,
        BootMode.DISK,
        PowerState.OFF,
        SetPower(PowerAction.OFF, answers=(RecordKind.POWER_OFF, "p")),
    ),
    (
        "power-off asked, off already",
        replace(ALLOCATED, power_off_id="p"),
        facts(records=INSTALLED),
        Phase.INSTALLED,
        BootMode.DISK,
        PowerState.OFF,
        Answer(RecordKind.POWER_OFF, "p", "it was off already"),
    ),
    (
        "power-off request of an earlier life",
        replace(ALLOCATED, power_off_id="p"),
        facts(records=(done(RecordKind.POWER_OFF, "p", hours=3), *WIPED)),
        Phase.INSTALLING,
        BootMode.INSTALL,
        PowerState.ON,
        SetPower(PowerAction.ON, NextBoot.NETWORK),
    ),
    (
        "reboot asked",
        replace(ALLOCATED, reboot_id="r"),
        facts(PowerState.ON, records=INSTALLED),
        Phase.INSTALLED,
        BootMode.DISK,
        PowerState.ON,
        SetPower(PowerAction.CYCLE, answers=(RecordKind.REBOOT, "r")),
    ),
    (
        "reboot answered",
        replace(ALLOCATED, reboot_id="r"),
        facts(PowerState.ON, records=(*INSTALLED, done(RecordKind.REBOOT, "r", minutes=5))),
        Phase.INSTALLED,
        BootMode.DISK,
        PowerState.ON,
        None,
    ),
    (
        "released: wiped for an older id",
        replace(ACCEPTED, wipe_id="w2"),
        facts(PowerState.ON, records=INSTALLED, last_script_at=ago(minutes=1), last_script_mode=BootMode.DISK),
        Phase.PREPARING,
        BootMode.AGENT,
        PowerState.ON,
        SetPower(PowerAction.CYCLE, NextBoot.NETWORK),
    ),
    (
        "a late message brings an answered wipe id back",
        replace(ACCEPTED, wipe_id=""),
        facts(records=(*WIPED, done(RecordKind.WIPE, "w2", hours=1))),
        Phase.READY,
        BootMode.AGENT,
        PowerState.OFF,
        None,
    ),
]


@pytest.mark.parametrize(
    ("desired", "known", "phase", "mode", "power", "step"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_table(
    desired: Desired, known: Facts, phase: Phase, mode: BootMode, power: PowerState | None, step: object
) -> None:
    """A row of design.md section 4 is decided differently: a script that was served is no boot yet (edge case 60)."""
    plan = decide(desired, known)
    assert (plan.phase, plan.boot_mode, plan.power, plan.step) == (phase, mode, power, step)
    assert plan.because


def test_wipe_plan_names_the_disks() -> None:
    """An accepted machine with an agent is not wiped, or its disks are not named."""
    step = decide(ACCEPTED, with_agent()).step
    assert isinstance(step, Operate)
    assert step.wipe_plan is not None
    assert [disk.serial for disk in step.wipe_plan.disks] == ["VD1"]
    assert (step.wipe_plan.machine_id, step.wipe_plan.wipe_id) == ("m-1", "")


def test_inventory_of_an_earlier_boot_opens_no_door() -> None:
    """Disks may have been swapped since the last inventory: a wipe planned from it could name the wrong ones."""
    assert decide(ACCEPTED, with_agent(inventory_at=ago(hours=1))).step is None


def test_unnamed_disk_blocks_the_wipe() -> None:
    """A disk that cannot be named is left unerased and the machine becomes ready all the same."""
    nameless = replace(INVENTORY, disks=(DISK, Disk(path="/dev/vdb", size_bytes=1)))
    plan = decide(ACCEPTED, with_agent(inventory=nameless))
    assert (plan.phase, plan.step) == (Phase.FAILED, None)
    assert "/dev/vdb" in plan.because


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (with_agent(operation=wiping(started_at=ago(minutes=5))), "booted again"),
        (facts(PowerState.OFF, operation=wiping()), "switched off"),
        (facts(PowerState.ON, operation=wiping()), "silent"),
    ],
)
def test_abandoned_wipe_is_closed(known: Facts, why: str) -> None:
    """A wipe whose agent is gone stays "running" for ever, or counts as done."""
    step = decide(ACCEPTED, known).step
    assert isinstance(step, Interrupt)
    assert why in step.why


@pytest.mark.parametrize(
    "desired",
    [
        Desired(),
        replace(ACCEPTED, cordoned=True),
        replace(ACCEPTED, wipe_id="w2"),
        replace(ACCEPTED, acceptance=Acceptance.REJECTED),
    ],
)
@pytest.mark.parametrize("state", [OperationState.PLANNED, OperationState.RUNNING])
def test_unwanted_wipe_is_stopped(desired: Desired, state: OperationState) -> None:
    """A wipe goes on after the machine was rejected, cordoned, or another wipe was asked for."""
    step = decide(desired, with_agent(operation=wiping(state))).step
    assert step == Interrupt("wipe-1", "it is no longer wanted")


def test_stale_reading_comes_first() -> None:
    """Power is commanded on the word of an old reading."""
    stale = facts(power=PowerReading(PowerState.OFF, ago(minutes=2), "bmc"))
    assert decide(ACCEPTED, stale).step == ReadPower()


def test_dead_bmc_waits_and_says_so() -> None:
    """A BMC that does not answer is called again and again, or nobody is told."""
    bmc = BmcFacts("10.0.0.1:623", failures=3, last_error="no answer", retry_at=NOW + timedelta(minutes=1))
    plan = decide(ACCEPTED, facts(bmc=bmc))
    assert (plan.step, plan.wake_at) == (None, bmc.retry_at)
    assert "no answer" in plan.because


def test_dead_bmc_does_not_stop_a_wipe() -> None:
    """The agent's work waits for a BMC that it does not need."""
    bmc = BmcFacts("10.0.0.1:623", failures=3, last_error="no answer", retry_at=NOW + timedelta(minutes=1))
    known = with_agent(bmc=bmc, power=PowerReading())
    assert isinstance(decide(ACCEPTED, known).step, Operate)


def test_power_command_is_not_repeated_at_once() -> None:
    """A BMC that still reports the old state is told again, and a machine is toggled for ever."""
    told = facts(last_power_on_at=ago(seconds=5))
    assert decide(ACCEPTED, told).step is None
    old_reading = facts(last_power_on_at=ago(seconds=40), power=PowerReading(PowerState.OFF, ago(seconds=39), "bmc"))
    assert decide(ACCEPTED, old_reading).step == ReadPower()
    ignored = facts(last_power_on_at=ago(seconds=40))
    assert decide(ACCEPTED, ignored).step == SetPower(PowerAction.ON, NextBoot.NETWORK)


def test_runs_something_else() -> None:
    """A machine that runs the system of its last owner is never sent to its installer."""
    assert decide(ALLOCATED, facts(PowerState.ON, records=WIPED)).step == SetPower(PowerAction.CYCLE, NextBoot.NETWORK)


def test_sent_elsewhere_on_its_way() -> None:
    """A machine that was told to boot its disk is waited for as if it came to us."""
    sent = {"last_script_at": ago(minutes=6, seconds=30), "last_script_mode": BootMode.DISK}
    known = facts(PowerState.ON, last_power_on_at=ago(minutes=7), **sent)
    assert decide(ACCEPTED, known).step == SetPower(PowerAction.CYCLE, NextBoot.NETWORK)


@pytest.mark.parametrize(("seconds", "again"), [(59, False), (60, True)])
def test_pause_between_wipes(seconds: float, again: bool) -> None:
    """A wipe that failed is tried at once, or later than the settings say."""
    known = with_agent(records=failed(1, seconds=seconds))
    assert isinstance(decide(ACCEPTED, known).step, Operate) is again


def test_machine_without_bmc_uses_the_agent() -> None:
    """A machine without a BMC can never be switched off or sent to its installer."""
    alone = with_agent(bmc=None, power=PowerReading())
    assert decide(ACCEPTED, replace(alone, records=WIPED)).step == Operate(OperationKind.POWER_OFF, "")
    assert decide(ALLOCATED, replace(alone, records=WIPED)).step == Operate(OperationKind.REBOOT, "")
    talos = replace(alone, records=WIPED, agent=replace(alone.agent, kind=AgentKind.TALOS))
    assert decide(ACCEPTED, talos).step is None, "a Talos agent cannot switch it off"


times = st.none() | st.integers(0, 10_000).map(lambda s: NOW - timedelta(seconds=s))
any_desired = st.builds(
    Desired,
    acceptance=st.sampled_from(Acceptance),
    cordoned=st.booleans(),
    allocation=st.none() | st.just(Allocation("debian")),
    preferred_power=st.sampled_from(PreferredPower),
    wipe_id=st.sampled_from(["", "w1"]),
    reboot_id=st.sampled_from(["", "r1"]),
    power_off_id=st.sampled_from(["", "p1"]),
)
any_record = st.builds(
    Record,
    st.sampled_from(RecordKind),
    st.sampled_from(["", "w1", "r1", "p1"]),
    times.filter(bool),
    st.sampled_from(Outcome),
)
any_operation = st.builds(
    wiping,
    st.sampled_from(OperationState),
    kind=st.sampled_from(OperationKind),
    request_id=st.sampled_from(["", "w1"]),
    started_at=times,
)
any_facts = st.builds(
    Facts,
    first_seen=st.just(ago(days=1)),
    power=st.builds(PowerReading, st.sampled_from(PowerState), times),
    agent=st.builds(AgentPresence, st.booleans(), times),
    inventory=st.none() | st.just(INVENTORY),
    inventory_at=times,
    bmc=st.none() | st.just(BmcFacts("b")),
    operation=st.none() | any_operation,
    records=st.lists(any_record, max_size=4).map(lambda r: tuple(sorted(r, key=lambda record: record.at))),
    last_reboot_at=times,
    last_power_on_at=times,
    last_power_off_at=times,
    last_script_at=times,
    last_script_mode=st.none() | st.sampled_from(BootMode),
)


@given(any_desired, any_facts)
def test_invariants_hold_everywhere(desired: Desired, known: Facts) -> None:
    """Somewhere in the space of all situations: a wipe without acceptance, an answered wipe repeated, a reboot too soon, a
    machine left alone that is touched, or one that is ready without a complete wipe."""
    plan = decide(desired, known)
    free = desired.acceptance is Acceptance.ACCEPTED and not desired.cordoned
    answered = lifecycle.is_answered(known, RecordKind.WIPE, desired.wipe_id)
    if isinstance(plan.step, Operate | SetPower):
        assert free
    if isinstance(plan.step, Operate) and plan.step.kind is OperationKind.WIPE:
        assert not answered
        assert lifecycle.active_operation(known) is None
    if isinstance(plan.step, SetPower) and plan.step.action is PowerAction.CYCLE and known.last_reboot_at:
        assert NOW - known.last_reboot_at >= POLICY.minimum_reboot_interval
    if plan.phase in (Phase.READY, Phase.INSTALLING, Phase.INSTALLED):
        assert free
        assert answered
    if plan.boot_mode in (BootMode.INSTALL, BootMode.DISK):
        assert free
        assert answered


WIPING = Operation(
    "o-1", "m-1", OperationKind.WIPE, "", OperationState.RUNNING, created_at=ago(minutes=9), started_at=ago(minutes=8)
)


@pytest.mark.parametrize(
    ("operation", "since", "may_be"),
    [
        (None, {}, False),
        (WIPING, {}, True),
        (replace(WIPING, state=OperationState.INTERRUPTED), {}, True),
        (replace(WIPING, state=OperationState.FAILED), {}, True),
        (replace(WIPING, state=OperationState.DONE), {}, False),
        (replace(WIPING, started_at=None), {}, False),
        (replace(WIPING, kind=OperationKind.REBOOT), {}, False),
        (WIPING, {"last_script_at": ago(minutes=10)}, True),
        (WIPING, {"last_script_at": ago(minutes=7)}, False),
        (WIPING, {"last_reboot_at": ago(minutes=7)}, False),
        (WIPING, {"last_power_off_at": ago(minutes=7)}, False),
        (WIPING, {"last_power_on_at": ago(minutes=7)}, True),
    ],
)
def test_talos_that_goes_on_wiping(operation: Operation | None, since: dict[str, datetime], may_be: bool) -> None:
    """Disks of a machine that was cordoned are wiped on, or a machine that does nothing of the kind is rebooted."""
    assert lifecycle.may_be_wiping(facts(operation=operation, **since)) is may_be

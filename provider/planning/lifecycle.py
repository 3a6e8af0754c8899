"""
What should happen to one machine next: the whole lifecycle as one pure function over (desired, facts, now).

`decide` gives a `Plan`: the phase for people, the boot mode for its next boot, where its power should be, the one next
step, and the rule with a sentence that says why. The reconcile worker performs the step, the result becomes a fact,
and the plan is made again; nothing of a plan is ever stored. Rules read from the top; the first that applies decides:

| Rule | Applies when | Boot mode | Power |
|---|---|---|---|
| rejected, cordoned | somebody said so | nothing | left alone |
| pending | nobody accepted it yet | agent; no disk is touched | left alone |
| bmc-set-up | accepted, an agent is there that can set up the BMC that we lack | agent | on |
| wipe-due | accepted, and `wipe_id` not answered by a complete wipe | agent | on |
| bmc-missing | without a BMC it is of no use to the manager | agent | on |
| install | allocated, no install event since the last wipe | install | on |
| installed | allocated, installed | disk | on, unless `power_off_id` is in force |
| ready | nothing else is wanted | agent | as preferred |

Managers differ in what they leave to us; `Policy` says what holds. Which agent "agent" means is `planning.agents`' business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from provider.domain.bmc import NextBoot, PowerAction, PowerState
from provider.domain.mac import MacAddress
from provider.domain.machine import (
    Acceptance,
    AgentKind,
    BootMode,
    Desired,
    Facts,
    Outcome,
    Phase,
    PreferredPower,
    Record,
    RecordKind,
)
from provider.domain.operation import Operation, OperationKind, OperationState, WipePlan
from provider.kit import backoff
from provider.planning import agents, wipe


@dataclass(frozen=True)
class Policy:
    """The settings that decisions depend on; from `agent` on, what else a manager like Omni needs."""

    poll_interval: timedelta
    minimum_reboot_interval: timedelta
    boot_timeout: timedelta
    install_timeout: timedelta
    wipe_attempts: int
    """0: without end, with growing pauses, for a manager that cannot ask for another wipe."""
    wipe_retry_after: timedelta
    agent: agents.Choice = field(default_factory=agents.Choice)
    """Which agent machines boot."""
    wipe_zeroes: bool = False
    """Whether the Talos agent writes zeroes over all of each disk. Ours needs no telling."""
    sets_up_bmc: bool = False
    """Let the Talos agent make us an account on a BMC that we do not know."""
    requires_bmc: bool = False
    """A machine whose power we cannot switch is never installed and never ready."""
    manager_powers_off: bool = False
    """A power-off request means that we do not switch it on; switching it off is the manager's part."""
    installs_out_of_agent: bool = False
    """A machine that is on is sent to its installer out of agent mode only. Whatever else runs on it may be a system of whose
    installation a restored manager knows nothing."""
    rest_after: timedelta = timedelta(0)
    """An idle machine is left on for so long after it was switched on or rebooted."""
    power_on_counts: bool = False
    """Being switched on counts as a reboot for the minimum interval between reboots."""

    def of(self, macs: Iterable[MacAddress]) -> Policy:
        """What holds for the machine with these addresses."""
        choice = self.agent.of(macs)
        return self if choice is self.agent else replace(self, agent=choice)


@dataclass(frozen=True)
class ReadPower:
    """Ask the BMC for the chassis power."""


@dataclass(frozen=True)
class SetPower:
    """
    Tell the BMC to act, after setting a one-time boot override where `next_boot` is given.

    `answers` is the request that is answered once the BMC has obeyed.
    """

    action: PowerAction
    next_boot: NextBoot | None = None
    answers: tuple[RecordKind, str] | None = None


@dataclass(frozen=True)
class Operate:
    """Give the agent an operation; only a wipe has a plan."""

    kind: OperationKind
    request_id: str
    wipe_plan: WipePlan | None = None
    attempt: int = 1


@dataclass(frozen=True)
class Interrupt:
    """Close an operation that nobody performs any more, or that is no longer wanted."""

    operation_id: str
    why: str


@dataclass(frozen=True)
class Answer:
    """Write down that a request is answered, because there was nothing left to do for it."""

    kind: RecordKind
    request_id: str
    detail: str


NEXT_AGENT = "next-agent"
"""Request id of the reboot from one agent into the other, which nobody asked for: it may come before acceptance."""

LONGEST_WIPE_PAUSE = timedelta(hours=1)
FIRST_BMC_PAUSE = timedelta(minutes=1)
LONGEST_BMC_PAUSE = timedelta(hours=6)
"""Pauses double from failure to failure, up to these."""

MOST_AHEAD = timedelta(minutes=15)
"""Times further ahead than this are of a clock that was wrong then, and count as unknown: waiting for them would be for ever."""

SETTLE = timedelta(seconds=15)
"""After a power command many BMCs report the old state for a while (seen in the field: up to 15 s)."""

Step = ReadPower | SetPower | Operate | Interrupt | Answer


@dataclass(frozen=True)
class Plan:
    """One decision. `power` None means: left alone. `wake_at` is when time alone may change the decision."""

    phase: Phase
    rule: str
    because: str
    boot_mode: BootMode
    power: PowerState | None
    step: Step | None = None
    wake_at: datetime | None = None
    agent: AgentKind = AgentKind.BOOTWRIGHT
    """Which one it boots when it boots an agent."""


# --- predicates, each a line of the policy ---------------------------------------------------------------------------


def this_life(facts: Facts) -> tuple[Record, ...]:
    """The records since the manager gave the machine up; all of them, if it never did."""
    ends = [index for index, record in enumerate(facts.records) if record.kind is RecordKind.REMOVED]
    return facts.records[ends[-1] + 1 :] if ends else facts.records


def records_of(facts: Facts, kind: RecordKind, outcome: Outcome = Outcome.DONE) -> list[Record]:
    """The answered requests of one kind, oldest first."""
    return [record for record in this_life(facts) if record.kind is kind and record.outcome is outcome]


def is_answered(facts: Facts, kind: RecordKind, request_id: str) -> bool:
    """
    Whether this very request was fulfilled; a late or repeated message changes nothing then.

    An id stays answered for ever. Only the empty one, of the first wipe, is due again for a machine that was given up.
    """
    records = facts.records if request_id else this_life(facts)
    answer = (kind, Outcome.DONE, request_id)
    return any((record.kind, record.outcome, record.request_id) == answer for record in records)


def last_wipe(facts: Facts) -> Record | None:
    """The last complete wipe."""
    wipes = records_of(facts, RecordKind.WIPE)
    return wipes[-1] if wipes else None


def requires_wipe(desired: Desired, facts: Facts) -> bool:
    """An accepted machine whose current wipe id was not answered by a complete wipe."""
    return desired.acceptance is Acceptance.ACCEPTED and not is_answered(facts, RecordKind.WIPE, desired.wipe_id)


def is_installed(desired: Desired, facts: Facts) -> bool:
    """An install event came after the last wipe, to us or to the manager; never read from the disk."""
    wiped = last_wipe(facts)
    installs = records_of(facts, RecordKind.INSTALL)
    return sees_system(desired, facts) or any(wiped is None or record.at >= wiped.at for record in installs)


def sees_system(desired: Desired, facts: Facts) -> bool:
    """The manager has seen a system boot that was installed after the last wipe."""
    wiped = last_wipe(facts)
    return desired.install_event > (0 if wiped is None else wiped.install_event)


def is_power_off_in_force(desired: Desired, facts: Facts) -> bool:
    """A power-off request holds until it is withdrawn, or until a later wipe starts a new life."""
    if not desired.power_off_id:
        return False
    answers = [r for r in records_of(facts, RecordKind.POWER_OFF) if r.request_id == desired.power_off_id]
    wiped = last_wipe(facts)
    return not answers or wiped is None or answers[-1].at >= wiped.at


def is_power_off_new(desired: Desired, facts: Facts) -> bool:
    """With `manager_powers_off`: a request that is not the last one that was written down."""
    noted = records_of(facts, RecordKind.POWER_OFF)
    return bool(desired.power_off_id) and (not noted or noted[-1].request_id != desired.power_off_id)


def is_kept_off(desired: Desired, facts: Facts) -> bool:
    """With `manager_powers_off`: the request was written down, and for the wipe id that still holds."""
    if not desired.power_off_id or is_power_off_new(desired, facts):
        return False
    return records_of(facts, RecordKind.POWER_OFF)[-1].wipe_id == desired.wipe_id


def is_reboot_due(desired: Desired, facts: Facts) -> bool:
    """A reboot id that was not answered yet."""
    return bool(desired.reboot_id) and not is_answered(facts, RecordKind.REBOOT, desired.reboot_id)


def failed_wipes(desired: Desired, facts: Facts) -> list[Record]:
    """Failed tries at the current wipe id, oldest first."""
    return [r for r in records_of(facts, RecordKind.WIPE, Outcome.FAILED) if r.request_id == desired.wipe_id]


def bmc_set_up_allowed_at(facts: Facts, now: datetime) -> datetime | None:
    """When the next try to set up the BMC may begin; None: at once."""
    failures = records_of(facts, RecordKind.SET_UP_BMC, Outcome.FAILED)
    if not failures or failures[-1].at > now:
        return None
    return failures[-1].at + backoff.delay(len(failures), FIRST_BMC_PAUSE, LONGEST_BMC_PAUSE, spread=0)


def is_bmc_set_up_due(facts: Facts, now: datetime, policy: Policy) -> bool:
    """An agent that can do it is connected and idle, and there is no BMC yet."""
    if not policy.sets_up_bmc or facts.bmc is not None or active_operation(facts) is not None:
        return False
    there = facts.agent.connected and facts.agent.kind is AgentKind.TALOS
    return there and now >= (bmc_set_up_allowed_at(facts, now) or now)


def active_operation(facts: Facts) -> Operation | None:
    """The operation that is not over, if any."""
    return facts.operation if facts.operation is not None and is_under_way(facts.operation) else None


def is_under_way(operation: Operation) -> bool:
    """It is not over."""
    return operation.state in (OperationState.PLANNED, OperationState.RUNNING)


def may_be_wiping(facts: Facts) -> bool:
    """
    Whether a Talos may still be at a wipe that nobody waits for: one was begun, and since then the machine was not switched off,
    was not rebooted by us, and asked for no script.
    """
    operation = facts.operation
    if operation is None or operation.kind is not OperationKind.WIPE or operation.started_at is None:
        return False
    ends = (facts.last_script_at, facts.last_reboot_at, facts.last_power_off_at)
    begun = operation.started_at
    return operation.state is not OperationState.DONE and not any(end is not None and end >= begun for end in ends)


def has_reported(facts: Facts) -> bool:
    """The inventory is of this boot; disks may have been swapped since an older one."""
    enrolled, reported = facts.agent.enrolled_at, facts.inventory_at
    return enrolled is not None and reported is not None and reported >= enrolled


def power_state(facts: Facts) -> PowerState:
    """The BMC's word; a connected agent proves ON where the BMC does not answer."""
    if facts.agent.connected and facts.power.state is PowerState.UNKNOWN:
        return PowerState.ON
    return facts.power.state


def is_wanted(operation: Operation, desired: Desired) -> bool:
    """Whether the operation still serves what is desired: the wall in front of the one door."""
    if operation.kind is OperationKind.WIPE:
        accepted = desired.acceptance is Acceptance.ACCEPTED and not desired.cordoned
        return accepted and operation.request_id == desired.wipe_id
    if operation.kind is OperationKind.REBOOT and operation.request_id == NEXT_AGENT:
        return not desired.cordoned and desired.acceptance is not Acceptance.REJECTED
    return not desired.cordoned and desired.acceptance is Acceptance.ACCEPTED


def wanted_agent(desired: Desired, facts: Facts, policy: Policy) -> AgentKind:
    """Which agent the machine boots next, if it boots one."""
    return agents.wanted(desired, facts, policy.agent, wipes=requires_wipe(desired, facts))


# --- the decision ----------------------------------------------------------------------------------------------------


def decide(machine_id: str, desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    """Make the plan for one machine; see the module's table."""
    facts = _without_future(facts, now)
    plan = replace(_decide(machine_id, desired, facts, now, policy), agent=wanted_agent(desired, facts, policy))
    return _power_is_fresh(plan, facts, now, policy)


def _without_future(facts: Facts, now: datetime) -> Facts:
    """The facts without times of a clock that has jumped back since."""
    limit = now + MOST_AHEAD
    stamps = (facts.last_reboot_at, facts.last_power_on_at, facts.last_power_off_at, facts.last_script_at)
    retry_at = None if facts.bmc is None else facts.bmc.retry_at
    if all(at is None or at <= limit for at in (*stamps, facts.power.at, retry_at)):
        return facts
    reboot, on, off, script = (None if at is None or at > limit else at for at in stamps)
    return replace(
        facts,
        last_reboot_at=reboot,
        last_power_on_at=on,
        last_power_off_at=off,
        last_script_at=script,
        power=replace(facts.power, at=None) if facts.power.at is not None and facts.power.at > limit else facts.power,
        bmc=replace(facts.bmc, retry_at=None) if facts.bmc and retry_at and retry_at > limit else facts.bmc,
    )


def _decide(machine_id: str, desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    operation = active_operation(facts)
    if operation is not None and (why := _obsolete(operation, desired, facts)):
        plan = _by_desire(machine_id, desired, facts, now, policy)
        return replace(plan, step=Interrupt(operation.id, why))
    return _by_desire(machine_id, desired, facts, now, policy)


def _by_desire(machine_id: str, desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    if desired.acceptance is Acceptance.REJECTED:
        return Plan(Phase.REJECTED, "rejected", "it was rejected: we leave it alone", BootMode.NOTHING, None)
    if desired.cordoned:
        return Plan(Phase.CORDONED, "cordoned", "it is cordoned: we leave it alone", BootMode.NOTHING, None)
    if desired.acceptance is Acceptance.PENDING:
        return _pending(desired, facts, now, policy)
    plan = _accepted(machine_id, desired, facts, now, policy)
    return _without_power_off(plan, desired, facts) if policy.manager_powers_off else plan


def _accepted(machine_id: str, desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    if is_bmc_set_up_due(facts, now, policy):
        why = "the agent that is connected can give us access to its BMC"
        step = Operate(OperationKind.SET_UP_BMC, request_id="")
        return Plan(Phase.PREPARING, "bmc-set-up", why, BootMode.AGENT, PowerState.ON, step)
    if requires_wipe(desired, facts):
        return _wipe_due(machine_id, desired, facts, now, policy)
    installed = desired.allocation is not None and is_installed(desired, facts)
    if policy.requires_bmc and facts.bmc is None and not installed:
        return _bmc_missing(desired, facts, now, policy)
    if desired.allocation is None:
        return _ready(desired, facts, now, policy)
    if not policy.manager_powers_off and is_power_off_in_force(desired, facts):
        return _kept_off(desired, facts, now)
    if not installed:
        return _install(desired, facts, now, policy)
    return _installed(desired, facts, now, policy)


def _pending(desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    phase = Phase.DISCOVERED if facts.inventory is None else Phase.PENDING
    plan = Plan(phase, "pending", "nobody accepted it yet: no disk is touched", BootMode.AGENT, None)
    has_told = facts.agent.kind is AgentKind.BOOTWRIGHT and has_reported(facts)
    is_sent_on = policy.agent.inventory_before_acceptance and has_told
    if is_sent_on and agents.is_wrong(facts, wanted_agent(desired, facts, policy)):
        return _reboot_by_agent(plan, NEXT_AGENT, facts, now, policy)
    return plan


def _wipe_due(machine_id: str, desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    plan = Plan(Phase.PREPARING, "wipe-due", "", BootMode.AGENT, PowerState.ON)
    failures = failed_wipes(desired, facts)
    if 0 < policy.wipe_attempts <= len(failures):
        why = f"the wipe failed {len(failures)} times, at last: {failures[-1].detail}; mend it and ask for a new wipe"
        return replace(plan, phase=Phase.FAILED, because=why)
    if failures and failures[-1].at <= now < (again := failures[-1].at + _wipe_pause(failures, policy)):
        return replace(plan, because=f"the wipe failed and is tried again soon: {failures[-1].detail}", wake_at=again)
    if not facts.agent.connected:
        return _boot_from_network(plan, policy.boot_timeout, desired, facts, now, policy)
    if (operation := active_operation(facts)) is not None:
        phase = Phase.WIPING if operation.kind is OperationKind.WIPE else plan.phase
        return replace(plan, phase=phase, because=f"the agent has work to do: {operation.kind.value}")
    kind = wanted_agent(desired, facts, policy)
    if agents.is_wrong(facts, kind):
        return _boot_from_network(plan, policy.boot_timeout, desired, facts, now, policy)
    if kind is AgentKind.TALOS:
        everything = wipe.plan_everything(machine_id, desired.wipe_id, zeroes=policy.wipe_zeroes)
        return _wipe(plan, everything, failures)
    if facts.inventory is None or not has_reported(facts):
        return replace(plan, because="the agent has not reported the disks yet")
    wipe_plan = wipe.plan_wipe(machine_id, desired.wipe_id, facts.inventory)
    if blocked := wipe.blocking(wipe_plan):
        why = "; ".join(f"{disk.path} {disk.serial}: {disk.reason}".replace("  ", " ") for disk in blocked)
        return replace(plan, phase=Phase.FAILED, because=f"not all disks can be erased: {why}")
    return _wipe(plan, wipe_plan, failures)


def _wipe(plan: Plan, wipe_plan: WipePlan, failures: list[Record]) -> Plan:
    step = Operate(OperationKind.WIPE, wipe_plan.wipe_id, wipe_plan, attempt=len(failures) + 1)
    return replace(plan, phase=Phase.WIPING, because="accepted, and not wiped for this request yet", step=step)


def _wipe_pause(failures: list[Record], policy: Policy) -> timedelta:
    if policy.wipe_attempts:
        return policy.wipe_retry_after
    return backoff.delay(len(failures), policy.wipe_retry_after, LONGEST_WIPE_PAUSE, spread=0)


def _bmc_missing(desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    plan = Plan(Phase.PREPARING, "bmc-missing", "wiped, but we know no BMC of it", BootMode.AGENT, PowerState.ON)
    if agents.is_wrong(facts, wanted_agent(desired, facts, policy)):
        return _boot_from_network(plan, policy.boot_timeout, desired, facts, now, policy)
    return replace(plan, wake_at=bmc_set_up_allowed_at(facts, now) if policy.sets_up_bmc else None)


def _install(desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    profile = "" if desired.allocation is None else desired.allocation.profile
    plan = Plan(
        Phase.INSTALLING, "install", f"allocated to {profile}, not installed yet", BootMode.INSTALL, PowerState.ON
    )
    if is_reboot_due(desired, facts) and power_state(facts) is PowerState.ON and facts.bmc is not None:
        return _reboot(plan, desired.reboot_id, facts, now, policy)
    waits_for_us = facts.agent.connected or facts.last_script_mode is BootMode.AGENT
    if policy.installs_out_of_agent and power_state(facts) is PowerState.ON and not waits_for_us:
        return plan
    return _boot_from_network(plan, policy.install_timeout, desired, facts, now, policy)


def _installed(desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    plan = Plan(Phase.INSTALLED, "installed", "installed since its last wipe", BootMode.DISK, PowerState.ON)
    if power_state(facts) is PowerState.OFF:
        return _power_on(replace(plan, because="installed, and should run"), None, desired, facts, now)
    if is_reboot_due(desired, facts):
        return _reboot(plan, desired.reboot_id, facts, now, policy)
    return plan


def _kept_off(desired: Desired, facts: Facts, now: datetime) -> Plan:
    installed = is_installed(desired, facts)
    mode = BootMode.DISK if installed else BootMode.INSTALL
    phase = Phase.INSTALLED if installed else Phase.INSTALLING
    plan = Plan(phase, "power-off-requested", "somebody asked to keep it off", mode, PowerState.OFF)
    answers = (RecordKind.POWER_OFF, desired.power_off_id)
    answered = is_answered(facts, *answers)
    if power_state(facts) is PowerState.OFF:
        return plan if answered else replace(plan, step=Answer(*answers, "it was off already"))
    if power_state(facts) is PowerState.ON and facts.bmc is not None:
        return _obeyed(plan, SetPower(PowerAction.OFF, answers=answers), facts.last_power_off_at, facts, now)
    return plan


def _without_power_off(plan: Plan, desired: Desired, facts: Facts) -> Plan:
    """The plan, as far as a power-off request of the manager lets us go; it is written down before anything else."""
    if is_power_off_new(desired, facts):
        return replace(plan, step=Answer(RecordKind.POWER_OFF, desired.power_off_id, "noted: we do not switch it on"))
    if plan.power is not PowerState.ON or not is_kept_off(desired, facts):
        return plan
    moves = isinstance(plan.step, SetPower)
    because = f"{plan.because}; a power-off was asked for, so we do not switch it on".lstrip("; ")
    return replace(plan, rule="power-off-requested", because=because, power=None, step=None if moves else plan.step)


def _ready(desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    runs = desired.preferred_power is PreferredPower.ON or sees_system(desired, facts)
    goal = PowerState.ON if runs else PowerState.OFF
    plan = Plan(Phase.READY, "ready", f"wiped and free: rests {goal.value}", BootMode.AGENT, goal)
    state = power_state(facts)
    if is_reboot_due(desired, facts) and state is not PowerState.UNKNOWN:
        if state is PowerState.OFF:
            return replace(plan, step=Answer(RecordKind.REBOOT, desired.reboot_id, "it was off"))
        return _reboot(plan, desired.reboot_id, facts, now, policy)
    if goal is PowerState.OFF and state is PowerState.ON:
        return _power_off(plan, facts, now, policy)
    if goal is PowerState.ON and state is PowerState.OFF:
        return _power_on(plan, NextBoot.NETWORK, desired, facts, now)
    if goal is PowerState.ON and agents.is_wrong(facts, wanted_agent(desired, facts, policy)):
        return _boot_from_network(plan, policy.boot_timeout, desired, facts, now, policy)
    return plan


# --- ways to move power ----------------------------------------------------------------------------------------------


def _power_off(plan: Plan, facts: Facts, now: datetime, policy: Policy) -> Plan:
    if (up := _up_since(facts)) is not None and now < up + policy.rest_after:
        return replace(
            plan, because=f"{plan.because}, a while after it was switched on", wake_at=up + policy.rest_after
        )
    if facts.bmc is not None:
        return _obeyed(plan, SetPower(PowerAction.OFF), facts.last_power_off_at, facts, now)
    ours = facts.agent.connected and facts.agent.kind is AgentKind.BOOTWRIGHT
    if ours and active_operation(facts) is None:
        return replace(plan, step=Operate(OperationKind.POWER_OFF, request_id=""))
    return replace(plan, because=f"{plan.because}; it has no BMC and no agent that could switch it off")


def _power_on(plan: Plan, next_boot: NextBoot | None, desired: Desired, facts: Facts, now: datetime) -> Plan:
    if facts.bmc is None:
        return replace(plan, because=f"{plan.because}; it has no BMC: switch it on by hand")
    step = SetPower(PowerAction.ON, next_boot, _due_reboot(desired, facts))
    return _obeyed(plan, step, facts.last_power_on_at, facts, now)


def _due_reboot(desired: Desired, facts: Facts) -> tuple[RecordKind, str] | None:
    """What any fresh start of the machine answers, whatever its reason."""
    return (RecordKind.REBOOT, desired.reboot_id) if is_reboot_due(desired, facts) else None


def _obeyed(plan: Plan, step: SetPower, told_at: datetime | None, facts: Facts, now: datetime) -> Plan:
    """Repeat a power command only when a reading taken `SETTLE` after the last one still shows the old state."""
    if told_at is None:
        return replace(plan, step=step)
    trusted = told_at + SETTLE
    if now < trusted:
        return replace(plan, wake_at=trusted)
    if facts.power.at is None or facts.power.at < trusted:
        return replace(plan, step=ReadPower())
    return replace(plan, step=step)


def _reboot(plan: Plan, reboot_id: str, facts: Facts, now: datetime, policy: Policy) -> Plan:
    if facts.bmc is None:
        return replace(plan, because=f"{plan.because}; a reboot is wanted, but it has no BMC")
    if (free := _reboot_allowed_at(facts, policy)) is not None and now < free:
        return replace(plan, because=f"{plan.because}; a reboot is wanted and waits for the interval", wake_at=free)
    next_boot = None if plan.boot_mode is BootMode.DISK else NextBoot.NETWORK
    return replace(plan, step=SetPower(PowerAction.CYCLE, next_boot, (RecordKind.REBOOT, reboot_id)))


def _boot_from_network(
    plan: Plan, patience: timedelta, desired: Desired, facts: Facts, now: datetime, policy: Policy
) -> Plan:
    """Bring the machine to us: wait while it is on its way, else switch it on, else make it boot again."""
    state, mode = power_state(facts), plan.boot_mode
    if state is PowerState.OFF:
        why = plan.because or f"it must boot from the network ({mode.value})"
        return _power_on(replace(plan, because=why), NextBoot.NETWORK, desired, facts, now)
    if (until := _on_its_way_until(mode, patience, facts, policy)) is not None and now < until:
        return replace(plan, because=plan.because or f"it is booting ({mode.value})", wake_at=until)
    if facts.bmc is None:
        return _without_bmc(plan, desired, facts, now, policy)
    if state is PowerState.UNKNOWN:
        return replace(plan, because=plan.because or "its power state is not known")
    if (free := _reboot_allowed_at(facts, policy)) is not None and now < free:
        why = f"it must boot again ({mode.value}), and waits for the minimum reboot interval"
        return replace(plan, because=why, wake_at=free)
    why = plan.because or f"it is on and runs something else: it must boot from the network ({mode.value})"
    step = SetPower(PowerAction.CYCLE, NextBoot.NETWORK, _due_reboot(desired, facts))
    return replace(plan, because=why, step=step)


def _without_bmc(plan: Plan, desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    if facts.agent.connected:
        reboot_id = desired.reboot_id if is_reboot_due(desired, facts) else ""
        return _reboot_by_agent(plan, reboot_id, facts, now, policy)
    return replace(plan, because=f"{plan.because or 'it must boot again'}; it has no BMC: do it by hand".lstrip("; "))


def _reboot_by_agent(plan: Plan, reboot_id: str, facts: Facts, now: datetime, policy: Policy) -> Plan:
    if active_operation(facts) is not None:
        return plan
    if (free := _reboot_allowed_at(facts, policy)) is not None and now < free:
        return replace(plan, wake_at=free)
    return replace(plan, step=Operate(OperationKind.REBOOT, reboot_id))


def _on_its_way_until(mode: BootMode, patience: timedelta, facts: Facts, policy: Policy) -> datetime | None:
    """Until when the boot that is under way, if one is, may still end where it should."""
    started, script, enrolled = _up_since(facts), facts.last_script_at, facts.agent.enrolled_at
    left = max(filter(None, (started, script)), default=None)
    if mode is BootMode.AGENT and facts.agent.connected and enrolled and left and enrolled >= left:
        return None  # It has arrived: as the wrong agent.
    if started is not None and (script is None or script < started):
        return started + policy.boot_timeout
    if script is not None and facts.last_script_mode is mode:
        return script + patience
    return None


def _up_since(facts: Facts) -> datetime | None:
    """When we last switched it on or made it boot again."""
    return max(filter(None, (facts.last_power_on_at, facts.last_reboot_at)), default=None)


def _reboot_allowed_at(facts: Facts, policy: Policy) -> datetime | None:
    last = _up_since(facts) if policy.power_on_counts else facts.last_reboot_at
    return None if last is None else last + policy.minimum_reboot_interval


# --- operations and readings that have gone stale --------------------------------------------------------------------


def _obsolete(operation: Operation, desired: Desired, facts: Facts) -> str:
    """Why the operation must be closed, or empty."""
    if not is_wanted(operation, desired):
        return "it is no longer wanted"
    if operation.kind is not OperationKind.WIPE and not facts.agent.connected:
        return "the agent is gone"
    if facts.agent.connected and not agents.can_perform(facts.agent.kind, operation):
        return "the agent that is connected now cannot do it"
    started = operation.started_at
    if operation.state is not OperationState.RUNNING or started is None:
        return ""
    if facts.agent.enrolled_at is not None and facts.agent.enrolled_at > started:
        return "the agent that performed it is gone: the machine booted again"
    if not facts.agent.connected:
        off_since = facts.power.state is PowerState.OFF and facts.power.at is not None and facts.power.at > started
        return "the machine was switched off" if off_since else "the agent fell silent"
    return ""


def _power_is_fresh(plan: Plan, facts: Facts, now: datetime, policy: Policy) -> Plan:
    """
    Steps that touch power need a reading that is not older than the poll interval, and a BMC that is not backing
    off.
    """
    if facts.bmc is None or isinstance(plan.step, Operate | Interrupt | Answer):
        return plan
    if facts.bmc.retry_at is not None and now < facts.bmc.retry_at:
        because = f"{plan.because}; its BMC does not answer: {facts.bmc.last_error}"
        return replace(plan, step=None, because=because, wake_at=_earliest(plan.wake_at, facts.bmc.retry_at))
    read_at = facts.power.at
    stale_at = None if read_at is None else read_at + policy.poll_interval
    if read_at is None or stale_at is None or not read_at <= now < stale_at:
        return replace(plan, step=ReadPower())
    return replace(plan, wake_at=_earliest(plan.wake_at, stale_at))


def _earliest(*times: datetime | None) -> datetime | None:
    return min(filter(None, times), default=None)

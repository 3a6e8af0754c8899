"""
What should happen to one machine next: the whole lifecycle as one pure function over (desired, facts, now).

`decide` gives a `Plan`: the phase for people, the boot mode for its next boot, where its power should be, the one next
step, and the rule with a sentence that says why. The reconcile worker performs the step, the result becomes a fact,
and the plan is made again; nothing of a plan is ever stored. Rules read from the top; the first that applies decides:

| Rule | Applies when | Boot mode | Power |
|---|---|---|---|
| rejected, cordoned | somebody said so | nothing | left alone |
| pending | nobody accepted it yet | agent; no disk is touched | left alone |
| wipe-due | accepted, and `wipe_id` not answered by a complete wipe | agent | on |
| install | allocated, no install event since the last wipe | install | on |
| installed | allocated, installed | disk | on, unless `power_off_id` is in force |
| ready | nothing else is wanted | agent | as preferred |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from provider.domain.bmc import NextBoot, PowerAction, PowerState
from provider.domain.machine import (
    Acceptance,
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
from provider.planning import wipe


@dataclass(frozen=True)
class Policy:
    """The settings that decisions depend on."""

    poll_interval: timedelta
    minimum_reboot_interval: timedelta
    boot_timeout: timedelta
    install_timeout: timedelta
    wipe_attempts: int
    wipe_retry_after: timedelta


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


# --- predicates, each a line of the policy ---------------------------------------------------------------------------


def records_of(facts: Facts, kind: RecordKind, outcome: Outcome = Outcome.DONE) -> list[Record]:
    """The answered requests of one kind, oldest first."""
    return [record for record in facts.records if record.kind is kind and record.outcome is outcome]


def is_answered(facts: Facts, kind: RecordKind, request_id: str) -> bool:
    """Whether this very request was fulfilled; a late or repeated message changes nothing then."""
    return any(record.request_id == request_id for record in records_of(facts, kind))


def requires_wipe(desired: Desired, facts: Facts) -> bool:
    """An accepted machine whose current wipe id was not answered by a complete wipe."""
    return desired.acceptance is Acceptance.ACCEPTED and not is_answered(facts, RecordKind.WIPE, desired.wipe_id)


def is_installed(facts: Facts) -> bool:
    """An install event came after the last wipe; never read from the disk."""
    wiped = [record.at for record in records_of(facts, RecordKind.WIPE)]
    return any(not wiped or record.at >= wiped[-1] for record in records_of(facts, RecordKind.INSTALL))


def is_power_off_in_force(desired: Desired, facts: Facts) -> bool:
    """A power-off request holds until it is withdrawn, or until a later wipe starts a new life."""
    if not desired.power_off_id:
        return False
    answers = [r for r in records_of(facts, RecordKind.POWER_OFF) if r.request_id == desired.power_off_id]
    wiped = [record.at for record in records_of(facts, RecordKind.WIPE)]
    return not answers or not wiped or answers[-1].at >= wiped[-1]


def is_reboot_due(desired: Desired, facts: Facts) -> bool:
    """A reboot id that was not answered yet."""
    return bool(desired.reboot_id) and not is_answered(facts, RecordKind.REBOOT, desired.reboot_id)


def failed_wipes(desired: Desired, facts: Facts) -> list[Record]:
    """Failed tries at the current wipe id, oldest first."""
    return [r for r in records_of(facts, RecordKind.WIPE, Outcome.FAILED) if r.request_id == desired.wipe_id]


def active_operation(facts: Facts) -> Operation | None:
    """The operation that is not over, if any."""
    return facts.operation if facts.operation is not None and is_under_way(facts.operation) else None


def is_under_way(operation: Operation) -> bool:
    """It is not over."""
    return operation.state in (OperationState.PLANNED, OperationState.RUNNING)


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
    return not desired.cordoned and desired.acceptance is Acceptance.ACCEPTED


# --- the decision ----------------------------------------------------------------------------------------------------


def decide(machine_id: str, desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    """Make the plan for one machine; see the module's table."""
    plan = _decide(machine_id, desired, facts, now, policy)
    return _power_is_fresh(plan, facts, now, policy)


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
        phase = Phase.DISCOVERED if facts.inventory is None else Phase.PENDING
        return Plan(phase, "pending", "nobody accepted it yet: no disk is touched", BootMode.AGENT, None)
    if requires_wipe(desired, facts):
        return _wipe_due(machine_id, desired, facts, now, policy)
    if desired.allocation is None:
        return _ready(desired, facts, now, policy)
    if is_power_off_in_force(desired, facts):
        return _kept_off(desired, facts, now)
    if not is_installed(facts):
        return _install(desired.allocation.profile, facts, now, policy)
    return _installed(desired, facts, now, policy)


def _wipe_due(machine_id: str, desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    plan = Plan(Phase.PREPARING, "wipe-due", "", BootMode.AGENT, PowerState.ON)
    failures = failed_wipes(desired, facts)
    if len(failures) >= policy.wipe_attempts:
        why = f"the wipe failed {len(failures)} times, at last: {failures[-1].detail}; mend it and ask for a new wipe"
        return replace(plan, phase=Phase.FAILED, because=why)
    if failures and now < failures[-1].at + policy.wipe_retry_after:
        why = f"the wipe failed and is tried again soon: {failures[-1].detail}"
        return replace(plan, because=why, wake_at=failures[-1].at + policy.wipe_retry_after)
    if not facts.agent.connected:
        return _boot_from_network(plan, BootMode.AGENT, policy.boot_timeout, facts, now, policy)
    if (operation := active_operation(facts)) is not None:
        phase = Phase.WIPING if operation.kind is OperationKind.WIPE else plan.phase
        return replace(plan, phase=phase, because=f"the agent has work to do: {operation.kind.value}")
    if facts.inventory is None or not has_reported(facts):
        return replace(plan, because="the agent has not reported the disks yet")
    wipe_plan = wipe.plan_wipe(machine_id, desired.wipe_id, facts.inventory)
    if blocked := wipe.blocking(wipe_plan):
        why = "; ".join(f"{disk.path} {disk.serial}: {disk.reason}".replace("  ", " ") for disk in blocked)
        return replace(plan, phase=Phase.FAILED, because=f"not all disks can be erased: {why}")
    step = Operate(OperationKind.WIPE, desired.wipe_id, wipe_plan, attempt=len(failures) + 1)
    return replace(plan, phase=Phase.WIPING, because="accepted, and not wiped for this request yet", step=step)


def _install(profile: str, facts: Facts, now: datetime, policy: Policy) -> Plan:
    plan = Plan(
        Phase.INSTALLING, "install", f"allocated to {profile}, not installed yet", BootMode.INSTALL, PowerState.ON
    )
    return _boot_from_network(plan, BootMode.INSTALL, policy.install_timeout, facts, now, policy)


def _installed(desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    plan = Plan(Phase.INSTALLED, "installed", "installed since its last wipe", BootMode.DISK, PowerState.ON)
    if is_reboot_due(desired, facts):
        return _reboot(plan, desired.reboot_id, facts, now, policy)
    if power_state(facts) is PowerState.OFF:
        return _power_on(replace(plan, because="installed, and should run"), None, facts, now)
    return plan


def _kept_off(desired: Desired, facts: Facts, now: datetime) -> Plan:
    mode = BootMode.DISK if is_installed(facts) else BootMode.INSTALL
    phase = Phase.INSTALLED if is_installed(facts) else Phase.INSTALLING
    plan = Plan(phase, "power-off-requested", "somebody asked to keep it off", mode, PowerState.OFF)
    answers = (RecordKind.POWER_OFF, desired.power_off_id)
    answered = is_answered(facts, *answers)
    if power_state(facts) is PowerState.OFF:
        return plan if answered else replace(plan, step=Answer(*answers, "it was off already"))
    if power_state(facts) is PowerState.ON and facts.bmc is not None:
        return _obeyed(plan, SetPower(PowerAction.OFF, answers=answers), facts.last_power_off_at, facts, now)
    return plan


def _ready(desired: Desired, facts: Facts, now: datetime, policy: Policy) -> Plan:
    goal = PowerState.ON if desired.preferred_power is PreferredPower.ON else PowerState.OFF
    plan = Plan(Phase.READY, "ready", f"wiped and free: rests {goal.value}", BootMode.AGENT, goal)
    state = power_state(facts)
    if is_reboot_due(desired, facts) and state is not PowerState.UNKNOWN:
        if state is PowerState.OFF:
            return replace(plan, step=Answer(RecordKind.REBOOT, desired.reboot_id, "it was off"))
        return _reboot(plan, desired.reboot_id, facts, now, policy)
    if goal is PowerState.OFF and state is PowerState.ON:
        return _power_off(plan, facts, now)
    if goal is PowerState.ON and state is PowerState.OFF:
        return _power_on(plan, NextBoot.NETWORK, facts, now)
    return plan


# --- ways to move power ----------------------------------------------------------------------------------------------


def _power_off(plan: Plan, facts: Facts, now: datetime) -> Plan:
    if facts.bmc is not None:
        return _obeyed(plan, SetPower(PowerAction.OFF), facts.last_power_off_at, facts, now)
    if facts.agent.connected and active_operation(facts) is None:
        return replace(plan, step=Operate(OperationKind.POWER_OFF, request_id=""))
    return replace(plan, because=f"{plan.because}; it has no BMC and no agent that could switch it off")


def _power_on(plan: Plan, next_boot: NextBoot | None, facts: Facts, now: datetime) -> Plan:
    if facts.bmc is None:
        return replace(plan, because=f"{plan.because}; it has no BMC: switch it on by hand")
    return _obeyed(plan, SetPower(PowerAction.ON, next_boot), facts.last_power_on_at, facts, now)


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
    return replace(plan, step=SetPower(PowerAction.CYCLE, answers=(RecordKind.REBOOT, reboot_id)))


def _boot_from_network(
    plan: Plan, mode: BootMode, patience: timedelta, facts: Facts, now: datetime, policy: Policy
) -> Plan:
    """Bring the machine to us: wait while it is on its way, else switch it on, else make it boot again."""
    state = power_state(facts)
    if state is PowerState.OFF:
        why = plan.because or f"it must boot from the network ({mode.value})"
        return _power_on(replace(plan, because=why), NextBoot.NETWORK, facts, now)
    if (until := _on_its_way_until(mode, patience, facts, policy)) is not None and now < until:
        return replace(plan, because=plan.because or f"it is booting ({mode.value})", wake_at=until)
    if facts.bmc is None:
        return _without_bmc(plan, facts)
    if state is PowerState.UNKNOWN:
        return replace(plan, because=plan.because or "its power state is not known")
    if (free := _reboot_allowed_at(facts, policy)) is not None and now < free:
        why = f"it must boot again ({mode.value}), and waits for the minimum reboot interval"
        return replace(plan, because=why, wake_at=free)
    why = plan.because or f"it is on and runs something else: it must boot from the network ({mode.value})"
    return replace(plan, because=why, step=SetPower(PowerAction.CYCLE, NextBoot.NETWORK))


def _without_bmc(plan: Plan, facts: Facts) -> Plan:
    if facts.agent.connected and active_operation(facts) is None:
        return replace(plan, step=Operate(OperationKind.REBOOT, request_id=""))
    return replace(plan, because=f"{plan.because or 'it must boot again'}; it has no BMC: do it by hand".lstrip("; "))


def _on_its_way_until(mode: BootMode, patience: timedelta, facts: Facts, policy: Policy) -> datetime | None:
    """Until when the boot that is under way, if one is, may still end where it should."""
    started = max(filter(None, (facts.last_power_on_at, facts.last_reboot_at)), default=None)
    script = facts.last_script_at
    if started is not None and (script is None or script < started):
        return started + policy.boot_timeout
    if script is not None and facts.last_script_mode is mode:
        return script + patience
    return None


def _reboot_allowed_at(facts: Facts, policy: Policy) -> datetime | None:
    return None if facts.last_reboot_at is None else facts.last_reboot_at + policy.minimum_reboot_interval


# --- operations and readings that have gone stale --------------------------------------------------------------------


def _obsolete(operation: Operation, desired: Desired, facts: Facts) -> str:
    """Why the operation must be closed, or empty."""
    if not is_wanted(operation, desired):
        return "it is no longer wanted"
    if operation.kind is not OperationKind.WIPE and not facts.agent.connected:
        return "the agent is gone"
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
    stale_at = None if facts.power.at is None else facts.power.at + policy.poll_interval
    if stale_at is None or now >= stale_at:
        return replace(plan, step=ReadPower())
    return replace(plan, wake_at=_earliest(plan.wake_at, stale_at))


def _earliest(*times: datetime | None) -> datetime | None:
    return min(filter(None, times), default=None)

"""What a machine that asks for a boot script is told, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from provider.domain.machine import AgentKind, BootMode, Desired, HandOff
from provider.domain.secret import Secret
from provider.planning.lifecycle import Plan


@dataclass(frozen=True)
class BootDecision:
    """
    One answer to one request for a script.

    `ticket` goes into AGENT and INSTALL scripts and is good once. `profile` and `arguments` are set for INSTALL, `hand_off`
    for DISK, `agent` for AGENT, with `arguments` if that is Talos.
    """

    machine_id: str
    mode: BootMode
    rule: str
    because: str
    ticket: Secret | None = None
    profile: str | None = None
    arguments: tuple[str, ...] = ()
    hand_off: HandOff = HandOff.EXIT
    agent: AgentKind = AgentKind.BOOTWRIGHT


def decide(machine_id: str, plan: Plan, desired: Desired, profiles: frozenset[str]) -> BootDecision:
    """Turn the plan's boot mode into an answer; a profile that the settings do not have boots nothing."""
    decision = BootDecision(machine_id, plan.boot_mode, plan.rule, plan.because)
    if plan.boot_mode is BootMode.AGENT and plan.agent is AgentKind.TALOS:
        return replace(decision, agent=plan.agent, arguments=desired.agent_arguments)
    if plan.boot_mode is not BootMode.INSTALL or desired.allocation is None:
        return decision
    allocation = desired.allocation
    if allocation.profile not in profiles:
        because = f"it is allocated to profile {allocation.profile!r}, which the settings do not have"
        return BootDecision(machine_id, BootMode.NOTHING, "profile-unknown", because)
    return BootDecision(
        machine_id,
        plan.boot_mode,
        plan.rule,
        plan.because,
        profile=allocation.profile,
        arguments=allocation.arguments,
    )

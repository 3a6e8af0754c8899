"""What a machine that asks for a boot script is told, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from provider.domain.machine import AgentKind, BootMode, Desired, HandOff
from provider.domain.secret import Secret
from provider.planning import talos
from provider.planning.lifecycle import Plan


@dataclass(frozen=True)
class BootDecision:
    """
    One answer to one request for a script.

    `ticket` goes into AGENT and INSTALL scripts and is good once; Talos has no use for one. `profile` and `arguments` are set
    for INSTALL, `hand_off` for DISK, `agent` for AGENT, with `arguments` if that is Talos; `version` and `extensions` for a
    Talos that is to be installed.
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
    version: str = ""
    extensions: tuple[str, ...] = ()

    @property
    def runs_talos(self) -> bool:
        """Whether what it boots comes from an Image Factory."""
        return self.agent is AgentKind.TALOS or bool(self.version)


def decide(
    machine_id: str, plan: Plan, desired: Desired, profiles: frozenset[str], *, installs_talos: bool = False
) -> BootDecision:
    """
    Turn the plan's boot mode into an answer; a profile that the settings do not have boots nothing.

    With `installs_talos` the profile of that name is an Image Factory's to give.
    """
    decision = BootDecision(machine_id, plan.boot_mode, plan.rule, plan.because)
    if plan.boot_mode is BootMode.AGENT and plan.agent is AgentKind.TALOS:
        return replace(decision, agent=plan.agent, arguments=desired.agent_arguments)
    if plan.boot_mode is not BootMode.INSTALL or desired.allocation is None:
        return decision
    allocation = desired.allocation
    if installs_talos and allocation.profile == talos.PROFILE and allocation.version:
        return replace(
            decision,
            profile=allocation.profile,
            arguments=allocation.arguments,
            version=allocation.version,
            extensions=allocation.extensions,
        )
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

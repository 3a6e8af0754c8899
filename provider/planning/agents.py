"""
Which agent a machine boots, and whether the one that is connected is the right one.

A manager that is Omni wants to see its machines run Talos, so `talos` is what they wait in. Our own agent may come first, where
somebody asked for it: it takes the inventory, which Talos does not tell us, and it alone can prove a wipe. An agent of the wrong
kind counts as any other system that runs on the machine: it must boot again to get where it should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from provider.domain.mac import MacAddress
from provider.domain.machine import Acceptance, AgentKind, Desired, Facts
from provider.domain.operation import Operation, OperationKind


@dataclass(frozen=True)
class Choice:
    """The settings; those below `machines` matter only to machines that wait in Talos."""

    site: AgentKind = AgentKind.BOOTWRIGHT
    machines: Mapping[MacAddress, AgentKind] = field(default_factory=dict)
    """By any MAC address of a machine, where it is not as everywhere."""
    inventory: bool = False
    """Boot our own agent until there is an inventory; of accepted machines only."""
    inventory_before_acceptance: bool = False
    """Of pending ones too. They reboot once before the manager sees them."""
    verified_wipe: bool = False
    """Boot our own agent for each wipe, because it reads back what it erased."""

    def of(self, macs: Iterable[MacAddress]) -> Choice:
        """What holds for the machine with these addresses."""
        kind = next((self.machines[mac] for mac in macs if mac in self.machines), self.site)
        return self if kind is self.site else replace(self, site=kind)


def wanted(desired: Desired, facts: Facts, choice: Choice, *, wipes: bool) -> AgentKind:
    """The agent for a machine's next stay in agent mode, as `choice` is for it; `wipes` if a wipe is due."""
    if choice.site is AgentKind.BOOTWRIGHT:
        return AgentKind.BOOTWRIGHT
    pending = desired.acceptance is Acceptance.PENDING
    if facts.inventory is None and (choice.inventory_before_acceptance if pending else choice.inventory):
        return AgentKind.BOOTWRIGHT
    if wipes and choice.verified_wipe:
        return AgentKind.BOOTWRIGHT
    return AgentKind.TALOS


def is_wrong(facts: Facts, kind: AgentKind) -> bool:
    """Whether an agent is connected, and not of this kind."""
    return facts.agent.connected and facts.agent.kind is not kind


def can_perform(kind: AgentKind, operation: Operation) -> bool:
    """Whether this agent knows how: a plan of everything is for Talos, one that names disks for ours."""
    if operation.kind is OperationKind.SET_UP_BMC:
        return kind is AgentKind.TALOS
    if operation.kind is OperationKind.POWER_OFF:
        return kind is AgentKind.BOOTWRIGHT
    if operation.kind is OperationKind.WIPE and operation.wipe_plan is not None:
        return (kind is AgentKind.TALOS) is operation.wipe_plan.everything
    return True

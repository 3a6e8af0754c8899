"""Which agent a machine boots."""

from __future__ import annotations

import pytest

from provider.domain.mac import MacAddress
from provider.domain.machine import Acceptance, AgentKind, Allocation, BootMode, Desired, Facts, Phase
from provider.planning import agents, boot
from provider.planning.agents import Choice
from provider.planning.lifecycle import Plan
from tests.unit.planning.omni_world import INVENTORY, facts

OURS, TALOS = AgentKind.BOOTWRIGHT, AgentKind.TALOS
NEW, KNOWN = facts(), facts(inventory=INVENTORY)
MAC, OTHER_MAC = MacAddress("52:54:00:00:00:01"), MacAddress("52:54:00:00:00:02")
PENDING = Desired()
ACCEPTED = Desired(acceptance=Acceptance.ACCEPTED)


@pytest.mark.parametrize(
    ("choice", "desired", "known", "wipes", "kind"),
    [
        pytest.param(Choice(), ACCEPTED, NEW, True, OURS, id="default"),
        pytest.param(
            Choice(verified_wipe=True, inventory=True), ACCEPTED, KNOWN, False, OURS, id="no Talos, no matter"
        ),
        pytest.param(Choice(TALOS), PENDING, NEW, False, TALOS, id="the site's"),
        pytest.param(Choice(machines={MAC: TALOS}), PENDING, NEW, False, TALOS, id="the machine's own"),
        pytest.param(Choice(TALOS, machines={MAC: OURS}), ACCEPTED, KNOWN, True, OURS, id="the other way round"),
        pytest.param(Choice(TALOS, machines={OTHER_MAC: OURS}), ACCEPTED, KNOWN, True, TALOS, id="another machine's"),
        pytest.param(Choice(TALOS, inventory=True), ACCEPTED, NEW, False, OURS, id="inventory first"),
        pytest.param(Choice(TALOS, inventory=True), ACCEPTED, KNOWN, True, TALOS, id="there is one"),
        pytest.param(Choice(TALOS, inventory=True), PENDING, NEW, False, TALOS, id="not before acceptance"),
        pytest.param(Choice(TALOS, inventory_before_acceptance=True), PENDING, NEW, False, OURS, id="or if chosen"),
        pytest.param(Choice(TALOS, verified_wipe=True), ACCEPTED, NEW, True, OURS, id="for wipes"),
        pytest.param(Choice(TALOS, verified_wipe=True), ACCEPTED, NEW, False, TALOS, id="and for nothing else"),
    ],
)
def test_wanted(choice: Choice, desired: Desired, known: Facts, wipes: bool, kind: AgentKind) -> None:
    """A machine boots an agent that the operator did not choose."""
    own = choice.of([MacAddress("52:54:00:00:00:09"), MAC])
    assert agents.wanted(desired, known, own, wipes=wipes) is kind


@pytest.mark.parametrize(("kind", "arguments"), [(TALOS, ("debug",)), (OURS, ())])
def test_boot_decision(kind: AgentKind, arguments: tuple[str, ...]) -> None:
    """The boot desk is not told which agent, or ours gets kernel arguments that are for Talos."""
    plan = Plan(Phase.PENDING, "pending", "", BootMode.AGENT, None, agent=kind)
    decision = boot.decide("m-1", plan, Desired(agent_arguments=("debug",)), frozenset())
    assert (decision.agent, decision.arguments) == (kind, arguments)


@pytest.mark.parametrize(
    ("allocation", "profiles", "installs_talos", "mode", "version"),
    [
        (Allocation("talos", "1.13.7", ("a=1",), extensions=("x",)), set(), True, BootMode.INSTALL, "1.13.7"),
        (Allocation("talos", "1.13.7"), set(), False, BootMode.NOTHING, ""),
        (Allocation("talos", ""), set(), True, BootMode.NOTHING, ""),
        (Allocation("talos", "1"), {"talos"}, False, BootMode.INSTALL, ""),
        (Allocation("debian", "12"), {"debian"}, True, BootMode.INSTALL, ""),
    ],
)
def test_installation(
    allocation: Allocation, profiles: set[str], installs_talos: bool, mode: BootMode, version: str
) -> None:
    """An operator's own profile becomes an Image Factory's business, or Omni's allocation a kernel that nobody has."""
    plan = Plan(Phase.INSTALLING, "install", "", BootMode.INSTALL, None)
    desired = Desired(allocation=allocation)
    decision = boot.decide("m-1", plan, desired, frozenset(profiles), installs_talos=installs_talos)
    assert (decision.mode, decision.version, decision.runs_talos) == (mode, version, bool(version))
    if version:
        assert (decision.profile, decision.arguments, decision.extensions) == ("talos", ("a=1",), ("x",))

"""
Omni's words and ours: what it wants of a machine becomes `Desired`, what we know becomes an InfraMachineStatus.

Nothing is decided here that `planning.lifecycle` decides: this module only translates, and says what is to be written at Omni and
in which order a machine is given up. Resources are read and written by the link, which also seals the node unique token before it
comes here, and opens it again on its way out.

Our request ids are Omni's, as they are. The wipe id is empty until a machine is deallocated for the first time, so the empty id
is its initial wipe. An id that was answered stays answered, though a restored backup of Omni brings it back. Only a machine
that Omni gave up (`Teardown`) begins again, if a resource made after that says so.

A crash may come between any two steps: each is found due, or not, from what is stored at Omni and here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from provider.domain.bmc import PowerState
from provider.domain.inventory import Inventory
from provider.domain.mac import MacAddress
from provider.domain.machine import (
    Acceptance,
    Allocation,
    Attachment,
    Desired,
    Facts,
    Machine,
    PreferredPower,
    RecordKind,
)
from provider.planning import agents, lifecycle, lives, talos, witness
from provider.wire import omni as wire

MOST_INSTALL_EVENTS = 2**63 - 1
"""Omni counts in uint64, databases do not."""

LONGEST_LABEL = 63


def policy(
    site: lifecycle.Policy, choice: agents.Choice, *, sets_up_bmc: bool = True, wipe_zeroes: bool = False
) -> lifecycle.Policy:
    """The site's policy, with what Omni leaves to us and what it does itself."""
    return replace(
        site,
        wipe_attempts=0,
        agent=choice,
        wipe_zeroes=wipe_zeroes,
        sets_up_bmc=sets_up_bmc,
        requires_bmc=True,
        manager_powers_off=True,
        installs_out_of_agent=True,
        rest_after=site.minimum_reboot_interval,
        power_on_counts=True,
    )


@dataclass(frozen=True)
class Seen:
    """One InfraMachine as it was read: the message, and what matters of its metadata."""

    spec: wire.InfraMachine
    labels: Mapping[str, str] = field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    created: datetime | None = None
    tearing_down: bool = False


# --- from Omni -------------------------------------------------------------------------------------------------------


def desired(seen: Seen | None, before: Desired, facts: Facts, *, token: str, profile: str = talos.PROFILE) -> Desired:
    """
    What Omni wants, with a revision above that of `before` if it differs; `token` is the node unique token, sealed.

    A resource that is gone, being torn down, or of a life that ended here, wants nothing: without acceptance nobody
    touches the machine. All else stays as it was, so that a resource that comes back changes nothing. Only where there is none
    any more, nobody is left who could take back a rejection or a cordon, and the machine may join again. Numbers that we do
    not know are nobody's acceptance, and no wish for power.
    """
    if seen is None:
        return _revised(replace(before, acceptance=Acceptance.PENDING, cordoned=False), before)
    if seen.tearing_down or is_outlived(seen, facts):
        rejected = before.acceptance is Acceptance.REJECTED
        return _revised(replace(before, acceptance=before.acceptance if rejected else Acceptance.PENDING), before)
    spec = seen.spec
    arguments = tuple(spec.extra_kernel_args.split())
    wanted = Desired(
        acceptance=_ACCEPTANCE.get(spec.acceptance_status, Acceptance.PENDING),
        cordoned=spec.cordoned,
        allocation=_allocation(spec, arguments, profile),
        preferred_power=_PREFERRED_POWER.get(spec.preferred_power_state, PreferredPower.OFF),
        wipe_id=spec.wipe_id,
        reboot_id=spec.requested_reboot_id,
        power_off_id=spec.power_off_request_id,
        install_event=min(spec.install_event_id, MOST_INSTALL_EVENTS),
        manager_token=token,
        agent_arguments=arguments,
    )
    return _revised(wanted, before)


_ACCEPTANCE: Mapping[int, Acceptance] = {
    wire.Acceptance.ACCEPTED: Acceptance.ACCEPTED,
    wire.Acceptance.REJECTED: Acceptance.REJECTED,
}
_PREFERRED_POWER: Mapping[int, PreferredPower] = {wire.PreferredPower.ON: PreferredPower.ON}


def is_outlived(seen: Seen, facts: Facts) -> bool:
    """Whether a backup of Omni brought this resource back; see `lives`."""
    return lives.is_over(seen.created, facts)


def _allocation(spec: wire.InfraMachine, arguments: tuple[str, ...], profile: str) -> Allocation | None:
    if not spec.cluster_talos_version:
        return None
    return Allocation(profile, spec.cluster_talos_version, arguments, extensions=tuple(spec.extensions))


def _revised(wanted: Desired, before: Desired) -> Desired:
    """Omni's versions start again when a resource is made anew, so we count ourselves."""
    same = replace(wanted, revision=before.revision)
    return same if same == before else replace(wanted, revision=before.revision + 1)


# --- to Omni ---------------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What Omni is told of a machine; `statement` is what `planning.witness` reads when our store is lost."""

    spec: wire.InfraMachineStatus
    labels: Mapping[str, str]
    statement: str


def status(
    machine: Machine, seen: Seen, static_labels: Mapping[str, str], *, unseal: Callable[[str], str] = str
) -> Told | None:
    """
    The machine's InfraMachineStatus; None while it must be left as it is: not accepted, cordoned, torn down.

    `unseal` opens the node unique token that was on the disks when they were wiped.
    """
    wanted, facts = machine.desired, machine.facts
    if wanted.acceptance is not Acceptance.ACCEPTED or wanted.cordoned or seen.tearing_down or seen.spec.cordoned:
        return None
    reboots = lifecycle.records_of(facts, RecordKind.REBOOT)
    wiped = lifecycle.last_wipe(facts)
    is_wiped = not lifecycle.requires_wipe(wanted, facts) and seen.spec.wipe_id == wanted.wipe_id
    spec = wire.InfraMachineStatus(
        power_state=_POWER[lifecycle.power_state(facts)],
        ready_to_use=facts.bmc is not None and is_wiped,
        last_reboot_id=reboots[-1].request_id if reboots else "",
        last_reboot_timestamp=facts.last_reboot_at,
        installed=lifecycle.is_installed(wanted, facts),
        wiped_node_unique_token="" if wiped is None else unseal(wiped.manager_token),
        last_power_off_id=wanted.power_off_id if lifecycle.is_kept_off(wanted, facts) else "",
    )
    own = {key: value for key, value in static_labels.items() if not key.startswith(wire.LABEL_PREFIX)}
    mirrored = {key: seen.labels[key] for key in wire.MIRRORED_LABELS if key in seen.labels}
    return Told(spec, own | mirrored, witness.statement(wiped, seen.created))


_POWER = {
    PowerState.UNKNOWN: wire.PowerState.UNKNOWN,
    PowerState.OFF: wire.PowerState.OFF,
    PowerState.ON: wire.PowerState.ON,
}


def labels(
    inventory: Inventory | None, attachments: Mapping[MacAddress, Attachment], site: Mapping[str, str]
) -> dict[str, str]:
    """
    What Omni's machine classes can select on: hardware, the switch port that it was last seen at, and what the site says
    of itself, which wins. Sizes are written as Omni writes them, so that `>` and `<` work.
    """
    found = _hardware(inventory) | _port(attachments)
    return {key: value for key, value in found.items() if value} | dict(site)


def _hardware(inventory: Inventory | None) -> dict[str, str]:
    if inventory is None:
        return {}
    sizes = [disk.size_bytes for disk in inventory.disks if not disk.removable]
    return {
        "vendor": label_value(inventory.system.manufacturer),
        "model": label_value(inventory.system.product),
        "cpu-model": label_value(inventory.cpu.model),
        "cores": str(inventory.cpu.cores or ""),
        "threads": str(inventory.cpu.threads or ""),
        "memory": f"{round(inventory.memory_bytes / 2**30)}GiB" if inventory.memory_bytes else "",
        "disks": str(len(sizes)),
        "disk-smallest": _gigabytes(min(sizes, default=0)),
        "disk-largest": _gigabytes(max(sizes, default=0)),
        "disk-total": _gigabytes(sum(sizes)),
    }


def _port(attachments: Mapping[MacAddress, Attachment]) -> dict[str, str]:
    """Of the first interface, by its address, whose relay tells."""
    told = [seen for _, seen in sorted(attachments.items()) if seen.circuit_id or seen.remote_id]
    return {"switch": label_value(told[0].remote_id), "port": label_value(told[0].circuit_id)} if told else {}


def _gigabytes(size: int) -> str:
    return f"{size // 10**9}GB" if size else ""


def label_value(text: str) -> str:
    """What firmware and switches call themselves, in letters that need no quotes in a selector."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:LONGEST_LABEL].strip("-._")


# --- finalizers and the end ------------------------------------------------------------------------------------------


def finalizer(provider: str) -> str:
    """
    The one that we put on each InfraMachine: as Sidero's provider does for the status, which is ours to remove.

    With a name of our own, nobody could let a machine go after a way back to that provider.
    """
    return wire.owner(provider, wire.STATUS_CONTROLLER)


def finalizers_to_add(provider: str, seen: Seen) -> tuple[str, ...]:
    """Ours, from the first sight on, even while the machine is pending."""
    missing = not seen.tearing_down and finalizer(provider) not in seen.finalizers
    return (finalizer(provider),) if missing else ()


def finalizers_to_remove(provider: str, seen: Seen) -> tuple[str, ...]:
    """
    At the end of the teardown: ours, and those that Sidero's provider left behind, because nobody but its successor can
    remove them; never anybody else's.
    """
    return inherited(provider, seen.finalizers) if seen.tearing_down else ()


def inherited(provider: str, finalizers: tuple[str, ...]) -> tuple[str, ...]:
    """Those that we may remove, of a machine or of what Sidero's provider kept of it."""
    ours = {wire.owner(provider, name) for name in (*wire.CONTROLLERS, _FORMER_FINALIZER)}
    return tuple(name for name in finalizers if name in ours)


_FORMER_FINALIZER = "Bootwright"
"""Ours, until it was seen that Sidero's provider cannot remove it."""


class Teardown(Enum):
    """What giving up a machine takes, in this order."""

    WITHDRAW = "withdraw"
    """In one transaction: the desired state of a stranger, and a REMOVED record. From here on nothing of an earlier wish acts."""
    REBOOT = "reboot"
    """One attempt to bring it into agent mode, from the network; its time is on disk before the command."""
    DELETE_STATUS = "delete_status"
    """The InfraMachineStatus: torn down and destroyed."""
    RELEASE = "release"
    """The finalizers. Omni destroys the resource then, and with it the last sign that there was something to do."""


def teardown(
    provider: str,
    seen: Seen,
    machine: Machine | None,
    *,
    has_status: bool,
    now: datetime,
    policy: lifecycle.Policy,
) -> Teardown | None:
    """The next step for an InfraMachine that is torn down; None when there is nothing left."""
    if not seen.tearing_down or not finalizers_to_remove(provider, seen):
        return None
    if machine is not None and not is_outlived(seen, machine.facts) and _is_bound(machine):
        return Teardown.WITHDRAW
    if has_status:
        reboots = machine is not None and _may_reboot_at_last(machine.facts, seen.spec, now, policy)
        return Teardown.REBOOT if reboots else Teardown.DELETE_STATUS
    return Teardown.RELEASE


def withdrawn(before: Desired) -> Desired:
    """What is desired of a machine that nobody manages."""
    return _revised(Desired(), before)


def _is_bound(machine: Machine) -> bool:
    """Whether anything of this life at Omni is left: a wish, or an answer to one."""
    return machine.desired != withdrawn(machine.desired) or bool(lifecycle.this_life(machine.facts))


def _may_reboot_at_last(facts: Facts, spec: wire.InfraMachine, now: datetime, policy: lifecycle.Policy) -> bool:
    """
    Best effort: not if it is off, in agent mode, or cordoned, nor while its BMC is silent. The minimum interval between reboots
    holds here too, and keeps a crash from causing a second one.
    """
    accepted = spec.acceptance_status == wire.Acceptance.ACCEPTED
    if not accepted or spec.cordoned or facts.bmc is None or facts.agent.connected:
        return False
    silent = facts.bmc.failures > 0
    recent = facts.last_reboot_at is not None and now < facts.last_reboot_at + policy.minimum_reboot_interval
    return facts.power.state is not PowerState.OFF and not silent and not recent

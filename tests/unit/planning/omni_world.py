"""An Omni, a machine and our policy for it, for the tables of test_omni_*.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from provider.domain.bmc import PowerReading, PowerState
from provider.domain.inventory import Cpu, Disk, FirmwareKind, Inventory, System
from provider.domain.machine import (
    AgentKind,
    AgentPresence,
    BmcFacts,
    BootMode,
    Desired,
    Facts,
    Identity,
    Machine,
    Outcome,
    Record,
    RecordKind,
)
from provider.planning import agents, lifecycle, omni
from provider.planning.omni import Seen
from provider.wire import omni as wire

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
INTERVAL = timedelta(minutes=15)
SITE = lifecycle.Policy(
    poll_interval=timedelta(minutes=1),
    minimum_reboot_interval=INTERVAL,
    boot_timeout=timedelta(minutes=10),
    install_timeout=timedelta(hours=4),
    wipe_attempts=3,
    wipe_retry_after=timedelta(minutes=1),
)
POLICY = omni.policy(SITE, agents.Choice(AgentKind.TALOS))
DISK = Disk(path="/dev/sda", size_bytes=1 << 40, serial="D1")
INVENTORY = Inventory(System(), FirmwareKind.UEFI, "x86_64", Cpu(), 64 << 30, disks=(DISK,))
ON, OFF, UNKNOWN = PowerState.ON, PowerState.OFF, PowerState.UNKNOWN

PENDING = wire.InfraMachine()
ACCEPTED = wire.InfraMachine(acceptance_status=wire.Acceptance.ACCEPTED)
REJECTED = wire.InfraMachine(acceptance_status=wire.Acceptance.REJECTED)
CORDONED = replace(ACCEPTED, cordoned=True)
ALLOCATED = replace(ACCEPTED, cluster_talos_version="1.13.7", install_event_id=3)
"""Wiped at install event 3: not installed."""
INSTALLED = replace(ALLOCATED, install_event_id=4)
RESTS_ON = replace(ACCEPTED, preferred_power_state=wire.PreferredPower.ON, install_event_id=3)


def ago(**units: float) -> datetime:
    return NOW - timedelta(**units)


def wiped(wipe_id: str = "", *, event: int = 3, token: str = "sealed-old", **when: float) -> Record:
    at = ago(**(when or {"hours": 2}))
    return Record(RecordKind.WIPE, wipe_id, at, install_event=event, manager_token=token)


def rebooted(reboot_id: str, **when: float) -> Record:
    return Record(RecordKind.REBOOT, reboot_id, ago(**when))


def powered_off(power_off_id: str, wipe_id: str = "", **when: float) -> Record:
    return Record(RecordKind.POWER_OFF, power_off_id, ago(**(when or {"minutes": 30})), wipe_id=wipe_id)


def removed(**when: float) -> Record:
    return Record(RecordKind.REMOVED, "", ago(**when))


def failed(kind: RecordKind, **when: float) -> Record:
    return Record(kind, "", ago(**when), Outcome.FAILED, "broken")


def facts(state: PowerState = OFF, *records: Record, **changes: object) -> Facts:
    """A machine with a BMC that was just read, and no agent."""
    reading = PowerReading(state, ago(seconds=1), "bmc")
    return replace(Facts(first_seen=ago(days=1), power=reading, bmc=BmcFacts("bmc"), records=records), **changes)


def agent(kind: AgentKind = AgentKind.TALOS, **when: float) -> AgentPresence:
    return AgentPresence(connected=True, enrolled_at=ago(**(when or {"minutes": 1})), kind=kind)


def with_agent(*records: Record, **changes: object) -> Facts:
    """The same, waiting in Talos."""
    script = {"last_script_at": ago(minutes=2), "last_script_mode": BootMode.AGENT}
    return facts(ON, *records, **{"agent": agent(), **script, **changes})


def in_our_agent(*records: Record, **changes: object) -> Facts:
    """The same, waiting in our agent, which has reported."""
    told = {"inventory": INVENTORY, "inventory_at": ago(seconds=30)}
    return with_agent(*records, **{"agent": agent(AgentKind.BOOTWRIGHT), **told, **changes})


def desired(spec: wire.InfraMachine, known: Facts, before: Desired = Desired()) -> Desired:  # noqa: B008 - frozen
    return omni.desired(Seen(spec, created=ago(days=1)), before, known, token="sealed")


def decide(
    spec: wire.InfraMachine, known: Facts, policy: lifecycle.Policy = POLICY, at: datetime = NOW
) -> lifecycle.Plan:
    """What Omni's wish makes us do."""
    return lifecycle.decide("m-1", desired(spec, known), known, at, policy)


def machine(spec: wire.InfraMachine, known: Facts) -> Machine:
    return Machine(Identity("m-1"), desired(spec, known), known)

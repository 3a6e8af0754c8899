"""Which machines are forgotten: strangers, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest

from provider.domain import smbios
from provider.domain.inventory import Cpu, FirmwareKind, Inventory, System
from provider.domain.lease import Reservation, ReservedBy
from provider.domain.mac import MacAddress
from provider.domain.machine import (
    Acceptance,
    AgentPresence,
    Allocation,
    BmcFacts,
    BootMode,
    Desired,
    Facts,
    Identity,
    Machine,
    PreferredPower,
    Record,
    RecordKind,
)
from provider.domain.operation import Operation, OperationKind, OperationState
from provider.planning import forgetting
from provider.planning.forgetting import KEPT_FOR, MOST, Names

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MAC = MacAddress("52:54:00:00:00:01")
UUID = "4c4c4544-0051-3510-8051-c4c04f373732"
IDENTITY = Identity("m-1", uuid=UUID, serial="S1", macs=(MAC,))
STRANGER = Machine(IDENTITY, Desired(), Facts(first_seen=NOW))
OPERATION = Operation("wipe-1", "m-1", OperationKind.WIPE, "", OperationState.DONE, NOW)


def wanted(**changes: object) -> Machine:
    return replace(STRANGER, desired=replace(Desired(), **changes))  # type: ignore[arg-type]


def known(**changes: object) -> Machine:
    return replace(STRANGER, facts=replace(STRANGER.facts, **changes))  # type: ignore[arg-type]


def test_stranger_is_unclaimed() -> None:
    """Machines that nobody knows are never forgotten, and fill memory and disk."""
    assert forgetting.is_unclaimed(STRANGER)
    assert forgetting.is_unclaimed(known(last_script_at=NOW, last_script_mode=BootMode.AGENT, warnings=("a twin",)))


@pytest.mark.parametrize(
    "machine",
    [
        wanted(acceptance=Acceptance.ACCEPTED),
        wanted(acceptance=Acceptance.REJECTED),
        wanted(cordoned=True),
        wanted(allocation=Allocation("debian")),
        wanted(preferred_power=PreferredPower.ON),
        wanted(wipe_id="w1"),
        wanted(reboot_id="r1"),
        wanted(power_off_id="p1"),
        wanted(revision=1),
        known(inventory=Inventory(System(), FirmwareKind.BIOS, "x86_64", Cpu(), 1 << 30)),
        known(agent=AgentPresence(connected=True)),
        known(agent=AgentPresence(connected=False, enrolled_at=NOW)),
        known(bmc=BmcFacts("10.0.0.7:623")),
        known(operation=OPERATION),
        known(records=(Record(RecordKind.WIPE, "", NOW),)),
    ],
)
def test_others_are_not(machine: Machine) -> None:
    """A machine that somebody decided about, or that told us of itself, is forgotten: its wipes and its acceptance with it."""
    assert not forgetting.is_unclaimed(machine)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (Names(), False),
        (Names(macs=frozenset({"52:54:00:00:00:02"}), serials=frozenset({"S2"})), False),
        (Names(macs=frozenset({MAC})), True),
        (Names(uuids=frozenset({UUID})), True),
        (Names(uuids=frozenset({smbios.byte_swapped(UUID)})), True),
        (Names(serials=frozenset({"S1"})), True),
        (Names().with_reserved([Reservation(IPv4Address("10.0.0.9"), ReservedBy.MAC, MAC)]), True),
        (Names().with_reserved([Reservation(IPv4Address("10.0.0.9"), ReservedBy.UUID, UUID)]), True),
        (Names().with_reserved([Reservation(IPv4Address("10.0.0.9"), ReservedBy.CIRCUIT_ID, MAC)]), False),
        (Names(serials=frozenset({"S1"})).with_reserved([]), True),
    ],
)
def test_names(names: Names, expected: bool) -> None:
    """A machine that the settings name is forgotten while it is silent."""
    assert names.have(IDENTITY) is expected


def test_machine_that_says_nothing_of_itself_has_no_name_in_common() -> None:
    """An empty UUID or serial is found among the names."""
    assert not Names(uuids=frozenset({UUID}), serials=frozenset({"S1"})).have(Identity("m-2"))


def test_time_counts_from_the_last_word() -> None:
    """A machine that asks for a script each hour is forgotten a day after its first."""
    script = NOW + timedelta(hours=20)
    assert forgetting.last_heard(STRANGER.facts) == NOW
    assert forgetting.last_heard(known(last_script_at=script).facts) == script
    heard = {"m-1": script, "m-2": NOW}
    assert forgetting.outdated(heard, NOW + KEPT_FOR) == ["m-2"]
    assert forgetting.outdated(heard, NOW + KEPT_FOR - timedelta(seconds=1)) == []


@pytest.mark.parametrize("heard", [lambda number: number, lambda number: -number])
def test_oldest_go_first(heard: Callable[[int], int]) -> None:
    """A flood of invented machines makes us forget the one that is booting now."""
    times = {f"m-{number}": NOW + timedelta(seconds=heard(number)) for number in range(MOST + 3)}
    oldest = sorted(times, key=times.__getitem__)[:3]
    assert forgetting.too_many(times) == oldest
    assert (
        forgetting.too_many({machine_id: times[machine_id] for machine_id in times if machine_id not in oldest}) == []
    )

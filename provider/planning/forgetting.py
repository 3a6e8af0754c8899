"""
Which machines are forgotten: those that never told us anything and of whom nobody wants anything. A pure decision.

Whoever can reach the boot ports can ask for a script in the name of a MAC address that he made up, and each name makes a
machine. Most machines that ask and do not report are real, though: their kernel lacks a driver, or somebody switched them
off. So an unclaimed machine is kept for `KEPT_FOR` after it was last heard of, and longer than that by nobody. Of more than
`MOST` the oldest go at once: even at a hundred new ones a second these had minutes to report. One that comes back is a new one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from provider.domain import smbios
from provider.domain.lease import Reservation, ReservedBy
from provider.domain.machine import Desired, Facts, Identity, Machine

KEPT_FOR = timedelta(days=1)

MOST = 10_000
"""More machines than one provider has, which may all be on their way to their first report after a power cut."""


@dataclass(frozen=True)
class Names:
    """What people call machines by, in the settings and in reservations: these machines are known, however silent."""

    macs: frozenset[str] = frozenset()
    uuids: frozenset[str] = frozenset()
    """Lower case with dashes."""
    serials: frozenset[str] = frozenset()

    def have(self, identity: Identity) -> bool:
        """Whether somebody named this machine."""
        return (
            not self.macs.isdisjoint(identity.macs)
            or identity.serial in self.serials
            or identity.uuid in self.uuids
            or smbios.byte_swapped(identity.uuid) in self.uuids
        )

    def with_reserved(self, reservations: Iterable[Reservation]) -> Names:
        """These, and those that an address is kept for."""
        reserved = list(reservations)
        macs = {each.value for each in reserved if each.by is ReservedBy.MAC}
        uuids = {each.value for each in reserved if each.by is ReservedBy.UUID}
        return Names(self.macs | macs, self.uuids | uuids, self.serials)


def is_unclaimed(machine: Machine) -> bool:
    """Whether we know nothing of the machine but that it asked for a script, and nobody ever said what to do with it."""
    facts = machine.facts
    told_nothing = facts.inventory is None and facts.agent.enrolled_at is None and not facts.agent.connected
    did_nothing = facts.operation is None and not facts.records
    return machine.desired == Desired() and told_nothing and did_nothing and facts.bmc is None


def last_heard(facts: Facts) -> datetime:
    """When an unclaimed machine was last heard of, as far as it is on disk."""
    return max(facts.first_seen, facts.last_script_at or facts.first_seen)


def outdated(heard: Mapping[str, datetime], now: datetime) -> list[str]:
    """Those of the unclaimed machines, by when they were last heard of, whose time is over."""
    return [machine_id for machine_id, at in heard.items() if at + KEPT_FOR <= now]


def too_many(heard: Mapping[str, datetime]) -> list[str]:
    """Those of the unclaimed machines that are beyond `MOST`: the ones that were not heard of for longest."""
    excess = len(heard) - MOST
    return heapq.nsmallest(excess, heard, key=heard.__getitem__) if excess > 0 else []

"""
How a machine is sent from iPXE to its disk, where firmware hangs or starts over in one way or another (edge cases 47, 48).
A pure decision, learned by trying.

Nobody tells us that a hand-off failed. What we see is that the machine is back soon, on the same interface, though nobody
switched it, and that no system was heard in between. Once may be somebody with a reboot command; twice in a row is a
firmware that wants the next way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from provider.domain.inventory import FirmwareKind
from provider.domain.mac import MacAddress
from provider.domain.machine import HandOff

SOON = timedelta(minutes=10)
PATIENCE = 2
"""Failures in a row, until the next way is tried."""

_BIOS = (HandOff.EXIT, HandOff.SANBOOT, HandOff.HTTP_404)
_UEFI = (HandOff.EXIT, HandOff.HTTP_404, HandOff.SANBOOT)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A machine that was sent to its disk."""

    way: HandOff
    mac: MacAddress
    """The interface that it had booted from."""
    at: datetime
    failures: int = 0
    """Of this way, in a row, before."""


def way(
    before: HandedOver | None,
    known: HandOff | None,
    firmware: FirmwareKind | None,
    mac: MacAddress,
    now: datetime,
    *,
    excused_at: datetime | None,
) -> HandedOver:
    """
    Send a machine to its disk.

    `before` is the last time, if no other script came in between; `known` the way that was learned earlier. `excused_at`
    is when something last happened that explains why it is back: its system was heard, or we switched it.
    """
    if before is None:
        return HandedOver(known or HandOff.EXIT, mac, now)
    is_excused = excused_at is not None and excused_at >= before.at
    if is_excused or now - before.at > SOON:
        return HandedOver(before.way, mac, now)
    if mac != before.mac:
        return replace(
            before, mac=mac, at=now
        )  # It tries one interface after the other, and comes to its disk at last.
    if before.failures + 1 < PATIENCE:
        return replace(before, at=now, failures=before.failures + 1)
    order = _BIOS if firmware is FirmwareKind.BIOS else _UEFI
    return HandedOver(order[(order.index(before.way) + 1) % len(order)], mac, now)

"""How a machine is sent to its disk, learned from what it does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from provider.domain.inventory import FirmwareKind
from provider.domain.mac import MacAddress
from provider.domain.machine import HandOff
from provider.planning import hand_off
from provider.planning.hand_off import HandedOver

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FIRST = MacAddress("52:54:00:12:34:56")
SECOND = MacAddress("52:54:00:12:34:57")
BIOS, UEFI = FirmwareKind.BIOS, FirmwareKind.UEFI


def sent(
    *minutes: float,
    firmware: FirmwareKind = BIOS,
    known: HandOff | None = None,
    macs: tuple[MacAddress, ...] = (),
    excused_at: float | None = None,
) -> HandOff:
    """The way of the last of several times, at minutes after noon."""
    handed: HandedOver | None = None
    excused = None if excused_at is None else NOON + timedelta(minutes=excused_at)
    for number, minute in enumerate(minutes):
        mac = macs[number] if macs else FIRST
        now = NOON + timedelta(minutes=minute)
        handed = hand_off.way(handed, known, firmware, mac, now, excused_at=excused)
    assert handed is not None
    return handed.way


@pytest.mark.parametrize(
    ("minutes", "way"),
    [
        ([0], HandOff.EXIT),
        ([0, 1], HandOff.EXIT),  # Somebody typed `reboot`.
        ([0, 1, 2], HandOff.SANBOOT),
        ([0, 1, 2, 3], HandOff.SANBOOT),
        ([0, 1, 2, 3, 4], HandOff.HTTP_404),
        ([0, 1, 2, 3, 4, 5, 6], HandOff.EXIT),
        ([0, 60, 120, 180], HandOff.EXIT),
        ([0, 1, 60, 61, 120], HandOff.EXIT),
        ([0, 1, 2, 60, 120], HandOff.SANBOOT),
    ],
)
def test_machine_that_starts_over(minutes: list[float], way: HandOff) -> None:
    """A BIOS that comes back from `exit` never reaches its disk (edge case 47)."""
    assert sent(*minutes) is way


def test_uefi_tries_sanboot_last() -> None:
    """UEFI has no drive 0x80, and iPXE fails there without a word (edge case 48)."""
    assert sent(0, 1, 2, firmware=UEFI) is HandOff.HTTP_404


def test_what_was_learned_is_used_at_once() -> None:
    """After a restart of ours, a machine has to fail twice again."""
    assert sent(0, known=HandOff.SANBOOT) is HandOff.SANBOOT


def test_interfaces_one_after_the_other() -> None:
    """A machine whose firmware tries four interfaces before the disk is taken for one that starts over."""
    assert sent(0, 1, 2, 3, 4, macs=(FIRST, SECOND, FIRST, SECOND, FIRST)) is HandOff.EXIT


@pytest.mark.parametrize("at", [0.5, 1.5])
def test_what_explains_it(at: float) -> None:
    """A machine that we reset, or whose system was heard, is taken for one that starts over."""
    assert sent(0, 1, 2, excused_at=at) is HandOff.EXIT

"""What gets into a wipe plan, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provider.domain.inventory import Cpu, Disk, FirmwareKind, Inventory, System
from provider.domain.operation import WipeMethod
from provider.planning import wipe

GOOD = Disk(path="/dev/nvme0n1", size_bytes=1 << 30, serial="NV1", supports_discard=True)


def inventory(*disks: Disk) -> Inventory:
    return Inventory(System(), FirmwareKind.UEFI, "x86_64", Cpu(), 1 << 30, disks=disks)


def test_methods() -> None:
    """A disk without discard is only told to discard, and keeps its data."""
    plan = wipe.plan_wipe(
        "m-1", "w", inventory(GOOD, replace(GOOD, path="/dev/sda", serial="S", supports_discard=False))
    )
    assert [disk.method for disk in plan.disks] == [WipeMethod.DISCARD_AND_ZERO, WipeMethod.ZERO]
    assert wipe.blocking(plan) == ()


@pytest.mark.parametrize(
    ("disk", "blocks"),
    [
        (replace(GOOD, serial=""), True),
        (replace(GOOD, read_only=True), True),
        (replace(GOOD, removable=True), False),
    ],
)
def test_refusals(disk: Disk, blocks: bool) -> None:
    """A nameless or read-only disk is skipped silently, or a forgotten USB stick is erased or blocks a rack."""
    plan = wipe.plan_wipe("m-1", "w", inventory(disk))
    assert plan.disks == ()
    assert bool(wipe.blocking(plan)) is blocks


def test_two_disks_of_one_name_are_refused() -> None:
    """A shared or multipath disk is erased twice at once, or the wrong one is."""
    plan = wipe.plan_wipe("m-1", "w", inventory(GOOD, replace(GOOD, path="/dev/nvme1n1")))
    assert plan.disks == ()
    assert len(wipe.blocking(plan)) == 2

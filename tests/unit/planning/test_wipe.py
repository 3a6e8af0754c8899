"""What gets into a wipe plan, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from provider.domain.inventory import Cpu, Disk, FirmwareKind, Inventory, System
from provider.domain.machine import AgentKind
from provider.domain.operation import (
    DiskWipe,
    DiskWiped,
    Operation,
    OperationKind,
    OperationState,
    WipeMethod,
    WipePlan,
    WipeReport,
)
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


NAMED = WipePlan("m-1", "w", (DiskWipe("NV1", "", "/dev/nvme0n1", 1 << 30, WipeMethod.ZERO, ""),))
PROOF = DiskWiped("NV1", "", "/dev/nvme0n1", 1 << 30, "zero", verified=True)


@pytest.mark.parametrize(
    ("plan", "report", "by", "proved"),
    [
        (NAMED, WipeReport((PROOF,)), AgentKind.BOOTWRIGHT, True),
        (NAMED, WipeReport((replace(PROOF, verified=False),)), AgentKind.BOOTWRIGHT, False),
        (NAMED, WipeReport(), AgentKind.BOOTWRIGHT, False),
        (NAMED, None, AgentKind.BOOTWRIGHT, False),
        (NAMED, None, AgentKind.TALOS, False),
        (wipe.plan_everything("m-1", "w", zeroes=False), None, AgentKind.TALOS, True),
        (wipe.plan_everything("m-1", "w", zeroes=False), None, AgentKind.BOOTWRIGHT, False),
        (wipe.plan_everything("m-1", "w", zeroes=False), WipeReport((PROOF,)), AgentKind.BOOTWRIGHT, False),
    ],
)
def test_proof(plan: WipePlan, report: WipeReport | None, by: AgentKind, proved: bool) -> None:
    """A wipe counts as done on the word of an agent that could not have done it, or without the proof that it could give."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    operation = Operation("o", "m-1", OperationKind.WIPE, "w", OperationState.RUNNING, at, plan)
    assert (wipe.unproved(operation, report, by) == "") is proved

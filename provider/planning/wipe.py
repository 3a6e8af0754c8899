"""
What would be erased, and how: the plan that opens the one door to destruction (design.md section 4).

A disk gets into a plan only by its serial number or WWN, because paths change between boots; what cannot be named is
refused and blocks the wipe, rather than being left behind silently.
"""

from __future__ import annotations

from collections import Counter

from provider.domain.inventory import Disk, Inventory
from provider.domain.operation import DiskWipe, RefusedDisk, WipeMethod, WipePlan


def plan_wipe(machine_id: str, wipe_id: str, inventory: Inventory) -> WipePlan:
    """Decide for each disk of the inventory: erased how, or refused why."""
    names = Counter(name for disk in inventory.disks for name in {(disk.serial, disk.wwn)})
    disks, refused = [], []
    for disk in inventory.disks:
        refusal = _refusal(disk, names)
        if refusal is None:
            disks.append(_disk_wipe(disk))
        else:
            refused.append(refusal)
    return WipePlan(machine_id=machine_id, wipe_id=wipe_id, disks=tuple(disks), refused=tuple(refused))


def blocking(plan: WipePlan) -> tuple[RefusedDisk, ...]:
    """The refused disks because of which the machine cannot count as wiped."""
    return tuple(disk for disk in plan.refused if disk.blocks)


def _refusal(disk: Disk, names: Counter[tuple[str, str]]) -> RefusedDisk | None:
    if disk.removable:
        return RefusedDisk(disk.path, disk.serial, "removable medium: left alone", blocks=False)
    if disk.read_only:
        return RefusedDisk(disk.path, disk.serial, "read-only: it cannot be erased")
    if not disk.serial and not disk.wwn:
        return RefusedDisk(disk.path, disk.serial, "has neither serial number nor WWN: it cannot be named for good")
    if names[disk.serial, disk.wwn] > 1:
        return RefusedDisk(
            disk.path, disk.serial, "another disk has the same serial number and WWN: shared or multipath"
        )
    return None


def _disk_wipe(disk: Disk) -> DiskWipe:
    if disk.supports_discard:
        method, reason = WipeMethod.DISCARD_AND_ZERO, "it supports discard"
    else:
        method, reason = WipeMethod.ZERO, "it does not support discard"
    return DiskWipe(
        serial=disk.serial, wwn=disk.wwn, path=disk.path, size_bytes=disk.size_bytes, method=method, reason=reason
    )

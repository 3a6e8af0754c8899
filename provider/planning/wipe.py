"""
What would be erased, and how: the plan that opens the one door to destruction (design.md section 4).

A disk gets into a plan only by its serial number or WWN, because paths change between boots; what cannot be named is
refused and blocks the wipe, rather than being left behind silently. The Talos agent cannot be told which disks: its plans are of
everything, and open the same door under the same conditions.
"""

from __future__ import annotations

from collections import Counter

from provider.domain.inventory import Disk, Inventory
from provider.domain.machine import AgentKind
from provider.domain.operation import (
    DiskWipe,
    Operation,
    OperationKind,
    RefusedDisk,
    WipeMethod,
    WipePlan,
    WipeReport,
)


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


def plan_everything(machine_id: str, wipe_id: str, *, zeroes: bool) -> WipePlan:
    """A wipe by the Talos agent, which looks for the disks itself and tells nothing of them: no inventory, no proof."""
    return WipePlan(machine_id, wipe_id, disks=(), everything=True, zeroes=zeroes)


def blocking(plan: WipePlan) -> tuple[RefusedDisk, ...]:
    """The refused disks because of which the machine cannot count as wiped."""
    return tuple(disk for disk in plan.refused if disk.blocks)


def unproved(operation: Operation, report: WipeReport | None, by: AgentKind) -> str:
    """
    Why a wipe that is reported as done is not, or empty: every disk of the plan must be in the report, erased and read
    back. For a plan of everything the Talos agent's word has to do, and nobody else's does.
    """
    if operation.kind is not OperationKind.WIPE or operation.wipe_plan is None:
        return ""
    if operation.wipe_plan.everything:
        return "" if by is AgentKind.TALOS else "only the Talos agent can erase disks that no plan names"
    proved = {(disk.serial, disk.wwn) for disk in (report.disks if report else ()) if disk.verified and not disk.error}
    missing = [disk.path for disk in operation.wipe_plan.disks if (disk.serial, disk.wwn) not in proved]
    return f"the report does not prove that these disks are empty: {', '.join(missing)}" if missing else ""


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

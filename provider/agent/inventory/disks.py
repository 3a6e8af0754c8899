"""
Disks: whole block devices that hold data.

The name of a disk for good is its serial number or WWN. Where they stand in sysfs differs by kind: virtio-blk and NVMe
have files of their own, SCSI, SATA and SAS have VPD pages 80h and 83h, USB bridges often only the serial of the bridge.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from provider.agent.inventory import sysfs as values
from provider.domain.inventory import Disk, DiskKind

_NOT_DISKS = re.compile(r"(loop|ram|zram|sr|fd|dm-|md|nbd|rbd|mtdblock)\d|mmcblk\d+(boot|rpmb|gp)")
_WWN = re.compile(r"(naa|eui|uuid)\.[0-9a-fA-F-]+|nvme\..+")
_VIRTUAL_VENDORS = ("QEMU", "VMWARE", "VBOX", "MSFT", "VIRTUAL", "XEN", "GOOGLE")
_SECTOR_BYTES = 512
"""Unit of `size` in sysfs, whatever the disk's own sectors are."""

_TRANSPORTS = (
    ("/usb", "usb"),
    ("/ata", "sata"),
    ("/end_device-", "sas"),
    ("/session", "iscsi"),
    ("/rport-", "fc"),
    ("/nvme", "nvme"),
    ("/mmc", "mmc"),
    ("/virtio", "virtio"),
)
"""Part of the device's path in sysfs to transport, nearest to the machine first: a USB disk is also a SCSI disk."""


def read(sysfs: Path = Path("/sys"), note_problem: Callable[[str], None] | None = None) -> tuple[Disk, ...]:
    """List disks by name; one that cannot be read is left out and noted."""
    found = []
    for folder in sorted((sysfs / "class/block").iterdir()):
        if _is_disk(folder):
            try:
                found.append(read_one(folder))
            except (OSError, ValueError) as error:
                if note_problem:
                    note_problem(f"disk {folder.name} could not be read: {error}")
    return tuple(found)


def _is_disk(folder: Path) -> bool:
    """Say whether this is a whole device with a medium. `hidden` are the single paths of a multipath NVMe."""
    return (
        not _NOT_DISKS.match(folder.name)
        and (folder / "device").exists()
        and not (folder / "partition").exists()
        and not values.flag(folder / "hidden")
        and values.number(folder / "size") > 0
    )


def read_one(folder: Path) -> Disk:
    """Describe the disk of one folder in /sys/class/block."""
    model = values.text(folder / "device/model") or values.text(folder / "device/name")
    rotational = values.flag(folder / "queue/rotational")
    transport = _transport(folder)
    return Disk(
        path=f"/dev/{folder.name.replace('!', '/')}",
        size_bytes=values.number(folder / "size") * _SECTOR_BYTES,
        serial=_serial(folder),
        wwn=_wwn(folder),
        model=model,
        kind=_kind(folder, transport, model, rotational=rotational),
        transport=transport,
        logical_block_bytes=values.number(folder / "queue/logical_block_size", _SECTOR_BYTES),
        rotational=rotational,
        removable=values.flag(folder / "removable"),
        read_only=values.flag(folder / "ro"),
        supports_discard=values.number(folder / "queue/discard_max_bytes") > 0,
    )


def _serial(folder: Path) -> str:
    for name in ("serial", "device/serial"):
        if serial := values.text(folder / name):
            return serial
    return _vpd_serial(folder / "device/vpd_pg80") or _usb_serial(folder)


def _vpd_serial(page: Path) -> str:
    """Read the Unit Serial Number page (SPC-4 section 7.8.15): four bytes of header, then text."""
    try:
        raw = page.read_bytes()
    except OSError:
        return ""
    return values.clean(raw[4 : 4 + int.from_bytes(raw[2:4], "big")]) if len(raw) > 4 else ""


def _usb_serial(folder: Path) -> str:
    for parent in (folder / "device").resolve().parents:
        if (parent / "idVendor").exists():
            return values.text(parent / "serial")
    return ""


def _wwn(folder: Path) -> str:
    for name in ("wwid", "device/wwid"):
        wwid = values.text(folder / name)
        if _WWN.fullmatch(wwid):
            return wwid
    return ""


def _transport(folder: Path) -> str:
    path = str((folder / "device").resolve())
    return next((transport for part, transport in _TRANSPORTS if part in path), "scsi" if "/host" in path else "")


def _kind(folder: Path, transport: str, model: str, *, rotational: bool) -> DiskKind:
    vendor = values.text(folder / "device/vendor")
    if transport == "virtio" or f"{vendor} {model}".upper().strip().startswith(_VIRTUAL_VENDORS):
        return DiskKind.NVME if transport == "nvme" else DiskKind.VIRTUAL
    if transport == "nvme":
        return DiskKind.NVME
    return DiskKind.HDD if rotational else DiskKind.SSD

"""Is a disk in use by this running system? Asked before a wipe, to be able to say by what; O_EXCL asks again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provider.agent.inventory import sysfs as values

_SECTOR_BYTES = 512


@dataclass(frozen=True)
class Partition:
    """A partition that the kernel knows, in bytes."""

    name: str
    offset: int
    length: int


def partitions(disk_path: str, sysfs: Path = Path("/sys")) -> tuple[Partition, ...]:
    """List the partitions of a disk in the order of their place."""
    found = [
        Partition(
            folder.name,
            values.number(folder / "start") * _SECTOR_BYTES,
            values.number(folder / "size") * _SECTOR_BYTES,
        )
        for folder in _partition_folders(_folder(disk_path, sysfs))
    ]
    return tuple(sorted(found, key=lambda partition: partition.offset))


def uses(disk_path: str, sysfs: Path = Path("/sys"), proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Say what uses the disk or one of its partitions, a phrase each; empty if nothing does."""
    disk = _folder(disk_path, sysfs)
    found = []
    for folder in [disk, *_partition_folders(disk)]:
        found += [f"{folder.name} belongs to {holder}" for holder in _holders(folder)]
        found += [f"{folder.name} is mounted at {place}" for place in _mounts(values.text(folder / "dev"), proc)]
        if f"/dev/{folder.name}" in _swaps(proc):
            found.append(f"{folder.name} is swap space")
    return tuple(found)


def _folder(disk_path: str, sysfs: Path) -> Path:
    return sysfs / "class/block" / disk_path.removeprefix("/dev/").replace("/", "!")


def _partition_folders(disk: Path) -> list[Path]:
    return sorted(path.parent for path in disk.glob("*/partition"))


def _holders(folder: Path) -> list[str]:
    holders = folder / "holders"
    return sorted(path.name for path in holders.iterdir()) if holders.is_dir() else []


def _mounts(device: str, proc: Path) -> Iterator[str]:
    """Find a device number such as `259:0` in mountinfo (proc(5)): third field, the mount point is the fifth."""
    for line in (proc / "self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[2] == device:
            yield fields[4]


def _swaps(proc: Path) -> set[str]:
    path = proc / "swaps"
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    return {line.split()[0] for line in lines if line.strip()}

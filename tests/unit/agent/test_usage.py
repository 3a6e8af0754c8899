"""Is a disk in use, and where are its partitions?"""

from __future__ import annotations

from pathlib import Path

import pytest

from provider.agent import usage
from tests.unit.agent import sysfs_tree

PCI = "pci0000:00/0000:00:1f.2/virtio1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A disk with two partitions, listed in the wrong order."""
    files = sysfs_tree.disk("vda", PCI, dev="254:0")
    for name, start, size, device in (("vda10", "4096", "8", "254:10"), ("vda2", "2048", "2048", "254:2")):
        block = f"sys/devices/{PCI}/block/vda/{name}"
        files |= {f"{block}/partition": "1", f"{block}/start": start, f"{block}/size": size, f"{block}/dev": device}
        files[f"{block}/holders"] = None
    files |= {"proc/self/mountinfo": "22 1 0:21 / /proc rw - proc proc rw", "proc/swaps": "Filename Type"}
    return sysfs_tree.make(tmp_path, files)


def uses(root: Path) -> tuple[str, ...]:
    """Ask about the disk."""
    return usage.uses("/dev/vda", root / "sys", root / "proc")


def test_partitions_in_order_of_place(root: Path) -> None:
    """Breaks if offsets are in sectors, or a partition is missed."""
    assert usage.partitions("/dev/vda", root / "sys") == (
        usage.Partition("vda2", 2048 * 512, 2048 * 512),
        usage.Partition("vda10", 4096 * 512, 8 * 512),
    )


def test_idle_disk(root: Path) -> None:
    """Breaks if a disk that nobody uses cannot be wiped."""
    assert uses(root) == ()


def test_mounted_partition(root: Path) -> None:
    """Breaks if a mount is not seen; the device is known by number, whatever its path was."""
    (root / "proc/self/mountinfo").write_text("36 1 254:2 / /mnt/data rw,noatime - ext4 /dev/disk/by-uuid/x rw\n")
    assert uses(root) == ("vda2 is mounted at /mnt/data",)


def test_held_by_raid(root: Path) -> None:
    """Breaks if a member of an assembled array is wiped under it."""
    (root / "sys/class/block/vda/vda10/holders/md0").mkdir()
    assert uses(root) == ("vda10 belongs to md0",)


def test_swap(root: Path) -> None:
    """Breaks if swap space is wiped while the kernel pages to it."""
    (root / "proc/swaps").write_text("Filename Type Size\n/dev/vda2 partition 100 0 -2\n")
    assert uses(root) == ("vda2 is swap space",)

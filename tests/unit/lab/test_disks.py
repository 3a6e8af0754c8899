"""Disk images: prefilled all over, and honest about what is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from provider.lab import disks
from provider.lab.disks import BLOCK, MIB, DiskImage


@pytest.fixture
def disk(tmp_path: Path) -> DiskImage:
    return DiskImage(tmp_path / "disk.img", "LAB-01-NVME", "nvme", 32 * MIB)


def test_prefilled_all_over(disk: DiskImage) -> None:
    """A wipe that forgets a place goes unnoticed, because there was nothing in that place."""
    disk.prefill()
    found = disks.remains(disk.path, most=10_000)
    assert found[0] == 0, "protective MBR and GPT"
    assert found[-1] == disk.size_bytes - BLOCK, "backup GPT in the last sector"
    assert disk.size_bytes - 16 * BLOCK in found, "just before the backup GPT"
    assert MIB // 2 in found, "the gap in front of the first partition"
    assert any(MIB <= offset < 17 * MIB for offset in found), "the file system"
    assert any(17 * MIB <= offset < 31 * MIB for offset in found), "behind the partition"
    assert b"precious data on LAB-01-NVME" in disk.path.read_bytes()
    assert disk.path.stat().st_blocks * 512 < disk.size_bytes // 2, "still sparse"


def test_digest_tells_every_change(disk: DiskImage) -> None:
    """A byte that is written before acceptance is not noticed."""
    disk.prefill()
    before = disks.digest(disk.path)
    assert disks.digest(disk.path) == before
    with disk.path.open("r+b") as image:
        image.seek(20 * MIB + 5)
        image.write(b"x")
    assert disks.digest(disk.path) != before


def test_digest_is_of_content_not_of_holes(disk: DiskImage) -> None:
    """Zeroes that are written where a hole was count as a change, although nobody could read a difference."""
    disk.prefill()
    before = disks.digest(disk.path)
    with disk.path.open("r+b") as image:
        image.seek(20 * MIB)
        assert image.read(BLOCK) == bytes(BLOCK)
        image.seek(20 * MIB)
        image.write(bytes(BLOCK))
    assert disks.digest(disk.path) == before


def test_remains_finds_a_single_byte(disk: DiskImage) -> None:
    """The last byte that somebody could read back is overlooked."""
    disk.path.write_bytes(bytes(disk.size_bytes))
    assert disks.remains(disk.path) == []
    with disk.path.open("r+b") as image:
        image.seek(disk.size_bytes - 1)
        image.write(b"\x01")
    assert disks.remains(disk.path) == [disk.size_bytes - BLOCK]


def test_remains_of_a_hole_is_nothing(disk: DiskImage) -> None:
    """A disk that was discarded, so that its file is one hole, cannot be looked at."""
    with disk.path.open("wb") as image:
        image.truncate(disk.size_bytes)
    assert disks.remains(disk.path) == []


def test_remains_stops_counting(disk: DiskImage) -> None:
    """An unwiped disk fills an error message with thousands of offsets."""
    disk.prefill()
    assert len(disks.remains(disk.path, most=3)) == 3

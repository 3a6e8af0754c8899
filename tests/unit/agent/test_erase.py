"""Erasing one disk: which places, in which order, and whether the read-back sees what was left."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.agent import erase
from provider.agent.usage import Partition
from provider.domain.operation import WipeMethod
from tests.unit.agent.file_disk import FileDisk

MIB = 1 << 20
SIZE = 70 * MIB + 512
PARTITIONS = (Partition("vda1", 1 * MIB, 30 * MIB), Partition("vda2", 31 * MIB, 39 * MIB))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FileDisk]:
    """A disk full of bytes that are not zero."""
    with FileDisk.filled(tmp_path / "disk", SIZE, b"PATTERN!") as found:
        yield found


def watch() -> tuple[erase.Watch, list[int]]:
    """A watch that never stops, and what it counts."""
    counted: list[int] = []
    return erase.Watch(counted.append, threading.Event()), counted


@pytest.mark.parametrize("method", list(WipeMethod))
def test_nothing_is_left(disk: FileDisk, method: WipeMethod) -> None:
    """Breaks if a byte survives, the odd last sector included, or the read-back does not read everything."""
    looking, counted = watch()
    erase.erase(disk, method, PARTITIONS, looking)
    regions = erase.regions_to_read(SIZE, PARTITIONS, random.Random(1))
    assert erase.read_back(disk, regions, looking) == SIZE
    assert sum(counted) == erase.work_bytes(SIZE, regions)
    assert disk.content() == bytes(SIZE)


def test_superblocks_go_first(disk: FileDisk) -> None:
    """Breaks if a wipe that is cut off after a second leaves a disk that still boots or mounts."""
    looking, _ = watch()
    erase.erase(disk, WipeMethod.DISCARD_AND_ZERO, PARTITIONS, looking)
    first_flush = disk.calls.index("flush")
    covered = [call for call in disk.calls[:first_flush] if isinstance(call, tuple)]
    for edge in (0, 1 * MIB, 31 * MIB - 1, 31 * MIB, 70 * MIB - 1, SIZE - 1):
        assert any(kind == "zero" and offset <= edge < offset + length for kind, offset, length in covered), edge
    assert not any(kind == "discard" for kind, _, _ in covered)


def test_discard_only_where_planned(disk: FileDisk) -> None:
    """Breaks if a disk is discarded that the plan wants to be written over."""
    looking, _ = watch()
    erase.erase(disk, WipeMethod.ZERO, PARTITIONS, looking)
    assert not any(isinstance(call, tuple) and call[0] == "discard" for call in disk.calls)


def test_failed_discard_is_no_failure(disk: FileDisk) -> None:
    """Breaks if a disk that promises discard and refuses it (seen on USB bridges) cannot be wiped."""
    disk.fail["discard"] = OSError(95, "Operation not supported")
    looking, _ = watch()
    erase.erase(disk, WipeMethod.DISCARD_AND_ZERO, PARTITIONS, looking)
    assert disk.content() == bytes(SIZE)


def test_lying_disk_is_found_out(disk: FileDisk) -> None:
    """Breaks if a disk that says yes and keeps its bytes counts as wiped."""
    disk.ignore_writes_at = 53 * MIB + 77
    looking, _ = watch()
    erase.erase(disk, WipeMethod.ZERO, PARTITIONS, looking)
    with pytest.raises(erase.NotErasedError, match=f"byte {53 * MIB + 77} is not zero"):
        erase.read_back(disk, [erase.Region(0, SIZE)], looking)


def test_stops_between_chunks(disk: FileDisk) -> None:
    """Breaks if a wipe that nobody wants any more goes on to the end of a 20 TB disk."""
    stop = threading.Event()
    done = 0

    def count(amount: int) -> None:
        nonlocal done
        done += amount
        if done:
            stop.set()

    with pytest.raises(erase.StoppedError):
        erase.erase(disk, WipeMethod.ZERO, PARTITIONS, erase.Watch(count, stop))
    assert done == 64 * MIB


sizes = st.integers(1, 1 << 20).map(lambda sectors: sectors * 512)
spans = st.lists(st.tuples(st.integers(-(1 << 20), 1 << 30), st.integers(-(1 << 20), 1 << 30)), max_size=20)


@given(spans, sizes)
def test_joined_regions_are_clean(wanted: list[tuple[int, int]], size: int) -> None:
    """Breaks if regions overlap, leave the disk, are unaligned for O_DIRECT, or lose a byte that was asked for."""
    regions = erase.joined(wanted, size)
    end = -1
    for region in regions:
        assert region.length > 0
        assert region.offset % 4096 == 0
        assert region.end % 4096 == 0 or region.end == size
        assert region.offset > end
        end = region.end
    assert end <= size
    for start, stop in wanted:
        for byte in (max(0, start), min(size, stop) - 1):
            if start < stop and 0 <= byte < size and start <= byte < stop:
                assert any(region.offset <= byte < region.end for region in regions)


@given(st.integers(9 << 30, 40 << 40), st.integers(0, 1 << 32))
def test_large_disk_is_sampled_everywhere(size: int, seed: int) -> None:
    """Breaks if a slice of a large disk, its ends, or a former partition boundary is never looked at."""
    size -= size % 512
    boundary = size // 3 // 512 * 512
    partitions = (Partition("sda1", boundary, 1 << 30),)
    regions = erase.regions_to_read(size, partitions, random.Random(seed))
    slice_bytes = size // erase.SAMPLES
    starts = [region.offset // slice_bytes for region in regions]
    assert set(range(1, erase.SAMPLES - 1)) <= {slice_ for start in starts for slice_ in (start, start + 1)}
    assert sum(region.length for region in regions) >= 1000 * erase.SAMPLE_BYTES
    for byte in (0, size - 1, boundary - 1, boundary):
        assert any(region.offset <= byte < region.end for region in regions)


def test_small_disk_is_read_as_a_whole() -> None:
    """Breaks if a disk of up to 8 GiB is only sampled."""
    assert erase.regions_to_read(8 << 30, (), random.Random(1)) == [erase.Region(0, 8 << 30)]

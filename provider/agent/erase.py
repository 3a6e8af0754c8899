"""
Erasing one disk, and looking whether it is erased.

First go the places by which others find data: partition tables at both ends, and start and end of every partition,
where file systems, RAID and LVM keep their superblocks. Whatever interrupts us after that, nothing on the disk is
recognised or booted any more. Then the whole disk is discarded (where the plan says so) and filled with zeroes, written
out, and read back from the medium. Exit codes prove nothing: drives have said yes to an erase and kept every byte.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from provider.agent.block import BUFFER_BYTES, BlockDevice
from provider.agent.usage import Partition
from provider.domain.operation import WipeMethod

_MIB = 1 << 20
_ALIGNMENT = 4096
_CHUNK_BYTES = 64 * _MIB
"""Zeroes asked for at once: how finely we report, and how soon we can stop."""

READ_ALL_UP_TO = 8 << 30
SAMPLES = 1024
SAMPLE_BYTES = 64 << 10
_END_BYTES = 16 * _MIB


@dataclass(frozen=True)
class Region:
    """Part of a disk, in bytes."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


class StoppedError(Exception):
    """Somebody no longer wants this."""


class NotErasedError(Exception):
    """The disk was read back and is not empty."""


@dataclass(frozen=True)
class Watch:
    """How the outside follows and stops one disk's wipe: bytes done are added up, and `stop` is looked at often."""

    done: Callable[[int], None]
    stop: threading.Event

    def advance(self, amount: int) -> None:
        """Count work that is done.

        Raises:
            StoppedError: If it is time to stop.
        """
        self.done(amount)
        if self.stop.is_set():
            raise StoppedError


def tables_and_superblocks(size: int, partitions: Iterable[Partition]) -> list[Region]:
    """Give the first and last MiB of the disk and of every partition, joined where they touch."""
    whole = Partition("", 0, size)
    wanted = []
    for part in (whole, *partitions):
        end = part.offset + part.length
        wanted += [(part.offset, part.offset + _MIB), (end - _MIB, end)]
    return joined(wanted, size)


def regions_to_read(
    size: int, partitions: Iterable[Partition], dice: random.Random, *, all_up_to: int = READ_ALL_UP_TO
) -> list[Region]:
    """
    Give what is read back: everything up to `all_up_to` bytes; of larger disks both ends, the surroundings of all
    former partition boundaries, and one sample at a random place of each of SAMPLES equal slices.
    """
    if size <= all_up_to:
        return [Region(0, size)]
    wanted = [(0, _END_BYTES), (size - _END_BYTES, size)]
    for part in partitions:
        wanted += [(edge - _MIB, edge + _MIB) for edge in (part.offset, part.offset + part.length)]
    slice_bytes = size // SAMPLES
    for number in range(SAMPLES):
        start = number * slice_bytes + dice.randrange(slice_bytes - SAMPLE_BYTES)
        wanted.append((start, start + SAMPLE_BYTES))
    return joined(wanted, size)


def joined(spans: Iterable[tuple[int, int]], size: int) -> list[Region]:
    """Cut spans (start, end) to the disk, widen them to whole 4096 bytes, sort, and join what overlaps or touches."""
    aligned = sorted(
        (max(0, start) // _ALIGNMENT * _ALIGNMENT, min(size, -(-end // _ALIGNMENT) * _ALIGNMENT))
        for start, end in spans
    )
    result: list[Region] = []
    for start, end in aligned:
        if result and start <= result[-1].end:
            last = result.pop()
            result.append(Region(last.offset, max(last.end, end) - last.offset))
        elif start < end:
            result.append(Region(start, end - start))
    return result


def work_bytes(size: int, regions: Iterable[Region]) -> int:
    """Give how much `erase` and `read_back` will count, for a percentage."""
    return size + sum(region.length for region in regions)


def erase(disk: BlockDevice, method: WipeMethod, partitions: Iterable[Partition], watch: Watch) -> None:
    """
    Erase the whole disk.

    Raises:
        OSError: If the disk does not take it.
        StoppedError: If told to stop; what is erased stays erased.
    """
    for region in tables_and_superblocks(disk.size, partitions):
        disk.zero(region.offset, region.length)
    disk.flush()
    watch.advance(0)
    if method is WipeMethod.DISCARD_AND_ZERO:
        with suppress(OSError):  # A service to the disk; the zeroes are what counts.
            disk.discard(0, disk.size)
    for region in _pieces(Region(0, disk.size), _CHUNK_BYTES):
        disk.zero(region.offset, region.length)
        watch.advance(region.length)
    disk.flush()


def read_back(disk: BlockDevice, regions: Iterable[Region], watch: Watch) -> int:
    """
    Read the regions from the medium and give the number of bytes, all of them zero.

    Raises:
        NotErasedError: If one is not; says where.
        OSError: If the disk cannot be read.
        StoppedError: If told to stop.
    """
    zeroes = bytes(BUFFER_BYTES)
    total = 0
    for region in regions:
        for piece in _pieces(region, BUFFER_BYTES):
            found = disk.read(piece.offset, piece.length)
            if found != zeroes[: piece.length]:
                raise NotErasedError(f"byte {piece.offset + _first_difference(found)} is not zero after the wipe")
            total += piece.length
            watch.advance(piece.length)
    return total


def _pieces(region: Region, most: int) -> Iterator[Region]:
    for offset in range(region.offset, region.end, most):
        yield Region(offset, min(most, region.end - offset))


def _first_difference(found: bytes) -> int:
    return len(found) - len(found.lstrip(b"\0"))

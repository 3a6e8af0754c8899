"""
Disk images that look used, and the means to tell from outside what was written to them and what is left.

An image is a sparse raw file: a GPT with one partition, an ext4 file system in it with a file of known text, and blocks
of a known pattern all over the disk, the places that careless wiping forgets included (the backup GPT at the end, the
gap in front of the first partition). No mounting, no loop device, no rights needed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provider.domain.errors import PermanentError
from provider.lab import processes

MIB = 1024 * 1024
BLOCK = 4096
PARTITION_START = MIB
PATTERN_STRIDE = 4 * MIB + BLOCK
"""Distance of two pattern blocks in bytes; odd in blocks, so that they fall on all kinds of boundaries."""

_ZEROES = bytes(MIB)


@dataclass(frozen=True)
class DiskImage:
    """One disk of a machine: `driver` is QEMU's name of the device."""

    path: Path
    serial: str
    driver: str
    size_bytes: int

    def prefill(self) -> None:
        """
        Make the image anew with partition table, file system and pattern.

        Raises:
            PermanentError: If sfdisk or mke2fs are missing or fail.
        """
        with self.path.open("wb") as image:
            image.truncate(self.size_bytes)
        self._make_partition()
        self._make_file_system()
        with self.path.open("r+b") as image:
            for offset in self._pattern_offsets():
                image.seek(offset)
                image.write(pattern(self.serial, offset))

    def _make_partition(self) -> None:
        table = (
            f"label: gpt\nstart={PARTITION_START // 512}, size={self._partition_bytes // 512}, type=linux, name=used\n"
        )
        _run(["sfdisk", "--quiet", str(self.path)], input_text=table)

    def _make_file_system(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            content = Path(folder, "customer-data.txt")
            content.write_text(f"precious data on {self.serial}\n" * 2000)
            kibibytes = self._partition_bytes // 1024
            offset = f"offset={PARTITION_START},root_owner=0:0"
            _run(
                [
                    "mke2fs",
                    "-q",
                    "-F",
                    "-t",
                    "ext4",
                    "-L",
                    "used",
                    "-E",
                    offset,
                    "-d",
                    folder,
                    self.path,
                    f"{kibibytes}k",
                ]
            )

    @property
    def _partition_bytes(self) -> int:
        return self.size_bytes // 2

    def _pattern_offsets(self) -> Iterator[int]:
        """Between GPT and partition, all over the free half behind the partition, and just before the backup GPT."""
        yield PARTITION_START // 2
        yield from range(PARTITION_START + self._partition_bytes, self.size_bytes - MIB, PATTERN_STRIDE)
        yield self.size_bytes - 16 * BLOCK


def pattern(serial: str, offset: int) -> bytes:
    """The block of 4,096 bytes that stands at `offset` of a prefilled disk: no two are the same, none is zero."""
    return hashlib.shake_128(f"{serial}@{offset}".encode()).digest(BLOCK)


def digest(path: Path) -> str:
    """SHA-256 of all data in a sparse file and of where it lies. Holes cost nothing and count as zeroes."""
    state = hashlib.sha256()
    for offset, chunk in _data(path):
        state.update(offset.to_bytes(8, "big"))
        state.update(chunk)
    return state.hexdigest()


def remains(path: Path, most: int = 20) -> list[int]:
    """Offsets in bytes, to the block of 4,096, where anything but zeroes is left; the first `most` of them."""
    found: list[int] = []
    for offset, chunk in _data(path):
        for start in range(0, len(chunk), BLOCK):
            if chunk[start : start + BLOCK].strip(b"\0"):
                found.append(offset + start)
                if len(found) == most:
                    return found
    return found


def _data(path: Path) -> Iterator[tuple[int, bytes]]:
    """Chunks of up to 1 MiB, on boundaries of 1 MiB, that are not all zero; holes of the file are never read."""
    with path.open("rb") as image:
        offset = 0
        while (offset := _next_data(image.fileno(), offset)) >= 0:
            offset -= offset % MIB
            image.seek(offset)
            chunk = image.read(MIB)
            if chunk != _ZEROES[: len(chunk)]:
                yield offset, chunk
            offset += MIB


def _next_data(descriptor: int, offset: int) -> int:
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # Nothing but a hole from here to the end, or beyond the end.
            return -1
        raise


def _run(command: list[str | Path], input_text: str = "") -> None:
    line = [processes.find_program(str(command[0])), *map(str, command[1:])]
    result = subprocess.run(line, input=input_text, capture_output=True, text=True, check=False)
    if result.returncode:
        raise PermanentError(f"{shlex.join(line)}: {result.stderr.strip()}")

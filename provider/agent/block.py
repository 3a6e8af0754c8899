"""
One open disk: the four things that a wipe does to it, and their implementation on Linux block devices.

The wipe sees only `BlockDevice`, so that its logic can be tried on anything. All offsets and lengths are bytes and
multiples of 4096, except that a length may end with the device.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from typing import Protocol, Self

_BLKFLSBUF = 0x1261
_BLKDISCARD = 0x1277
_BLKZEROOUT = 0x127F
_BLKGETSIZE64 = 0x80081272
_BLKRRPART = 0x125F
"""linux/fs.h; the same on x86 and ARM."""

_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS})
BUFFER_BYTES = 4 << 20
"""Largest length of one `read`."""


class BlockDevice(Protocol):
    """One disk, opened for nobody but us; every method raises OSError when the disk does."""

    size: int

    def discard(self, offset: int, length: int) -> None:
        """Tell the disk that it may forget this range; afterwards it may hold anything."""

    def zero(self, offset: int, length: int) -> None:
        """Fill the range with zeroes."""

    def flush(self) -> None:
        """Return when everything written is on the medium and no cache of ours holds a copy."""

    def read(self, offset: int, length: int) -> bytes:
        """Read from the medium; at most BUFFER_BYTES."""

    def close(self) -> None:
        """Let go of the disk."""


class LinuxBlockDevice:
    """
    A block device opened with O_EXCL and O_DIRECT.

    O_EXCL is the kernel's own word that nothing is mounted from the device or from a partition of it, and that no RAID,
    LVM or swap holds it (EBUSY otherwise). O_DIRECT makes read-back read the disk instead of the page cache, which has
    been seen to say zero where the disk did not (Launchpad bug 1900623).
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC)
        try:
            self.size = _size(self._file)
            # Anonymous memory begins at a page, as O_DIRECT wants it.
            self._buffer = mmap.mmap(-1, BUFFER_BYTES)
        except BaseException:
            os.close(self._file)
            raise

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the disk for a wipe."""
        return cls(path)

    def discard(self, offset: int, length: int) -> None:
        fcntl.ioctl(self._file, _BLKDISCARD, struct.pack("=QQ", offset, length))

    def zero(self, offset: int, length: int) -> None:
        """Let the disk do it if it can (WRITE ZEROES, WRITE SAME), else the kernel, else write them from here."""
        try:
            fcntl.ioctl(self._file, _BLKZEROOUT, struct.pack("=QQ", offset, length))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._write_zeroes(offset, length)

    def _write_zeroes(self, offset: int, length: int) -> None:
        self._buffer[:] = bytes(BUFFER_BYTES)
        end = offset + length
        while offset < end:
            with memoryview(self._buffer)[: min(BUFFER_BYTES, end - offset)] as zeroes:
                written = os.pwrite(self._file, zeroes, offset)
            if written <= 0:
                raise OSError(errno.EIO, "the disk takes no more bytes")
            offset += written

    def flush(self) -> None:
        os.fsync(self._file)
        fcntl.ioctl(self._file, _BLKFLSBUF)
        with contextlib.suppress(OSError):  # A disk without partition table support (some loop devices) has none.
            fcntl.ioctl(self._file, _BLKRRPART)

    def read(self, offset: int, length: int) -> bytes:
        done = 0
        while done < length:
            with memoryview(self._buffer)[done:length] as room:
                count = os.preadv(self._file, [room], offset + done)
            if count <= 0:
                raise OSError(errno.EIO, "the disk ends early")
            done += count
        return self._buffer[:length]

    def close(self) -> None:
        self._buffer.close()
        os.close(self._file)


def _size(file: int) -> int:
    raw = fcntl.ioctl(file, _BLKGETSIZE64, bytes(8))
    return int.from_bytes(raw, "little")

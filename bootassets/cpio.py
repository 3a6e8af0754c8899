"""
A tree of files that exists in memory only, and the `newc` cpio archive that the kernel unpacks as initramfs.

The format is described in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. No root is needed to
write device nodes or files of root, because nothing is created on disk first.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class File:
    """A regular file; `content` is its bytes or the file that holds them."""

    content: bytes | Path
    executable: bool = False

    @property
    def mode(self) -> int:
        """Type and permissions."""
        return stat.S_IFREG | (0o755 if self.executable else 0o644)

    def data(self) -> bytes:
        """Give the bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class Directory:
    """An empty folder; folders that hold something need not be named."""

    mode: int = stat.S_IFDIR | 0o755

    def data(self) -> bytes:
        """Give nothing."""
        return b""


@dataclass(frozen=True)
class Symlink:
    """A symbolic link to `target`."""

    target: str
    mode: int = stat.S_IFLNK | 0o777

    def data(self) -> bytes:
        """Give the target, which the format keeps where a file has its content."""
        return self.target.encode()


@dataclass(frozen=True)
class CharacterDevice:
    """A device node such as /dev/console (5, 1)."""

    major: int
    minor: int
    mode: int = stat.S_IFCHR | 0o600

    def data(self) -> bytes:
        """Give nothing."""
        return b""


Entry = File | Directory | Symlink | CharacterDevice
Tree = Mapping[str, Entry]
"""Entries by path without a leading slash."""


def archive(tree: Tree) -> bytes:
    """Give `tree` as one archive."""
    stream = io.BytesIO()
    write(tree, stream)
    return stream.getvalue()


def write(tree: Tree, stream: BinaryIO) -> None:
    """Write `tree` as one archive: sorted, each folder before what is in it, time 0, owner 0, inodes counted from 1."""
    for inode, (name, entry) in enumerate(_with_parents(tree), start=1):
        _write_entry(stream, inode, name, entry)
    stream.write(_header(0, _TRAILER, mode=0, links=1, size=0, device=(0, 0)))


def _with_parents(tree: Tree) -> Iterator[tuple[str, Entry]]:
    complete: dict[str, Entry] = dict(tree)
    for name in tree:
        for parent in PurePosixPath(name).parents:
            if str(parent) != ".":
                complete.setdefault(str(parent), Directory())
    # As tuples of parts, so that a folder stands before its content whatever characters its neighbours' names have.
    yield from sorted(complete.items(), key=lambda item: PurePosixPath(item[0]).parts)


def _write_entry(stream: BinaryIO, inode: int, name: str, entry: Entry) -> None:
    data = entry.data()
    device = (entry.major, entry.minor) if isinstance(entry, CharacterDevice) else (0, 0)
    links = 2 if isinstance(entry, Directory) else 1
    stream.write(_header(inode, name, mode=entry.mode, links=links, size=len(data), device=device))
    stream.write(data)
    stream.write(_padding(len(data)))


def _header(inode: int, name: str, *, mode: int, links: int, size: int, device: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    owner, time, checksum, disk = (0, 0), 0, 0, (0, 0)
    fields = (inode, mode, *owner, links, time, size, *disk, *device, len(encoded), checksum)
    header = _MAGIC + b"".join(b"%08x" % field for field in fields) + encoded
    return header + _padding(len(header))


def _padding(length: int) -> bytes:
    return bytes(-length % 4)

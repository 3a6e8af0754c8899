"""The initramfs archive: what the kernel would refuse, and what would make two builds differ."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from bootassets import cpio


@dataclass
class Unpacked:
    """One entry as the kernel's own reader (init/initramfs.c) would see it."""

    name: str
    inode: int
    mode: int
    owner: tuple[int, int]
    links: int
    time: int
    device: tuple[int, int]
    data: bytes


def unpack(archive: bytes) -> list[Unpacked]:
    """Read a newc archive independently of the writer."""
    found, end = unpack_one(archive, 0)
    assert end == len(archive)
    return found


def unpack_one(archive: bytes, offset: int) -> tuple[list[Unpacked], int]:
    """Read the archive that begins at `offset`; give the end of it, too, where the next one may begin."""
    found = []
    while True:
        assert archive[offset : offset + 6] == b"070701"
        fields = [int(archive[offset + 6 + 8 * n : offset + 14 + 8 * n], 16) for n in range(13)]
        inode, mode, uid, gid, links, time, size, _, _, major, minor, name_size, checksum = fields
        name = archive[offset + 110 : offset + 110 + name_size]
        assert name.endswith(b"\0")
        assert checksum == 0
        start = (offset + 110 + name_size + 3) & ~3
        if name == b"TRAILER!!!\0":
            return found, start
        data = archive[start : start + size]
        found.append(Unpacked(name[:-1].decode(), inode, mode, (uid, gid), links, time, (major, minor), data))
        offset = (start + size + 3) & ~3


def test_parents_come_first_and_owner_is_root() -> None:
    """Breaks if the kernel meets a file before its folder (it drops the file) or files belong to the builder."""
    tree = {
        "a/b/file": cpio.File(b"text", executable=True),
        "a-": cpio.Symlink("a/b"),
        "dev/c": cpio.CharacterDevice(5, 1),
    }
    entries = unpack(cpio.archive(tree))
    assert [entry.name for entry in entries] == ["a", "a/b", "a/b/file", "a-", "dev", "dev/c"]
    assert {entry.owner for entry in entries} == {(0, 0)}
    assert {entry.time for entry in entries} == {0}
    by_name = {entry.name: entry for entry in entries}
    assert by_name["a/b/file"].mode == stat.S_IFREG | 0o755
    assert by_name["a-"].data == b"a/b"
    assert by_name["dev/c"].device == (5, 1)
    assert stat.S_ISCHR(by_name["dev/c"].mode)
    assert by_name["a"].links == 2


def test_order_of_making_does_not_matter() -> None:
    """Breaks if the archive follows the order in which the tree was put together: two builds, two hashes."""
    names = ["z", "a/1", "b/2/3", "a/0"]
    forward = {name: cpio.File(name.encode()) for name in names}
    backward = {name: cpio.File(name.encode()) for name in reversed(names)}
    assert cpio.archive(forward) == cpio.archive(backward)


def test_inodes_are_all_different() -> None:
    """Breaks if two files share an inode number: with more than one link the kernel would make them one."""
    entries = unpack(cpio.archive({f"f{n}": cpio.File(b"") for n in range(50)}))
    assert len({entry.inode for entry in entries}) == 50


paths = st.lists(st.text("abc.-_", min_size=1).filter(lambda part: set(part) != {"."}), min_size=1, max_size=4)


@given(st.dictionaries(paths.map("/".join), st.binary(max_size=40), max_size=12))
def test_any_tree_comes_back(contents: dict[str, bytes]) -> None:
    """Breaks if any name length or file size upsets the padding."""
    files = {
        name: data
        for name, data in contents.items()
        if not any(PurePosixPath(name) in PurePosixPath(other).parents for other in contents)
    }
    entries = unpack(cpio.archive({name: cpio.File(data) for name, data in files.items()}))
    assert {entry.name: entry.data for entry in entries if stat.S_ISREG(entry.mode)} == files

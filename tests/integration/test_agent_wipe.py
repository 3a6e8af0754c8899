"""Wiping real block devices: loop devices, with partitions and file systems on them."""

from __future__ import annotations

import contextlib
import errno
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provider.agent import block, usage, wipe
from provider.domain.inventory import Disk
from provider.domain.operation import DiskWipe, WipeMethod, WipePlan

SIZE = 48 << 20
PATTERN = b"LEFTOVER"


@dataclass(frozen=True)
class LoopDisk:
    """A loop device and the file behind it."""

    path: str
    file: Path

    @property
    def disk(self) -> Disk:
        """As an inventory would show it."""
        return Disk(self.path, SIZE, serial=self.file.name)

    def is_empty(self) -> bool:
        """Whether every byte is zero, seen from outside."""
        run("sync", self.path)
        return self.file.read_bytes() == bytes(SIZE)


def run(*command: str | Path) -> str:
    """Run a program of the system."""
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LoopDisk]:
    """A disk full of a pattern, with two partitions and a file system on the first."""
    file = tmp_path / "LOOP0001"
    file.write_bytes(PATTERN * (SIZE // len(PATTERN)))
    try:
        path = run("losetup", "--find", "--show", "--partscan", file).strip()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this system gives us no loop devices: {error}")
    try:
        subprocess.run(["sfdisk", "--quiet", path], input="label: gpt\n,16M\n,\n", text=True, check=True)
        with contextlib.suppress(subprocess.CalledProcessError):
            run("partx", "--update", path)
        yield LoopDisk(path, file)
    finally:
        run("losetup", "--detach", path)


def wiping(*loops: LoopDisk, method: WipeMethod = WipeMethod.ZERO) -> wipe.Wipe:
    """A wipe of the disks, with everything real but the list of disks (loop devices are in no inventory)."""
    entries = tuple(DiskWipe(loop.file.name, "", loop.path, SIZE, method, "a test") for loop in loops)
    host = wipe.Host(find_disks=lambda: tuple(loop.disk for loop in loops))
    return wipe.Wipe(WipePlan("m-1", "w-1", entries), "m-1", host, random.Random(1))


@pytest.mark.parametrize("method", list(WipeMethod))
def test_nothing_is_left_on_the_medium(loop: LoopDisk, method: WipeMethod) -> None:
    """Breaks if a byte survives on a real block device, or the kernel still sees the old partitions."""
    assert len(usage.partitions(loop.path)) == 2
    running = wiping(loop, method=method)
    running.start()
    report = running.wait(60)
    assert report is not None
    (disk,) = report.disks
    assert (disk.error, disk.verified, disk.bytes_verified) == ("", True, SIZE)
    assert loop.is_empty()
    assert usage.partitions(loop.path) == ()


def test_mounted_disk_is_refused(loop: LoopDisk, tmp_path: Path) -> None:
    """Breaks if a disk with a mounted file system is wiped, whichever of the two checks would have seen it."""
    run("mkfs.ext4", "-q", "-F", f"{loop.path}p1")
    (tmp_path / "mount").mkdir()
    run("mount", f"{loop.path}p1", tmp_path / "mount")
    try:
        with pytest.raises(OSError, match="busy") as caught:
            block.LinuxBlockDevice(loop.path)
        assert caught.value.errno == errno.EBUSY
        running = wiping(loop)
        running.start()
        report = running.wait(60)
        assert report is not None
        assert f"p1 is mounted at {tmp_path / 'mount'}" in report.disks[0].error
    finally:
        run("umount", tmp_path / "mount")
    assert PATTERN in loop.file.read_bytes()


def test_only_one_holds_a_disk(loop: LoopDisk) -> None:
    """Breaks if two wipes, or two names of one disk, can write the same device."""
    first = block.LinuxBlockDevice(loop.path)
    try:
        with pytest.raises(OSError, match="busy"):
            block.LinuxBlockDevice(loop.path)
    finally:
        first.close()


def test_read_sees_the_medium(loop: LoopDisk) -> None:
    """Breaks if read-back is answered from a cache: the file is changed behind the kernel's back."""
    device = block.LinuxBlockDevice(loop.path)
    try:
        assert device.size == SIZE
        device.zero(0, 1 << 20)
        device.flush()
        assert device.read(0, 1 << 20) == bytes(1 << 20)
        run("dd", "if=/dev/urandom", f"of={loop.file}", "bs=4096", "count=1", "conv=notrunc,fsync", "status=none")
        assert device.read(0, 4096) == loop.file.read_bytes()[:4096]
    finally:
        device.close()


def test_zeroes_are_written_where_the_kernel_has_no_ioctl(loop: LoopDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if a disk without BLKZEROOUT cannot be wiped, or the odd end of a range is forgotten."""
    real = block.fcntl.ioctl

    def ioctl(file: int, request: int, argument: bytes = b"") -> object:
        if request == 0x127F:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real(file, request, argument) if argument else real(file, request)

    monkeypatch.setattr(block.fcntl, "ioctl", ioctl)
    running = wiping(loop)
    running.start()
    report = running.wait(60)
    assert report is not None
    assert report.disks[0].verified
    assert loop.is_empty()


def test_disk_that_is_pulled(loop: LoopDisk) -> None:
    """Breaks if a disk that gives errors is anything but a failed disk with a reason."""
    run("blockdev", "--setro", loop.path)
    try:
        running = wiping(loop)
        running.start()
        report = running.wait(60)
        assert report is not None
        assert not report.disks[0].verified
        assert report.disks[0].error
    finally:
        run("blockdev", "--setrw", loop.path)
    assert PATTERN in loop.file.read_bytes()

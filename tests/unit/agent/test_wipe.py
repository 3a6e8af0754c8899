"""The door: every reason not to write a disk, and a report that says exactly what became of each."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from provider.agent import wipe
from provider.agent.usage import Partition
from provider.domain.errors import RefusedError
from provider.domain.inventory import Disk
from provider.domain.operation import DiskWipe, RefusedDisk, WipeMethod, WipePlan, WipeReport
from tests.unit.agent.file_disk import FileDisk

MIB = 1 << 20
SIZE = 4 * MIB


def entry(serial: str = "S1", wwn: str = "", size: int = SIZE) -> DiskWipe:
    """One disk of a plan, seen at another path when the plan was made."""
    return DiskWipe(serial, wwn, "/dev/elsewhere", size, WipeMethod.ZERO, "a reason")


class Bench:
    """A machine with disks that are files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disks: list[Disk] = []
        self.uses: dict[str, tuple[str, ...]] = {}
        self.opened: dict[str, FileDisk] = {}
        self.prepare: Callable[[FileDisk], None] = lambda disk: None
        self.open_error: OSError | None = None

    def add(self, name: str, serial: str, **more: object) -> Path:
        """Put a disk full of data into the machine."""
        FileDisk.filled(self.folder / name, SIZE, b"PATTERN!").close()
        self.disks.append(replace(Disk(path=f"/dev/{name}", size_bytes=SIZE, serial=serial), **more))
        return self.folder / name

    def host(self) -> wipe.Host:
        """The machine as the wipe sees it."""
        return wipe.Host(
            find_disks=lambda: tuple(self.disks),
            find_uses=lambda path: self.uses.get(path, ()),
            find_partitions=lambda path: (Partition("p1", MIB, MIB),),
            open_disk=self._open,
        )

    def run(self, plan: WipePlan, machine_id: str = "m-1") -> WipeReport:
        """Wipe to the end."""
        running = wipe.Wipe(plan, machine_id, self.host(), random.Random(1))
        running.start()
        report = running.wait(30)
        assert report is not None
        return report

    def untouched(self) -> bool:
        """Whether no disk was even opened."""
        return not self.opened

    def _open(self, path: str) -> FileDisk:
        if self.open_error:
            raise self.open_error
        disk = FileDisk(self.folder / path.removeprefix("/dev/"))
        self.prepare(disk)
        self.opened[path] = disk
        return disk


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty machine."""
    return Bench(tmp_path)


def plan(*disks: DiskWipe, refused: tuple[RefusedDisk, ...] = ()) -> WipePlan:
    """A plan for machine m-1."""
    return WipePlan("m-1", "w-1", disks, refused)


def test_both_disks_are_wiped_and_reported(bench: Bench) -> None:
    """Breaks if the report of a good wipe is not exact."""
    paths = [bench.add("vda", "S1"), bench.add("nvme0n1", "S2", wwn="eui.1")]
    report = bench.run(plan(entry("S1"), entry("S2", "eui.1")))
    assert [(disk.serial, disk.wwn, disk.path, disk.verified, disk.error) for disk in report.disks] == [
        ("S1", "", "/dev/vda", True, ""),
        ("S2", "eui.1", "/dev/nvme0n1", True, ""),
    ]
    assert {disk.bytes_verified for disk in report.disks} == {SIZE}
    assert {disk.method for disk in report.disks} == {"zero"}
    assert all(path.read_bytes() == bytes(SIZE) for path in paths)
    assert all(disk.closed for disk in bench.opened.values())
    assert wipe.summary_of_failures(report) == ""


def test_plan_for_another_machine(bench: Bench) -> None:
    """Breaks if a plan that reached the wrong machine writes a single byte."""
    bench.add("vda", "S1")
    with pytest.raises(RefusedError, match="for machine m-1, this is m-2"):
        bench.run(plan(entry()), machine_id="m-2")
    assert bench.untouched()


def test_disk_without_a_name_in_the_plan(bench: Bench) -> None:
    """Breaks if a path alone, which changes between boots, opens the door."""
    bench.add("vda", "")
    refused = (RefusedDisk("/dev/vda", "", "no name"),)
    (disk,) = bench.run(plan(entry(serial=""), refused=refused)).disks
    assert "neither by serial number nor by WWN" in disk.error
    assert bench.untouched()


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        (entry("S1", "naa.other"), "no disks here are named S1 naa.other"),
        (entry("S9"), "no disks here are named S9"),
        (entry("S1", size=SIZE + 512), "the plan says"),
    ],
)
def test_disk_that_is_not_as_planned(bench: Bench, named: DiskWipe, reason: str) -> None:
    """Breaks if a disk that was changed for another one is wiped in its place."""
    bench.add("vda", "S1", wwn="naa.1")
    refused = (RefusedDisk("/dev/vda", "S1", ""),)  # So that it is no stranger.
    (disk,) = bench.run(plan(named, refused=refused)).disks
    assert reason in disk.error
    assert not disk.verified
    assert bench.untouched()


def test_two_disks_with_one_name(bench: Bench) -> None:
    """Breaks if one of two disks that look the same (multipath, cloned serials) is picked by chance."""
    bench.add("sda", "S1")
    bench.add("sdb", "S1")
    (disk,) = bench.run(plan(entry("S1"))).disks
    assert "2 disks here are named S1" in disk.error
    assert bench.untouched()


def test_read_only_disk(bench: Bench) -> None:
    """Breaks if a write-protected disk is called wiped."""
    bench.add("sda", "S1", read_only=True)
    (disk,) = bench.run(plan(entry("S1"))).disks
    assert "read-only" in disk.error
    assert bench.untouched()


def test_disk_in_use(bench: Bench) -> None:
    """Breaks if a mounted disk is wiped under the feet of whoever mounted it."""
    bench.add("sda", "S1")
    bench.uses["/dev/sda"] = ("sda1 is mounted at /mnt",)
    (disk,) = bench.run(plan(entry("S1"))).disks
    assert "sda1 is mounted at /mnt" in disk.error
    assert bench.untouched()


def test_disk_that_was_swapped_after_the_look(bench: Bench) -> None:
    """Breaks if the path was given to another disk between the look and the open."""
    path = bench.add("sda", "S1")
    bench.disks[0] = replace(bench.disks[0], size_bytes=SIZE - MIB)
    (disk,) = bench.run(plan(entry("S1", size=SIZE - MIB))).disks
    assert "now has" in disk.error
    assert b"PATTERN!" in path.read_bytes()


def test_path_that_went_to_another_disk(bench: Bench) -> None:
    """Breaks if the disk was pulled and another of the same size got its path just before the open."""
    path = bench.add("sda", "S1")

    def swap(disk: FileDisk) -> None:
        bench.disks[0] = replace(bench.disks[0], path="/dev/sdb")

    bench.prepare = swap
    (disk,) = bench.run(plan(entry("S1"))).disks
    assert "has become another disk" in disk.error
    assert b"PATTERN!" in path.read_bytes()


def test_failure_without_a_message(bench: Bench) -> None:
    """Breaks if an error that has nothing to say is taken for success."""
    bench.add("vda", "S1")
    bench.open_error = OSError()
    (disk,) = bench.run(plan(entry("S1"))).disks
    assert (disk.verified, disk.error) == (False, "OSError")


def test_disk_that_the_plan_does_not_know(bench: Bench) -> None:
    """Breaks if a disk that came after the inventory keeps its data in a machine that is then called empty."""
    bench.add("vda", "S1")
    bench.add("vdb", "S2")
    with pytest.raises(wipe.PlanOutdatedError, match="/dev/vdb"):
        bench.run(plan(entry("S1")))
    assert bench.untouched()


def test_removable_medium_is_left_alone(bench: Bench) -> None:
    """Breaks if a forgotten USB stick stops a wipe, or is wiped."""
    bench.add("vda", "S1")
    stick = bench.add("sdz", "U1", removable=True)
    assert wipe.summary_of_failures(bench.run(plan(entry("S1")))) == ""
    assert b"PATTERN!" in stick.read_bytes()


def test_one_bad_disk_fails_alone(bench: Bench) -> None:
    """Breaks if one failing disk keeps the others from being wiped, or is hidden by them."""
    good = bench.add("vda", "S1")
    bench.add("vdb", "S2")

    def sabotage(disk: FileDisk) -> None:
        if "vdb" in str(disk._path):
            disk.fail["flush"] = OSError(5, "Input/output error")

    bench.prepare = sabotage
    report = bench.run(plan(entry("S1"), entry("S2")))
    assert [disk.verified for disk in report.disks] == [True, False]
    assert "Input/output error" in report.disks[1].error
    assert good.read_bytes() == bytes(SIZE)
    assert "/dev/vdb (S2)" in wipe.summary_of_failures(report)


def test_busy_device(bench: Bench) -> None:
    """Breaks if the kernel's refusal (O_EXCL: somebody holds the disk) is lost."""
    bench.add("vda", "S1")
    bench.open_error = OSError(16, "Device or resource busy")
    (disk,) = bench.run(plan(entry("S1"))).disks
    assert "busy" in disk.error


def test_an_error_of_ours_is_a_failed_disk(bench: Bench) -> None:
    """Breaks if a bug in the agent leaves a disk that seems to be busy for ever."""

    def explode(disk: FileDisk) -> None:
        disk.close()
        raise KeyError("oops")

    bench.add("vda", "S1")
    bench.prepare = explode
    (disk,) = bench.run(plan(entry("S1"))).disks
    assert "KeyError" in disk.error


def test_same_disk_twice_in_the_plan(bench: Bench) -> None:
    """Breaks if two threads write one disk and both call it verified."""
    bench.add("vda", "S1")
    with pytest.raises(RefusedError, match="twice"):
        bench.run(plan(entry("S1"), entry("S1")))
    assert bench.untouched()


def test_progress_and_stopping(bench: Bench) -> None:
    """Breaks if progress does not move, reaches 100 before the end, or a stopped wipe is called done."""
    bench.add("vda", "S1")
    reached, go_on = threading.Event(), threading.Event()

    class SlowDisk(FileDisk):
        def flush(self) -> None:
            reached.set()
            assert go_on.wait(10)

    host = replace(bench.host(), open_disk=lambda path: SlowDisk(bench.folder / "vda"))
    running = wipe.Wipe(plan(entry("S1")), "m-1", host)
    assert running.percent == 0
    running.start()
    assert reached.wait(10)
    assert running.doing == "1 erasing"
    assert running.percent < 100
    assert running.wait(0) is None
    running.stop()
    go_on.set()
    report = running.wait(10)
    assert report is not None
    assert "no longer wanted" in report.disks[0].error
    assert not report.disks[0].verified
    assert running.percent == 100
    assert running.doing == "1 failed"


def test_machine_without_disks(bench: Bench) -> None:
    """Breaks if a diskless machine can never become ready."""
    assert bench.run(plan()) == WipeReport()

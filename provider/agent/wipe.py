"""
The door to destruction, the agent's side of it, and the wipe behind the door.

A disk is written only if a plan for this very machine names it by serial number or WWN, exactly one disk here and now
answers to that name, it has the size that the plan says, it is writable, and nothing uses it. The provider has checked
the same; paths and hardware may have changed since.

Every disk has a thread. One that fails fails alone; the report tells of each, and a single failure makes the whole wipe
a failed one.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from provider.agent import erase, usage
from provider.agent.block import BlockDevice, LinuxBlockDevice
from provider.agent.inventory import disks as inventory_disks
from provider.domain.errors import RefusedError
from provider.domain.inventory import Disk
from provider.domain.operation import DiskWipe, DiskWiped, WipePlan, WipeReport


@dataclass(frozen=True)
class Host:
    """The machine that the wipe works on; other functions in tests."""

    find_disks: Callable[[], Iterable[Disk]] = inventory_disks.read
    find_uses: Callable[[str], tuple[str, ...]] = usage.uses
    find_partitions: Callable[[str], tuple[usage.Partition, ...]] = usage.partitions
    open_disk: Callable[[str], BlockDevice] = LinuxBlockDevice


REAL_HOST = Host()


class Stage(StrEnum):
    """Where one disk stands, in words for people."""

    WAITING = "waiting"
    ERASING = "erasing"
    READING_BACK = "reading back"
    DONE = "done"
    FAILED = "failed"


class PlanOutdatedError(RefusedError):
    """The plan was made from an inventory that is no longer right: a new one must go to the provider."""


def check_machine(plan: WipePlan, machine_id: str) -> None:
    """
    Check that a plan is for this machine at all.

    Raises:
        RefusedError: If it is for another; nothing may be touched.
    """
    if plan.machine_id != machine_id:
        raise RefusedError(f"the wipe plan is for machine {plan.machine_id}, this is {machine_id}: nothing was touched")


def find_disk(entry: DiskWipe, host: Host) -> Disk:
    """
    Find the disk that an entry of a plan names, and check that it may be written.

    Raises:
        RefusedError: If none or several answer to the name, or the one is not as the plan says, or is in use.
    """
    name = " ".join(filter(None, (entry.serial, entry.wwn)))
    if not name:
        raise RefusedError("the plan names this disk neither by serial number nor by WWN")
    found = [disk for disk in host.find_disks() if _answers_to(disk, entry)]
    if len(found) != 1:
        raise RefusedError(f"{len(found) or 'no'} disks here are named {name}")
    (disk,) = found
    if disk.size_bytes != entry.size_bytes:
        raise RefusedError(f"{disk.path} has {disk.size_bytes} bytes, the plan says {entry.size_bytes}")
    if disk.read_only:
        raise RefusedError(f"{disk.path} is read-only")
    if uses := host.find_uses(disk.path):
        raise RefusedError(f"{disk.path} is in use: {'; '.join(uses)}")
    return disk


def strangers(plan: WipePlan, disks: Iterable[Disk]) -> tuple[Disk, ...]:
    """
    Give the disks that the plan says nothing about: they came after the inventory that it was made from.

    A wipe that passed over them would call a machine empty that is not. Removable media are left alone in any case.
    """
    known = [(disk.serial, disk.path if not disk.serial else "") for disk in plan.refused]
    return tuple(
        disk
        for disk in disks
        if not disk.removable
        and not any(_answers_to(disk, entry) for entry in plan.disks)
        and (disk.serial, disk.path if not disk.serial else "") not in known
    )


def _answers_to(disk: Disk, entry: DiskWipe) -> bool:
    """What the plan knows of the name must all be right; what it does not know counts for nothing."""
    return (not entry.serial or disk.serial == entry.serial) and (not entry.wwn or disk.wwn == entry.wwn)


@dataclass
class _DiskTask:
    """One disk of the plan on its way."""

    entry: DiskWipe
    stage: Stage = Stage.WAITING
    path: str = ""
    bytes_total: int = 0
    bytes_done: int = 0
    outcome: DiskWiped | None = None


@dataclass
class Wipe:
    """A wipe that runs beside us: `start` it, follow `percent` and `doing`, `stop` it, `wait` for the report."""

    plan: WipePlan
    machine_id: str
    host: Host = REAL_HOST
    dice: random.Random = field(default_factory=random.SystemRandom)
    _tasks: list[_DiskTask] = field(init=False)
    _threads: list[threading.Thread] = field(init=False, default_factory=list)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._tasks = [_DiskTask(entry, bytes_total=2 * entry.size_bytes) for entry in self.plan.disks]

    def start(self) -> None:
        """
        Begin with all disks at once.

        Raises:
            PlanOutdatedError: If there are disks that the plan does not know.
            RefusedError: If the plan is not for this machine, or two of its entries name one disk.
        """
        check_machine(self.plan, self.machine_id)
        if unplanned := strangers(self.plan, self.host.find_disks()):
            spelled = ", ".join(f"{disk.path} ({disk.serial or disk.wwn})" for disk in unplanned)
            raise PlanOutdatedError(f"the wipe plan says nothing about {spelled}: nothing was touched")
        names = Counter((entry.serial, entry.wwn) for entry in self.plan.disks)
        if twice := [" ".join(name) for name, count in names.items() if count > 1]:
            raise RefusedError(f"the wipe plan names a disk twice ({', '.join(twice)}): nothing was touched")
        for task in self._tasks:
            thread = threading.Thread(target=self._run, args=(task,), name=f"wipe {task.entry.path}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop soon. What was erased stays erased; the report says so."""
        self._stop.set()

    def wait(self, seconds: float) -> WipeReport | None:
        """Wait for the end, at most so long; the report if all disks are through, else None."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        outcomes = tuple(task.outcome for task in self._tasks if task.outcome is not None)
        return WipeReport(outcomes) if len(outcomes) == len(self._tasks) else None

    @property
    def percent(self) -> int:
        """How far all disks are together; 100 only at the end."""
        total = sum(task.bytes_total for task in self._tasks)
        done = sum(task.bytes_done for task in self._tasks)
        finished = all(task.outcome is not None for task in self._tasks)
        return 100 if finished else min(99, done * 100 // max(1, total))

    @property
    def doing(self) -> str:
        """How many disks are at which stage: `2 erasing, 1 done`."""
        stages = Counter(task.stage for task in self._tasks)
        return ", ".join(f"{stages[stage]} {stage}" for stage in Stage if stages[stage])

    def _run(self, task: _DiskTask) -> None:
        started = time.monotonic()
        verified, error = 0, "not finished"
        try:
            verified = self._erase(task)
            error = ""
        except erase.StoppedError:
            error = "stopped because it is no longer wanted"
        except (RefusedError, erase.NotErasedError, OSError) as failure:
            error = str(failure) or type(failure).__name__
        except Exception as failure:  # noqa: BLE001 - an error of ours must not look like a disk that is still busy.
            error = f"{type(failure).__name__}: {failure}"
        task.stage = Stage.FAILED if error else Stage.DONE
        task.outcome = _outcome(task, verified, time.monotonic() - started, error)

    def _erase(self, task: _DiskTask) -> int:
        """Do everything to one disk and give the number of bytes that were read back."""
        disk = find_disk(task.entry, self.host)
        task.path = disk.path
        partitions = self.host.find_partitions(disk.path)
        regions = erase.regions_to_read(disk.size_bytes, partitions, self.dice)
        task.bytes_total = erase.work_bytes(disk.size_bytes, regions)
        watch = erase.Watch(lambda amount: _count(task, amount), self._stop)
        device = self.host.open_disk(disk.path)
        try:
            self._look_again(task.entry, disk, device)
            task.stage = Stage.ERASING
            erase.erase(device, task.entry.method, partitions, watch)
            task.stage = Stage.READING_BACK
            return erase.read_back(device, regions, watch)
        finally:
            device.close()

    def _look_again(self, entry: DiskWipe, disk: Disk, held: BlockDevice) -> None:
        """Check the disk that we hold: its path was looked up a moment ago and may have gone to another since."""
        if find_disk(entry, self.host).path != disk.path:
            raise RefusedError(f"{disk.path} has become another disk just now")
        if held.size != disk.size_bytes:
            raise RefusedError(f"{disk.path} had {disk.size_bytes} bytes and now has {held.size}")


def _count(task: _DiskTask, amount: int) -> None:
    task.bytes_done += amount  # Only the disk's own thread writes it.


def _outcome(task: _DiskTask, verified: int, seconds: float, error: str) -> DiskWiped:
    entry = task.entry
    return DiskWiped(
        serial=entry.serial,
        wwn=entry.wwn,
        path=task.path or entry.path,
        size_bytes=entry.size_bytes,
        method=entry.method,
        verified=not error,
        bytes_verified=verified,
        seconds=round(seconds, 3),
        error=error,
    )


def summary_of_failures(report: WipeReport) -> str:
    """Give one line with what went wrong, empty if nothing did."""
    return "; ".join(f"{disk.path} ({disk.serial or disk.wwn}): {disk.error}" for disk in report.disks if disk.error)

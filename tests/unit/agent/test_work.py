"""The agent's day, against a provider that is away, says no, or repeats itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from provider.agent import client, decode, patience, wipe, work
from provider.domain.errors import RefusedError, TemporaryError
from provider.domain.inventory import Cpu, Disk, FirmwareKind, Inventory, System
from provider.domain.operation import DiskWipe, OperationKind, WipeMethod, WipePlan
from provider.wire import agent as wire
from tests.unit.agent.file_disk import FileDisk

SIZE = 1 << 20
PLAN = WipePlan("m-1", "w-1", (DiskWipe("S1", "", "/dev/vda", SIZE, WipeMethod.ZERO, ""),))
INVENTORY = Inventory(System(), FirmwareKind.BIOS, "x86_64", Cpu(), 1)

Answer = wire.Work | Exception | None


@dataclass
class FakeProvider:
    """Gives `work` in turn; keeps what it is told; raises what stands in `result_errors` first."""

    work: list[Answer]
    progress_answers: list[bool | Exception] = field(default_factory=list)
    result_errors: list[Exception] = field(default_factory=list)
    results: list[tuple[str, wire.Result]] = field(default_factory=list)
    reported: list[wire.Progress] = field(default_factory=list)
    inventories: list[Inventory] = field(default_factory=list)

    def next_work(self, wait_seconds: float) -> wire.Work | None:
        answer = self.work.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def progress(self, operation_id: str, progress: wire.Progress) -> bool:
        self.reported.append(progress)
        answer = self.progress_answers.pop(0) if self.progress_answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def result(self, operation_id: str, result: wire.Result) -> None:
        if self.result_errors:
            raise self.result_errors.pop(0)
        self.results.append((operation_id, result))

    def report(self, inventory: Inventory) -> None:
        self.inventories.append(inventory)


class Bench:
    """A worker on a machine with one disk; `events` are what it did to the machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disks = [Disk("/dev/vda", SIZE, "S1")]
        self.events: list[str] = []
        self.before_opening: Callable[[], object] = lambda: None
        FileDisk.filled(folder / "vda", SIZE, b"PATTERN!").close()

    def worker(self, provider: FakeProvider) -> work.Worker:
        """Make the worker."""
        host = wipe.Host(
            find_disks=lambda: tuple(self.disks),
            find_uses=lambda path: (),
            find_partitions=lambda path: (),
            open_disk=self._open_disk,
        )
        return work.Worker(
            provider,
            "m-1",
            lambda: INVENTORY,
            restart=lambda reason: self.events.append("restart"),
            switch_off=lambda reason: self.events.append("off"),
            host=host,
        )

    def _open_disk(self, path: str) -> FileDisk:
        self.before_opening()
        return FileDisk(self.folder / "vda")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A quiet bench, on which pauses take no time."""
    monkeypatch.setattr(work, "say", lambda text: None)
    monkeypatch.setattr(patience, "say", lambda text: None)
    real = patience.until_done

    def hasty(attempt: Callable[[], object]) -> object:
        return real(attempt, sleep=lambda seconds: None)

    monkeypatch.setattr(patience, "until_done", hasty)
    return Bench(tmp_path)


def order(kind: OperationKind, plan: WipePlan | None = None, machine_id: str = "m-1") -> wire.Work:
    """One operation."""
    return wire.Work("op-1", machine_id, kind, plan)


def away() -> TemporaryError:
    """What an absent provider looks like."""
    return TemporaryError("no route to host", retry_after=timedelta(seconds=1))


def test_wipe_is_done_and_reported(bench: Bench) -> None:
    """Breaks if a wipe is not told of at its beginning, or its report does not come with the result."""
    told = threading.Event()

    class Told(FakeProvider):
        def progress(self, operation_id: str, progress: wire.Progress) -> bool:
            told.set()
            return super().progress(operation_id, progress)

    provider = Told([order(OperationKind.WIPE, PLAN)])
    bench.before_opening = lambda: told.wait(10)  # The disk is small: it could be done before anything is told.
    bench.worker(provider).run_once()
    ((operation, result),) = provider.results
    assert (operation, result.error) == ("op-1", "")
    assert result.wipe_report is not None
    assert result.wipe_report.disks[0].verified
    assert provider.reported[0].percent < 100
    assert (bench.folder / "vda").read_bytes() == bytes(SIZE)


def test_result_is_repeated_until_somebody_takes_it(bench: Bench) -> None:
    """Breaks if a provider that restarts during a wipe never learns how it ended."""
    provider = FakeProvider([order(OperationKind.WIPE, PLAN)], result_errors=[away(), away()])
    bench.worker(provider).run_once()
    assert len(provider.results) == 1


def test_progress_that_reaches_nobody_does_not_stop_a_wipe(bench: Bench) -> None:
    """Breaks if a provider that is away for a moment costs a whole wipe."""
    provider = FakeProvider([order(OperationKind.WIPE, PLAN)], progress_answers=[away()])
    bench.worker(provider).run_once()
    assert provider.results[0][1].error == ""


def test_wipe_that_is_no_longer_wanted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if 410 does not stop the disks."""
    stopped: list[wipe.Wipe] = []
    monkeypatch.setattr(wipe.Wipe, "stop", lambda running: stopped.append(running))
    provider = FakeProvider([order(OperationKind.WIPE, PLAN)], progress_answers=[False])
    bench.worker(provider).run_once()
    assert len(stopped) == 1


def test_refused_token_during_a_wipe_stops_it_first(bench: Bench) -> None:
    """Breaks if the machine restarts while a thread is still writing to a disk."""
    provider = FakeProvider(
        [order(OperationKind.WIPE, PLAN)], progress_answers=[client.TokenRefusedError("no such token")]
    )
    with pytest.raises(client.TokenRefusedError):
        bench.worker(provider).run_once()
    assert provider.results == []


def test_finished_work_is_answered_not_done_twice(bench: Bench) -> None:
    """Breaks if a lost acknowledgement makes the machine wipe or restart twice."""
    provider = FakeProvider([order(OperationKind.REBOOT), order(OperationKind.REBOOT)])
    worker = bench.worker(provider)
    worker.run_once()
    worker.run_once()
    assert bench.events == ["restart"]
    assert provider.results == [("op-1", wire.Result(error="")), ("op-1", wire.Result(error=""))]


@pytest.mark.parametrize(("kind", "event"), [(OperationKind.REBOOT, "restart"), (OperationKind.POWER_OFF, "off")])
def test_power_is_answered_before_it_goes(bench: Bench, kind: OperationKind, event: str) -> None:
    """Breaks if the provider waits for ever for the answer of a machine that is off."""
    provider = FakeProvider([order(kind)], result_errors=[away()])
    bench.worker(provider).run_once()
    assert provider.results == [("op-1", wire.Result(error=""))]
    assert bench.events == [event]


def test_work_for_another_machine(bench: Bench) -> None:
    """Breaks if a mixed-up provider can make this machine wipe or go down."""
    provider = FakeProvider(
        [order(OperationKind.POWER_OFF, machine_id="m-2"), order(OperationKind.WIPE, replace(PLAN, machine_id="m-2"))]
    )
    worker = bench.worker(provider)
    worker.run_once()
    worker._results.clear()
    worker.run_once()
    assert bench.events == []
    assert all("m-2" in result.error for _, result in provider.results)
    assert b"PATTERN!" in (bench.folder / "vda").read_bytes()


def test_wipe_without_plan(bench: Bench) -> None:
    """Breaks if a wipe without a plan touches anything, or is called done."""
    provider = FakeProvider([order(OperationKind.WIPE)])
    bench.worker(provider).run_once()
    assert "without a plan" in provider.results[0][1].error


def test_bmc_set_up_is_declined(bench: Bench) -> None:
    """Breaks if work for the Talos agent ends in silence here."""
    provider = FakeProvider([order(OperationKind.SET_UP_BMC)])
    bench.worker(provider).run_once()
    assert "BMC" in provider.results[0][1].error


def test_new_disk_sends_a_new_inventory(bench: Bench) -> None:
    """Breaks if the provider keeps planning from an inventory that lacks a disk."""
    bench.disks.append(Disk("/dev/vdb", SIZE, "S2"))
    provider = FakeProvider([order(OperationKind.WIPE, PLAN)])
    bench.worker(provider).run_once()
    assert provider.inventories == [INVENTORY]
    assert "/dev/vdb" in provider.results[0][1].error
    assert b"PATTERN!" in (bench.folder / "vda").read_bytes()


def test_unknown_work_is_answered(bench: Bench) -> None:
    """Breaks if an older agent meets a newer operation with silence."""
    provider = FakeProvider([decode.UnknownWorkError("cannot dance", "op-7")])
    bench.worker(provider).run_once()
    assert provider.results[0][0] == "op-7"
    assert "cannot dance" in provider.results[0][1].error


def test_nothing_to_do(bench: Bench) -> None:
    """Breaks if an empty answer is an error, or an absent provider ends the agent."""
    provider = FakeProvider([away(), None])
    bench.worker(provider).run_once()
    assert provider.results == []


def test_result_that_is_refused_is_let_go(bench: Bench) -> None:
    """Breaks if one result that the provider will never take keeps the agent from all further work."""
    provider = FakeProvider([order(OperationKind.REBOOT)], result_errors=[RefusedError("400")])
    bench.worker(provider).run_once()
    assert bench.events == ["restart"]

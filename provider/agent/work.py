"""
The agent's day: ask for work, do it, say how it ended.

A result is sent until somebody has taken it. An operation that comes again after that (its acknowledgement got lost on
the way) is answered with the same result and not done twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from provider.agent import decode, patience, power, wipe
from provider.agent.console import say
from provider.domain.errors import RefusedError, TemporaryError
from provider.domain.inventory import Inventory
from provider.domain.operation import OperationKind, WipeReport
from provider.wire import agent as wire


class Provider(Protocol):
    """What a worker needs of `client.Provider`."""

    def report(self, inventory: Inventory) -> None: ...
    def next_work(self, wait_seconds: float) -> wire.Work | None: ...
    def progress(self, operation_id: str, progress: wire.Progress) -> bool: ...
    def result(self, operation_id: str, result: wire.Result) -> None: ...


class Worker:
    """Does the operations of one machine, one after the other."""

    def __init__(
        self,
        provider: Provider,
        machine_id: str,
        gather: Callable[[], Inventory],
        *,
        restart: Callable[[str], None] = power.restart,
        switch_off: Callable[[str], None] = power.switch_off,
        host: wipe.Host = wipe.REAL_HOST,
    ) -> None:
        self._provider = provider
        self._machine_id = machine_id
        self._gather = gather
        self._restart = restart
        self._switch_off = switch_off
        self._host = host
        self._results: dict[str, wire.Result] = {}

    def run(self) -> None:
        """
        Work until the token is refused.

        Raises:
            TokenRefusedError: The provider does not know us any more.
        """
        while True:
            self.run_once()

    def run_once(self) -> None:
        """Ask once, and do what the answer says."""
        try:
            work = patience.until_done(lambda: self._provider.next_work(wire.LONG_POLL_SECONDS))
        except decode.UnknownWorkError as error:
            say(str(error))
            self._answer(error.operation_id, wire.Result(error=str(error)))
            return
        if work is not None:
            self._perform(work)

    def _perform(self, work: wire.Work) -> None:
        if work.machine_id != self._machine_id:
            self._answer(work.id, wire.Result(error=f"this is machine {self._machine_id}, not {work.machine_id}"))
        elif work.id in self._results:
            self._answer(work.id, self._results[work.id])
        else:
            self._begin(work)

    def _begin(self, work: wire.Work) -> None:
        match work.kind:
            case OperationKind.WIPE:
                self._answer(work.id, self._wipe(work))
            case OperationKind.REBOOT:
                self._answer(work.id, wire.Result(error=""))
                self._restart("the provider asked for it")
            case OperationKind.POWER_OFF:
                self._answer(work.id, wire.Result(error=""))
                self._switch_off("the provider asked for it")
            case OperationKind.SET_UP_BMC:
                self._answer(work.id, wire.Result(error="this agent does not set up BMCs"))

    def _wipe(self, work: wire.Work) -> wire.Result:
        """Wipe as planned and report on the way; give the result."""
        if work.wipe_plan is None:
            return wire.Result(error="a wipe without a plan: nothing was touched")
        running = wipe.Wipe(work.wipe_plan, self._machine_id, self._host)
        try:
            running.start()
        except wipe.PlanOutdatedError as error:
            say(f"{error}; reporting the inventory again")
            self._report_inventory()
            return wire.Result(error=str(error))
        except RefusedError as error:
            say(str(error))
            return wire.Result(error=str(error))
        say(f"wiping {len(work.wipe_plan.disks)} disks")
        report = self._follow(work.id, running)
        failures = wipe.summary_of_failures(report)
        say(f"wipe failed: {failures}" if failures else "wipe done and verified")
        return wire.Result(error=failures, wipe_report=report)

    def _follow(self, operation_id: str, running: wipe.Wipe) -> WipeReport:
        """Report progress until the wipe ends; a provider that is away does not stop it, one that answers 410 does."""
        try:
            while True:
                with contextlib.suppress(TemporaryError, RefusedError):
                    progress = wire.Progress(running.percent, running.doing)
                    if not self._provider.progress(operation_id, progress):
                        running.stop()
                if report := running.wait(wire.PROGRESS_SECONDS):
                    return report
        except BaseException:
            # We are leaving (the token is refused): the disks must be quiet before anything else begins.
            running.stop()
            while running.wait(1.0) is None:
                pass
            raise

    def _report_inventory(self) -> None:
        found = self._gather()
        patience.until_done(lambda: self._provider.report(found))

    def _answer(self, operation_id: str, result: wire.Result) -> None:
        self._results[operation_id] = result
        try:
            patience.until_done(lambda: self._provider.result(operation_id, result))
        except RefusedError as error:
            say(f"the provider does not take the result: {error}")

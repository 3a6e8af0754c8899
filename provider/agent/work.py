"""
The agent's day: ask for work, do it, say how it ended.

A result is sent until somebody has taken it. An operation that comes again after that (its acknowledgement got lost on
the way) is answered with the same result and not done twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from provider.agent import decode, patience, power
from provider.agent.console import say
from provider.domain.operation import OperationKind
from provider.wire import agent as wire


class Provider(Protocol):
    """What a worker needs of `client.Provider`."""

    def next_work(self, wait_seconds: float) -> wire.Work | None: ...
    def progress(self, operation_id: str, progress: wire.Progress) -> bool: ...
    def result(self, operation_id: str, result: wire.Result) -> None: ...


class Worker:
    """Does the operations of one machine, one after the other."""

    def __init__(
        self,
        provider: Provider,
        machine_id: str,
        *,
        restart: Callable[[str], None] = power.restart,
        switch_off: Callable[[str], None] = power.switch_off,
    ) -> None:
        self._provider = provider
        self._machine_id = machine_id
        self._restart = restart
        self._switch_off = switch_off
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
            say(f"told to {work.kind.replace('_', ' ')}")
            self._answer(work.id, wire.Result())
            self._leave(work.kind)

    def _leave(self, kind: OperationKind) -> None:
        match kind:
            case OperationKind.REBOOT:
                self._restart("the provider asked for it")
            case OperationKind.POWER_OFF:
                self._switch_off("the provider asked for it")

    def _answer(self, operation_id: str, result: wire.Result) -> None:
        self._results[operation_id] = result
        patience.until_done(lambda: self._provider.result(operation_id, result))

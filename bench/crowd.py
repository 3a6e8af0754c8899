"""Clients that all begin at the same moment, each a process of its own; what load programs are made of."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Generic, TypeVar

T = TypeVar("T")


class _Failure(str):
    """Why one client got nothing."""

    __slots__ = ()


class Crowd(Generic[T]):
    """A number of clients; each calls `client` once."""

    def __init__(self, size: int, client: Callable[[], T]) -> None:
        self._begin = multiprocessing.Barrier(size + 1)
        self._results: multiprocessing.SimpleQueue[T | _Failure] = multiprocessing.SimpleQueue()
        what = (self._begin, self._results, client)
        self._processes = [multiprocessing.Process(target=_run, args=what, daemon=True) for _ in range(size)]

    def run(self) -> tuple[list[T], float]:
        """Give what all of them got, and the seconds from the beginning to the last end; ends the program if one failed."""
        for process in self._processes:
            process.start()
        self._begin.wait()
        started = time.monotonic()
        results = [self._results.get() for _ in self._processes]
        seconds = time.monotonic() - started
        for process in self._processes:
            process.join()
        failures = [result for result in results if isinstance(result, _Failure)]
        if failures:
            sys.exit(f"{len(failures)} of {len(results)} clients failed: {failures[0]}")
        return [result for result in results if not isinstance(result, _Failure)], seconds


def _run(begin: Barrier, results: multiprocessing.SimpleQueue[T | _Failure], client: Callable[[], T]) -> None:
    begin.wait()
    try:
        results.put(client())
    except OSError as error:
        results.put(_Failure(error))

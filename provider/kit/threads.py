"""
Blocking calls in threads of their own.

A thread cannot be cancelled. So a cancellation that arrives while one works is held until it is back: whoever
cancelled can be sure that nothing is still going on behind their back. Give the blocking call a timeout of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A named pool of `size` threads for one kind of work, so that one kind cannot starve another."""

    def __init__(self, name: str, size: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=size, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in a thread; raises what it raises, and a cancellation only after it has returned."""
        loop = asyncio.get_running_loop()
        working = loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))
        cancelled: asyncio.CancelledError | None = None
        while not working.done():
            try:
                await asyncio.shield(working)
            except asyncio.CancelledError as error:
                if working.cancelled():
                    raise
                cancelled = error
            except BaseException:  # noqa: BLE001 - raised below, from the finished future
                break
        if cancelled is not None:
            working.exception()
            raise cancelled
        return working.result()

    def close(self) -> None:
        """Take no more work and wait for what is under way; blocks."""
        self._executor.shutdown(wait=True, cancel_futures=True)

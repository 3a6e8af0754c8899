"""
Errands: things to be seen to, each known by a key, the newest word on each being enough.

A key that is called while it waits is seen to once; one that is called while it is being seen to comes again afterwards. So no
key is ever in two hands, however often it is called, and a thousand keys take turns on a few hands.
What waits when `run` is stopped is seen to when it runs again.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from provider.domain.errors import BootwrightError
from provider.kit import backoff

log = structlog.get_logger()

FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=2)


class Errands:
    """Call keys with `call`; `run` sees to them by `see_to`, again with growing pauses where that fails."""

    def __init__(self, see_to: Callable[[str], Awaitable[None]], hands: int, *, what: str) -> None:
        self._see_to = see_to
        self._hands = hands
        self._what = what
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._in_hand: set[str] = set()
        self._failures: dict[str, int] = {}
        self._called = asyncio.Event()

    def call(self, *keys: str) -> None:
        """These need to be seen to."""
        self._waiting.update(dict.fromkeys(keys))
        self._called.set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_hand)

    async def run(self) -> None:
        """See to whatever is called, for ever."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._hands):
                group.create_task(self._work(), name=f"{self._what} {number}")

    async def _work(self) -> None:
        while True:
            key = await self._next()
            try:
                await self._see_to(key)
            except BootwrightError as error:
                self._failed(key, str(error), error.hint)
            except Exception as error:
                # Ended by it, the connection of all others would begin anew for ever, and never get beyond this one.
                log.exception("omni.errand_broken", what=self._what, key=key)
                self._failed(key, f"an error of ours: {error}", "see the log")
            except BaseException:  # We are stopped.
                self.call(key)
                raise
            else:
                self._failures.pop(key, None)
            finally:
                self._in_hand.discard(key)
                if key in self._waiting:
                    self._called.set()

    async def _next(self) -> str:
        while True:
            free = next((key for key in self._waiting if key not in self._in_hand), None)
            if free is not None:
                del self._waiting[free]
                self._in_hand.add(free)
                return free
            self._called.clear()
            await self._called.wait()

    def _failed(self, key: str, error: str, hint: str) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = backoff.delay(failures, FIRST_PAUSE, LONGEST_PAUSE, random.random())  # noqa: S311 - jitter
        again_in_s = round(pause.total_seconds())
        log.warning("omni.errand_failed", what=self._what, key=key, error=error, hint=hint, again_in_s=again_in_s)
        asyncio.get_running_loop().call_later(pause.total_seconds(), self.call, key)

"""The wall clock; only shells read it, and hand the time on as an argument."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_NOTICED = timedelta(seconds=5)
"""Less than this is no step: the kernel slews by as much without anybody's doing."""


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


def steady() -> float:
    """Seconds that passed, suspended or not; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class WatchedClock:
    """The wall clock, and whether somebody set it: NTP after a start without a clock chip, or a person."""

    def __init__(self, wall: Callable[[], datetime], steady: Callable[[], float] = steady) -> None:
        self._wall = wall
        self._steady = steady
        self._then, self._steady_then = wall(), steady()

    def look(self) -> tuple[datetime, datetime]:
        """What it would be now if nobody had set it since the last look, and what it is. Mostly that is the same."""
        now, passed = self._wall(), self._steady() - self._steady_then
        was = self._then + timedelta(seconds=passed)
        if abs(now - was) < _NOTICED:
            return now, now
        self._then, self._steady_then = now, self._steady_then + passed
        return was, now

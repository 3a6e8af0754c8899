"""Who set the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from provider.kit.clock import WatchedClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clocks:
    """A wall clock that can be set, and what nobody sets."""

    def __init__(self) -> None:
        self.wall, self.steady = NOON, 1000.0

    def wait(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.steady += seconds

    def watched(self) -> WatchedClock:
        return WatchedClock(lambda: self.wall, lambda: self.steady)


@pytest.mark.parametrize(
    "step", [timedelta(hours=3), timedelta(hours=-3), timedelta(days=20_000), timedelta(seconds=-6)]
)
def test_step_is_seen_once(step: timedelta) -> None:
    """A clock that was set is not noticed, or is noticed at each look."""
    clocks = Clocks()
    clock = clocks.watched()
    clocks.wait(60)
    assert clock.look() == (clocks.wall, clocks.wall)
    clocks.wait(60)
    was = clocks.wall
    clocks.wall += step
    assert clock.look() == (was, was + step)
    clocks.wait(60)
    assert clock.look() == (clocks.wall, clocks.wall)


def test_drift_adds_up() -> None:
    """A clock that is pulled along slowly is never noticed, or at each look."""
    clocks = Clocks()
    clock = clocks.watched()
    steps = []
    for _ in range(12):
        clocks.wait(100)
        clocks.wall += timedelta(seconds=1)
        was, now = clock.look()
        steps.append((now - was).total_seconds())
    assert steps == [0, 0, 0, 0, 5, 0, 0, 0, 0, 5, 0, 0]

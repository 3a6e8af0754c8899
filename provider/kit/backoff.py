"""Growing pauses between tries."""

from __future__ import annotations

from datetime import timedelta


def delay(failures: int, first: timedelta, most: timedelta, spread: float) -> timedelta:
    """
    The pause after `failures` failures in a row (1 or more): `first`, doubled each time, never above `most`.

    `spread`, a random number of [0, 1) from the caller, takes up to a quarter off, so that a thousand who failed
    together do not come back together.
    """
    doublings = min(max(failures, 1) - 1, 30)
    factor: int = 2**doublings
    return min(first * factor, most) * (1 - spread / 4)

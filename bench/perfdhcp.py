"""What perfdhcp (of Kea) prints, read; and which rate to offer next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MOST_DROPS = 1.0
"""Percent; a rate with more of them in either half of the exchange is not sustained."""

LEAST_SHARE = 0.95
"""Of the offered rate that must be completed; with less and no drops, the load could not offer it."""

LOWEST_RATE = 25
HIGHEST_RATE = 32_000
CLOSE_ENOUGH = 1.1
"""The search ends when the lowest rate that fails is less than this many times the highest that does not."""

_HALF = re.compile(r"^\*\*\*Statistics for: ([A-Z-]+)\*\*\*$(.*?)^collected packets", re.MULTILINE | re.DOTALL)
_DROPS = re.compile(r"^drops ratio: ([\d.]+) %$", re.MULTILINE)
_RECEIVED = re.compile(r"^received packets: (\d+)$", re.MULTILINE)
_DELAY = re.compile(r"^avg delay: ([\d.]+) ms$", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """One rate that was offered, and what came of it."""

    offered: int
    """Exchanges a second."""
    completed: float
    """Exchanges a second."""
    drops: float
    """Percent, of the half that lost more."""
    delay: float | None
    """Average milliseconds from DHCPDISCOVER to DHCPOFFER and from DHCPREQUEST to DHCPACK together; None: no answer."""

    @property
    def sustained(self) -> bool:
        """Whether the server kept up."""
        return self.drops < MOST_DROPS and self.completed >= LEAST_SHARE * self.offered


def read(offered: int, seconds: float, output: str) -> Step:
    """
    Read the report of one run of so many seconds. Its own rate is not used: it counts the wait at the end as time.

    Raises:
        ValueError: If it is none.
    """
    halves = _HALF.findall(output)
    done = [int(found[1]) for _, text in halves if (found := _RECEIVED.search(text))]
    if len(done) != 2 or [name for name, _ in halves] != ["DISCOVER-OFFER", "REQUEST-ACK"]:
        raise ValueError("perfdhcp printed no statistics")
    drops = [float(found[1]) if (found := _DROPS.search(text)) else 100.0 for _, text in halves]
    delays = [float(found[1]) for _, text in halves if (found := _DELAY.search(text))]
    return Step(offered, done[1] / seconds, max(drops), sum(delays) if len(delays) == len(halves) else None)


def next_rate(steps: Sequence[Step]) -> int | None:
    """The rate to offer next in search of the highest that is sustained; None when it is found."""
    good = max((step.offered for step in steps if step.sustained), default=0)
    bad = min((step.offered for step in steps if not step.sustained and step.offered > good), default=0)
    if not good:
        return bad // 2 if bad // 2 >= LOWEST_RATE else None
    if not bad:
        return 2 * good if 2 * good <= HIGHEST_RATE else None
    return None if bad < CLOSE_ENOUGH * good else (good + bad) // 2


def best(steps: Sequence[Step]) -> float:
    """The most exchanges a second that were sustained; 0 if no rate was."""
    return max((step.completed for step in steps if step.sustained), default=0.0)

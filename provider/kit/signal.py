"""A doorbell: many may wait for the next ring, and a ring with nobody waiting is forgotten."""

from __future__ import annotations

import asyncio


class Signal:
    """
    Tell all who wait that something changed.

    Look first, then wait, in one turn of the loop (no `await` between), and no ring is missed.
    """

    def __init__(self) -> None:
        self._next: asyncio.Event = asyncio.Event()

    def ring(self) -> None:
        """Wake everybody who waits now."""
        self._next.set()
        self._next = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        """The event of the next ring: take it before looking, wait for it after, when looking itself awaits."""
        return self._next

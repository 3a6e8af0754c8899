"""Warnings that would come with every packet of a flood, and are worth one line a minute."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta

PAUSE = timedelta(minutes=1)

_REMEMBERED = 256
"""Things of which we remember when they were said; who floods us from more ports than that fills the log faster."""


class Seldom:
    """Lets each thing be said once in `PAUSE`."""

    def __init__(self) -> None:
        self._said_at: dict[Hashable, datetime] = {}

    def may(self, what: Hashable, now: datetime) -> bool:
        """Whether to say it now; then it counts as said."""
        said_at = self._said_at.get(what)
        if said_at is not None and said_at <= now < said_at + PAUSE:
            return False
        self._said_at.pop(what, None)
        if len(self._said_at) >= _REMEMBERED:
            del self._said_at[next(iter(self._said_at))]
        self._said_at[what] = now
        return True

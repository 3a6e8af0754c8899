"""
What a watch has shown so far: the resources of one kind as they are, kept right over all interruptions of the watch.

    begin     -> how to ask: from the last bookmark, or everything from the start
    take      -> what an event changes
    start_over-> the bookmark is worth nothing any more

A watch that begins anew tells what is there, and nothing of what went meanwhile: what was known and is not told again is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from provider.domain.errors import TemporaryError
from provider.wire.cosi import Event, EventType, Resource, WatchOptions


class WatchBrokenError(TemporaryError):
    """The server gave the watch up: begin it anew."""


@dataclass
class View:
    """The resources of one kind by their ids. `is_whole` once all that is there has been told."""

    resources: dict[str, Resource] = field(default_factory=dict)
    is_whole: bool = False
    _bookmark: bytes | None = None
    _unconfirmed: set[str] | None = None
    """While everything is told: what was known before and has not been told again."""

    def begin(self) -> WatchOptions:
        """How to watch from here."""
        if self._bookmark is not None:
            return WatchOptions(aggregated=True, start_from_bookmark=self._bookmark)
        self._unconfirmed = set(self.resources)
        return WatchOptions(aggregated=True, bootstrap_contents=True)

    def start_over(self) -> None:
        """Forget where we were, but not what we know."""
        self._bookmark = None

    def take(self, event: Event) -> Iterator[str]:
        """
        Take an event; gives the ids of the resources that are not as before.

        Raises:
            WatchBrokenError: If the event says that nothing more will come.
        """
        if event.event_type is EventType.ERRORED:
            self._bookmark = None
            raise WatchBrokenError(
                f"Omni gave the watch up: {event.error or 'no reason given'}", retry_after=timedelta(0)
            )
        if event.bookmark is not None:
            self._bookmark = event.bookmark
        match event.event_type:
            case EventType.CREATED | EventType.UPDATED if event.resource is not None:
                yield from self._seen(event.resource)
            case EventType.DESTROYED if event.resource is not None:
                yield from self._gone(event.resource.metadata.id)
            case EventType.BOOTSTRAPPED:
                yield from self._bootstrapped()

    def _seen(self, resource: Resource) -> Iterator[str]:
        known = resource.metadata.id
        if self._unconfirmed is not None:
            self._unconfirmed.discard(known)
        if self.resources.get(known) != resource:
            self.resources[known] = resource
            yield known

    def _bootstrapped(self) -> Iterator[str]:
        gone, self._unconfirmed = self._unconfirmed or set(), None
        self.is_whole = True
        for each in sorted(gone):
            yield from self._gone(each)

    def _gone(self, known: str) -> Iterator[str]:
        if self.resources.pop(known, None) is not None:
            yield known

"""
What happened to the resources of a kind, in order, and the watches that read it.

Omni keeps most namespaces in etcd and a few in memory, and a client sees the difference. In memory a bookmark is 8 random bytes
of the process and a position among the events of the kind; a bad one is refused at once. In etcd it is a revision, which all
kinds count together and a restart does not reset: one that is too old is taken, and the watch then fails with its first event;
one of the future is taken, and nothing is told until it has come (cosi-project/state-etcd: pkg/state/impl/etcd/etcd.go).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import grpc

from provider.kit.signal import Signal
from provider.lab.omni.queries import Match
from provider.lab.omni.resources import CallError, Resource

EventKind = Literal["CREATED", "UPDATED", "DESTROYED", "BOOTSTRAPPED", "ERRORED", "NOOP"]

_GAP_SHARE = 20
"""One part in so many of a history in memory is kept between its end and the oldest bookmark that is taken."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a watch tells; `resource` is a tombstone without a spec where there is none to show."""

    kind: EventKind
    resource: Resource | None
    old: Resource | None = None
    error: str = ""
    bookmark: bytes = b""


@dataclass(slots=True)
class Revisions:
    """What etcd counts: every write, of whatever kind."""

    last: int = 0


class Collection:
    """All resources of one kind, and the last `capacity` events; this one is in memory."""

    failed = ""
    """What stands before the text of an error, when a verb fails."""

    def __init__(self, namespace: str, kind: str, capacity: int, cookie: bytes) -> None:
        self.namespace = namespace
        self.kind = kind
        self.items: dict[str, Resource] = {}
        self.events: deque[Event] = deque(maxlen=capacity)
        self.capacity = capacity
        self.written = 0
        self.rang = Signal()
        self._cookie = cookie

    def publish(self, kind: EventKind, resource: Resource, old: Resource | None = None) -> None:
        """Append an event and wake the watches."""
        self.written += 1
        self.events.append(Event(kind, resource, old, bookmark=self.now()))
        self.rang.ring()

    def now(self) -> bytes:
        """The bookmark of the last event."""
        return self._cookie + struct.pack(">q", self.written - 1)

    def after(self, bookmark: bytes) -> int:
        """
        The position that follows a bookmark.

        Raises:
            CallError: FAILED_PRECONDITION, if it is not one of this process, too old, or of the future.
        """
        if len(bookmark) == 16 and bookmark.startswith(self._cookie):
            (position,) = struct.unpack(">q", bookmark[8:])
            oldest = self.written - self.capacity + self.capacity // _GAP_SHARE
            if max(oldest, -1) <= position < self.written:
                return int(position) + 1
        raise CallError(grpc.StatusCode.FAILED_PRECONDITION, "invalid watch bookmark")

    def tail(self, count: int, identity: str | None) -> int:
        """The position of the last `count` events, of one resource or of all."""
        position = self.written
        for event in reversed(self.events):
            if count == 0:
                break
            count -= identity is None or (event.resource is not None and event.resource.id == identity)
            position -= 1
        return position

    def since(self, position: int) -> list[Event]:
        """Events from a position on; one ERRORED event if the history no longer reaches back so far."""
        if self.written - position > len(self.events):
            return [Event("ERRORED", None, error=self.overrun)]
        return list(islice(self.events, len(self.events) - (self.written - position), None))

    def tombstone(self, identity: str = "") -> Resource:
        """What stands for a resource that is not there."""
        return Resource(self.namespace, self.kind, identity)

    def first(self, identity: str) -> Event:
        """What a watch of one resource begins with."""
        if identity in self.items:
            return Event("CREATED", self.items[identity])
        return Event("DESTROYED", self.tombstone(identity))

    @property
    def overrun(self) -> str:
        """What a watch is told that asks for events which are no longer there."""
        return f'buffer overrun: namespace "{self.namespace}" type "{self.kind}", capacity {self.capacity}'


class EtcdCollection(Collection):
    """One that is in etcd."""

    failed = "failed to {verb}: "

    def __init__(self, namespace: str, kind: str, capacity: int, revisions: Revisions) -> None:
        super().__init__(namespace, kind, capacity, b"")
        self._revisions = revisions
        self._compacted = revisions.last
        """Bookmarks before this one are too old."""

    def publish(self, kind: EventKind, resource: Resource, old: Resource | None = None) -> None:
        if len(self.events) == self.capacity:
            self._compacted = int.from_bytes(self.events[0].bookmark, "big")
        self._revisions.last += 1
        super().publish(kind, resource, old)

    def compact(self) -> None:
        """Forget what happened so far."""
        self._compacted = self._revisions.last
        self.events.clear()

    def now(self) -> bytes:
        return self._revisions.last.to_bytes(8, "big")

    def after(self, bookmark: bytes) -> int:
        """
        The position that follows a bookmark, or one before the history.

        Raises:
            CallError: FAILED_PRECONDITION, if it is none.
        """
        if len(bookmark) != 8:
            text = f'failed to watchKind "{self.kind}({self.namespace}/@undefined)": invalid bookmark length: {len(bookmark)}'
            raise CallError(grpc.StatusCode.FAILED_PRECONDITION, text)
        revision = int.from_bytes(bookmark, "big", signed=True)
        if revision < self._compacted and revision != 0:  # Zero is from now on.
            return self.written - len(self.events) - 1
        later = sum(event.bookmark > bookmark for event in self.events)
        return self.written - later if revision else self.written

    def first(self, identity: str) -> Event:
        return replace(super().first(identity), bookmark=self.now())

    @property
    def overrun(self) -> str:
        return "etcdserver: mvcc: required revision has been compacted"


class Watch:
    """Events of one kind, or of one resource of it; `first` is there at once, `next` waits for more."""

    def __init__(
        self,
        collection: Collection,
        position: int,
        first: list[Event],
        narrow: Callable[[Event], Event | None],
        since: bytes | None = None,
    ):
        """`since`: the bookmark that it begins after, which may be in the future."""
        self.first = first
        self._collection = collection
        self._position = position
        self._narrow = narrow
        self._since = since or b""

    async def next(self) -> list[Event]:
        """The next events, at least one; after an ERRORED one there are no more."""
        while True:
            while self._position == self._collection.written:
                await self._collection.rang.ticket().wait()
            events = self._collection.since(self._position)
            self._position = self._collection.written
            news = (event for event in events if event.resource is None or event.bookmark > self._since)
            if found := [event for each in news if (event := self._narrow(each)) is not None]:
                return found


def narrowed(event: Event, match: Match) -> Event | None:
    """The event as a selection sees it: what moves in is CREATED, what moves out is DESTROYED."""
    if event.resource is None:
        return event
    now = match(event.resource)
    if event.old is None:
        return event if now else None
    before = match(event.old)
    if before and now:
        return event
    if before or now:
        return replace(event, kind="CREATED" if now else "DESTROYED", old=None)
    return None

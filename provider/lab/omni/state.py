"""
The COSI state: resources by namespace, type and id, with versions, owners, phases, finalizers, and the history that watches read.

It follows the runtime's in-memory implementation. Each kind (namespace and type) has a history of its own, of bounded length; a
bookmark is 8 random bytes of this process and a position in that history, so it ends with the process, or with age.
Who may do what is not decided here: see `access`.
"""

from __future__ import annotations

import secrets
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

import grpc

from provider.kit.signal import Signal
from provider.lab.omni import names
from provider.lab.omni.queries import Match
from provider.lab.omni.resources import RUNNING, TEARING_DOWN, UNDEFINED, CallError, Resource
from provider.lab.omni.storage import Storage

EventKind = Literal["CREATED", "UPDATED", "DESTROYED", "BOOTSTRAPPED", "ERRORED", "NOOP"]
Listener = Callable[[Resource], None]

_GAP_SHARE = 20
"""One part in so many of a history is kept between its end and the oldest bookmark that is taken."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a watch tells; `resource` is a tombstone without a spec where there is none to show."""

    kind: EventKind
    resource: Resource | None
    old: Resource | None = None
    error: str = ""
    bookmark: bytes = b""


class Collection:
    """All resources of one kind, and the last `capacity` events."""

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
        self.events.append(Event(kind, resource, old, bookmark=self.bookmark(self.written)))
        self.written += 1
        self.rang.ring()

    def bookmark(self, position: int) -> bytes:
        """Of the event at a position; -1 is before the first."""
        return self._cookie + struct.pack(">q", position)

    def after(self, bookmark: bytes, lowest: int) -> int:
        """
        The position that follows a bookmark.

        Raises:
            CallError: FAILED_PRECONDITION, if it is not one of this process, too old, or of the future.
        """
        if len(bookmark) == 16 and bookmark.startswith(self._cookie):
            (position,) = struct.unpack(">q", bookmark[8:])
            oldest = self.written - self.capacity + self.capacity // _GAP_SHARE
            if max(oldest, lowest) <= position < self.written:
                return int(position) + 1
        raise CallError(grpc.StatusCode.FAILED_PRECONDITION, "invalid watch bookmark")

    def since(self, position: int) -> list[Event]:
        """Events from a position on; one ERRORED event if the history no longer reaches back so far."""
        if self.written - position > self.capacity:
            where = f'namespace "{self.namespace}" type "{self.kind}"'
            where += f", write pos {self.written}, pos {position}, capacity {self.capacity}"
            return [Event("ERRORED", None, error=f"buffer overrun: {where}")]
        return list(islice(self.events, len(self.events) - (self.written - position), None))

    def tombstone(self, identity: str = "") -> Resource:
        """What stands for a resource that is not there."""
        return Resource(self.namespace, self.kind, identity)


class Watch:
    """Events of one kind, or of one resource of it; `first` is there at once, `next` waits for more."""

    def __init__(
        self, collection: Collection, position: int, first: list[Event], narrow: Callable[[Event], Event | None]
    ):
        self.first = first
        self._collection = collection
        self._position = position
        self._narrow = narrow

    async def next(self) -> list[Event]:
        """The next events, at least one; after an ERRORED one there are no more."""
        while True:
            while self._position == self._collection.written:
                await self._collection.rang.ticket().wait()
            events = self._collection.since(self._position)
            self._position = self._collection.written
            if found := [event for each in events if (event := self._narrow(each)) is not None]:
                return found


class State:
    """All collections. Every method is done when it returns: nothing awaits in between, so nothing is torn."""

    def __init__(self, storage: Storage, history: int, now: Callable[[], datetime]) -> None:
        self._storage = storage
        self._history = history
        self._now = now
        self._cookie = secrets.token_bytes(8)
        self._collections: dict[tuple[str, str], Collection] = {}
        self.listeners: list[Listener] = []
        """Called after each change with the resource, or with its last state when it is gone."""
        for resource in storage.load():
            collection = self.collection(resource.namespace, resource.type)
            collection.items[resource.id] = resource
            collection.publish("CREATED", resource)

    def collection(self, namespace: str, kind: str) -> Collection:
        """The collection of a kind; empty if nobody wrote one."""
        key = (namespace, kind)
        if key not in self._collections:
            self._collections[key] = Collection(namespace, kind, self._history, self._cookie)
        return self._collections[key]

    def find(self, namespace: str, kind: str, identity: str) -> Resource | None:
        """The resource, or None."""
        return self.collection(namespace, kind).items.get(identity)

    def get(self, namespace: str, kind: str, identity: str) -> Resource:
        """
        The resource.

        Raises:
            CallError: NOT_FOUND.
        """
        found = self.find(namespace, kind, identity)
        if found is None:
            raise _missing(Resource(namespace, kind, identity))
        return found

    def list(self, namespace: str, kind: str, match: Match | None = None) -> list[Resource]:
        """Resources of a kind, sorted by id."""
        items = self.collection(namespace, kind).items
        return [items[identity] for identity in sorted(items) if match is None or match(items[identity])]

    def create(self, resource: Resource, owner: str = "") -> Resource:
        """
        Add a resource; it gets version 1.

        Raises:
            CallError: ALREADY_EXISTS, or UNKNOWN if it names another owner.
        """
        collection = self.collection(resource.namespace, resource.type)
        _check_owner_field(resource, owner)
        if resource.id in collection.items:
            raise CallError(grpc.StatusCode.ALREADY_EXISTS, f"resource {replace(resource, version=0)} already exists")
        now = self._now()
        made = replace(resource, version=1, owner=owner, created=now, updated=resource.updated or now)
        collection.items[made.id] = made
        self._store(made)
        collection.publish("CREATED", made)
        self._tell(made)
        return made

    def update(self, resource: Resource, owner: str = "", expected_phase: str | None = None) -> Resource:
        """
        Replace a resource whose version is the current one.

        Raises:
            CallError: NOT_FOUND; PERMISSION_DENIED for another owner; FAILED_PRECONDITION for another version;
                INVALID_ARGUMENT for another phase. They are checked in this order.
        """
        collection = self.collection(resource.namespace, resource.type)
        current = collection.items.get(resource.id)
        if current is None:
            raise _missing(resource)
        _check_owner(current, owner)
        _check_owner_field(resource, owner)
        if current.version != resource.version:
            text = f'expected version "{resource.version or UNDEFINED}", actual version "{current.version}"'
            raise CallError(grpc.StatusCode.FAILED_PRECONDITION, f"resource {current} update conflict: {text}")
        if expected_phase is not None and current.phase != expected_phase:
            raise CallError(grpc.StatusCode.INVALID_ARGUMENT, f"resource {current} is not in phase {expected_phase}")
        made = replace(resource, version=current.version + 1, owner=owner, created=current.created, updated=self._now())
        collection.items[made.id] = made
        self._store(made)
        collection.publish("UPDATED", made, current)
        self._tell(made)
        return made

    def destroy(self, namespace: str, kind: str, identity: str, owner: str = "") -> None:
        """
        Remove a resource.

        Raises:
            CallError: NOT_FOUND; PERMISSION_DENIED for another owner; FAILED_PRECONDITION while it has finalizers.
        """
        current = self.get(namespace, kind, identity)
        _check_owner(current, owner)
        if current.finalizers:
            text = f"resource {current} has pending finalizers [{' '.join(current.finalizers)}]"
            raise CallError(grpc.StatusCode.FAILED_PRECONDITION, text)
        collection = self.collection(namespace, kind)
        del collection.items[identity]
        if namespace not in names.IN_MEMORY:
            self._storage.drop(current)
        collection.publish("DESTROYED", current)
        self._tell(current)

    def teardown(self, namespace: str, kind: str, identity: str, owner: str = "") -> bool:
        """
        Mark a resource as going; whether it has no finalizers. To do it again is no error.

        Raises:
            CallError: NOT_FOUND; PERMISSION_DENIED for another owner, if it is not going yet.
        """
        current = self.get(namespace, kind, identity)
        if not current.tearing_down:
            current = self.update(replace(current, phase=TEARING_DOWN), owner, RUNNING)
        return not current.finalizers

    async def teardown_and_destroy(self, namespace: str, kind: str, identity: str, owner: str = "") -> None:
        """Tear down, wait until the finalizers are gone, destroy; somebody else may destroy it meanwhile."""
        ready = self.teardown(namespace, kind, identity, owner)
        collection = self.collection(namespace, kind)
        while not ready:
            await collection.rang.ticket().wait()
            current = self.find(namespace, kind, identity)
            if current is None:
                return
            ready = not current.finalizers
        self.destroy(namespace, kind, identity, owner)

    def modify(self, empty: Resource, change: Callable[[Resource], Resource], owner: str = "") -> Resource:
        """As controllers write: create it, or update it if `change` changes it."""
        current = self.find(empty.namespace, empty.type, empty.id)
        if current is None:
            return self.create(change(empty), owner)
        changed = change(current)
        return current if changed == current else self.update(changed, owner)

    def watch_kind(
        self,
        namespace: str,
        kind: str,
        match: Match,
        *,
        bootstrap: bool = False,
        bookmark: bytes | None = None,
        tail: int = 0,
        bootstrap_bookmark: bool = False,
    ) -> Watch:
        """
        Watch a kind.

        Raises:
            CallError: FAILED_PRECONDITION for a bookmark that is no good, UNKNOWN for options that exclude each other.
        """
        if bootstrap and (tail or bookmark is not None):
            text = "cannot use BootstrapContents with TailEvents and StartFromBookmark options"
            raise CallError(grpc.StatusCode.UNKNOWN, text)
        _check_start(tail, bookmark)
        collection = self.collection(namespace, kind)
        position = collection.written
        if bookmark is not None:
            position = collection.after(bookmark, lowest=-1)
        elif tail:
            position = max(position - min(tail, len(collection.events)), 0)
        here = collection.bookmark(position - 1)
        first: list[Event] = []
        if bootstrap:
            first += [Event("CREATED", resource) for resource in self.list(namespace, kind, match)]
            first.append(Event("BOOTSTRAPPED", collection.tombstone(), bookmark=here))
        if bootstrap_bookmark:
            first.append(Event("NOOP", collection.tombstone(), bookmark=here))
        return Watch(collection, position, first, lambda event: _narrowed(event, match))

    def watch(self, namespace: str, kind: str, identity: str, *, bookmark: bytes | None = None, tail: int = 0) -> Watch:
        """
        Watch one resource, which need not exist.

        Raises:
            CallError: As `watch_kind` does.
        """
        _check_start(tail, bookmark)
        collection = self.collection(namespace, kind)
        position = collection.written
        first: list[Event] = []
        if bookmark is not None:
            position = collection.after(bookmark, lowest=0)
        elif tail:
            position = _tail_of(collection, identity, tail)
        elif identity in collection.items:
            first = [Event("CREATED", collection.items[identity])]
        else:
            first = [Event("DESTROYED", collection.tombstone(identity))]

        def narrow(event: Event) -> Event | None:
            return event if event.resource is None or event.resource.id == identity else None

        return Watch(collection, position, first, narrow)

    def _store(self, resource: Resource) -> None:
        if resource.namespace not in names.IN_MEMORY:
            self._storage.put(resource)

    def _tell(self, resource: Resource) -> None:
        for listener in self.listeners:
            listener(resource)


def utc_clock() -> datetime:
    """Now; the clock that a state gets where nobody skews it."""
    return datetime.now(UTC)


def _tail_of(collection: Collection, identity: str, tail: int) -> int:
    position = collection.written
    for event in reversed(collection.events):
        if tail == 0:
            break
        tail -= event.resource is not None and event.resource.id == identity
        position -= 1
    return position


def _narrowed(event: Event, match: Match) -> Event | None:
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


def _missing(resource: Resource) -> CallError:
    return CallError(grpc.StatusCode.NOT_FOUND, f"resource {resource} doesn't exist")


def _check_owner(current: Resource, owner: str) -> None:
    if current.owner != owner:
        raise CallError(grpc.StatusCode.PERMISSION_DENIED, f'resource {current} is owned by "{current.owner}"')


def _check_owner_field(resource: Resource, owner: str) -> None:
    if resource.owner not in ("", owner):
        raise CallError(grpc.StatusCode.UNKNOWN, f'owner is already set to "{resource.owner}"')


def _check_start(tail: int, bookmark: bytes | None) -> None:
    if tail and bookmark is not None:
        raise CallError(grpc.StatusCode.UNKNOWN, "cannot use both TailEvents and StartFromBookmark options")

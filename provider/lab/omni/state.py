"""
The COSI state: resources by namespace, type and id, with versions, owners, phases and finalizers.

It follows what Omni has below it: etcd, save for the namespaces that are in memory. What happened is kept by `history`. Who may
do what is not decided here: see `access`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import grpc

from provider.lab.omni import names
from provider.lab.omni.history import Collection, EtcdCollection, Event, Revisions, Watch, narrowed
from provider.lab.omni.queries import Match
from provider.lab.omni.resources import RUNNING, TEARING_DOWN, UNDEFINED, CallError, Resource
from provider.lab.omni.storage import Storage

Listener = Callable[[Resource], None]


class State:
    """All collections. Every method is done when it returns: nothing awaits in between, so nothing is torn."""

    def __init__(self, storage: Storage, history: int, now: Callable[[], datetime]) -> None:
        self._storage = storage
        self._history = history
        self._now = now
        self._cookie = secrets.token_bytes(8)
        self._revisions = Revisions(storage.revision())
        self._collections: dict[tuple[str, str], Collection] = {}
        self.listeners: list[Listener] = []
        """Called after each change with the resource, or with its last state when it is gone."""
        for resource in storage.load():
            self.collection(resource.namespace, resource.type).items[resource.id] = resource

    def collection(self, namespace: str, kind: str) -> Collection:
        """The collection of a kind; empty if nobody wrote one."""
        key = (namespace, kind)
        if key not in self._collections:
            self._collections[key] = self._empty(namespace, kind)
        return self._collections[key]

    def _empty(self, namespace: str, kind: str) -> Collection:
        if namespace in names.IN_MEMORY:
            return Collection(namespace, kind, self._history, self._cookie)
        return EtcdCollection(namespace, kind, self._history, self._revisions)

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
            raise _missing(self.collection(namespace, kind), Resource(namespace, kind, identity), "get")
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
        where = f'failed to set owner on create "{resource}": ' if isinstance(collection, EtcdCollection) else ""
        _check_owner_field(resource, owner, where)
        if resource.id in collection.items:
            text = f"resource {replace(resource, version=0)} already exists"
            raise CallError(grpc.StatusCode.ALREADY_EXISTS, _said(collection, "create") + text)
        now = self._now()
        made = replace(resource, version=1, owner=owner, created=now, updated=resource.updated or now)
        collection.items[made.id] = made
        collection.publish("CREATED", made)
        self._store(made)
        self._tell(made)
        return made

    def update(self, resource: Resource, owner: str = "", expected_phase: str | None = None) -> Resource:
        """
        Replace a resource whose version is the current one.

        Raises:
            CallError: NOT_FOUND; PERMISSION_DENIED for another owner; FAILED_PRECONDITION for another version;
                INVALID_ARGUMENT for another phase. Of owner and version the first is checked first in memory, and last in etcd.
        """
        collection = self.collection(resource.namespace, resource.type)
        current = collection.items.get(resource.id)
        if current is None:
            raise _missing(collection, resource, "update")
        if isinstance(collection, EtcdCollection):
            _check_version(collection, current, resource)
            _check_owner(collection, current, owner)
            owner = resource.owner  # It is not compared: whoever leaves it out gives the resource up.
        else:
            _check_owner(collection, current, owner)
            _check_owner_field(resource, owner)
            _check_version(collection, current, resource)
        if expected_phase is not None and current.phase != expected_phase:
            text = f"resource {current} is not in phase {expected_phase}"
            raise CallError(grpc.StatusCode.INVALID_ARGUMENT, _said(collection, "update") + text)
        version, now = current.version + 1, self._now()
        made = replace(resource, version=version, owner=owner, created=current.created, updated=now)
        collection.items[made.id] = made
        collection.publish("UPDATED", made, current)
        self._store(made)
        self._tell(made)
        return made

    def destroy(self, namespace: str, kind: str, identity: str, owner: str = "") -> None:
        """
        Remove a resource.

        Raises:
            CallError: NOT_FOUND; PERMISSION_DENIED for another owner; FAILED_PRECONDITION while it has finalizers.
        """
        current = self.get(namespace, kind, identity)
        collection = self.collection(namespace, kind)
        _check_owner(collection, current, owner, "destroy")
        if current.finalizers:
            text = f"resource {current} has pending finalizers &[{' '.join(current.finalizers)}]"
            raise CallError(grpc.StatusCode.FAILED_PRECONDITION, _said(collection, "destroy") + text)
        del collection.items[identity]
        collection.publish("DESTROYED", current)
        if namespace not in names.IN_MEMORY:
            self._storage.drop(current, self._revisions.last)
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
        collection = self.collection(namespace, kind)
        _check_start(collection, "watchKind", tail, bookmark)
        if bootstrap and (tail or bookmark is not None):
            text = "cannot use BootstrapContents with TailEvents and StartFromBookmark options"
            if isinstance(collection, EtcdCollection):
                text = "failed to watchKind: operation startFromBookmark and bootstrapContents is not supported"
            raise CallError(grpc.StatusCode.UNKNOWN, text)
        position = collection.written
        if bookmark is not None:
            position = collection.after(bookmark)
        elif tail:
            position = collection.tail(tail, None)
        here = collection.now()
        first: list[Event] = []
        if bootstrap:
            first += [Event("CREATED", resource) for resource in self.list(namespace, kind, match)]
            first.append(Event("BOOTSTRAPPED", collection.tombstone(), bookmark=here))
        if bootstrap_bookmark:
            first.append(Event("NOOP", collection.tombstone(), bookmark=here))
        return Watch(collection, position, first, lambda event: narrowed(event, match), bookmark)

    def watch(self, namespace: str, kind: str, identity: str, *, bookmark: bytes | None = None, tail: int = 0) -> Watch:
        """
        Watch one resource, which need not exist.

        Raises:
            CallError: As `watch_kind` does.
        """
        collection = self.collection(namespace, kind)
        _check_start(collection, "watch", tail, bookmark)
        position = collection.written
        first: list[Event] = []
        if bookmark is not None:
            position = collection.after(bookmark)
        elif tail:
            position = collection.tail(tail, identity)
        else:
            first = [collection.first(identity)]

        def narrow(event: Event) -> Event | None:
            return event if event.resource is None or event.resource.id == identity else None

        return Watch(collection, position, first, narrow, bookmark)

    def compact(self) -> None:
        """Forget what happened so far, as etcd does every few hours: older bookmarks are worth nothing any more."""
        for collection in self._collections.values():
            if isinstance(collection, EtcdCollection):
                collection.compact()

    def count_anew(self) -> None:
        """Count writes as if there had been none, like an etcd that a backup was restored to; what there is stays."""
        self._revisions.last = 0
        self.compact()

    def _store(self, resource: Resource) -> None:
        if resource.namespace not in names.IN_MEMORY:
            self._storage.put(resource, self._revisions.last)

    def _tell(self, resource: Resource) -> None:
        for listener in self.listeners:
            listener(resource)


def utc_clock() -> datetime:
    """Now; the clock that a state gets where nobody skews it."""
    return datetime.now(UTC)


def _said(collection: Collection, verb: str) -> str:
    return collection.failed.format(verb=verb)


def _missing(collection: Collection, resource: Resource, verb: str) -> CallError:
    return CallError(grpc.StatusCode.NOT_FOUND, f"{_said(collection, verb)}resource {resource} doesn't exist")


def _check_owner(collection: Collection, current: Resource, owner: str, verb: str = "update") -> None:
    if current.owner != owner:
        text = f'{_said(collection, verb)}resource {current} is owned by "{current.owner}"'
        raise CallError(grpc.StatusCode.PERMISSION_DENIED, text)


def _check_version(collection: Collection, current: Resource, resource: Resource) -> None:
    if current.version != resource.version:
        text = f'expected version "{resource.version or UNDEFINED}", actual version "{current.version}"'
        text = f"{_said(collection, 'update')}resource {current} update conflict: {text}"
        raise CallError(grpc.StatusCode.FAILED_PRECONDITION, text)


def _check_owner_field(resource: Resource, owner: str, where: str = "") -> None:
    if resource.owner not in ("", owner):
        raise CallError(grpc.StatusCode.UNKNOWN, f'{where}owner is already set to "{resource.owner}"')


def _check_start(collection: Collection, verb: str, tail: int, bookmark: bytes | None) -> None:
    if tail and isinstance(collection, EtcdCollection):
        text = f"{_said(collection, verb)}operation tailEvents is not supported"
        raise CallError(grpc.StatusCode.UNKNOWN, text)
    if tail and bookmark is not None:
        raise CallError(grpc.StatusCode.UNKNOWN, "cannot use both TailEvents and StartFromBookmark options")

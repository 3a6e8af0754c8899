"""
The state service of COSI, `cosi.resource.State`: the messages and methods by which Omni is read and written.

Message by message it is `proto/v1alpha1/resource.proto`, `state.proto` and `meta.proto` of cosi-project/specification.
A resource is metadata around a spec, whose bytes stay bytes here (`Spec.proto_spec`): who updates a resource of somebody
else's gives back the very bytes, because fields that we do not know would be lost otherwise. `Kind` knows what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from provider.domain.errors import MalformedPacketError
from provider.wire import protobuf
from provider.wire.protobuf import Method, proto

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

RUNNING = "running"
TEARING_DOWN = "tearingDown"
"""The two phases; the server refuses any other, and an empty one."""

UNDEFINED = "undefined"
"""The version of a resource that is to be created, and of what stands for a missing one; others are decimal numbers."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """Who a resource is. `phase` and `version` are never empty, `created` and `updated` are the server's."""

    namespace: str = proto(1, "")
    type: str = proto(2, "")
    id: str = proto(3, "")
    version: str = proto(4, "")
    owner: str = proto(5, "")
    phase: str = proto(6, "")
    created: datetime | None = proto(7, None)
    updated: datetime | None = proto(8, None)
    finalizers: tuple[str, ...] = proto(9, ())
    labels: Mapping[str, str] = proto(10, {})
    annotations: Mapping[str, str] = proto(11, {})


@dataclass(frozen=True, slots=True)
class Spec:
    """What a resource says: a message, and for people the same as YAML. Keys and passwords may be among it."""

    proto_spec: bytes = proto(1, b"", secret=True)
    yaml_spec: str = proto(2, "", secret=True)


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource. Both parts are always written: the server refuses a resource without a spec, be it empty."""

    metadata: Metadata = proto(1, Metadata())
    spec: Spec = proto(2, Spec())


@dataclass(frozen=True, slots=True)
class Kind(Generic[S]):
    """The resources of one type in one namespace, and the message in them."""

    name: str
    """What stands in `Metadata.type`."""
    namespace: str
    spec: type[S]

    def new(self, id: str, spec: S, *, labels: Mapping[str, str] | None = None) -> Resource:  # noqa: A002 - the field's word
        """Make a resource to be created. Its owner is told in the options of the call."""
        metadata = Metadata(self.namespace, self.name, id, UNDEFINED, phase=RUNNING, labels=labels or {})
        return Resource(metadata, Spec(protobuf.encode(spec)))

    def read(self, resource: Resource) -> S:
        """
        Read the spec of a resource of this kind.

        Raises:
            MalformedPacketError: If it is of another type, or its bytes are not this message.
        """
        if resource.metadata.type != self.name:
            raise MalformedPacketError(f"a {resource.metadata.type!r} where {self.name} are", field="type", offset=0)
        return protobuf.decode(self.spec, resource.spec.proto_spec)


# --- queries ----------------------------------------------------------------------------------------------------------


class Operation(IntEnum):
    """What a label is asked for. `NOT_EXISTS` is deprecated for `EXISTS` inverted."""

    EXISTS = 0
    EQUAL = 1
    NOT_EXISTS = 2
    IN = 3
    LT = 4
    LTE = 5
    LT_NUMERIC = 6
    LTE_NUMERIC = 7


@dataclass(frozen=True, slots=True)
class LabelTerm:
    """One condition on a label."""

    key: str = proto(1, "")
    op: Operation = proto(2, Operation.EXISTS)
    value: tuple[str, ...] = proto(3, ())
    invert: bool = proto(5, False)


@dataclass(frozen=True, slots=True)
class LabelQuery:
    """Conditions that all hold. Where several queries are asked, one of them has to hold."""

    terms: tuple[LabelTerm, ...] = proto(1, ())


@dataclass(frozen=True, slots=True)
class IdQuery:
    """A condition on the id."""

    regexp: str = proto(1, "")


# --- calls ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetRequest:
    """Asks for one resource."""

    namespace: str = proto(1, "")
    type: str = proto(2, "")
    id: str = proto(3, "")


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Which resources of a type."""

    label_query: tuple[LabelQuery, ...] = proto(1, ())
    id_query: IdQuery | None = proto(2, None)


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Asks for the resources of a type."""

    namespace: str = proto(1, "")
    type: str = proto(2, "")
    options: ListOptions = proto(3, ListOptions())


@dataclass(frozen=True, slots=True)
class ResourceResponse:
    """The resource as it is now: the answer to Get, Create and Update, and one of the answers to List."""

    resource: Resource = proto(1, Resource())


@dataclass(frozen=True, slots=True)
class OwnerOptions:
    """Who owns the resource; empty if nobody does. Update, Teardown and Destroy need the stored owner."""

    owner: str = proto(1, "")


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """Creates a resource, with version `UNDEFINED`."""

    resource: Resource = proto(1, Resource())
    options: OwnerOptions = proto(2, OwnerOptions())


@dataclass(frozen=True, slots=True)
class UpdateOptions:
    """As `OwnerOptions`. The stored phase has to be `expected_phase`, unless that is None."""

    owner: str = proto(1, "")
    expected_phase: str | None = proto(2, None)


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """Replaces the resource whose version is that of `new_resource`."""

    new_resource: Resource = proto(2, Resource())
    options: UpdateOptions = proto(3, UpdateOptions())


@dataclass(frozen=True, slots=True)
class DestroyRequest:
    """Names the resource for Destroy, Teardown and TeardownAndDestroy."""

    namespace: str = proto(1, "")
    type: str = proto(2, "")
    id: str = proto(3, "")
    options: OwnerOptions = proto(4, OwnerOptions())


@dataclass(frozen=True, slots=True)
class TeardownResponse:
    """Whether no finalizer is left, so that the resource can be destroyed."""

    destroy_ready: bool = proto(1, False)


# --- watching ---------------------------------------------------------------------------------------------------------


class EventType(IntEnum):
    """What happened. The last three are told to API version 1 only."""

    CREATED = 0
    UPDATED = 1
    DESTROYED = 2
    BOOTSTRAPPED = 3
    """All that is there has been told; the resource in the event is none."""
    ERRORED = 4
    """The watch has to begin anew."""
    NOOP = 5
    """Nothing, but the event has a bookmark."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `old` is there for UPDATED."""

    resource: Resource | None = proto(1, None)
    event_type: EventType = proto(2, EventType.CREATED)
    old: Resource | None = proto(3, None)
    error: str | None = proto(4, None)
    bookmark: bytes | None = proto(5, None)
    """Opaque: where a watch can go on."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How to watch: from what is there (`bootstrap_contents`), or from a bookmark, or only what is new."""

    bootstrap_contents: bool = proto(1, False)
    tail_events: int = proto(2, 0, wire="int32")
    label_query: tuple[LabelQuery, ...] = proto(3, ())
    id_query: IdQuery | None = proto(4, None)
    aggregated: bool = proto(5, False)
    """Several events in a response."""
    start_from_bookmark: bytes | None = proto(6, None)
    bootstrap_bookmark: bool = proto(7, False)
    """Begin with a NOOP that has a bookmark."""


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """Watches the resources of a type, or one of them. Without `api_version` 1, BOOTSTRAPPED and ERRORED are not told."""

    namespace: str = proto(1, "")
    type: str = proto(2, "")
    id: str | None = proto(3, None)
    options: WatchOptions = proto(4, WatchOptions())
    api_version: int = proto(5, 0, wire="int32")


@dataclass(frozen=True, slots=True)
class WatchResponse:
    """Events. The first response has none, and says that the watch is established."""

    event: tuple[Event, ...] = proto(1, ())


GET = Method("/cosi.resource.State/Get", GetRequest, ResourceResponse)
LIST = Method("/cosi.resource.State/List", ListRequest, ResourceResponse)
"""Answers with a stream, as `WATCH`."""
CREATE = Method("/cosi.resource.State/Create", CreateRequest, ResourceResponse)
UPDATE = Method("/cosi.resource.State/Update", UpdateRequest, ResourceResponse)
DESTROY = Method("/cosi.resource.State/Destroy", DestroyRequest, protobuf.Empty)
TEARDOWN = Method("/cosi.resource.State/Teardown", DestroyRequest, TeardownResponse)
"""Old servers do not know it, nor the next one: they answer UNIMPLEMENTED."""
TEARDOWN_AND_DESTROY = Method("/cosi.resource.State/TeardownAndDestroy", DestroyRequest, protobuf.Empty)
"""Answers when the resource is gone."""
WATCH = Method("/cosi.resource.State/Watch", WatchRequest, WatchResponse)


# --- resources of COSI's own ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResourceDefinition:
    """Describes the resources of one type, whose name in small letters is its id. The columns of listings are left out."""

    resource_type: str = proto(1, "")
    display_type: str = proto(2, "")
    default_namespace: str = proto(3, "")
    aliases: tuple[str, ...] = proto(4, ())
    all_aliases: tuple[str, ...] = proto(5, ())


RESOURCE_DEFINITIONS = Kind("ResourceDefinitions.meta.cosi.dev", "meta", ResourceDefinition)
"""Which types a server knows."""

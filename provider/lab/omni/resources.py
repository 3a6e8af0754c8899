"""A resource as a value, and its way to and from the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from provider.kit.jsontypes import JsonObject
from provider.lab.omni import names, protos
from provider.lab.omni.protos import Message

RUNNING = "running"
TEARING_DOWN = "tearingDown"
UNDEFINED = "undefined"


class CallError(Exception):
    """A call fails with a code and a text, as its caller sees them."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Resource:
    """Metadata and spec; `version` 0 is the undefined one, which tombstones and new resources have."""

    namespace: str
    type: str
    id: str
    version: int = 0
    owner: str = ""
    phase: str = RUNNING
    created: datetime | None = None
    updated: datetime | None = None
    finalizers: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    spec: bytes = b""
    yaml: str = ""

    def __str__(self) -> str:
        return f"{self.type}({self.namespace}/{self.id}@{self.version or UNDEFINED})"

    @property
    def tearing_down(self) -> bool:
        """Whether it waits for its finalizers to go."""
        return self.phase == TEARING_DOWN


def parse(message: Message) -> Resource:
    """
    Read a resource from the wire; the spec of a known type must be one.

    Raises:
        CallError: UNKNOWN, as the real server answers with an error without a code.
    """
    if not message.HasField("metadata"):
        raise CallError(grpc.StatusCode.UNKNOWN, "metadata is missing")
    if not message.HasField("spec"):
        raise CallError(grpc.StatusCode.UNKNOWN, "spec is missing")
    metadata = message.metadata
    if metadata.phase not in (RUNNING, TEARING_DOWN):
        raise CallError(grpc.StatusCode.UNKNOWN, f"unknown phase: {metadata.phase}")
    resource = Resource(
        namespace=metadata.namespace,
        type=metadata.type,
        id=metadata.id,
        version=_version(metadata.version),
        owner=metadata.owner,
        phase=metadata.phase,
        created=metadata.created.ToDatetime(UTC),
        updated=metadata.updated.ToDatetime(UTC),
        finalizers=tuple(dict.fromkeys(metadata.finalizers)),
        labels=dict(metadata.labels),
        annotations=dict(metadata.annotations),
        spec=message.spec.proto_spec,
        yaml=message.spec.yaml_spec,
    )
    spec_of(resource)
    return resource


def to_message(resource: Resource) -> Message:
    """
    Write a resource for the wire. Of a known type `yaml_spec` is left out: it is a courtesy to people, and whoever reads it
    instead of `proto_spec` should notice here.
    """
    cosi = protos.load().cosi
    metadata = cosi.Metadata(
        namespace=resource.namespace,
        type=resource.type,
        id=resource.id,
        version=str(resource.version) if resource.version else UNDEFINED,
        owner=resource.owner,
        phase=resource.phase,
        created=resource.created,
        updated=resource.updated,
        finalizers=resource.finalizers,
        labels=resource.labels,
        annotations=resource.annotations,
    )
    yaml = "" if resource.type in names.SPECS else resource.yaml
    return cosi.Resource(metadata=metadata, spec=cosi.Spec(proto_spec=resource.spec, yaml_spec=yaml))


def spec_class(kind: str) -> Any:
    """The message class of the specs of a known type."""
    return getattr(protos.load().specs, names.SPECS[kind])


def spec_of(resource: Resource) -> Message:
    """
    The decoded spec of a resource of a known type, None for others.

    Raises:
        CallError: UNKNOWN, if the bytes are not one.
    """
    if resource.type not in names.SPECS:
        return None
    try:
        return spec_class(resource.type).FromString(resource.spec)
    except DecodeError as error:
        raise CallError(grpc.StatusCode.UNKNOWN, f"failed to unmarshal {resource.type}: {error}") from error


def with_spec(resource: Resource, spec: Message) -> Resource:
    """The resource with another spec."""
    return replace(resource, spec=spec.SerializeToString(deterministic=True))


def relabelled(resource: Resource, changes: Mapping[str, str | None]) -> Resource:
    """The resource with labels set, or removed where the value is None."""
    labels = {**resource.labels, **changes}
    return replace(resource, labels={name: value for name, value in labels.items() if value is not None})


def view(resource: Resource) -> JsonObject:
    """What a person or a test wants to see of it."""
    spec = spec_of(resource)
    return {
        "namespace": resource.namespace,
        "type": resource.type,
        "id": resource.id,
        "version": resource.version,
        "owner": resource.owner,
        "phase": resource.phase,
        "finalizers": list(resource.finalizers),
        "labels": dict(resource.labels),
        "annotations": dict(resource.annotations),
        "spec": resource.spec.hex() if spec is None else plain(spec),
    }


def plain(spec: Message) -> JsonObject:
    """A spec as JSON values, every field in it (a 64-bit number is a number)."""
    found: JsonObject = MessageToDict(spec, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    for descriptor in spec.DESCRIPTOR.fields:
        if descriptor.name in found and descriptor.cpp_type in (descriptor.CPPTYPE_INT64, descriptor.CPPTYPE_UINT64):
            found[descriptor.name] = int(str(found[descriptor.name]))
    return found


def _version(text: str) -> int:
    if text == UNDEFINED:
        return 0
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit():
        raise CallError(
            grpc.StatusCode.UNKNOWN, f'error parsing version: strconv.ParseInt: parsing "{text}": invalid syntax'
        )
    return int(text)

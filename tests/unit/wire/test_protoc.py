"""Every message of ours against the same message as grpcio-tools makes it of its `.proto`."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.domain.errors import MalformedPacketError
from provider.wire import cosi, omni, protobuf, talos_agent, tunnel
from tests.unit.wire import protoc

PAIRS = pytest.mark.parametrize(("kind", "name"), protoc.IN_PROTO, ids=[name for _, name in protoc.IN_PROTO])


def shapes(descriptor: Any) -> dict[str, tuple[object, ...]]:
    """What each field of a message looks like on the wire; an enum is an int32 there."""
    int32, enum = descriptor_types("TYPE_INT32", "TYPE_ENUM")
    return {
        field.name: (
            field.number,
            int32 if field.type == enum else field.type,
            field.is_repeated,
            field.is_packed,
            field.has_presence,
            field.containing_oneof.name if field.containing_oneof else None,
            shapes(field.message_type) if field.message_type and field.message_type.GetOptions().map_entry else None,
        )
        for field in descriptor.fields
    }


def descriptor_types(*names: str) -> list[int]:
    return [getattr(protobuf._FieldProto, name) for name in names]


@PAIRS
def test_the_fields_are_theirs(kind: type[Any], name: str) -> None:
    """A wrong number or type, and what one end writes is lost or something else at the other."""
    ours, theirs = shapes(protobuf._codec(kind).wire_class.DESCRIPTOR), shapes(protoc.theirs(name).DESCRIPTOR)
    left_out = protoc.LEFT_OUT.get(name, set())
    assert ours == {field: shape for field, shape in theirs.items() if field not in left_out}
    assert left_out <= set(theirs)


@PAIRS
@settings(max_examples=25)  # For each of seventy messages.
@given(data=st.data())
def test_both_read_what_the_other_writes(kind: type[Any], name: str, data: st.DataObject) -> None:
    """The manager or the agent would see other values than we sent, or we than they."""
    ours = data.draw(protoc.messages(kind))
    theirs = protoc.theirs(name)(**protoc.plain(ours))
    raw = protobuf.encode(ours)
    assert type(theirs).FromString(raw) == theirs
    assert protobuf.decode(kind, theirs.SerializeToString()) == ours
    assert protobuf.decode(kind, raw) == ours


@PAIRS
@settings(max_examples=25)  # For each of seventy messages.
@given(data=st.data())
def test_any_bytes_are_a_message_or_malformed(kind: type[Any], name: str, data: st.DataObject) -> None:
    """Any other exception would end the link, or the tunnel of an agent, with a traceback."""
    raw = bytearray(protobuf.encode(data.draw(protoc.messages(kind))) + data.draw(st.binary(max_size=20)))
    for place in data.draw(st.lists(st.integers(0, max(0, len(raw) - 1)), max_size=3)):
        raw[place : place + 1] = data.draw(st.binary(max_size=2))
    try:
        message = protobuf.decode(kind, bytes(raw))
    except MalformedPacketError:
        return
    assert protobuf.decode(kind, protobuf.encode(message)) == message


def test_no_message_is_missing_here() -> None:
    """A message that nobody compares may have any number at any field."""
    compared = {kind for kind, _ in protoc.IN_PROTO}
    for module in (cosi, omni, talos_agent, tunnel):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and is_dataclass(kind) and _is_message(kind):
                assert kind in compared, name


def _is_message(kind: type[Any]) -> bool:
    return any(protobuf._DECLARED in field.metadata for field in kind.__dataclass_fields__.values())


@pytest.mark.parametrize(
    ("file", "package", "service", "methods"),
    [
        (
            "v1alpha1/state.proto",
            "cosi.resource",
            "State",
            [
                cosi.GET,
                cosi.LIST,
                cosi.CREATE,
                cosi.UPDATE,
                cosi.DESTROY,
                cosi.WATCH,
                cosi.TEARDOWN,
                cosi.TEARDOWN_AND_DESTROY,
            ],
        ),
        (
            "agent/agent.proto",
            "management",
            "AgentService",
            [
                talos_agent.HELLO,
                talos_agent.GET_POWER_MANAGEMENT,
                talos_agent.SET_POWER_MANAGEMENT,
                talos_agent.REBOOT,
                talos_agent.WIPE_DISKS,
            ],
        ),
    ],
)
def test_methods_are_theirs(file: str, package: str, service: str, methods: list[protobuf.Method[Any, Any]]) -> None:
    """A misspelled method is UNIMPLEMENTED; a wrong message is read as something else."""
    theirs = protoc.pool().FindFileByName(file).services_by_name[service].methods
    assert [method.name for method in methods] == [f"/{package}.{service}/{method.name}" for method in theirs]
    pairs = set(protoc.IN_PROTO)
    for ours, method in zip(methods, theirs, strict=True):
        assert (ours.request, method.input_type.full_name) in pairs
        assert (ours.answer, method.output_type.full_name) in pairs


def test_the_tunnel_is_theirs() -> None:
    """The agent would call a method that nobody serves."""
    service = protoc.pool().FindServiceByName("grpctunnel.v1.TunnelService")
    assert f"/{service.full_name}/{service.FindMethodByName('OpenReverseTunnel').name}" == tunnel.METHOD

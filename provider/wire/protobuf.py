"""
Protocol buffers as frozen dataclasses: what stands in a class is the whole `.proto` of a message.

    @dataclass(frozen=True, slots=True)
    class Metadata:
        id: str = proto(3, "")
        created: datetime | None = proto(7, None)
        labels: Mapping[str, str] = proto(10, {})

`encode` makes bytes of such a message, `decode` reads them. Both are done by google.protobuf, which this module alone imports:
at the first use of a class a descriptor is built from it. A class that cannot be a message is a TypeError then, which says
which field is wrong and what to write.

| Annotation | proto3 |
|---|---|
| `str`, `bytes`, `bool` | the same |
| `int` | int64, or what `wire` says |
| a subclass of IntEnum | enum; see below |
| `datetime`, aware | google.protobuf.Timestamp; what is finer than a microsecond is lost |
| such a dataclass | the message; always written, also when empty, and read as empty if it is not there |
| `X \\| None` of any of these | the same with presence: `optional`, a message that may be missing, or a member of a `oneof` |
| `tuple[X, ...]` | repeated |
| `Mapping[str, X]` | map |

Fields that a class does not name are dropped when it is read: who must give back what it got keeps the bytes. A number that
an enum does not know is read as a member of no name, equal to none of the others, so that nobody takes it for one of them.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import cache
from inspect import formatannotation
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from provider.domain.errors import MalformedPacketError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
M = TypeVar("M", bound="DataclassInstance")
Request = TypeVar("Request")
Answer = TypeVar("Answer")

Wire = Literal["int32", "int64", "uint32", "uint64"]
"""What an `int` is on the wire; it matters for numbers below zero and for the largest ones."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Answer]):
    """One method of a gRPC service: its full name with a slash in front, what it takes and what it answers with."""

    name: str
    request: type[Request]
    answer: type[Answer]


@dataclass(frozen=True, slots=True)
class Empty:
    """google.protobuf.Empty."""


def proto(number: int, default: T, *, wire: Wire | None = None, oneof: str = "", secret: bool = False) -> T:
    """
    Declare a field of a message: its number on the wire, and what it is if it is not there.

    `default` has to be the type's zero, as in proto3. `wire` tells the kind of an `int`, `oneof` the name of the group that
    the field is a member of. A `secret` is left out of the message's repr, and so of logs and tracebacks.
    """
    declared = {_DECLARED: _Declared(number, wire, oneof)}
    if isinstance(default, Mapping):
        return field(default_factory=type(default), repr=not secret, metadata=declared)
    return field(default=default, repr=not secret, metadata=declared)


def encode(message: DataclassInstance) -> bytes:
    """
    Make the bytes of a message; equal messages have equal bytes.

    Raises:
        TypeError: If the class of the message cannot be one, or a value is not of its field's type.
        ValueError: If a value does not fit its field, or two members of a oneof are set.
    """
    codec = _codec(type(message))
    raw: bytes = codec.wire_class(**codec.to_wire(message)).SerializeToString(deterministic=True)
    return raw


def decode(kind: type[M], raw: bytes) -> M:
    """
    Read a message.

    Raises:
        MalformedPacketError: If `raw` is none; the offset is always 0, because the parser does not tell it.
        TypeError: If `kind` cannot be a message.
    """
    codec = _codec(kind)
    wire = codec.wire_class()
    try:
        wire.ParseFromString(raw)
    except DecodeError as error:
        raise MalformedPacketError(str(error), field=kind.__name__, offset=0) from error
    message: M = codec.from_wire(wire)
    return message


# --- from classes to descriptors --------------------------------------------------------------------------------------

_FieldProto = descriptor_pb2.FieldDescriptorProto

_DECLARED = "proto"
"""Where dataclass fields keep what `proto` was told."""

_INTEGERS: Mapping[Wire, _FieldProto.Type.ValueType] = {
    "int32": _FieldProto.TYPE_INT32,
    "int64": _FieldProto.TYPE_INT64,
    "uint32": _FieldProto.TYPE_UINT32,
    "uint64": _FieldProto.TYPE_UINT64,
}

_SUPPORTED = (
    "str, bytes, bool, int, an IntEnum, datetime, a message, or X | None, tuple[X, ...] or Mapping[str, X] of these"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Declared:
    """What `proto` was told of a field."""

    number: int
    wire: Wire | None
    oneof: str


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class _Element:
    """One value of a field, be it alone, repeated or in a map."""

    wire_type: _FieldProto.Type.ValueType
    zero: object
    message: type | None = None
    read: Callable[[Any], Any] = _same
    write: Callable[[Any], Any] = _same


_Shape = Literal["single", "optional", "repeated", "map"]


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message."""

    name: str
    declared: _Declared
    element: _Element
    shape: _Shape

    @property
    def is_explicit(self) -> bool:
        """Whether it is `optional` in the `.proto`: a message, or a member of a oneof, tells its presence without."""
        return self.shape == "optional" and self.element.message is None and not self.declared.oneof

    @property
    def zero(self) -> object:
        """What it is if it is not there."""
        match self.shape:
            case "single":
                return self.element.zero() if isinstance(self.element.zero, type) else self.element.zero
            case "optional":
                return None
            case "repeated":
                return ()
            case "map":
                return {}

    def reader(self) -> Callable[[Message], Any]:
        """What takes the value out of a message of google.protobuf."""
        name, read = self.name, self.element.read
        get: Callable[[Message], Any] = attrgetter(name)
        match self.shape:
            case "single":
                return get if read is _same else lambda wire: read(get(wire))
            case "optional":
                return lambda wire: read(get(wire)) if wire.HasField(name) else None
            case "repeated":
                return lambda wire: tuple(map(read, get(wire)))
            case "map":
                return lambda wire: {key: read(value) for key, value in get(wire).items()}

    def writer(self) -> Callable[[Any], Any]:
        """What makes the value one that google.protobuf takes."""
        write = self.element.write
        if write is _same:
            return _same
        match self.shape:
            case "single":
                return write
            case "optional":
                return lambda value: None if value is None else write(value)
            case "repeated":
                return lambda values: list(map(write, values))
            case "map":
                return lambda values: {key: write(value) for key, value in values.items()}


@dataclass(frozen=True, slots=True)
class _Timestamp:
    """google.protobuf.Timestamp."""

    seconds: int = proto(1, 0)
    nanos: int = proto(2, 0, wire="int32")


class _Codec:
    """How the messages of one class come to the wire and back; `wire_class` is what google.protobuf made for them."""

    def __init__(self, kind: type[DataclassInstance], parts: list[_Field], wire_class: type[Message]) -> None:
        self.wire_class = wire_class
        self._kind = kind
        self._readers = [part.reader() for part in parts]
        self._writers = [(part.name, part.writer()) for part in parts]
        groups = dict.fromkeys(part.declared.oneof for part in parts if part.declared.oneof)
        self._oneofs = [[part.name for part in parts if part.declared.oneof == group] for group in groups]

    def to_wire(self, message: object) -> dict[str, Any]:
        """The arguments of `wire_class`, which takes a dict for a message, and None for what is not there."""
        for group in self._oneofs:
            members = [name for name in group if getattr(message, name) is not None]
            if len(members) > 1:
                raise ValueError(f"{self._kind.__qualname__} can have only one of {', '.join(members)}")
        return {name: write(getattr(message, name)) for name, write in self._writers}

    def from_wire(self, wire: Message) -> Any:
        """The message that `wire` is."""
        return self._kind(*[read(wire) for read in self._readers])


@cache  # One for each class that is declared.
def _codec(kind: type[DataclassInstance]) -> _Codec:
    """Build the descriptors of a class and of all that it is made of, in a pool of their own."""
    codecs: dict[type, _Codec] = {}
    schemas: dict[type, list[_Field]] = {}
    awaiting: list[type] = [kind]
    while awaiting:
        if (each := awaiting.pop()) not in schemas:
            schemas[each] = _fields(each, codecs)
            awaiting += [part.element.message for part in schemas[each] if part.element.message]
    names = {each: f"{each.__name__}_{number}" for number, each in enumerate(schemas)}
    file = descriptor_pb2.FileDescriptorProto(name=f"{kind.__qualname__}.proto", syntax="proto3")
    for each, parts in schemas.items():
        _describe(file.message_type.add(name=names[each]), parts, names)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    for each, parts in schemas.items():
        wire_class = message_factory.GetMessageClass(pool.FindMessageTypeByName(names[each]))
        codecs[each] = _Codec(each, parts, wire_class)
    return codecs[kind]


def _describe(message: descriptor_pb2.DescriptorProto, parts: list[_Field], names: Mapping[type, str]) -> None:
    """Fill in the descriptor of a message."""
    groups = dict.fromkeys(part.declared.oneof for part in parts if part.declared.oneof)
    # What is `optional` is alone in a oneof that protobuf wants behind the others.
    groups |= dict.fromkeys(f"_{part.name}" for part in parts if part.is_explicit)
    for group in groups:
        message.oneof_decl.add(name=group)
    for part in parts:
        whole = message.field.add(name=part.name, number=part.declared.number, label=_FieldProto.LABEL_OPTIONAL)
        value = whole
        if part.shape == "map":
            entry = message.nested_type.add(name=f"{part.name.title().replace('_', '')}Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=_FieldProto.LABEL_OPTIONAL, type=_FieldProto.TYPE_STRING)
            value = entry.field.add(name="value", number=2, label=_FieldProto.LABEL_OPTIONAL)
            whole.type, whole.type_name = _FieldProto.TYPE_MESSAGE, f"{message.name}.{entry.name}"
        if part.shape in ("map", "repeated"):
            whole.label = _FieldProto.LABEL_REPEATED
        value.type = part.element.wire_type
        if part.element.message:
            value.type_name = names[part.element.message]
        if part.declared.oneof or part.is_explicit:
            whole.proto3_optional = part.is_explicit
            whole.oneof_index = list(groups).index(part.declared.oneof or f"_{part.name}")


def _fields(kind: type, codecs: Mapping[type, _Codec]) -> list[_Field]:
    """Read the declaration of a class; `codecs` holds those of its parts once all are built."""
    if not (is_dataclass(kind) and isinstance(kind, type)):
        raise TypeError(f"{kind.__qualname__} is no dataclass, so it cannot be a message")
    try:
        hints = get_type_hints(kind)
    except NameError as error:
        raise TypeError(f"{kind.__qualname__}: {error}; a message's types have to stand in its module") from error
    taken: dict[int, str] = {}
    parts = []
    for each in fields(kind):
        where = f"{kind.__qualname__}.{each.name}"
        declared = each.metadata.get(_DECLARED)
        if not isinstance(declared, _Declared):
            raise TypeError(f"{where} has no number; declare it with `= proto(number, default)`")
        if not (1 <= declared.number < 1 << 29 and not 19000 <= declared.number < 20000):
            raise TypeError(
                f"{where} cannot have the number {declared.number}: use 1 to 536870911 without 19000 to 19999"
            )
        if declared.number in taken:
            raise TypeError(f"{where} has the number {declared.number}, which is {taken[declared.number]}'s")
        taken[declared.number] = each.name
        part = _field(each.name, where, hints[each.name], declared, codecs)
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if type(default) is not type(part.zero) or default != part.zero:
            raise TypeError(f"{where} has the default {default!r}, but is read as {part.zero!r} if it is not there")
        parts.append(part)
    return parts


def _field(name: str, where: str, hint: object, declared: _Declared, codecs: Mapping[type, _Codec]) -> _Field:
    """Read the annotation of one field."""
    arguments = get_args(hint)
    shape: _Shape = "single"
    if get_origin(hint) in (Union, types.UnionType) and len(arguments) == 2 and types.NoneType in arguments:
        shape = "optional"
        hint = next(each for each in arguments if each is not types.NoneType)
    elif get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        shape, hint = "repeated", arguments[0]
    elif get_origin(hint) is Mapping and arguments[0] is str:
        shape, hint = "map", arguments[1]
    if declared.oneof and shape != "optional":
        raise TypeError(f"{where} is a member of oneof {declared.oneof}; declare it as `X | None`")
    if hint is datetime and shape == "single":
        raise TypeError(f"{where} has no value if it is not there; declare it as `datetime | None`")
    return _Field(name, declared, _element(where, hint, declared, codecs), shape)


def _element(where: str, hint: object, declared: _Declared, codecs: Mapping[type, _Codec]) -> _Element:
    """Read an annotation without what may be around it."""
    if declared.wire and hint is not int:
        raise TypeError(f"{where}: `wire` is for int alone")
    if hint is str:
        return _Element(_FieldProto.TYPE_STRING, "")
    if hint is bytes:
        return _Element(_FieldProto.TYPE_BYTES, b"")
    if hint is bool:
        return _Element(_FieldProto.TYPE_BOOL, False)
    if hint is int:
        return _Element(_INTEGERS[declared.wire or "int64"], 0)
    if hint is datetime:
        return _Element(_FieldProto.TYPE_MESSAGE, None, _Timestamp, _time_reader(where), _write_time)
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        members = {member.value: member for member in hint}
        if 0 not in members:
            raise TypeError(f"{where}: {hint.__qualname__} has no member 0, which is what is read if it is not there")
        return _Element(_FieldProto.TYPE_INT32, members[0], read=_enum_reader(hint, members))
    if isinstance(hint, type) and is_dataclass(hint):
        return _Element(
            _FieldProto.TYPE_MESSAGE,
            hint,
            hint,
            lambda wire: codecs[hint].from_wire(wire),
            lambda message: codecs[hint].to_wire(message),
        )
    raise TypeError(f"{where} cannot be of type {formatannotation(hint)}; use {_SUPPORTED}")


# --- values -----------------------------------------------------------------------------------------------------------


def _enum_reader(kind: type[IntEnum], members: Mapping[int, IntEnum]) -> Callable[[int], IntEnum]:
    def read(number: int) -> IntEnum:
        known = members.get(number)
        if known is not None:
            return known
        stranger = int.__new__(kind, number)
        stranger._name_ = f"UNRECOGNIZED_{number}"
        stranger._value_ = number
        return stranger

    return read


def _write_time(moment: datetime) -> dict[str, int]:
    since = moment - _EPOCH
    return {"seconds": since.days * 86400 + since.seconds, "nanos": since.microseconds * 1000}


def _time_reader(where: str) -> Callable[[Any], datetime]:
    def read(timestamp: Any) -> datetime:
        if not 0 <= timestamp.nanos < 1_000_000_000:
            raise MalformedPacketError("not a time: the nanoseconds are no part of a second", field=where, offset=0)
        try:
            return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)
        except OverflowError as error:
            raise MalformedPacketError("not a time: outside of the years 1 to 9999", field=where, offset=0) from error

    return read

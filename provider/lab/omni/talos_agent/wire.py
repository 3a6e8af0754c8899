"""Protocol buffers by hand: what the tunnel and the agent's service need of them (protobuf.dev, "Encoding")."""

from __future__ import annotations

from collections.abc import Iterator

Value = int | bytes


class NotProtobufError(ValueError):
    """The bytes are no message."""


def put(number: int, value: int | bytes | str) -> bytes:
    """One field: a varint (negative ones as int64), or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value % (1 << 64))
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def read(raw: bytes) -> dict[int, list[Value]]:
    """
    All fields of a message, by number.

    Raises:
        NotProtobufError: If it is none.
    """
    found: dict[int, list[Value]] = {}
    try:
        for number, value in _fields(raw):
            found.setdefault(number, []).append(value)
    except IndexError:
        raise NotProtobufError("it ends in the middle") from None
    return found


def last(fields: dict[int, list[Value]], number: int, default: Value) -> Value:
    """The value of a field that is there once, which is the last one; of the default's type."""
    value = fields.get(number, [default])[-1]
    if type(value) is not type(default):
        raise NotProtobufError(f"field {number} is of another type")
    return value


def signed(value: Value) -> int:
    """An int64."""
    if not isinstance(value, int):
        raise NotProtobufError("a number is bytes")
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(raw: bytes) -> Iterator[tuple[int, Value]]:
    at = 0
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        match tag & 7:
            case 0:
                value, at = _read_varint(raw, at)
                yield tag >> 3, value
            case 2:
                length, at = _read_varint(raw, at)
                if at + length > len(raw):
                    raise NotProtobufError("a field is longer than the message")
                yield tag >> 3, raw[at : at + length]
                at += length
            case other:
                raise NotProtobufError(f"nobody here uses wire type {other}")


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

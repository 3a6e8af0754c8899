"""
TFTP packets (RFC 1350, options as in RFC 2347) to and from bytes.

The bytes of what begins and ends a transfer are made and read by tftpy's packet types, which this module alone imports; DATA
and ACK, of which a transfer has thousands, by `struct`. Around them stands what they leave open: any bytes end in a packet
or in `MalformedPacketError`, option names are compared without case, a request is never longer than the RFC allows, and what
firmware is known to get wrong is read as it was meant.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, NoReturn

from tftpy import TftpPacketTypes
from tftpy.TftpShared import TftpException

from provider.domain.errors import MalformedPacketError

# It logs each ERROR that a client sends, past our own logs and at level error.
logging.getLogger(TftpPacketTypes.__name__).disabled = True

_HEAD = struct.Struct("!HH")
"""Opcode, and block or code."""

MAX_REQUEST_BYTES = 512
"""A request that is longer is none (RFC 2347, "Packet Formats")."""

OCTET = "octet"


class ErrorCode(IntEnum):
    """RFC 1350 appendix, and code 8 of RFC 2347."""

    UNDEFINED = 0
    FILE_NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    DISK_FULL = 3
    ILLEGAL_OPERATION = 4
    UNKNOWN_TRANSFER = 5
    FILE_EXISTS = 6
    NO_SUCH_USER = 7
    OPTIONS_REFUSED = 8


@dataclass(frozen=True)
class ReadRequest:
    """RRQ. Option names are in lower case; `mode` too."""

    name: str
    mode: str = OCTET
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WriteRequest:
    """WRQ; we never agree to one."""

    name: str
    mode: str = OCTET
    options: Mapping[str, str] = field(default_factory=dict)


class Data(NamedTuple):
    """DATA. `block` is the 16-bit number on the wire."""

    block: int
    content: bytes | memoryview


class Ack(NamedTuple):
    """ACK. `block` is the 16-bit number on the wire."""

    block: int


@dataclass(frozen=True)
class Error:
    """ERROR. It ends a transfer and is never answered. `code` may be one that no RFC knows."""

    code: int
    message: str = ""


@dataclass(frozen=True)
class OptionAck:
    """OACK: the options that the server agrees to, with its own values."""

    options: Mapping[str, str]


Packet = ReadRequest | WriteRequest | Data | Ack | Error | OptionAck


def decode(raw: bytes) -> Packet:
    """
    Parse one TFTP packet from a UDP payload.

    Raises:
        MalformedPacketError: If `raw` is none; names the field and its offset in bytes.
    """
    if (block := acknowledged_block(raw)) is not None:
        return Ack(block)
    opcode = int.from_bytes(raw[:2], "big") if len(raw) >= 2 else 0
    reader = _READERS.get(opcode)
    if reader is None:
        raise MalformedPacketError("not a TFTP packet", field="opcode", offset=0)
    return reader(raw)


def acknowledged_block(raw: bytes) -> int | None:
    """Read the block number of an ACK, None for any other UDP payload: a transfer has one ACK after the other."""
    if len(raw) < _HEAD.size:
        return None
    opcode, block = _HEAD.unpack_from(raw)
    return block if opcode == _ACK else None


def encode(packet: Packet) -> bytes:
    """Make the UDP payload. Names, options and messages must be ASCII without NUL; the mode of a request is octet."""
    match packet:
        case Data(block, content):
            return encode_data(block, content)
        case Ack(block):
            return _HEAD.pack(_ACK, block)
        case ReadRequest() | WriteRequest():
            raw = (
                TftpPacketTypes.TftpPacketRRQ() if isinstance(packet, ReadRequest) else TftpPacketTypes.TftpPacketWRQ()
            )
            raw.filename, raw.mode, raw.options = packet.name, packet.mode, packet.options
        case Error():
            raw = TftpPacketTypes.TftpPacketERR()
            raw.errorcode = packet.code
            raw.errmsgs = {packet.code: packet.message.encode("ascii")}  # Else it sends a text of its own.
        case OptionAck():
            raw = TftpPacketTypes.TftpPacketOACK()
            raw.options = packet.options
    encoded: bytes = raw.encode().buffer
    return encoded


def encode_data(block: int, content: bytes | memoryview) -> bytes:
    """Make the UDP payload of a DATA packet."""
    return _HEAD.pack(_DATA, block) + content


def _request(raw: bytes) -> ReadRequest | WriteRequest:
    """
    Read a RRQ or WRQ.

    Two habits of PXE ROMs are forgiven: none or many NUL bytes at the end, and 0xFF behind the file name, which is the end
    mark of the DHCP options where it was copied from.
    """
    if len(raw) > MAX_REQUEST_BYTES:
        raise MalformedPacketError("longer than a request may be", field="request", offset=MAX_REQUEST_BYTES)
    packet = TftpPacketTypes.TftpPacketRRQ()
    packet.buffer = raw.rstrip(b"\0").replace(b"\xff\0", b"\0", 1) + b"\0"
    try:
        packet.decode()
    except (TftpException, AssertionError, UnicodeDecodeError, struct.error) as error:
        raise MalformedPacketError("not a request", field=_unread_field(raw), offset=2) from error
    kind = ReadRequest if raw[1] == _RRQ else WriteRequest
    return kind(packet.filename, packet.mode, {name.lower(): value for name, value in packet.options.items()})


def _unread_field(raw: bytes) -> str:
    """Which part of a request cannot be read."""
    name, mode, *_ = [*raw[2:].split(b"\0"), b"", b""]
    if not name.isascii() or raw.count(b"\0", 2) == 0:
        return "file name"
    return "options" if mode.isascii() and raw.count(b"\0", 2) > 1 else "mode"


def _cut_off(raw: bytes) -> NoReturn:
    raise MalformedPacketError("cut off", field="block or code", offset=len(raw))


def _data(raw: bytes) -> Data:
    if len(raw) < _HEAD.size:
        _cut_off(raw)
    return Data(_HEAD.unpack_from(raw)[1], raw[_HEAD.size :])


def _error(raw: bytes) -> Error:
    """Read an ERROR; a text that is missing, unterminated or not ASCII does not make it any less of one."""
    if len(raw) < _HEAD.size:
        _cut_off(raw)
    code, text = raw[:4], raw[4:].partition(b"\0")[0]
    packet = TftpPacketTypes.TftpPacketERR()
    packet.buffer = code + text + b"\0"
    packet.decode()
    return Error(packet.errorcode, (packet.errmsg or b"").decode("ascii", errors="replace"))


def _option_ack(raw: bytes) -> OptionAck:
    packet = TftpPacketTypes.TftpPacketOACK()
    packet.buffer = raw
    try:
        packet.decode()
    except (TftpException, AssertionError, UnicodeDecodeError, struct.error) as error:
        raise MalformedPacketError("not an option acknowledgement", field="options", offset=2) from error
    return OptionAck({name.lower(): value for name, value in packet.options.items()})


_RRQ, _WRQ, _DATA, _ACK, _ERROR, _OACK = range(1, 7)
_READERS: Mapping[int, Callable[[bytes], Packet]] = {
    _RRQ: _request,
    _WRQ: _request,
    _DATA: _data,
    _ACK: _cut_off,
    _ERROR: _error,
    _OACK: _option_ack,
}

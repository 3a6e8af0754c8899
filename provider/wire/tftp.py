"""
TFTP packets: RFC 1350, options of RFC 2347 to 2349 and 7440. The packet classes are tftpy's; this is the one module of ours
that knows them, and it gives plain values to the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from tftpy.TftpPacketTypes import TftpPacketDAT, TftpPacketOACK

from provider.domain.errors import MalformedPacketError

BLOCK_SIZE = 512
"""Bytes of a block when nothing else was negotiated (RFC 1350 section 2)."""


class ErrorCode(IntEnum):
    """RFC 1350 appendix I, and 8 of RFC 2347."""

    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    ILLEGAL_OPERATION = 4
    UNKNOWN_TRANSFER = 5
    OPTIONS_REFUSED = 8


@dataclass(frozen=True)
class ReadRequest:
    """RRQ. `mode` is lower case; options have lower-case names, and the text that the client sent as values."""

    file: str
    mode: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ack:
    """ACK of one block; 0 acknowledges an OACK."""

    block: int


@dataclass(frozen=True)
class Error:
    """ERROR: the sender has given up."""

    code: int
    message: str


@dataclass(frozen=True)
class Refused:
    """A message that only servers send, or that would write: answered with an error."""

    what: str


Message = ReadRequest | Ack | Error | Refused


def decode(raw: bytes) -> Message:
    """
    Parse one datagram from a client.

    Raises:
        MalformedPacketError: If it is not a TFTP packet; names the field and its offset in bytes.
    """
    if len(raw) < 4:
        raise MalformedPacketError(f"only {len(raw)} bytes", field="opcode", offset=0)
    match int.from_bytes(raw[:2], "big"):
        case 1:
            return _read_request(raw)
        case 2:
            return Refused("write request")
        case 3 | 6:
            return Refused("message of a server")
        case 4:
            return Ack(int.from_bytes(raw[2:4], "big"))
        case 5:
            message = raw[4:].split(b"\0", 1)[0].decode("ascii", "replace")
            return Error(int.from_bytes(raw[2:4], "big"), message)
        case opcode:
            raise MalformedPacketError(f"opcode is {opcode}", field="opcode", offset=0)


def encode_data(block: int, chunk: bytes) -> bytes:
    """DATA; `block` counts from 1 and wraps to 0 after 65535."""
    packet = TftpPacketDAT()
    packet.blocknumber, packet.data = block % 65536, chunk
    return bytes(packet.encode().buffer)


def encode_options(options: dict[str, str]) -> bytes:
    """OACK (RFC 2347)."""
    packet = TftpPacketOACK()
    packet.options = dict(options)
    return bytes(packet.encode().buffer)


def encode_error(code: ErrorCode, message: str) -> bytes:
    """ERROR with a message for the person in front of the screen; tftpy's own class cannot carry one."""
    return b"\0\5" + int(code).to_bytes(2, "big") + message.encode("ascii", "replace")[:480] + b"\0"


def _read_request(raw: bytes) -> ReadRequest:
    """RRQ by hand: tftpy's decoder wants a NUL at the very end and decodes names as latin-1 without complaint."""
    fields = raw[2:].split(b"\0")
    if len(fields) < 3:
        raise MalformedPacketError("file name and mode do not end", field="mode", offset=len(raw))
    name, mode, *rest = (part.decode("utf-8", "replace") for part in fields[:-1])
    if not name:
        raise MalformedPacketError("the file name is empty", field="file name", offset=2)
    options = {key.lower(): value for key, value in zip(rest[::2], rest[1::2], strict=False)}
    return ReadRequest(file=name, mode=mode.lower(), options=options)

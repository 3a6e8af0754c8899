"""A capture as text for people, as our codecs read it: what the golden files hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from ipaddress import IPv4Address
from uuid import UUID

from provider.domain.errors import MalformedPacketError
from provider.wire import dhcp, pxe, tftp
from provider.wire.dhcp import MessageType, Option
from tests.captures.frames import Frame, Protocol, sorted_out

OPTIONS = {code: name for name, code in vars(Option).items() if isinstance(code, int)}
"""Names of the options that we know, by code."""

_ADDRESSES = frozenset(
    {
        Option.SUBNET_MASK,
        Option.ROUTER,
        Option.DNS,
        Option.BROADCAST_ADDRESS,
        Option.NTP_SERVERS,
        Option.REQUESTED_ADDRESS,
        Option.SERVER_ID,
        Option.TFTP_SERVER_ADDRESS,
    }
)
_NUMBERS = frozenset(
    {
        Option.INTERFACE_MTU,
        Option.LEASE_TIME,
        Option.MAXIMUM_SIZE,
        Option.RENEWAL_TIME,
        Option.REBINDING_TIME,
    }
)
_ENCAPSULATED = frozenset({Option.VENDOR_SPECIFIC, Option.RELAY_AGENT, Option.IPXE})


def text(frames: Iterable[Frame]) -> str:
    """All of it; times are seconds since the first frame."""
    lines: list[str] = []
    begin: float | None = None
    for frame, protocol in sorted_out(frames):
        begin = frame.at if begin is None else begin
        what, *details = _READERS[protocol](frame)
        lines.append(f"{frame.at - begin:10.6f}  {_peer(frame.source)} > {_peer(frame.destination)}  {what}")
        lines += [f"    {line}" for line in details]
    return "\n".join([*lines, ""])


def _peer(peer: tuple[str, int]) -> str:
    return f"{peer[0]}:{peer[1]}"


def _dhcp(frame: Frame) -> Iterator[str]:
    packet = dhcp.decode(frame.payload)
    kind = packet.message_type
    yield f"DHCP{kind.name}" if kind is not None else "BOOTP"
    yield f"frame to {frame.to_mac}"
    yield f"op {packet.op}, hops {packet.hops}, xid {packet.xid:#010x}, secs {packet.secs}, flags {packet.flags:#06x}"
    yield f"ciaddr {packet.ciaddr}, yiaddr {packet.yiaddr}, siaddr {packet.siaddr}, giaddr {packet.giaddr}"
    yield f"chaddr {packet.chaddr}, sname {_text(packet.sname)}, file {_text(packet.file)}"
    for code, value in packet.options.items():
        yield f"{_name(code)}: {_value(code, value)}"
    if packet.op == dhcp.BOOTREQUEST:
        yield f"takes {packet.largest_answer} bytes; {_client(pxe.client(packet))}"


def _client(client: pxe.Client) -> str:
    said = {field.name: getattr(client, field.name) for field in fields(client)}
    said["firmware"] = client.firmware.title if client.firmware is not None else None
    return "client: " + ", ".join(f"{name} {value}" for name, value in said.items() if value)


def _name(code: int) -> str:
    return f"{code} {OPTIONS[code]}" if code in OPTIONS else str(code)


def _value(code: int, value: bytes) -> str:
    if code in _ADDRESSES and value and len(value) % 4 == 0:
        return ", ".join(str(IPv4Address(value[at : at + 4])) for at in range(0, len(value), 4))
    if code in _NUMBERS:
        return str(int.from_bytes(value, "big"))
    if code in _ENCAPSULATED:
        inner = ", ".join(f"{tag}={_text(each)}" for tag, each in dhcp.decode_suboptions(value).items())
        return f"{value.hex()} ({inner})"
    match code:
        case Option.MESSAGE_TYPE:
            return MessageType(value[0]).name
        case Option.PARAMETER_LIST:
            return ", ".join(map(str, value))
        case Option.CLIENT_ARCH:
            return ", ".join(f"0x{value[at : at + 2].hex()}" for at in range(0, len(value), 2))
        case Option.CLIENT_UUID if len(value) == 17:
            return f"{value[0]} {UUID(bytes_le=value[1:])}"
        case _:
            return _text(value)


def _text(value: bytes) -> str:
    if all(0x20 <= byte < 0x7F for byte in value):
        return f'"{value.decode("ascii")}"'
    return value.hex()


def _tftp(frame: Frame) -> Iterator[str]:
    try:
        packet = tftp.decode(frame.payload)
    except MalformedPacketError as error:
        yield f"TFTP malformed: {error}"
        return
    match packet:
        case tftp.Data(block, content):
            yield f"TFTP DATA {block}, {len(content) + frame.cut} bytes"
        case tftp.Ack(block):
            yield f"TFTP ACK {block}"
        case tftp.Error(code, message):
            yield f"TFTP ERROR {code} {message}"
        case tftp.OptionAck(options):
            yield f"TFTP OACK {_words(options)}"
        case tftp.ReadRequest(name, mode, options) | tftp.WriteRequest(name, mode, options):
            kind = "RRQ" if isinstance(packet, tftp.ReadRequest) else "WRQ"
            yield f"TFTP {kind} {name} {mode} {_words(options)}"


def _words(options: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _http(frame: Frame) -> Iterator[str]:
    yield from frame.payload.decode("ascii", "replace").rstrip().split("\r\n")


_READERS = {Protocol.DHCP: _dhcp, Protocol.TFTP: _tftp, Protocol.HTTP: _http}

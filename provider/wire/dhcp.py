"""
DHCP messages: RFC 2131 section 2, options as in RFC 2132, long options as in RFC 3396, overload as in RFC 2132 9.3.

`decode` and `encode` are the hot path of a boot storm, so they are plain slices and one `struct` each. Options are kept as
raw bytes by code; the accessors of `Packet` and the `encode_*` helpers know the shapes of those that we use. Options that
do not fit into what a client can take go into `file` and `sname`, if these are free, and the last ones are left out:
whoever builds a packet puts the important ones first. Only option 82 always has its place, where its relay looks for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from provider.domain import mac as macs
from provider.domain.errors import MalformedPacketError
from provider.domain.mac import MacAddress

BOOTREQUEST = 1
BOOTREPLY = 2
BROADCAST_FLAG = 0x8000
MAGIC = b"\x63\x82\x53\x63"
NOWHERE = IPv4Address(0)
_ZERO = bytes(4)

_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_MINIMUM = _HEADER.size  # 240: header and magic cookie.
_SHORTEST_SENT = 300  # BOOTP clients and some relays drop anything shorter (RFC 1542 section 2.1).
_EVERYBODY_TAKES = 576  # RFC 2131 section 2: an IP datagram that each client must be able to receive.
_ETHERNET_TAKES = 1500
_IP_AND_UDP = 28
_FILE = slice(108, 236)
_SNAME = slice(44, 108)


class MessageType(IntEnum):
    """Option 53 (RFC 2132 section 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option:
    """
    The options that we read or write; RFC 2132 unless another is named.

    Numbers, no enum: a member of one costs four times as much to look up, sixty times an exchange.
    """

    PAD = 0
    SUBNET_MASK = 1
    ROUTER = 3
    DNS = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    INTERFACE_MTU = 26
    BROADCAST_ADDRESS = 28
    NTP_SERVERS = 42
    VENDOR_SPECIFIC = 43
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_LIST = 55
    MESSAGE = 56
    MAXIMUM_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    VENDOR_CLASS = 60
    CLIENT_ID = 61
    TFTP_SERVER_NAME = 66
    BOOT_FILE_NAME = 67
    USER_CLASS = 77  # RFC 3004
    RELAY_AGENT = 82  # RFC 3046
    CLIENT_ARCH = 93  # RFC 4578 section 2.1
    CLIENT_INTERFACE = 94  # RFC 4578 section 2.2
    CLIENT_UUID = 97  # RFC 4578 section 2.3
    DOMAIN_SEARCH = 119  # RFC 3397
    STATIC_ROUTES = 121  # RFC 3442
    TFTP_SERVER_ADDRESS = 150  # RFC 5859
    IPXE = 175  # Encapsulated options of iPXE (ipxe.org/howto/dhcpd)
    END = 255


class RelayOption:
    """Sub-options of option 82 (RFC 3046 section 2 unless another is named)."""

    CIRCUIT_ID = 1
    REMOTE_ID = 2
    LINK_SELECTION = 5  # RFC 3527
    SERVER_ID_OVERRIDE = 11  # RFC 5107


_TYPES = {bytes((each,)): each for each in MessageType}


@dataclass(slots=True)
class Packet:
    """
    One message. Addresses that are not set are 0.0.0.0; `options` hold raw values by code, in order.

    Nobody changes one that is made; it is not frozen because that would cost a third of decoding.
    """

    op: int
    xid: int
    chaddr: MacAddress
    options: Mapping[int, bytes] = field(default_factory=dict)
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = NOWHERE
    yiaddr: IPv4Address = NOWHERE
    siaddr: IPv4Address = NOWHERE
    giaddr: IPv4Address = NOWHERE
    sname: bytes = b""
    """At most 64 bytes; empty where option 52 says that it holds options."""
    file: bytes = b""
    """At most 128 bytes, likewise."""

    @property
    def message_type(self) -> MessageType | None:
        """Option 53, or None for plain BOOTP or an unknown type."""
        return _TYPES.get(self.options.get(Option.MESSAGE_TYPE, b""))

    @property
    def wants_broadcast(self) -> bool:
        """The client cannot receive unicast before it has an address (RFC 2131 section 4.1)."""
        return bool(self.flags & BROADCAST_FLAG)

    @property
    def largest_answer(self) -> int:
        """
        Bytes of UDP payload that the client takes: option 57, which counts the IP and UDP headers, within reason.

        EDK2 says 1,472 in its DHCPDISCOVER and 65,280 in its DHCPREQUEST (capture ovmf-pxe). Option 82 comes on top,
        because the relay takes it out again.
        """
        value = self.options.get(Option.MAXIMUM_SIZE)
        asked = _EVERYBODY_TAKES
        if value is not None and len(value) == 2:
            asked = min(max(int.from_bytes(value, "big"), _EVERYBODY_TAKES), _ETHERNET_TAKES)
        relay = self.options.get(Option.RELAY_AGENT)
        extra = 0 if relay is None else len(_encode_long(Option.RELAY_AGENT, relay))
        return asked - _IP_AND_UDP + extra

    @property
    def relay_port(self) -> tuple[str, str]:
        """The circuit-id and the remote-id of option 82, spelled for people; empty where there is none."""
        return relay_port(self.options.get(Option.RELAY_AGENT))

    def address(self, code: int) -> IPv4Address | None:
        """An option that holds one address; None if it is missing or has another length."""
        value = self.options.get(code, b"")
        return IPv4Address(value) if len(value) == 4 else None

    def text(self, code: int) -> str:
        """An option that holds text; NUL ends it, other bytes than ASCII are replaced."""
        return self.options.get(code, b"").split(b"\0", 1)[0].decode("ascii", "replace")


def decode(raw: bytes) -> Packet:
    """
    Parse one DHCP message (RFC 2131 section 2) from a UDP payload of at least 240 bytes.

    Raises:
        MalformedPacketError: If `raw` is not a DHCP message on Ethernet; names the field and its offset in bytes.
    """
    if len(raw) < _MINIMUM:
        raise MalformedPacketError(f"only {len(raw)} bytes, less than {_MINIMUM}", field="header", offset=len(raw))
    op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, magic = (
        _HEADER.unpack_from(raw)
    )
    if op not in (BOOTREQUEST, BOOTREPLY):
        raise MalformedPacketError(f"op is {op}", field="op", offset=0)
    if htype != 1 or hlen != 6:
        raise MalformedPacketError(f"hardware type {htype} with {hlen} bytes, not Ethernet", field="htype", offset=1)
    if magic != MAGIC:
        raise MalformedPacketError("the magic cookie is missing", field="magic", offset=236)
    options: dict[int, bytes] = {}
    _options(raw, _MINIMUM, len(raw), options)
    if overload := options.pop(Option.OVERLOAD, b""):
        if overload[0] & 1:
            _options(raw, _FILE.start, _FILE.stop, options)
            file = b""
        if overload[0] & 2:
            _options(raw, _SNAME.start, _SNAME.stop, options)
            sname = b""
        options.pop(Option.OVERLOAD, None)
    return Packet(  # By position, which takes a third of the time.
        op,
        xid,
        macs.from_bytes(chaddr[:6]),
        options,
        hops,
        secs,
        flags,
        NOWHERE if ciaddr == _ZERO else IPv4Address(ciaddr),
        NOWHERE if yiaddr == _ZERO else IPv4Address(yiaddr),
        NOWHERE if siaddr == _ZERO else IPv4Address(siaddr),
        NOWHERE if giaddr == _ZERO else IPv4Address(giaddr),
        sname.rstrip(b"\0"),
        file.rstrip(b"\0"),
    )


def encode(packet: Packet, largest: int = _ETHERNET_TAKES - _IP_AND_UDP) -> bytes:
    """
    Build the UDP payload, padded to 300 bytes and at most `largest`. Options stand in the order of the mapping, message
    type first as RFC 2131 section 4.3.1 has it; values over 255 bytes are split (RFC 3396).
    """
    header = _HEADER.pack(
        packet.op,
        1,
        6,
        packet.hops,
        packet.xid,
        packet.secs,
        packet.flags,
        packet.ciaddr.packed,
        packet.yiaddr.packed,
        packet.siaddr.packed,
        packet.giaddr.packed,
        macs.to_bytes(packet.chaddr),
        packet.sname,
        packet.file,
        MAGIC,
    )
    raw = bytearray(header)
    for code, value in packet.options.items():
        if len(value) < 256:
            raw.append(code)
            raw.append(len(value))
            raw += value
        else:
            raw += _encode_long(code, value)
    raw.append(Option.END)
    if len(raw) > largest:
        return _encode_overloaded(packet, header, largest)
    return bytes(raw.ljust(_SHORTEST_SENT, b"\0"))


def _encode_long(code: int, value: bytes) -> bytes:
    """An option, in pieces if it has more than 255 bytes (RFC 3396 section 5)."""
    chunks = [value[start : start + 255] for start in range(0, len(value), 255)] or [b""]
    return b"".join(bytes((code, len(chunk))) + chunk for chunk in chunks)


def _encode_overloaded(packet: Packet, header: bytes, largest: int) -> bytes:
    """Spread the options over the options field and whichever of `file` and `sname` is free (RFC 2132 section 9.3)."""
    relay = packet.options.get(Option.RELAY_AGENT)
    # Its relay looks for it at the end of the options field (RFC 3046 section 2.2).
    last = b"" if relay is None else _encode_long(Option.RELAY_AGENT, relay)
    areas = [bytearray(), bytearray(), bytearray()]  # Options, file, sname: the order in which they are read.
    room = largest - _MINIMUM - 4  # Option 52 and the end.
    if len(last) > room:
        last = b""
    rooms = [
        room - len(last),
        0 if packet.file else _FILE.stop - _FILE.start - 1,
        0 if packet.sname else _SNAME.stop - _SNAME.start - 1,
    ]
    for code, value in packet.options.items():
        if code == Option.RELAY_AGENT:
            continue
        option = _encode_long(code, value)
        for area, room in zip(areas, rooms, strict=True):
            if len(area) + len(option) <= room:
                area += option
                break
    raw = bytearray(header)
    options, file, sname = areas
    if file:
        raw[_FILE] = (file + b"\xff").ljust(_FILE.stop - _FILE.start, b"\0")
    if sname:
        raw[_SNAME] = (sname + b"\xff").ljust(_SNAME.stop - _SNAME.start, b"\0")
    overload = bool(file) | bool(sname) << 1
    raw += options + (bytes((Option.OVERLOAD, 1, overload)) if overload else b"") + last + b"\xff"
    return bytes(raw).ljust(_SHORTEST_SENT, b"\0")


def encode_addresses(*addresses: IPv4Address) -> bytes:
    """The value of an option that is a list of addresses."""
    return b"".join(address.packed for address in addresses)


def encode_seconds(seconds: int) -> bytes:
    """The value of an option that is a time in seconds; 0xffffffff means for ever."""
    return struct.pack("!I", max(0, min(seconds, 0xFFFFFFFF)))


def encode_domains(domains: Iterable[str]) -> bytes:
    """The value of option 119 (RFC 3397): names as DNS writes them (RFC 1035 section 3.1), not compressed."""
    return b"".join(
        b"".join(bytes((len(label),)) + label.encode() for label in domain.rstrip(".").split(".")) + b"\0"
        for domain in domains
    )


def encode_routes(routes: Iterable[tuple[IPv4Network, IPv4Address]]) -> bytes:
    """The value of option 121 (RFC 3442): for each route its prefix length, the prefix's own bytes, and the gateway."""
    return b"".join(
        bytes((to.prefixlen,)) + to.network_address.packed[: (to.prefixlen + 7) // 8] + gateway.packed
        for to, gateway in routes
    )


def relay_port(option_82: bytes | None) -> tuple[str, str]:
    """The circuit-id and the remote-id of an option 82, as `relay_text` spells them; empty where there is none."""
    if option_82 is None:
        return "", ""
    said = decode_suboptions(option_82)
    circuit_id, remote_id = said.get(RelayOption.CIRCUIT_ID, b""), said.get(RelayOption.REMOTE_ID, b"")
    return relay_text(circuit_id), relay_text(remote_id)


def relay_text(value: bytes) -> str:
    """A circuit-id or remote-id for people: as text if it is printable ASCII, else as 0x and hex digits."""
    if all(0x20 < byte < 0x7F for byte in value) and not value.startswith(b"0x"):
        return value.decode("ascii")
    return "0x" + value.hex()


def relay_spelling(text: str) -> str:
    """
    A circuit-id or remote-id that a person wrote, as `relay_text` spells it: hex digits after 0x, else the text itself.

    Raises:
        ValueError: If it is longer than a sub-option, or what follows 0x is not hex.
    """
    value = text.encode()
    if text[:2].lower() == "0x":
        try:
            value = bytes.fromhex(text[2:])
        except ValueError as error:
            raise ValueError(f"{text!r} begins with 0x, and what follows is not pairs of hex digits") from error
    if len(value) > 255:
        raise ValueError(f"{text[:20]!r}... has {len(value)} bytes; a relay can say 255")
    return relay_text(value)


def decode_suboptions(value: bytes) -> dict[int, bytes]:
    """Encapsulated options (43, 82, 175): tag, length, value. What is cut short is left out, as clients do."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(value):
        code = value[position]
        if code == Option.PAD:
            position += 1
            continue
        if code == Option.END or position + 1 >= len(value):
            break
        end = position + 2 + value[position + 1]
        if end > len(value):
            break
        found[code] = value[position + 2 : end]
        position = end
    return found


def encode_suboptions(options: Mapping[int, bytes], *, end: bool = False) -> bytes:
    """The other way; `end` adds the 255 that option 43 of PXE wants (RFC 2132 section 8.4)."""
    body = b"".join(bytes((code, len(value))) + value for code, value in options.items())
    return body + b"\xff" if end else body


def _options(raw: bytes, start: int, stop: int, into: dict[int, bytes]) -> None:
    """Read options from raw[start:stop]; a code that comes again is a continuation (RFC 3396 section 5)."""
    position = start
    while position < stop:
        code = raw[position]
        if code == 0:
            position += 1
            continue
        if code == 255:
            return
        if position + 1 >= stop:
            raise MalformedPacketError("the option has no length", field=f"option {code}", offset=position)
        end = position + 2 + raw[position + 1]
        if end > stop:
            raise MalformedPacketError("the option runs over the end", field=f"option {code}", offset=position)
        value = raw[position + 2 : end]
        into[code] = into[code] + value if code in into else value
        position = end

"""
A UDP datagram in its IPv4 header, for clients that cannot answer ARP yet (RFC 791 section 3.1, RFC 768).

The kernel puts the Ethernet header before it, and would put these two before it as well if it knew the client's address.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_PSEUDO = struct.Struct("!4s4sBBH")
_PROTOCOL = 17
_HOPS = 64


def datagram(source: tuple[IPv4Address, int], to: tuple[IPv4Address, int], payload: bytes) -> bytes:
    """The whole IP packet from one address and port to another; it is not to be fragmented by anybody."""
    (source_address, source_port), (to_address, to_port) = source, to
    addresses = source_address.packed, to_address.packed
    length = _UDP.size + len(payload)
    udp = _UDP.pack(source_port, to_port, length, 0)
    checked = _checksum(_PSEUDO.pack(*addresses, 0, _PROTOCOL, length) + udp + payload) or 0xFFFF
    udp = _UDP.pack(source_port, to_port, length, checked)
    fields = (0x45, 0, _IP.size + length, 0, 0x4000, _HOPS, _PROTOCOL)
    ip = _IP.pack(*fields, _checksum(_IP.pack(*fields, 0, *addresses)), *addresses)
    return ip + udp + payload


def _checksum(data: bytes) -> int:
    """The ones' complement of the ones' complement sum of all 16-bit words (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

"""
ARP packets (RFC 826), without their Ethernet header, by scapy.

scapy takes 400 µs for a packet, which is more than all the rest of a lease. So it makes one, and the address goes into its end.
"""

from __future__ import annotations

from scapy.config import conf

# Else scapy reads the routing tables when it is imported, for sending by itself, which it does not do here.
conf.route_autoload = conf.route6_autoload = False

from scapy.layers.l2 import ARP  # noqa: E402 - after it was told

_ETHERNET_AND_IPV4 = b"\0\1\x08\0\6\4"
"""Hardware type 1 with 6 bytes, protocol type 0x0800 with 4."""
_SHORTEST = 28


def probe(ours: bytes) -> bytes:
    """
    An ARP probe (RFC 5227 section 2.1.1) from our MAC address, but for its last four bytes: the address that it asks for.

    The sender's protocol address is 0.0.0.0, so that no neighbour learns anything from it.
    """
    nobody = "00:00:00:00:00:00"
    packet = ARP(op="who-has", hwsrc=ours.hex(":"), psrc="0.0.0.0", hwdst=nobody, pdst="0.0.0.0")  # noqa: S104 - no address to bind to: a probe has no sender
    return bytes(packet)[:-4]


def sender(raw: bytes) -> tuple[bytes, bytes] | None:
    """Who sent an ARP packet: IPv4 address and MAC address. None if it is something else."""
    if len(raw) < _SHORTEST or raw[:6] != _ETHERNET_AND_IPV4:
        return None
    return raw[14:18], raw[8:14]

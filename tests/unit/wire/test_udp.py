"""UDP datagrams that we put on the wire ourselves, with scapy as the second opinion."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from provider.wire import udp

endpoints = st.tuples(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(1, 65535))


@given(endpoints, endpoints, st.binary(max_size=1472))
def test_scapy_builds_the_same(source: tuple[IPv4Address, int], to: tuple[IPv4Address, int], payload: bytes) -> None:
    """A client drops what we send, because a length or checksum is wrong."""
    ip = IP(src=str(source[0]), dst=str(to[0]), id=0, flags="DF")
    theirs = ip / UDP(sport=source[1], dport=to[1]) / Raw(payload)
    assert udp.datagram(source, to, payload) == bytes(theirs)

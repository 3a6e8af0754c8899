"""Our ARP packets, and what others send; scapy takes them apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP

from provider.netboot import arp

OURS = bytes.fromhex("525400000001")


def test_probe() -> None:
    """The probe is an announcement, which takes the address from its owner (RFC 5227 section 2.1.1), or asks for another."""
    packet = ARP(arp.probe(OURS) + bytes((10, 77, 0, 100)))
    assert (packet.hwtype, packet.ptype, packet.hwlen, packet.plen, packet.op) == (1, 0x800, 6, 4, 1)
    assert (packet.hwsrc, packet.psrc) == ("52:54:00:00:00:01", "0.0.0.0")
    assert (packet.hwdst, packet.pdst) == ("00:00:00:00:00:00", "10.77.0.100")
    assert len(packet) == 28


@pytest.mark.parametrize("op", ["who-has", "is-at"])
def test_sender(op: str) -> None:
    """A gratuitous ARP, an answer, or an ordinary question does not tell whose the address is."""
    packet = ARP(op=op, hwsrc="52:54:00:00:00:09", psrc="10.77.0.100", hwdst="ff:ff:ff:ff:ff:ff", pdst="10.77.0.1")
    assert arp.sender(bytes(packet) + bytes(18)) == (bytes((10, 77, 0, 100)), bytes.fromhex("525400000009"))


@given(st.binary(max_size=64) | st.binary(max_size=60).map(lambda tail: b"\0\1\x08\0\6\4" + tail))
def test_anything(raw: bytes) -> None:
    """A malformed packet is an exception (invariant 7), or is read as an address."""
    said = arp.sender(raw)
    if said is None:
        assert len(raw) < 28 or raw[:6] != b"\0\1\x08\0\6\4"
    else:
        assert [len(each) for each in said] == [4, 6]

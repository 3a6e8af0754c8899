"""Who sent a router solicitation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptMTU, ICMPv6NDOptSrcLLAddr

from provider.domain import mac as macs
from provider.netboot.router_advertisement import solicitor

RS = b"\x85\0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    ("raw", "source", "expected"),
    [
        (RS + b"\1\1\x52\x54\0\x12\x34\x56", "fe80::1", "52:54:00:12:34:56"),
        (RS, "fe80::5054:ff:fe12:3456", "52:54:00:12:34:56"),
        (RS, "fe80::5054:ff:fe12:3456%eth0", "52:54:00:12:34:56"),
        (RS, "fe80::1", None),
        (RS + b"\x0e\0", "fe80::1", None),
        (b"\x86" + RS[1:], "fe80::5054:ff:fe12:3456", None),
        (b"", "", None),
        (RS, "nonsense", None),
    ],
)
def test_solicitor(raw: bytes, source: str, expected: str | None) -> None:
    """iPXE's solicitation is not recognised and it waits 13 s, or nonsense is a traceback."""
    assert solicitor(raw, source) == expected


@given(
    st.binary(max_size=80) | st.binary(max_size=80).map(lambda options: RS + options),
    st.ip_addresses(v=6).flatmap(lambda address: st.sampled_from([str(address), f"{address}%eth1"])),
)
def test_any_bytes_are_a_solicitation_or_none(raw: bytes, source: str) -> None:
    """A packet that anybody can send is a traceback (invariant 7), or its sender has half a MAC address."""
    found = solicitor(raw, source)
    assert found is None or macs.parse(found) == found


@given(st.binary(min_size=6, max_size=6))
def test_scapy_builds_a_solicitation(octets: bytes) -> None:
    """The option with the sender's address is sought at another place than others put it."""
    theirs = ICMPv6ND_RS(cksum=0) / ICMPv6NDOptMTU() / ICMPv6NDOptSrcLLAddr(lladdr=macs.from_bytes(octets))
    assert solicitor(bytes(theirs), "fe80::1") == macs.from_bytes(octets)

"""Any DHCP packets, for Hypothesis."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import strategies as st

from provider.domain import mac as macs
from provider.wire import dhcp
from provider.wire.dhcp import Option, Packet

MAC = macs.parse("52:54:00:12:34:56")
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
codes = st.integers(1, 254).filter(lambda code: code != Option.OVERLOAD)
packets = st.builds(
    Packet,
    op=st.sampled_from([dhcp.BOOTREQUEST, dhcp.BOOTREPLY]),
    xid=st.integers(0, 2**32 - 1),
    chaddr=st.binary(min_size=6, max_size=6).map(macs.from_bytes),
    options=st.dictionaries(codes, st.binary(max_size=600), max_size=6),
    hops=st.integers(0, 255),
    secs=st.integers(0, 65535),
    flags=st.sampled_from([0, dhcp.BROADCAST_FLAG]),
    ciaddr=addresses,
    yiaddr=addresses,
    siaddr=addresses,
    giaddr=addresses,
    sname=st.binary(max_size=64).map(lambda name: name.rstrip(b"\0")),
    file=st.binary(max_size=128).map(lambda name: name.rstrip(b"\0")),
)

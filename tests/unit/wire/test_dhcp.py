"""The DHCP codec; what scapy says of it is in `test_dhcp_scapy.py`."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from provider.domain.errors import MalformedPacketError
from provider.wire import dhcp
from provider.wire.dhcp import Option, Packet
from tests.unit.wire.dhcp_packets import MAC, packets


@given(packets)
def test_what_is_built_can_be_read(packet: Packet) -> None:
    """A field or option is lost or changed on the way, long options (RFC 3396) included."""
    assert dhcp.decode(dhcp.encode(packet)) == packet


@given(st.binary(max_size=600))
def test_any_bytes_give_a_packet_or_a_clear_error(raw: bytes) -> None:
    """Bytes from the network are a traceback (invariant 7)."""
    try:
        dhcp.decode(raw)
    except MalformedPacketError as error:
        assert error.field
        assert 0 <= error.offset <= len(raw)


@given(packets, st.integers(236, 400), st.binary(max_size=100))
def test_damaged_packets_too(packet: Packet, where: int, damage: bytes) -> None:
    """The same for packets that are almost right."""
    raw = dhcp.encode(packet)
    try:
        dhcp.decode(raw[:where] + damage)
    except MalformedPacketError as error:
        assert error.field


def test_overload_is_unfolded() -> None:
    """Options that a server or client put into `file` and `sname` are not seen (RFC 2132 section 9.3)."""
    packet = Packet(op=1, xid=1, chaddr=MAC, options={Option.MESSAGE_TYPE: b"\1", Option.OVERLOAD: b"\3"})
    raw = bytearray(dhcp.encode(packet))
    raw[108:115] = bytes((Option.HOST_NAME, 3)) + b"abc" + b"\xff\0"
    raw[44:50] = bytes((Option.DOMAIN_NAME, 2)) + b"de" + b"\xff\0"
    unfolded = dhcp.decode(bytes(raw))
    assert (unfolded.text(Option.HOST_NAME), unfolded.text(Option.DOMAIN_NAME)) == ("abc", "de")
    assert (unfolded.file, unfolded.sname) == (b"", b"")


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "header"),
        (b"\0" * 240, "op"),
        (b"\1\2\6\0" + b"\0" * 236, "htype"),
        (b"\1\1\6\0" + b"\0" * 236, "magic"),
        (b"\1\1\6\0" + b"\0" * 232 + dhcp.MAGIC + b"\x35\x09\x01", "option 53"),
    ],
)
def test_errors_name_the_field(raw: bytes, field: str) -> None:
    """Somebody with a broken client is told nothing about what is wrong."""
    with pytest.raises(MalformedPacketError) as caught:
        dhcp.decode(raw)
    assert caught.value.field == field


# --- what a client can take ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "largest"),
    [
        ({}, 548),
        ({Option.MAXIMUM_SIZE: b"\x01\x00"}, 548),
        ({Option.MAXIMUM_SIZE: b"\x05\xc0"}, 1444),
        ({Option.MAXIMUM_SIZE: b"\xff\xff"}, 1472),
        ({Option.MAXIMUM_SIZE: b"\x05"}, 548),
        ({Option.RELAY_AGENT: bytes(10)}, 560),
    ],
)
def test_largest_answer(options: dict[int, bytes], largest: int) -> None:
    """An answer is longer than the client's buffer, or is fragmented, and firmware drops it."""
    assert Packet(op=1, xid=1, chaddr=MAC, options=options).largest_answer == largest


@given(packets, st.integers(300, 1472))
def test_answer_keeps_to_the_size(packet: Packet, largest: int) -> None:
    """An answer is too long, or what was left out of it damages the rest."""
    raw = dhcp.encode(packet, largest)
    assert len(raw) <= largest
    read = dhcp.decode(raw)
    assert read.options.items() <= packet.options.items()
    assert replace(read, options={}) == replace(packet, options={})


def test_options_move_into_free_fields() -> None:
    """Options are lost although `file` and `sname` have room for them (RFC 2132 section 9.3)."""
    options = {Option.MESSAGE_TYPE: b"\5", **{code: bytes(50) for code in range(200, 208)}}
    packet = Packet(op=2, xid=1, chaddr=MAC, options=options)
    raw = dhcp.encode(packet, 548)
    assert dhcp.decode(raw) == packet
    theirs = BOOTP(raw)
    seen = {option[0]: option[1:] for option in theirs[DHCP].options if isinstance(option, tuple)}
    assert seen["dhcp-option-overload"] == (3,)
    named = replace(packet, file=b"snponly.efi")
    read = dhcp.decode(dhcp.encode(named, 548))
    assert read.file == b"snponly.efi"
    assert set(options) - set(read.options) == {206, 207}, "the last are left out"


# --- options with a shape of their own -------------------------------------------------------------------------------


def theirs_of(code: int, value: bytes) -> object:
    """The option as scapy reads it."""
    packet = Packet(op=2, xid=1, chaddr=MAC, options={code: value})
    option = BOOTP(dhcp.encode(packet))[DHCP].options[0]
    return option[1] if len(option) == 2 else option[1:]


def test_search_list() -> None:
    """Clients read other domains than the operator wrote (RFC 3397)."""
    assert dhcp.encode_domains(["a.example.com", "b."]) == b"\1a\7example\3com\0\1b\0"


def test_static_routes() -> None:
    """Clients read other routes than the operator wrote (RFC 3442, whose examples these are)."""
    gateway = IPv4Address("10.0.0.1")
    routes = [
        (IPv4Network(text), gateway)
        for text in ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.17.0.0/16", "10.27.129.0/24", "10.229.0.128/25")
    ]
    value = dhcp.encode_routes(routes)
    assert value.replace(gateway.packed, b"|").split(b"|")[:3] == [b"\0", b"\x08\x0a", b"\x18\x0a\0\0"]
    assert theirs_of(Option.STATIC_ROUTES, value) == [f"{to}:{gateway}" for to, _gateway in routes]


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"ge-0/0/1.0:100", "ge-0/0/1.0:100"), (b"\0\4\0\x64\1\2", "0x000400640102"), (b"a b", "0x612062"), (b"", "")],
)
def test_relay_text(raw: bytes, text: str) -> None:
    """An operator cannot read, or write, what names a port."""
    assert dhcp.relay_text(raw) == text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("ge-0/0/1.0:100", b"ge-0/0/1.0:100"),
        ("Ethernet 1/0/1", b"Ethernet 1/0/1"),
        ("0X00AB", b"\0\xab"),
        ("0x646f776e31", b"down1"),
        ("0x307831", b"0x1"),
        ("T\u00fcr 4", "T\u00fcr 4".encode()),
        ("", b""),
    ],
)
def test_people_and_relays_mean_the_same_port(written: str, said: bytes) -> None:
    """A reservation for a port is never used, because its name has a blank, or hex digits are in another case."""
    assert dhcp.relay_spelling(written) == dhcp.relay_text(said)
    assert dhcp.relay_spelling(dhcp.relay_text(said)) == dhcp.relay_text(said)


@given(st.binary(max_size=255))
def test_what_is_shown_of_a_port_can_be_written(said: bytes) -> None:
    """Somebody copies the circuit-id from `lease list` into a reservation, and it names no port."""
    assert dhcp.relay_spelling(dhcp.relay_text(said)) == dhcp.relay_text(said)


@pytest.mark.parametrize(("written", "why"), [("0x123", "hex"), ("0xyz", "hex"), ("x" * 256, "255")])
def test_port_that_cannot_be(written: str, why: str) -> None:
    """A slip of the pen is kept as a reservation that nobody ever gets."""
    with pytest.raises(ValueError, match=why):
        dhcp.relay_spelling(written)


def test_suboptions_cut_short_are_left_out() -> None:
    """A vendor's half option 43 makes the whole packet useless."""
    assert dhcp.decode_suboptions(b"\x06\x01\x08\x0a\x20abc") == {6: b"\x08"}
    assert dhcp.decode_suboptions(dhcp.encode_suboptions({6: b"\x08", 10: b"PXE"}, end=True)) == {
        6: b"\x08",
        10: b"PXE",
    }

"""What an answer holds: which options, in which order, and what is left of them in a short buffer."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from provider.planning.reply import Reply
from provider.planning.subnets import Leasing, Subnet, Subnets, site_options
from provider.wire import dhcp
from provider.wire.dhcp import MessageType, Option, Packet
from tests.unit.planning.packets import BIOS, FIRST, HTTP, IPXE, LAST, NETWORK, OS, OURS, RELAY, UEFI, asks, reply

CLIENT_ID = b"\xff" + bytes(18)
SAID = b"\1\4port\2\6switch\x97\2xx"
CROWDED = Leasing(
    ((FIRST, LAST),),
    options=site_options(
        router=IPv4Address("10.77.0.254"),
        dns=[IPv4Address("10.77.0.2") + number for number in range(8)],
        ntp=[IPv4Address("10.77.0.20") + number for number in range(8)],
        domain="rack-twelve.row-seven.hall-three.ams1.example.com",
        search=[f"hall-{number}.ams1.example.com" for number in range(9)],
        routes=[(IPv4Network(f"10.{number}.0.0/16"), IPv4Address("10.77.0.253")) for number in range(20)],
        mtu=1400,
    ),
)
"""More than the 576 bytes that each client takes (RFC 2131 section 2)."""


def crowded() -> Subnets:
    return Subnets([Subnet(NETWORK, CROWDED, ours=[OURS])])


def sent(answer: Reply) -> bytes:
    """As the shell sends it."""
    return dhcp.encode(answer.packet, answer.largest)


def options_field(raw: bytes) -> list[int]:
    """The codes in the options field alone, in order."""
    codes, position = [], 240
    while raw[position] != Option.END:
        codes.append(raw[position])
        position += 2 + raw[position + 1]
    return codes


@pytest.mark.parametrize("kind", [MessageType.DISCOVER, MessageType.REQUEST])
def test_boot_options_come_unasked(kind: MessageType) -> None:
    """Firmware does not ask for what it needs, and boots nothing (edge case 25)."""
    wanted = {Option.PARAMETER_LIST: b"\1\3", Option.REQUESTED_ADDRESS: FIRST.packed, Option.SERVER_ID: OURS.packed}
    told = reply(asks(kind, {**BIOS, **wanted})).packet.options
    needs = {Option.VENDOR_SPECIFIC, Option.VENDOR_CLASS, Option.TFTP_SERVER_NAME, Option.BOOT_FILE_NAME}
    assert told.keys() >= {
        *needs,
        Option.CLIENT_UUID,
        Option.TFTP_SERVER_ADDRESS,
        Option.SUBNET_MASK,
        Option.LEASE_TIME,
    }
    assert Option.BROADCAST_ADDRESS not in told, "what nobody needs and nobody asked for"


@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
@pytest.mark.parametrize("relayed", [False, True])
def test_short_buffer_can_boot(options: dict[int, bytes], relayed: bool) -> None:
    """Firmware with a buffer of 576 bytes loses its boot file, its address or its name to the site's long options."""
    more = {Option.MAXIMUM_SIZE: (576).to_bytes(2, "big"), Option.CLIENT_ID: CLIENT_ID}
    relay = {Option.RELAY_AGENT: SAID} if relayed else {}
    answer = reply(
        asks(MessageType.DISCOVER, {**options, **more, **relay}, giaddr=RELAY if relayed else dhcp.NOWHERE), known=far()
    )
    raw = sent(answer)
    assert len(raw) <= 548 + (2 + len(SAID) if relayed else 0), "the relay takes its option out again"
    read, wanted = dhcp.decode(raw), answer.packet
    assert (read.file, read.yiaddr, read.siaddr) == (wanted.file, wanted.yiaddr, OURS)
    left_out = wanted.options.keys() - read.options.keys()
    assert left_out, "or this proves nothing"
    assert left_out <= {Option.STATIC_ROUTES, Option.DOMAIN_SEARCH, Option.NTP_SERVERS, Option.DOMAIN_NAME}
    theirs = BOOTP(raw)
    assert theirs.file.rstrip(b"\0") == wanted.file, "never overloaded: firmware reads it there"
    assert theirs[DHCP].options[0] == ("message-type", MessageType.OFFER)


def far() -> Subnets:
    """The same options near and far."""
    relayed = Leasing(((IPv4Address("10.88.0.10"), IPv4Address("10.88.0.19")),), options=CROWDED.options)
    return Subnets([*crowded().all(), Subnet(IPv4Network("10.88.0.0/24"), relayed)])


def test_large_buffer_has_it_all() -> None:
    """A client that takes 1,500 bytes is told as little as one that takes 576."""
    answer = reply(asks(MessageType.DISCOVER, {**OS, Option.MAXIMUM_SIZE: b"\x05\xdc"}), known=crowded())
    assert dhcp.decode(sent(answer)) == answer.packet
    assert CROWDED.options.items() <= answer.packet.options.items()


REFUSED = {**OS, Option.REQUESTED_ADDRESS: IPv4Address("192.168.1.5").packed}


@pytest.mark.parametrize("kind", [MessageType.DISCOVER, MessageType.REQUEST])
@pytest.mark.parametrize("said", [SAID, b"\1\xff" + bytes(255)])
def test_option_82_is_at_the_end_of_the_options_field(kind: MessageType, said: bytes) -> None:
    """
    A relay does not find its option, because it was moved into `file` or `sname`, or left out of a DHCPNAK.

    It looks at the end of the options field only (RFC 3046 section 2.2).
    """
    options = {**REFUSED, Option.RELAY_AGENT: said, Option.CLIENT_ID: CLIENT_ID}
    answer = reply(asks(kind, options, giaddr=RELAY), known=far())
    raw = sent(answer)
    expected = MessageType.OFFER if kind is MessageType.DISCOVER else MessageType.NAK
    assert answer.packet.message_type is expected
    assert options_field(raw)[-1] == Option.RELAY_AGENT
    read = dhcp.decode(raw)
    assert read.options[Option.RELAY_AGENT] == said
    assert read.options[Option.CLIENT_ID] == CLIENT_ID, "RFC 6842, in a DHCPNAK too"


def test_option_82_of_a_switch_goes_back() -> None:
    """A switch that marks requests without relaying them (giaddr 0) does not find its mark in the answer."""
    answer = reply(asks(MessageType.DISCOVER, {**OS, Option.RELAY_AGENT: SAID}))
    assert answer.packet.options[Option.RELAY_AGENT] == SAID
    assert answer.to.by_hardware


@pytest.mark.parametrize("giaddr", [dhcp.NOWHERE, RELAY])
@pytest.mark.parametrize("flags", [0, dhcp.BROADCAST_FLAG])
def test_inform_is_answered_at_its_address(giaddr: IPv4Address, flags: int) -> None:
    """The answer to a DHCPINFORM is broadcast, or sent to a relay that drops it (RFC 2131 section 4.3.5)."""
    address = IPv4Address("10.88.0.9") if giaddr == RELAY else IPv4Address("10.77.0.9")
    informed = reply(asks(MessageType.INFORM, OS, ciaddr=address, giaddr=giaddr, flags=flags), known=far())
    assert (informed.to.address, informed.to.port, informed.to.by_hardware) == (address, 68, False)
    assert (informed.packet.ciaddr, informed.packet.yiaddr) == (address, dhcp.NOWHERE)
    times = {Option.LEASE_TIME, Option.RENEWAL_TIME, Option.REBINDING_TIME}
    assert times.isdisjoint(informed.packet.options)


def fields(packet: Packet) -> tuple[int, int, int, IPv4Address, bytes]:
    return packet.op, packet.hops, packet.secs, packet.giaddr, packet.sname


@pytest.mark.parametrize("packet", [asks(MessageType.DISCOVER, OS), asks(MessageType.REQUEST, REFUSED)])
def test_header_is_table_3s(packet: Packet) -> None:
    """What belongs to the request comes back in the answer, or the other way round (RFC 2131 table 3)."""
    asked = Packet(
        op=1,
        xid=77,
        chaddr=packet.chaddr,
        options=packet.options,
        hops=3,
        secs=9,
        flags=0x8000,
        sname=b"x",
        giaddr=RELAY,
    )
    answer = reply(asked).packet
    assert fields(answer) == (dhcp.BOOTREPLY, 0, 0, RELAY, b"")
    assert (answer.xid, answer.chaddr, answer.flags) == (77, packet.chaddr, 0x8000)
    assert Option.REQUESTED_ADDRESS not in answer.options
    assert Option.PARAMETER_LIST not in answer.options
    assert Option.MAXIMUM_SIZE not in answer.options

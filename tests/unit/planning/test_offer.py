"""What each kind of client is answered: leases, where answers go, probes, relays, nonsense."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest

from provider.domain import mac as macs
from provider.domain.lease import Claimant
from provider.planning.reply import EVERYBODY, Ignore, Reply, To, Verify
from provider.planning.subnets import Leasing, Subnet, Subnets
from provider.wire import dhcp
from provider.wire.dhcp import MessageType, Option, Packet
from tests.unit.planning.packets import (
    BIOS,
    FAR,
    FIRST,
    HOUR,
    HTTP,
    IPXE,
    LEASING,
    MAC,
    NETWORK,
    NOW,
    OS,
    OTHER,
    OURS,
    RELAY,
    UEFI,
    UUID,
    asks,
    decide,
    lease,
    renewing,
    reply,
    seconds,
    selecting,
    subnets,
    table,
)


def test_four_way_exchange() -> None:
    """The address that was offered is not the one that is leased, or nothing is saved before the ACK."""
    known = subnets()
    offered = reply(asks(MessageType.DISCOVER, OS), known=known)
    assert offered.leases == ()
    wanted = {Option.REQUESTED_ADDRESS: offered.packet.yiaddr.packed, Option.SERVER_ID: OURS.packed, **OS}
    granted = reply(asks(MessageType.REQUEST, wanted), known=known)
    assert granted.packet.message_type is MessageType.ACK
    assert granted.packet.yiaddr == offered.packet.yiaddr
    assert [(lease.address, lease.expires_at) for lease in granted.leases] == [(granted.packet.yiaddr, NOW + HOUR)]
    assert granted.packet.options[Option.SUBNET_MASK] == IPv4Address("255.255.255.0").packed
    assert granted.packet.options[Option.ROUTER] == IPv4Address("10.77.0.254").packed


def test_renewals_are_spread() -> None:
    """A thousand machines that booted in one storm renew in one (RFC 2131 section 4.4.5)."""
    times = []
    for last in (0, 0x80, 0xFF):
        packet = reply(asks(MessageType.DISCOVER, OS, chaddr=macs.from_bytes(bytes((2, 0, 0, 0, 0, last))))).packet
        times.append((seconds(packet, Option.RENEWAL_TIME), seconds(packet, Option.REBINDING_TIME)))
    assert times == [(1800, 3150), (1710, 3060), (1620, 2970)]


@pytest.mark.parametrize(
    ("options", "asked", "given"),
    [(OS, 600, 600), (OS, 7200, 3600), (OS, 1, 60), (OS, 0xFFFFFFFF, 3600), (UEFI, 600, 120), (IPXE, 90, 90)],
)
def test_lease_time(options: dict[int, bytes], asked: int, given: int) -> None:
    """A client cannot ask for a short lease (option 51), or gets a longer one than the operator allows."""
    packet = reply(asks(MessageType.DISCOVER, {**options, Option.LEASE_TIME: dhcp.encode_seconds(asked)})).packet
    assert seconds(packet, Option.LEASE_TIME) == given


@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_firmware_leases_are_short(options: dict[int, bytes]) -> None:
    """A storm of firmware and iPXE eats the pool (edge case 23)."""
    packet = reply(asks(MessageType.DISCOVER, options)).packet
    assert seconds(packet, Option.LEASE_TIME) == 120


def test_one_machine_one_address() -> None:
    """Firmware, iPXE and system take three addresses because their client ids differ (edge case 24)."""
    known = subnets()
    identifiers = (b"\0" + UUID, b"\1" + macs.to_bytes(MAC), b"\xff1234")
    packets = [asks(MessageType.DISCOVER, {**OS, Option.CLIENT_ID: each}) for each in identifiers]
    answers = [reply(packet, known=known).packet for packet in packets]
    assert len({answer.yiaddr for answer in answers}) == 1
    assert [answer.options[Option.CLIENT_ID] for answer in answers] == list(identifiers), "RFC 6842"


# --- where answers go (RFC 2131 section 4.1) -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "to"),
    [
        (asks(MessageType.DISCOVER, OS), To(FIRST, by_hardware=True)),
        (asks(MessageType.DISCOVER, OS, flags=dhcp.BROADCAST_FLAG), EVERYBODY),
        (asks(MessageType.DISCOVER, OS, giaddr=RELAY), To(RELAY, 67)),
        (asks(MessageType.DISCOVER, OS, giaddr=RELAY, flags=dhcp.BROADCAST_FLAG), To(RELAY, 67)),
        (asks(MessageType.REQUEST, OS, ciaddr=FIRST), To(FIRST)),
        (asks(MessageType.REQUEST, OS, ciaddr=FIRST, flags=dhcp.BROADCAST_FLAG), To(FIRST)),
        (asks(MessageType.REQUEST, OS, ciaddr=FIRST, giaddr=RELAY), To(RELAY, 67)),
        (asks(MessageType.INFORM, OS, ciaddr=FIRST), To(FIRST)),
    ],
)
def test_destination(packet: Packet, to: To) -> None:
    """A client that cannot hear us yet, or is behind a relay, waits for ever (edge cases 21, 22)."""
    assert reply(packet).to == to


@pytest.mark.parametrize(
    ("giaddr", "to", "flags"), [(dhcp.NOWHERE, EVERYBODY, 0), (RELAY, To(RELAY, 67), dhcp.BROADCAST_FLAG)]
)
def test_refusal_is_broadcast(giaddr: IPv4Address, to: To, flags: int) -> None:
    """A DHCPNAK goes to an address that the client must not use (RFC 2131 section 4.3.2)."""
    wrong = {**OS, Option.REQUESTED_ADDRESS: IPv4Address("192.168.1.5").packed}
    refused = reply(asks(MessageType.REQUEST, wrong, giaddr=giaddr))
    assert (refused.packet.message_type, refused.to, refused.packet.flags) == (MessageType.NAK, to, flags)
    assert refused.packet.yiaddr == refused.packet.siaddr == refused.packet.ciaddr == dhcp.NOWHERE
    assert set(refused.packet.options) == {Option.MESSAGE_TYPE, Option.SERVER_ID, Option.MESSAGE}, "RFC 2131 table 3"


# --- is the address in use? ------------------------------------------------------------------------------------------


def probing() -> Subnets:
    far = Leasing(((IPv4Address("10.88.0.10"), IPv4Address("10.88.0.11")),), conflict_probe=timedelta(seconds=1))
    near = replace(LEASING, conflict_probe=timedelta(seconds=1))
    return Subnets([Subnet(NETWORK, near, ours=[OURS]), Subnet(FAR, far)])


@pytest.mark.parametrize("before", [None, NOW])
def test_address_is_verified_before_it_is_offered(before: datetime | None) -> None:
    """An address that somebody configured by hand is offered, or that of a lease which ended: its client may be dead."""
    known = probing()
    if before is not None:
        lease(known, MAC, FIRST, before - HOUR)
    for _ in range(2):
        assert decide(asks(MessageType.DISCOVER, OS), known=known) == Verify(FIRST)
    assert not table(known).may_have(Claimant(OTHER), FIRST, NOW), "it is held meanwhile"


@pytest.mark.parametrize(
    ("packet", "held"),
    [
        (asks(MessageType.DISCOVER, OS), FIRST),
        (asks(MessageType.DISCOVER, OS, giaddr=IPv4Address("10.88.0.254")), None),
        (asks(MessageType.DISCOVER, OS, giaddr=IPv4Address("10.77.0.254")), None),
        (asks(MessageType.DISCOVER, OS, ciaddr=IPv4Address("10.88.0.10")), None),
        (selecting(FIRST), None),
        (renewing(FIRST), FIRST),
    ],
)
def test_what_needs_no_probe(packet: Packet, held: IPv4Address | None) -> None:
    """A client that has its address waits for nothing; or ARP is asked about a network that it does not reach."""
    known = probing()
    if held is not None:
        lease(known, MAC, held)
    assert isinstance(decide(packet, known=known), Reply)


# --- relays ----------------------------------------------------------------------------------------------------------


def test_option_82_goes_back_as_it_came() -> None:
    """The relay does not find the client's port, or the client sees an option that is not for it (RFC 3046 section 2.2)."""
    said = b"\1\4port\2\6switch\x97\2xx"
    packet = asks(MessageType.DISCOVER, {**OS, Option.RELAY_AGENT: said, Option.CLIENT_ID: b"\1abc"}, giaddr=RELAY)
    answer = reply(packet).packet
    assert answer.options[Option.RELAY_AGENT] == said
    assert list(answer.options)[-1] == Option.RELAY_AGENT


@pytest.mark.parametrize(
    ("giaddr", "said", "subnet"),
    [
        ("10.88.0.254", b"", FAR),
        ("10.77.0.254", b"", NETWORK),
        ("10.77.0.254", b"\5\4" + IPv4Address("10.88.0.0").packed, FAR),
        ("192.168.7.1", b"\5\4" + IPv4Address("10.88.0.1").packed, FAR),
        ("10.88.0.254", b"\5\2xx", FAR),
    ],
)
def test_subnet_is_the_relays(giaddr: str, said: bytes, subnet: IPv4Network) -> None:
    """A client gets an address of another network than its own (giaddr; link selection, RFC 3527)."""
    options = {**OS, **({Option.RELAY_AGENT: said} if said else {})}
    answer = reply(asks(MessageType.DISCOVER, options, giaddr=IPv4Address(giaddr)))
    assert answer.packet.yiaddr in subnet
    assert answer.to == To(IPv4Address(giaddr), 67)
    assert answer.packet.options[Option.SUBNET_MASK] == subnet.netmask.packed


def test_relayed_client_renews_by_unicast() -> None:
    """A client behind a relay loses its address at T1, because it renews past the relay."""
    known = subnets()
    far = IPv4Address("10.88.0.10")
    known.all()[1].table.grant(Claimant(MAC), far, NOW, HOUR)
    granted = reply(asks(MessageType.REQUEST, OS, ciaddr=far), known=known)
    assert (granted.packet.message_type, granted.to) == (MessageType.ACK, To(far))


def test_relay_stands_in_for_us() -> None:
    """A relay that wants renewals to come through it is not named as the server (RFC 5107), or we refuse what it relays."""
    known = subnets()
    said = b"\x0b\4" + RELAY.packed
    offered = reply(asks(MessageType.DISCOVER, {**OS, Option.RELAY_AGENT: said}, giaddr=RELAY), known=known).packet
    assert offered.address(Option.SERVER_ID) == RELAY
    chosen = {Option.SERVER_ID: RELAY.packed, Option.REQUESTED_ADDRESS: offered.yiaddr.packed, Option.RELAY_AGENT: said}
    assert reply(asks(MessageType.REQUEST, chosen, giaddr=RELAY), known=known).leases


# --- nonsense --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        asks(MessageType.OFFER, OS),
        asks(MessageType.DISCOVER, OS, op=2),
        asks(MessageType.DISCOVER, {**UEFI, Option.CLIENT_UUID: b"\0abc"}),
        asks(MessageType.REQUEST, OS),
        asks(MessageType.REQUEST, {**OS, Option.SERVER_ID: IPv4Address("10.77.0.2").packed}),
        asks(MessageType.INFORM, OS),
        asks(MessageType.RELEASE, OS, ciaddr=FIRST),
        asks(MessageType.DISCOVER, OS, giaddr=IPv4Address("192.168.7.1")),
        Packet(op=1, xid=1, chaddr=MAC),
    ],
)
def test_nonsense_is_ignored_with_a_reason(packet: Packet) -> None:
    """A packet that means nothing is answered, or dropped without a word (edge case 1)."""
    decision = decide(packet)
    assert isinstance(decision, Ignore)
    assert decision.reason

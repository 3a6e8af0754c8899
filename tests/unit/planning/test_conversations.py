"""Whole conversations with the DHCP server, and clients that mean ill or are in the wrong place."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain import mac as macs
from provider.domain.lease import Claimant, Reservation, ReservedBy
from provider.planning.leases import DECLINES
from provider.planning.reply import EVERYBODY, Forget, Ignore, Reply, Scope, To, scope_of
from provider.planning.subnets import Leasing, Subnet, Subnets
from provider.wire import dhcp
from provider.wire.dhcp import MessageType, Option, Packet
from tests.unit.planning.packets import (
    BIOS,
    FIRST,
    HOUR,
    HTTP,
    IPXE,
    LAST,
    LEASING,
    MAC,
    NETWORK,
    NOW,
    OS,
    OTHER,
    OURS,
    PROXY,
    RELAY,
    SERVER,
    UEFI,
    asks,
    decide,
    init_reboot,
    lease,
    renewing,
    reply,
    seconds,
    selecting,
    subnets,
    table,
)

FAR_FIRST = IPv4Address("10.88.0.10")
OUTSIDE = IPv4Address("10.77.0.50")
OPTIONS = sorted(set(range(256)) - {Option.PAD, Option.OVERLOAD, Option.MESSAGE_TYPE, Option.END})


def leased(known: Subnets, options: dict[int, bytes], now: timedelta = timedelta()) -> tuple[IPv4Address, int]:
    """DISCOVER and REQUEST; gives address and seconds."""
    offered = reply(asks(MessageType.DISCOVER, options), known=known, now=NOW + now).packet
    chosen = {Option.SERVER_ID: OURS.packed, Option.REQUESTED_ADDRESS: offered.yiaddr.packed}
    granted = reply(asks(MessageType.REQUEST, {**options, **chosen}), known=known, now=NOW + now)
    assert granted.packet.message_type is MessageType.ACK
    assert granted.leases[0].expires_at == NOW + now + timedelta(seconds=seconds(granted.packet, Option.LEASE_TIME))
    return granted.packet.yiaddr, seconds(granted.packet, Option.LEASE_TIME)


def test_one_boot() -> None:
    """Firmware and iPXE hold addresses of their own, or the system's lease is as short as theirs (edge cases 23, 24)."""
    known = subnets()
    lease(known, OTHER, FIRST)
    steps = [
        leased(known, {**BIOS, Option.CLIENT_ID: b"\0" + bytes(16)}),
        leased(known, {**IPXE, Option.CLIENT_ID: b"\1" + macs.to_bytes(MAC)}, timedelta(seconds=5)),
        leased(known, {**OS, Option.CLIENT_ID: b"\xff" + bytes(18)}, timedelta(seconds=30)),
        leased(known, BIOS, timedelta(minutes=50)),
    ]
    assert steps == [(FIRST + 1, 120), (FIRST + 1, 120), (FIRST + 1, 3600), (FIRST + 1, 120)]
    assert len(table(known).leases()) == 2


# --- the wrong network, and other servers ----------------------------------------------------------------------------


def relayed(packet: Packet) -> Packet:
    return replace(packet, giaddr=RELAY)


@pytest.mark.parametrize("packet", [init_reboot(FIRST), renewing(FIRST), renewing(OUTSIDE)])
def test_moved_to_another_network(packet: Packet) -> None:
    """A machine that was carried to another hall keeps an address of the old one (RFC 2131 section 4.3.2)."""
    known = subnets()
    lease(known, MAC, FIRST)
    refused = reply(relayed(packet), known=known)
    assert (refused.packet.message_type, refused.to) == (MessageType.NAK, To(RELAY, 67))
    assert refused.packet.wants_broadcast, "the relay cannot reach it otherwise"
    assert table(known).may_have(Claimant(MAC), FIRST, NOW), "what it has at home is left alone"


@pytest.mark.parametrize(
    ("packet", "known_address", "expected"),
    [
        (renewing(OUTSIDE), None, None),
        (renewing(OUTSIDE), FIRST, MessageType.NAK),
        (renewing(FIRST), None, MessageType.ACK),
        (init_reboot(OUTSIDE), None, None),
        (init_reboot(FIRST), None, None),
        (selecting(FIRST, server=IPv4Address("10.77.0.2")), None, None),
        (asks(MessageType.DECLINE, {Option.REQUESTED_ADDRESS: OUTSIDE.packed}), None, None),
        (asks(MessageType.RELEASE, {Option.SERVER_ID: OURS.packed}, ciaddr=OUTSIDE), None, None),
    ],
)
def test_clients_of_another_server(
    packet: Packet, known_address: IPv4Address | None, expected: MessageType | None
) -> None:
    """A client of a second server loses its address to us when that server is away for a moment (REBINDING)."""
    known = subnets()
    if known_address is not None:
        lease(known, MAC, known_address)
    decision = decide(packet, known=known)
    assert isinstance(decision, Ignore) if expected is None else isinstance(decision, Reply)
    assert isinstance(decision, Ignore) or decision.packet.message_type is expected


def test_renewal_by_another_interface() -> None:
    """A renewal that a router sends to another interface of ours is refused, or answered with that network's settings."""
    known = Subnets([*subnets().all(), Subnet(IPv4Network("10.99.0.0/24"), LEASING)])
    lease(known, MAC, FIRST)
    other = replace(SERVER, interface="eth1", address=IPv4Address("10.99.0.1"), network=IPv4Network("10.99.0.0/24"))
    renewed = reply(renewing(FIRST), other, known)
    assert (renewed.packet.yiaddr, renewed.to) == (FIRST, To(FIRST))
    assert renewed.packet.options[Option.SUBNET_MASK] == NETWORK.netmask.packed


def test_two_interfaces_offer() -> None:
    """A relay asks two interfaces of ours, and the choice of one offer takes back the address that is in it."""
    second = IPv4Address("10.99.0.1")
    known = Subnets([Subnet(NETWORK, LEASING, ours=[OURS, second])])
    relays = {"giaddr": IPv4Address("10.77.0.254")}
    offered = reply(asks(MessageType.DISCOVER, OS, **relays), known=known).packet.yiaddr
    there = replace(SERVER, interface="eth1", address=second)
    assert isinstance(decide(replace(selecting(offered), **relays), there, known), Ignore)
    assert not table(known).may_have(Claimant(OTHER), offered, NOW)


ELSEWHERE = replace(SERVER, interface="eth1", address=IPv4Address("10.99.0.1"), network=IPv4Network("10.99.0.0/24"))


@pytest.mark.parametrize(
    ("packet", "scope", "expected"),
    [
        (renewing(FIRST), SERVER, SERVER),
        (renewing(FIRST), ELSEWHERE, SERVER),
        (renewing(IPv4Address("10.66.0.7")), ELSEWHERE, ELSEWHERE),
        (renewing(IPv4Address("10.99.0.7")), SERVER, ELSEWHERE),
        (renewing(FAR_FIRST), ELSEWHERE, ELSEWHERE),
        (asks(MessageType.RELEASE, OS, ciaddr=FIRST), ELSEWHERE, SERVER),
        (asks(MessageType.INFORM, OS, ciaddr=FIRST), ELSEWHERE, ELSEWHERE),
        (asks(MessageType.DISCOVER, OS), ELSEWHERE, ELSEWHERE),
        (asks(MessageType.DISCOVER, OS, ciaddr=FIRST), ELSEWHERE, ELSEWHERE),
        (selecting(FIRST), ELSEWHERE, ELSEWHERE),
        (relayed(renewing(FIRST)), ELSEWHERE, ELSEWHERE),
    ],
)
def test_who_answers(packet: Packet, scope: Scope, expected: Scope) -> None:
    """A renewal that a router sends to another interface of ours comes from an address that is not the client's server."""
    assert scope_of(packet, scope, [SERVER, ELSEWHERE]) == expected
    beside = [replace(each, proxy=True) for each in (SERVER, ELSEWHERE)]
    assert scope_of(packet, scope, beside) == scope, "what others lease is theirs"


# --- clients that mean ill -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        asks(MessageType.RELEASE, {Option.SERVER_ID: OURS.packed}, ciaddr=FIRST, chaddr=OTHER),
        asks(
            MessageType.RELEASE,
            {Option.SERVER_ID: OURS.packed, Option.CLIENT_ID: b"\1" + macs.to_bytes(MAC)},
            ciaddr=FIRST,
            chaddr=OTHER,
        ),
        asks(MessageType.DECLINE, {Option.REQUESTED_ADDRESS: FIRST.packed}, chaddr=OTHER),
        asks(MessageType.DECLINE, {Option.REQUESTED_ADDRESS: FIRST.packed}, chaddr=OTHER, ciaddr=FIRST),
        asks(MessageType.RELEASE, {Option.SERVER_ID: OURS.packed, Option.REQUESTED_ADDRESS: FIRST.packed}),
    ],
)
def test_nobody_gives_away_what_is_anothers(packet: Packet) -> None:
    """Somebody releases or declines the addresses of others, and gets them."""
    known = subnets()
    lease(known, MAC, FIRST)
    assert isinstance(decide(packet, known=known), Ignore)
    assert not table(known).may_have(Claimant(OTHER), FIRST, NOW)
    refused = reply(replace(renewing(FIRST), chaddr=OTHER), known=known)
    assert (refused.packet.message_type, refused.to) == (MessageType.NAK, EVERYBODY)


@pytest.mark.parametrize("scope", [SERVER, PROXY])
@pytest.mark.parametrize("mac", ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"])
def test_mac_address_of_nobody(scope: Scope, mac: str) -> None:
    """Cards without an address of their own share one lease, and one machine (invariant 5)."""
    decision = decide(asks(MessageType.DISCOVER, BIOS, chaddr=macs.parse(mac)), scope)
    assert isinstance(decision, Ignore)
    assert decision.warn


def test_release_from_behind_a_relay() -> None:
    """A DHCPRELEASE, which goes past the relay, releases nothing, or an address of the wrong network."""
    known = subnets()
    far = known.all()[1].table
    far.grant(Claimant(MAC), FAR_FIRST, NOW, HOUR)
    released = decide(asks(MessageType.RELEASE, {Option.SERVER_ID: OURS.packed}, ciaddr=FAR_FIRST), known=known)
    assert isinstance(released, Forget)
    assert far.may_have(Claimant(OTHER), FAR_FIRST, NOW)


def test_client_that_declines_everything() -> None:
    """One client empties the pool, and no operator hears why."""
    wide = Leasing(((FIRST, FIRST + 9),))
    known = Subnets([Subnet(NETWORK, wide, ours=[OURS])])
    warnings = []
    for _ in range(DECLINES + 3):
        address, _time = leased(known, OS)
        declined = decide(asks(MessageType.DECLINE, {Option.REQUESTED_ADDRESS: address.packed}), known=known)
        assert isinstance(declined, Forget)
        warnings.append(declined.warning)
    assert not any(warnings[: DECLINES - 1])
    assert "proxy ARP" in warnings[-1]
    assert table(known).census(NOW).quarantined == DECLINES


def test_full_pool_disturbs_nobody() -> None:
    """Somebody who has an address loses it, or cannot renew it, because others find none."""
    known = subnets()
    macs_of_all = [macs.from_bytes(bytes((2, 0, 0, 0, 1, number))) for number in range(4)]
    for number, mac in enumerate(macs_of_all):
        lease(known, mac, FIRST + number)
    for number in range(50):
        stranger = macs.from_bytes(bytes((2, 0, 0, 0, 2, number)))
        assert isinstance(decide(asks(MessageType.DISCOVER, OS, chaddr=stranger), known=known), Ignore)
    for number, mac in enumerate(macs_of_all):
        assert reply(replace(renewing(FIRST + number), chaddr=mac), known=known).leases
        assert reply(asks(MessageType.DISCOVER, OS, chaddr=mac), known=known).packet.yiaddr == FIRST + number


def test_network_without_addresses() -> None:
    """On a network that only leads to relays, each client is a warning that the pool is exhausted."""
    known = Subnets([Subnet(NETWORK, Leasing(()), ours=[OURS])])
    decision = decide(asks(MessageType.DISCOVER, OS), known=known)
    assert isinstance(decision, Ignore)
    assert not decision.warn


@pytest.mark.parametrize("told", ["33221100554477668899aabbccddeeff", "00112233445566778899aabbccddeeff"])
def test_reservation_by_uuid(told: str) -> None:
    """Firmware that tells its UUID in the other byte order does not get the address that is kept for it."""
    kept = Reservation(OUTSIDE, ReservedBy.UUID, "00112233-4455-6677-8899-aabbccddeeff")
    known = Subnets([Subnet(NETWORK, replace(LEASING, reservations=(kept,)), ours=[OURS])])
    assert leased(known, {**BIOS, Option.CLIENT_UUID: b"\0" + bytes.fromhex(told)}) == (OUTSIDE, 120)
    assert leased(known, OS) == (OUTSIDE, 3600)
    assert LAST not in {each.address for each in table(known).leases()}


# --- beside another server -------------------------------------------------------------------------------------------

KINDS = [kind for kind in MessageType if kind is not MessageType.DISCOVER]


@pytest.mark.parametrize("options", [OS, BIOS, IPXE])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{}, {"ciaddr": FIRST}, {"giaddr": RELAY}])
def test_proxy_answers_no_more_than_discovers(
    options: dict[int, bytes], kind: MessageType, fields: dict[str, IPv4Address]
) -> None:
    """In proxy mode we acknowledge, refuse or take back what the server beside us leased."""
    wanted = {Option.REQUESTED_ADDRESS: FIRST.packed, Option.SERVER_ID: OURS.packed}
    for said in ({}, wanted):
        assert isinstance(decide(asks(kind, {**options, **said}, **fields), PROXY, Subnets()), Ignore)
    assert isinstance(decide(asks(MessageType.DISCOVER, OS, **fields), PROXY, Subnets()), Ignore)


# --- anything --------------------------------------------------------------------------------------------------------

ADDRESSES = [dhcp.NOWHERE, FIRST, LAST, OUTSIDE, OURS, RELAY, FAR_FIRST, IPv4Address("255.255.255.255"), IPv4Address(1)]
addresses = st.sampled_from(ADDRESSES) | st.integers(0, 2**32 - 1).map(IPv4Address)
values = st.binary(max_size=300) | addresses.map(lambda address: address.packed)
anything = st.builds(
    Packet,
    op=st.sampled_from([1, 1, 1, 2]),
    xid=st.integers(0, 2**32 - 1),
    chaddr=st.sampled_from([MAC, OTHER, macs.parse("dc:a6:32:00:00:01"), macs.parse("ff:ff:ff:ff:ff:ff")]),
    options=st.builds(
        lambda kind, client, more: {Option.MESSAGE_TYPE: bytes((kind,)), **client, **more},
        st.sampled_from(list(MessageType)),
        st.sampled_from([OS, BIOS, UEFI, HTTP, IPXE]),
        st.dictionaries(st.sampled_from(OPTIONS), values, max_size=5),
    ),
    flags=st.sampled_from([0, dhcp.BROADCAST_FLAG, 0xFFFF]),
    ciaddr=addresses,
    giaddr=addresses,
)


@given(st.lists(anything, min_size=1, max_size=12), st.sampled_from([SERVER, PROXY]))
def test_anything_is_answered_soundly(packets: list[Packet], scope: Scope) -> None:
    """Some packet is a traceback, is answered with what cannot be sent or read, or gets an address that is not to be had."""
    known = Subnets() if scope is PROXY else subnets()
    for packet in packets:
        for port in scope.ports:
            decision = decide(packet, scope, known, port=port)
            if not isinstance(decision, Reply):
                continue
            raw = dhcp.encode(decision.packet, decision.largest)
            assert len(raw) <= max(decision.largest, 300)
            assert dhcp.decode(raw).options.get(Option.RELAY_AGENT) == packet.options.get(Option.RELAY_AGENT)
            address = decision.packet.yiaddr
            assert address == dhcp.NOWHERE or known.of(address).table.is_ours(address)
            assert address != OURS
    holders = [each.claimant.mac for subnet in known.all() for each in subnet.table.leases() if each.expires_at > NOW]
    assert len(holders) <= len(known.all()) * 4

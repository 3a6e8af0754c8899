"""Which subnet a client is on, and what it is told there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest

from provider.domain import mac as macs
from provider.domain.lease import Claimant, Lease, Reservation, ReservedBy
from provider.planning.subnets import Leasing, Subnet, Subnets, device_options, site_options
from provider.wire.dhcp import Option

NEAR, FAR = IPv4Network("10.77.0.0/24"), IPv4Network("10.88.0.0/16")
FIRST = IPv4Address("10.77.0.1")
LEASING = Leasing(
    ((FIRST, FIRST + 2),),
    options=site_options(
        router=IPv4Address("10.77.0.254"), dns=[IPv4Address("10.77.0.2")], domain="example.com", mtu=1400
    ),
    device_options=device_options(boot_file="phone.cfg"),
)
ALICE, BOB, CAROL = (Claimant(macs.parse(f"52:54:00:00:00:0{number}")) for number in (1, 2, 3))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_subnet_of_an_address() -> None:
    """A client gets an address of the wrong network, or the answer for one link is remembered for another."""
    subnets = Subnets([Subnet(NEAR, LEASING), Subnet(FAR, LEASING)])
    near, far = subnets.all()
    for _ in range(2):
        assert subnets.of(IPv4Address("10.77.0.9")) is near
        assert subnets.of(IPv4Address("10.88.200.9")) is far
        assert subnets.of(IPv4Address("10.99.0.9")) is None
    for number in range(5000):
        assert subnets.of(FAR.network_address + number) is far


@pytest.mark.parametrize(
    ("asks_for", "boots", "told"),
    [
        (b"", False, [1, 28, 3, 6, 15, 26]),
        (bytes((6, 3, 6, 99, 1)), False, [1, 6, 3]),
        (bytes((67, 6)), False, [1, 67, 6]),
        (bytes((67, 6)), True, [1, 6]),
        (bytes((99,)), False, [1]),
    ],
)
def test_client_is_told_what_it_asks_for(asks_for: bytes, boots: bool, told: list[int]) -> None:
    """A client misses an option, gets a phone's boot file, or gets options in another order (RFC 2132 section 9.8)."""
    subnet = Subnet(NEAR, LEASING)
    for _ in range(2):
        assert list(subnet.told(asks_for, boots=boots)) == told


ROUTER, DEFAULT = IPv4Address("10.77.0.254"), IPv4Network("0.0.0.0/0")
LAN = (IPv4Network("10.0.0.0/8"), IPv4Address("10.77.0.253"))


@pytest.mark.parametrize(
    ("router", "routes", "told"),
    [
        (ROUTER, [LAN], b"\x08\x0a\x0a\x4d\x00\xfd\x00\x0a\x4d\x00\xfe"),
        (None, [LAN], b"\x08\x0a\x0a\x4d\x00\xfd"),
        (ROUTER, [(DEFAULT, LAN[1])], b"\x00\x0a\x4d\x00\xfd"),
        (ROUTER, [], None),
    ],
)
def test_default_route_goes_with_the_static_ones(
    router: IPv4Address | None, routes: list[tuple[IPv4Network, IPv4Address]], told: bytes | None
) -> None:
    """A client that takes option 121 ignores option 3, and is cut off from everything else (RFC 3442)."""
    assert site_options(router=router, routes=routes).get(Option.STATIC_ROUTES) == told


def test_our_address_is_no_clients() -> None:
    """A client gets the provider's own address: the operator's pool is the whole network, or it is reserved by mistake."""
    mistake = Reservation(FIRST, ReservedBy.MAC, ALICE.mac)
    subnet = Subnet(NEAR, replace(LEASING, reservations=(mistake,)), ours=[FIRST])
    assert [subnet.table.offer(each, FIRST, NOW) for each in (ALICE, BOB)] == [FIRST + 1, FIRST + 2]


@pytest.mark.parametrize(
    ("network", "first", "last", "mask", "broadcast"),
    [
        ("10.77.0.0/30", "10.77.0.1", "10.77.0.2", "255.255.255.252", "10.77.0.3"),
        ("10.77.0.0/31", "10.77.0.0", "10.77.0.1", "255.255.255.254", None),
        ("10.77.0.9/32", "10.77.0.9", "10.77.0.9", "255.255.255.255", None),
    ],
)
def test_smallest_networks(network: str, first: str, last: str, mask: str, broadcast: str | None) -> None:
    """A link between two (RFC 3021) leases neither of its addresses, or the other end is told as the broadcast address."""
    subnet = Subnet(IPv4Network(network), Leasing(((IPv4Address(first), IPv4Address(last)),)))
    assert subnet.table.offer(ALICE, None, NOW) == IPv4Address(first)
    assert subnet.may_reserve(IPv4Address(last))
    told = subnet.told(b"", boots=False)
    assert told[Option.SUBNET_MASK] == IPv4Address(mask).packed
    assert told.get(Option.BROADCAST_ADDRESS) == (None if broadcast is None else IPv4Address(broadcast).packed)


@pytest.mark.parametrize("address", ["10.77.0.0", "10.77.0.255", "10.77.0.1", "10.77.0.2", "10.88.0.5"])
def test_what_no_operator_may_reserve(address: str) -> None:
    """A client is given our own address, the network's, or one that the settings keep for another."""
    kept = Reservation(FIRST + 1, ReservedBy.MAC, ALICE.mac)
    subnet = Subnet(NEAR, replace(LEASING, reservations=(kept,)), ours=[FIRST])
    wanted = Reservation(IPv4Address(address), ReservedBy.MAC, BOB.mac)
    assert not subnet.may_reserve(wanted.address)
    subnet.reserve([wanted])
    assert not subnet.table.may_have(BOB, wanted.address, NOW)
    assert subnet.may_reserve(IPv4Address("10.77.0.50"))


def test_leases_of_other_subnets_are_not_this_ones() -> None:
    """Two subnets count the same lease."""
    elsewhere = Lease(IPv4Address("10.88.0.1"), ALICE, NOW + timedelta(hours=1))
    assert Subnet(NEAR, LEASING, known=[elsewhere]).table.leases() == []


def test_settings_win_over_operators() -> None:
    """An operator's reservation replaces one of the settings, or is applied to another network."""
    mine, another = Reservation(FIRST, ReservedBy.MAC, ALICE.mac), Reservation(FIRST + 1, ReservedBy.MAC, BOB.mac)
    subnet = Subnet(NEAR, replace(LEASING, reservations=(mine,)))
    outside = Reservation(IPv4Address("10.88.0.1"), ReservedBy.MAC, ALICE.mac)
    subnet.reserve([Reservation(FIRST, ReservedBy.MAC, BOB.mac), another, outside])
    assert subnet.table.may_have(ALICE, FIRST, NOW)
    assert not subnet.table.may_have(BOB, FIRST, NOW)
    assert subnet.table.may_have(BOB, FIRST + 1, NOW)
    assert not subnet.table.may_have(ALICE, outside.address, NOW)


def test_interface_goes_away_and_comes_back() -> None:
    """Leases or offers of its network are forgotten, so that an address is given twice (invariant 5)."""
    subnets = Subnets()
    near = subnets.serve(NEAR, LEASING, [Lease(FIRST, ALICE, NOW + timedelta(hours=1))])
    assert near.table.offer(BOB, None, NOW) == FIRST + 1
    assert subnets.serve(NEAR, LEASING) is near
    assert near.table.offer(CAROL, None, NOW) == FIRST + 2, "the other two are taken"


@pytest.mark.parametrize(
    ("network", "leasing"),
    [
        pytest.param(IPv4Network("10.77.0.0/16"), LEASING, id="wider"),
        pytest.param(IPv4Network("10.77.0.0/25"), LEASING, id="narrower"),
        pytest.param(NEAR, replace(LEASING), id="another interface"),
    ],
)
def test_network_takes_over_the_leases_of_one_that_it_overlaps(network: IPv4Network, leasing: Leasing) -> None:
    """An address that somebody has is leased again because the prefix of our own address changed."""
    subnets = Subnets([Subnet(FAR, LEASING)])
    near = subnets.serve(NEAR, LEASING)
    near.table.grant(ALICE, FIRST, NOW, timedelta(hours=1))
    assert subnets.of(FIRST) is near
    new = subnets.serve(network, leasing)
    assert subnets.of(FIRST) is new is not near
    assert [each.network for each in subnets.all()] == [FAR, network]
    assert new.table.offer(BOB, FIRST, NOW) == FIRST + 1


def test_our_own_address_is_not_leased() -> None:
    """A machine gets the address that we have, after we changed it."""
    near = Subnets().serve(NEAR, LEASING)
    near.keep_out([FIRST])
    assert near.table.offer(ALICE, None, NOW) == FIRST + 1
    near.keep_out([FIRST])
    assert near.table.offer(BOB, None, NOW) == FIRST + 2, "what is offered stays so"
    near.keep_out([FIRST + 2])
    assert not near.table.may_have(BOB, FIRST + 2, NOW)
    assert near.table.offer(BOB, FIRST + 2, NOW) == FIRST, "the one that we had before"

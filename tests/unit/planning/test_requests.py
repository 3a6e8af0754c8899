"""DHCPREQUEST in its states (RFC 2131 section 4.3.2), and what clients give back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address

import pytest

from provider.domain import mac as macs
from provider.domain.lease import Claimant
from provider.domain.mac import MacAddress
from provider.planning.reply import Forget, Ignore, Reply
from provider.planning.subnets import Subnet, Subnets
from provider.wire import dhcp
from provider.wire.dhcp import MessageType, Option, Packet
from tests.unit.planning.packets import (
    FIRST,
    LEASING,
    MAC,
    NETWORK,
    NOW,
    OS,
    OTHER,
    OURS,
    UUID,
    asks,
    decide,
    init_reboot,
    lease,
    renewing,
    reply,
    selecting,
    subnets,
    table,
)

ACK, NAK, SILENCE = MessageType.ACK, MessageType.NAK, None
SECOND = FIRST + 1


@pytest.mark.parametrize(
    ("packet", "before", "expected"),
    [
        (selecting(FIRST), {}, ACK),
        (selecting(FIRST), {FIRST: OTHER}, NAK),
        (selecting(IPv4Address("10.77.0.50")), {}, NAK),
        (selecting(OURS), {}, NAK),
        (selecting(FIRST, server=IPv4Address("10.77.0.2")), {}, SILENCE),
        (asks(MessageType.REQUEST, {Option.SERVER_ID: OURS.packed}), {}, SILENCE),
        (init_reboot(FIRST), {FIRST: MAC}, ACK),
        (init_reboot(FIRST), {}, SILENCE),
        (init_reboot(FIRST), {FIRST: OTHER}, NAK),
        (init_reboot(SECOND), {FIRST: MAC}, NAK),
        (init_reboot(IPv4Address("10.77.0.50")), {FIRST: MAC}, NAK),
        (init_reboot(IPv4Address("192.168.1.5")), {}, NAK),
        (init_reboot(IPv4Address("192.168.1.5")), {FIRST: MAC}, NAK),
        (renewing(FIRST), {FIRST: MAC}, ACK),
        (renewing(FIRST), {}, ACK),
        (renewing(FIRST), {FIRST: OTHER}, NAK),
        (renewing(IPv4Address("10.77.0.50")), {}, SILENCE),
        (renewing(IPv4Address("192.168.1.5")), {}, SILENCE),
        (asks(MessageType.REQUEST, {}), {FIRST: MAC}, SILENCE),
    ],
)
def test_request(packet: Packet, before: dict[IPv4Address, MacAddress], expected: MessageType | None) -> None:
    """
    A client keeps an address that is another's, or loses its own.

    SELECTING, INIT-REBOOT, RENEWING and REBINDING in turn; the last two look alike, and are answered alike.
    """
    known = subnets()
    for address, mac in before.items():
        lease(known, mac, address)
    decision = decide(packet, known=known)
    if expected is SILENCE:
        assert isinstance(decision, Ignore), decision
        return
    assert isinstance(decision, Reply), decision
    assert decision.packet.message_type is expected
    assert bool(decision.leases) == (expected is ACK)


def test_an_offer_that_is_not_taken_frees_its_address() -> None:
    """Beside a second server, our pool fills with offers that nobody wants."""
    known = subnets()
    offered = reply(asks(MessageType.DISCOVER, OS), known=known).packet.yiaddr
    assert not table(known).may_have(Claimant(OTHER), offered, NOW)
    decide(selecting(offered, server=IPv4Address("10.77.0.2")), known=known)
    assert table(known).may_have(Claimant(OTHER), offered, NOW)


def test_pool_runs_out_loudly_and_reuses_the_oldest() -> None:
    """A full pool is silence without a reason, a warning for each packet, or an address is given to two."""
    known = subnets()
    for number in range(4):
        mac = macs.from_bytes(bytes((2, 0, 0, 0, 1, number)))
        lease(known, mac, FIRST + number, NOW + timedelta(minutes=number))
    full, again = (decide(asks(MessageType.DISCOVER, OS), known=known) for _ in range(2))
    assert isinstance(full, Ignore)
    assert isinstance(again, Ignore)
    assert (full.warn, again.warn) == (True, False)
    assert "of 4 addresses 4 are leased" in full.reason
    later = NOW + timedelta(hours=1, minutes=2)
    assert reply(asks(MessageType.DISCOVER, OS), known=known, now=later).packet.yiaddr == FIRST


def test_declined_address_is_not_offered_again() -> None:
    """An address that somebody uses already is offered for ever."""
    known = subnets()
    lease(known, MAC, FIRST)
    declined = decide(asks(MessageType.DECLINE, {Option.REQUESTED_ADDRESS: FIRST.packed}), known=known)
    assert isinstance(declined, Forget)
    assert declined.lease.declined
    assert reply(asks(MessageType.DISCOVER, OS), known=known).packet.yiaddr != FIRST


def test_released_address_is_free() -> None:
    """A released lease blocks its address until it expires."""
    known = subnets()
    lease(known, MAC, FIRST)
    released = decide(asks(MessageType.RELEASE, OURS_IS, ciaddr=FIRST), known=known)
    assert isinstance(released, Forget)
    assert table(known).may_have(Claimant(OTHER), FIRST, NOW)


OURS_IS = {Option.SERVER_ID: OURS.packed}
FIRMWARE_ID = {Option.CLIENT_ID: UUID}
SYSTEM_ID = {Option.CLIENT_ID: b"\xff" + bytes(18)}


@pytest.mark.parametrize(
    ("leased_by", "released_by", "is_free"),
    [
        (SYSTEM_ID, SYSTEM_ID, True),
        ({}, {}, True),
        (SYSTEM_ID, FIRMWARE_ID, False),
        (SYSTEM_ID, {}, False),
        ({}, SYSTEM_ID, False),
    ],
)
def test_client_releases_under_the_name_that_it_has_it_by(
    leased_by: dict[int, bytes], released_by: dict[int, bytes], is_free: bool
) -> None:
    """What the machine ran before releases the address that its system works with (RFC 2131 sections 2 and 4.4.6)."""
    known = subnets()
    assert reply(replace(selecting(FIRST), options={**selecting(FIRST).options, **leased_by}), known=known).leases
    released = decide(asks(MessageType.RELEASE, {**OURS_IS, **released_by}, ciaddr=FIRST), known=known)
    assert isinstance(released, Forget) == is_free
    assert table(known).may_have(Claimant(OTHER), FIRST, NOW) == is_free


def test_name_is_forgotten_with_a_restart() -> None:
    """After a restart nobody can release anything."""
    known = subnets()
    (saved,) = reply(replace(selecting(FIRST), options={**selecting(FIRST).options, **SYSTEM_ID}), known=known).leases
    again = Subnets([Subnet(NETWORK, LEASING, ours=[OURS], known=[saved])])
    assert isinstance(decide(asks(MessageType.RELEASE, {**OURS_IS, **SYSTEM_ID}, ciaddr=FIRST), known=again), Forget)


@pytest.mark.parametrize(
    ("kind", "server", "is_for_us"),
    [
        (MessageType.RELEASE, OURS, True),
        (MessageType.RELEASE, OURS + 1, False),
        (MessageType.RELEASE, None, False),
        (MessageType.DECLINE, OURS, True),
        (MessageType.DECLINE, OURS + 1, False),
        (MessageType.DECLINE, None, True),
    ],
)
def test_what_is_given_back_to_another_server(kind: MessageType, server: IPv4Address | None, is_for_us: bool) -> None:
    """
    Beside a second server, what its clients give back is taken from ours.

    Without a server, an address that is in use must still not be offered again; one that is free can wait.
    """
    known = subnets()
    lease(known, MAC, FIRST)
    named = {} if server is None else {Option.SERVER_ID: server.packed}
    ciaddr = FIRST if kind is MessageType.RELEASE else dhcp.NOWHERE
    decision = decide(asks(kind, {**named, Option.REQUESTED_ADDRESS: FIRST.packed}, ciaddr=ciaddr), known=known)
    assert isinstance(decision, Forget) == is_for_us


def test_inform_gets_no_lease() -> None:
    """DHCPINFORM takes an address, or is told a lease time (RFC 2131 section 4.3.5)."""
    informed = reply(asks(MessageType.INFORM, OS, ciaddr=IPv4Address("10.77.0.9")))
    assert (informed.leases, informed.packet.yiaddr) == ((), dhcp.NOWHERE)
    assert Option.LEASE_TIME not in informed.packet.options
    assert Option.ROUTER in informed.packet.options

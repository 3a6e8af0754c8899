"""What each kind of client is answered, in server and in proxy mode."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest

from provider.domain import mac as macs
from provider.planning import offer
from provider.planning.leases import LeaseTable
from provider.planning.offer import Asked, Forget, Ignore, Reply, Scope
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option, Packet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OURS = IPv4Address("10.77.0.1")
FIRST, LAST = IPv4Address("10.77.0.100"), IPv4Address("10.77.0.103")
MAC = macs.parse("52:54:00:00:00:01")
OTHER = macs.parse("52:54:00:00:00:02")
SERVER = Scope(
    interface="eth0",
    address=OURS,
    network=IPv4Network("10.77.0.0/24"),
    proxy=False,
    http_port=8080,
    boot_files=frozenset({"undionly.kpxe", "snponly.efi"}),
    router=IPv4Address("10.77.0.254"),
)
PROXY = replace(SERVER, proxy=True)
UUID = b"\0" + bytes(range(16))

BIOS = {Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001", Option.CLIENT_ARCH: b"\0\0", Option.CLIENT_UUID: UUID}
UEFI = {Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003000", Option.CLIENT_ARCH: b"\0\7", Option.CLIENT_UUID: UUID}
HTTP = {Option.VENDOR_CLASS: b"HTTPClient:Arch:00016:UNDI:003000", Option.CLIENT_ARCH: b"\0\x10"}
IPXE = {**BIOS, Option.USER_CLASS: b"iPXE"}
OS = {Option.VENDOR_CLASS: b"udhcp 1.35.0"}


def table() -> LeaseTable:
    return LeaseTable("eth0", FIRST, LAST, OURS)


def asks(kind: MessageType, options: dict[Option, bytes], **fields: object) -> Packet:
    packet = Packet(op=1, xid=1, chaddr=MAC, options={Option.MESSAGE_TYPE: bytes((kind,)), **options})
    return replace(packet, **fields)


def decide(
    packet: Packet,
    scope: Scope = SERVER,
    known: LeaseTable | None = None,
    *,
    port: int = 67,
    source: str = "0.0.0.0",
    may_netboot: bool = True,
    now: datetime = NOW,
) -> offer.Decision:
    asked = Asked(packet, (IPv4Address(source), 68), port, may_netboot)
    return offer.decide(asked, scope, None if scope.proxy else known or table(), now)


def reply(packet: Packet, scope: Scope = SERVER, known: LeaseTable | None = None, **how: object) -> Reply:
    decision = decide(packet, scope, known, **how)
    assert isinstance(decision, Reply), decision
    return decision


@pytest.mark.parametrize(
    ("options", "file", "vendor_class"),
    [
        (BIOS, "undionly.kpxe", b"PXEClient"),
        (UEFI, "snponly.efi", b"PXEClient"),
        ({**UEFI, Option.CLIENT_ARCH: b"\0\x09"}, "snponly.efi", b"PXEClient"),
        ({**UEFI, Option.CLIENT_ARCH: b"\x77\x77\0\7"}, "snponly.efi", b"PXEClient"),
        (HTTP, "http://10.77.0.1:8080/assets/boot/snponly.efi", b"HTTPClient"),
        (IPXE, "http://10.77.0.1:8080/boot.ipxe", None),
        (OS, "", None),
    ],
)
def test_boot_file(options: dict[Option, bytes], file: str, vendor_class: bytes | None) -> None:
    """A client gets the wrong boot program, or none (edge cases 2, 14, 19, 20)."""
    packet = reply(asks(MessageType.DISCOVER, options)).packet
    assert packet.file.decode() == file
    assert packet.options.get(Option.BOOT_FILE_NAME, b"").decode() == file
    assert packet.options.get(Option.VENDOR_CLASS) == vendor_class
    assert packet.siaddr == (OURS if file else dhcp.NOWHERE)


def test_firmware_is_told_to_discover_no_further() -> None:
    """A PXE ROM goes on looking for boot servers, and shows a menu of none (edge case 8)."""
    packet = reply(asks(MessageType.DISCOVER, BIOS)).packet
    assert dhcp.decode_suboptions(packet.options[Option.VENDOR_SPECIFIC]) == {6: b"\x08"}
    assert packet.options[Option.CLIENT_UUID] == UUID


def test_ipxe_does_not_wait_for_a_proxy() -> None:
    """Each iPXE boot takes 3 s longer."""
    packet = reply(asks(MessageType.DISCOVER, IPXE)).packet
    assert dhcp.decode_suboptions(packet.options[Option.IPXE]) == {176: b"\x01"}


def test_ipxe_is_known_by_its_features_too() -> None:
    """iPXE without a user class is chain-loaded for ever (edge case 7)."""
    features = dhcp.encode_suboptions({0x13: b"\1", 0x18: b"\1"})
    packet = reply(asks(MessageType.DISCOVER, {**BIOS, Option.IPXE: features})).packet
    assert packet.file.endswith(b"/boot.ipxe")


def test_four_way_exchange() -> None:
    """The address that was offered is not the one that is leased, or nothing is saved before the ACK."""
    known = table()
    offered = reply(asks(MessageType.DISCOVER, OS), known=known)
    assert offered.lease is None
    assert offered.to == (offer.BROADCAST, 68)
    wanted = {Option.REQUESTED_ADDRESS: offered.packet.yiaddr.packed, Option.SERVER_ID: OURS.packed, **OS}
    granted = reply(asks(MessageType.REQUEST, wanted), known=known)
    assert granted.packet.message_type is MessageType.ACK
    assert granted.packet.yiaddr == offered.packet.yiaddr
    assert granted.lease is not None
    assert granted.lease.expires_at == NOW + timedelta(hours=1)
    assert granted.packet.options[Option.SUBNET_MASK] == IPv4Address("255.255.255.0").packed
    assert granted.packet.options[Option.ROUTER] == IPv4Address("10.77.0.254").packed
    assert granted.packet.options[Option.RENEWAL_TIME] == dhcp.encode_seconds(1800)


def test_firmware_leases_are_short() -> None:
    """A storm of firmware and iPXE eats the pool (edge case 23)."""
    packet = reply(asks(MessageType.DISCOVER, UEFI)).packet
    assert packet.options[Option.LEASE_TIME] == dhcp.encode_seconds(120)


def test_one_machine_one_address() -> None:
    """Firmware, iPXE and system take three addresses because their client ids differ (edge case 24)."""
    known = table()
    identifiers = (b"\0" + UUID, b"\1" + macs.to_bytes(MAC), b"\xff1234")
    packets = [asks(MessageType.DISCOVER, {**OS, Option.CLIENT_ID: each}) for each in identifiers]
    assert len({reply(packet, known=known).packet.yiaddr for packet in packets}) == 1


def test_renewal_goes_to_the_client_itself() -> None:
    """A renewing client is answered by broadcast, or told to start over."""
    known = table()
    known.grant(MAC, FIRST, NOW, timedelta(hours=1))
    granted = reply(asks(MessageType.REQUEST, OS, ciaddr=FIRST), known=known)
    assert granted.packet.message_type is MessageType.ACK
    assert granted.to == (FIRST, 68)


def test_address_of_another_is_refused() -> None:
    """A client that comes back with another's address keeps using it."""
    known = table()
    known.grant(OTHER, FIRST, NOW, timedelta(hours=1))
    refused = reply(asks(MessageType.REQUEST, {**OS, Option.REQUESTED_ADDRESS: FIRST.packed}), known=known)
    assert refused.packet.message_type is MessageType.NAK
    assert refused.lease is None
    elsewhere = asks(MessageType.REQUEST, {**OS, Option.REQUESTED_ADDRESS: IPv4Address("192.168.1.5").packed})
    assert reply(elsewhere).packet.message_type is MessageType.NAK


def test_pool_runs_out_loudly_and_reuses_the_oldest() -> None:
    """A full pool is silence without a reason, or an address is given to two."""
    known = table()
    for number in range(4):
        mac = macs.from_bytes(bytes((2, 0, 0, 0, 1, number)))
        known.grant(mac, FIRST + number, NOW + timedelta(minutes=number), timedelta(hours=1))
    full = decide(asks(MessageType.DISCOVER, OS), known=known)
    assert isinstance(full, Ignore)
    assert full.warn
    assert "4 addresses" in full.reason
    later = NOW + timedelta(hours=1, minutes=2)
    assert reply(asks(MessageType.DISCOVER, OS), known=known, now=later).packet.yiaddr == FIRST


def test_declined_address_is_not_offered_again() -> None:
    """An address that somebody uses already is offered for ever."""
    known = table()
    known.grant(MAC, FIRST, NOW, timedelta(hours=1))
    declined = decide(asks(MessageType.DECLINE, {Option.REQUESTED_ADDRESS: FIRST.packed}), known=known)
    assert isinstance(declined, Forget)
    assert declined.lease.declined
    assert reply(asks(MessageType.DISCOVER, OS), known=known).packet.yiaddr != FIRST


def test_released_address_is_free() -> None:
    """A released lease blocks its address until it expires."""
    known = table()
    known.grant(MAC, FIRST, NOW, timedelta(hours=1))
    released = decide(asks(MessageType.RELEASE, {}, ciaddr=FIRST), known=known)
    assert isinstance(released, Forget)
    assert known.may_have(OTHER, FIRST, NOW)


def test_inform_gets_no_lease() -> None:
    """DHCPINFORM takes an address (RFC 2131 section 4.3.5)."""
    informed = reply(asks(MessageType.INFORM, OS, ciaddr=IPv4Address("10.77.0.9")))
    assert (informed.lease, informed.packet.yiaddr) == (None, dhcp.NOWHERE)
    assert Option.LEASE_TIME not in informed.packet.options


def test_relay_is_answered_through_the_relay() -> None:
    """Clients behind a relay never hear of us (edge case 21); option 82 is not echoed."""
    packet = asks(MessageType.DISCOVER, {**OS, Option.RELAY_AGENT: b"\1\4port"}, giaddr=IPv4Address("10.77.0.250"))
    answer = reply(packet)
    assert answer.to == (IPv4Address("10.77.0.250"), 67)
    assert answer.packet.options[Option.RELAY_AGENT] == b"\1\4port"


@pytest.mark.parametrize("scope", [SERVER, PROXY])
@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_rejected_machines_hear_nothing(scope: Scope, options: dict[Option, bytes]) -> None:
    """A rejected or cordoned machine is booted from the network all the same."""
    assert isinstance(decide(asks(MessageType.DISCOVER, options), scope, may_netboot=False), Ignore)


def test_rejected_machines_keep_their_network() -> None:
    """Rejecting a machine takes the address from the system that runs on it."""
    assert isinstance(decide(asks(MessageType.DISCOVER, OS), may_netboot=False), Reply)


def test_nothing_is_advertised_that_is_not_served() -> None:
    """DHCP names a file that TFTP does not have (invariant 10)."""
    missing = decide(asks(MessageType.DISCOVER, UEFI), replace(SERVER, boot_files=frozenset()))
    assert isinstance(missing, Ignore)
    assert "assets build" in missing.reason


@pytest.mark.parametrize("name", sorted(set(pxe.NBP.values())))
def test_every_nbp_is_among_the_boot_files(name: str) -> None:
    """The table of NBPs names one that the assets do not have."""
    assert name in SERVER.boot_files


# --- proxy mode ------------------------------------------------------------------------------------------------------


def test_proxy_leases_nothing() -> None:
    """The server beside us and we both give addresses."""
    packet = reply(asks(MessageType.DISCOVER, UEFI), PROXY).packet
    assert packet.yiaddr == dhcp.NOWHERE
    assert Option.LEASE_TIME not in packet.options
    assert isinstance(decide(asks(MessageType.DISCOVER, OS), PROXY), Ignore)
    assert isinstance(decide(asks(MessageType.REQUEST, UEFI), PROXY), Ignore)


def test_proxy_offer_to_uefi_points_to_port_4011() -> None:
    """EDK2 refuses an offer that already names a file."""
    packet = reply(asks(MessageType.DISCOVER, UEFI), PROXY).packet
    assert (packet.file, packet.siaddr) == (b"", OURS)
    assert packet.options[Option.VENDOR_CLASS] == b"PXEClient"
    assert Option.VENDOR_SPECIFIC not in packet.options
    assert packet.options[Option.CLIENT_UUID] == UUID


def test_proxy_offer_to_ipxe_is_complete() -> None:
    """iPXE drops proxy offers without siaddr or file, and boots nothing."""
    packet = reply(asks(MessageType.DISCOVER, IPXE), PROXY).packet
    assert packet.siaddr == OURS
    assert packet.file == b"http://10.77.0.1:8080/boot.ipxe"
    assert packet.options[Option.VENDOR_CLASS] == b"PXEClient"


def test_boot_service_answers_where_it_was_asked_from() -> None:
    """The second half of ProxyDHCP goes to port 68, where EDK2 does not listen any more (edge case 10)."""
    packet = asks(MessageType.REQUEST, UEFI, ciaddr=FIRST)
    asked = Asked(packet, (FIRST, 4011), 4011, may_netboot=True)
    answer = offer.decide(asked, PROXY, None, NOW)
    assert isinstance(answer, Reply)
    assert answer.to == (FIRST, 4011)
    assert answer.packet.message_type is MessageType.ACK
    assert answer.packet.file == b"snponly.efi"
    assert answer.packet.options[Option.VENDOR_CLASS] == b"PXEClient"


# --- nonsense --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        asks(MessageType.OFFER, OS),
        asks(MessageType.DISCOVER, OS, op=2),
        asks(MessageType.DISCOVER, {**UEFI, Option.CLIENT_UUID: b"\0abc"}),
        asks(MessageType.DISCOVER, {**UEFI, Option.CLIENT_ARCH: b"\x77\x77"}),
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

"""What each kind of client is answered, in server and in proxy mode."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest

from provider.domain import mac as macs
from provider.domain.lease import Claimant
from provider.domain.mac import MacAddress
from provider.planning import offer, proxy_style
from provider.planning.leases import LeaseTable
from provider.planning.proxy_style import Style
from provider.planning.reply import EVERYBODY, Asked, Decision, Forget, Ignore, Reply, Scope, To, Verify
from provider.planning.subnets import Leasing, Subnet, Subnets, site_options
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option, Packet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OURS = IPv4Address("10.77.0.1")
FIRST, LAST = IPv4Address("10.77.0.100"), IPv4Address("10.77.0.103")
MAC = macs.parse("52:54:00:00:00:01")
OTHER = macs.parse("52:54:00:00:00:02")
NETWORK = IPv4Network("10.77.0.0/24")
FAR = IPv4Network("10.88.0.0/24")
LEASING = Leasing(((FIRST, LAST),), options=site_options(router=IPv4Address("10.77.0.254")))
SERVER = Scope(
    interface="eth0",
    address=OURS,
    network=NETWORK,
    proxy=False,
    http_port=8080,
    boot_files=frozenset({"undionly.kpxe", "snponly.efi"}),
)
PROXY = replace(SERVER, proxy=True)
UUID = b"\0" + bytes(range(16))
HOUR = timedelta(hours=1)

BIOS = {Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001", Option.CLIENT_ARCH: b"\0\0", Option.CLIENT_UUID: UUID}
UEFI = {Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003000", Option.CLIENT_ARCH: b"\0\7", Option.CLIENT_UUID: UUID}
HTTP = {Option.VENDOR_CLASS: b"HTTPClient:Arch:00016:UNDI:003000", Option.CLIENT_ARCH: b"\0\x10"}
IPXE = {**BIOS, Option.USER_CLASS: b"iPXE"}
OS = {Option.VENDOR_CLASS: b"udhcp 1.35.0"}


def subnets() -> Subnets:
    """The one that we are attached to, and one behind a relay."""
    far = Leasing(((IPv4Address("10.88.0.10"), IPv4Address("10.88.0.11")),))
    return Subnets([Subnet(NETWORK, LEASING, ours=[OURS]), Subnet(FAR, far)])


def table(known: Subnets) -> LeaseTable:
    return known.all()[0].table


def lease(known: Subnets, mac: MacAddress, address: IPv4Address, now: datetime = NOW) -> None:
    """Somebody has it for an hour."""
    table(known).grant(Claimant(mac), address, now, HOUR)


def asks(kind: MessageType, options: dict[Option, bytes], **fields: object) -> Packet:
    packet = Packet(op=1, xid=1, chaddr=MAC, options={Option.MESSAGE_TYPE: bytes((kind,)), **options})
    return replace(packet, **fields)


def decide(
    packet: Packet,
    scope: Scope = SERVER,
    known: Subnets | None = None,
    *,
    port: int = 67,
    source: str = "0.0.0.0",
    may_netboot: bool = True,
    now: datetime = NOW,
    style: Style | None = None,
) -> Decision:
    client = pxe.client(packet)
    asked = Asked(
        packet, client, (source, 68), port, may_netboot, style=proxy_style.first(client) if style is None else style
    )
    return offer.decide(asked, scope, known or subnets(), now)


def reply(packet: Packet, scope: Scope = SERVER, known: Subnets | None = None, **how: object) -> Reply:
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
    """A client gets the wrong boot program, or none (edge case 2: a list of architectures; edge cases 14, 20 and 42)."""
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


def seconds(packet: Packet, code: Option) -> int:
    return int.from_bytes(packet.options[code], "big")


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
def test_lease_time(options: dict[Option, bytes], asked: int, given: int) -> None:
    """A client cannot ask for a short lease (option 51), or gets a longer one than the operator allows."""
    packet = reply(asks(MessageType.DISCOVER, {**options, Option.LEASE_TIME: dhcp.encode_seconds(asked)})).packet
    assert seconds(packet, Option.LEASE_TIME) == given


@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_firmware_leases_are_short(options: dict[Option, bytes]) -> None:
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

RELAY = IPv4Address("10.88.0.254")


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


# --- DHCPREQUEST in its states (RFC 2131 section 4.3.2) --------------------------------------------------------------

ACK, NAK, SILENCE = MessageType.ACK, MessageType.NAK, None
SECOND = FIRST + 1


def selecting(address: IPv4Address, server: IPv4Address = OURS) -> Packet:
    return asks(MessageType.REQUEST, {Option.SERVER_ID: server.packed, Option.REQUESTED_ADDRESS: address.packed})


def init_reboot(address: IPv4Address) -> Packet:
    return asks(MessageType.REQUEST, {Option.REQUESTED_ADDRESS: address.packed})


def renewing(address: IPv4Address) -> Packet:
    return asks(MessageType.REQUEST, {}, ciaddr=address)


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
    leased_by: dict[Option, bytes], released_by: dict[Option, bytes], is_free: bool
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


# --- who is left alone -----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("scope", [SERVER, PROXY])
@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_nobody_boots_from_what_is_not_open(scope: Scope, options: dict[Option, bytes]) -> None:
    """Machines are sent to a TFTP server that is not there (invariant 10), or systems lose their addresses because of it."""
    closed = replace(scope, missing="TFTP")
    for port in (67, 4011):
        decision = decide(asks(MessageType.DISCOVER, options), closed, port=port)
        assert isinstance(decision, Ignore)
        assert decision.warn
        assert "TFTP is not open" in decision.reason
    if not scope.proxy:
        assert reply(asks(MessageType.DISCOVER, OS), closed).packet.yiaddr == FIRST


ALL_FILES = replace(SERVER, boot_files=pxe.BOOT_LOADERS)
"""A provider with everything, the operator's own boot files too."""


def announces(arch: int, vendor: bytes = b"PXEClient:Arch:00000:UNDI:002001") -> dict[Option, bytes]:
    return {Option.VENDOR_CLASS: vendor, Option.CLIENT_ARCH: arch.to_bytes(2, "big"), Option.CLIENT_UUID: UUID}


@pytest.mark.parametrize(("arch", "row"), [(arch, row) for row in pxe.FIRMWARES for arch in row.archs])
def test_who_gets_what(arch: int, row: pxe.Firmware) -> None:
    """Firmware gets another program than the table says, or one that we do not have (edge case 13: U-Boot's codes)."""
    vendor = b"U-Boot.armv8" if row in (pxe.UBOOT_ARM64, pxe.UBOOT_ARM64_HTTP) else b"PXEClient:Arch:00000:UNDI:003001"
    packet = asks(
        MessageType.DISCOVER, announces(arch, b"HTTPClient" if row.by_http and vendor[:1] == b"P" else vendor)
    )
    file = reply(packet, ALL_FILES).packet.file.decode()
    assert file == (ALL_FILES.file_url(row.programs[0]) if row.by_http else row.programs[0])
    for missing in (SERVER, replace(SERVER, boot_files=frozenset())):
        decision = decide(packet, missing)
        expected = row.programs[0] in missing.boot_files
        assert isinstance(decision, Reply) if expected else isinstance(decision, Ignore) and decision.warn


U_BOOT = {  # 2023.01, from the capture.
    Option.CLIENT_ARCH: b"\0\x0b",
    Option.CLIENT_INTERFACE: b"\1\0\0",
    Option.VENDOR_CLASS: b"PXEClient:Arch:00011:UNDI:003000",
}


@pytest.mark.parametrize("scope", [SERVER, PROXY])
def test_u_boot_that_says_it_were_uefi(scope: Scope) -> None:
    """U-Boot gets a shim, which finds no TFTP there; or is sent to port 4011, where it never asks (edge case 12)."""
    files = {"boot_files": frozenset({"shimaa64.efi", "grubaa64.efi"})}
    assert reply(asks(MessageType.DISCOVER, U_BOOT), replace(scope, **files)).packet.file == b"grubaa64.efi"
    edk2 = {**U_BOOT, Option.CLIENT_INTERFACE: b"\1\3\0"}
    assert reply(asks(MessageType.DISCOVER, edk2), replace(SERVER, **files)).packet.file == b"shimaa64.efi"


@pytest.mark.parametrize(
    ("options", "file"),
    [
        (announces(0x7777), "undionly.kpxe"),
        (announces(0x7777, b"PXEClient:Arch:30583:UNDI:003016"), "snponly.efi"),
        (announces(0x7777, b"HTTPClient:Arch:30583:UNDI:003016"), "http://10.77.0.1:8080/assets/boot/snponly.efi"),
    ],
)
def test_unknown_architecture_gets_the_likeliest(options: dict[Option, bytes], file: str) -> None:
    """Firmware of tomorrow gets silence, or nobody learns that we guess (edge case 19)."""
    answer = reply(asks(MessageType.DISCOVER, options))
    assert answer.packet.file.decode() == file
    assert "0x7777" in answer.warning


def test_missing_architecture_is_a_bios() -> None:
    """An old ROM that announces nothing gets nothing (edge case 19)."""
    answer = reply(asks(MessageType.DISCOVER, {Option.VENDOR_CLASS: b"PXEClient"}))
    assert (answer.packet.file, answer.warning) == (b"undionly.kpxe", "")


@pytest.mark.parametrize("arch", [0x0A, 0x1B, 0x27])
def test_other_processors_get_nothing(arch: int) -> None:
    """An ARM 32, RISC-V or LoongArch machine is given a program for x64, or fails without a reason."""
    decision = decide(asks(MessageType.DISCOVER, announces(arch)), ALL_FILES)
    assert isinstance(decision, Ignore)
    assert decision.warn
    assert f"0x{arch:02x}" in decision.reason


PI = macs.parse("dc:a6:32:00:00:01")


@pytest.mark.parametrize("scope", [ALL_FILES, replace(ALL_FILES, proxy=True)])
def test_raspberry_pi_is_no_pc(scope: Scope) -> None:
    """A Raspberry Pi is sent a PC's boot program, because it announces that it were one (edge case 3)."""
    packet = reply(asks(MessageType.DISCOVER, BIOS, chaddr=PI), scope).packet
    assert packet.file == b"start4.elf"
    assert packet.siaddr == OURS
    with_uefi = {**BIOS, Option.CLIENT_ARCH: b"\0\x0b"}
    assert reply(asks(MessageType.DISCOVER, with_uefi, chaddr=PI), ALL_FILES).packet.file == b"snponly-arm64.efi"


@pytest.mark.parametrize("scope", [ALL_FILES, replace(ALL_FILES, proxy=True)])
def test_raspberry_pi_finds_its_name(scope: Scope) -> None:
    """A Raspberry Pi ignores every server that does not offer "Raspberry Pi Boot" (edge case 4)."""
    packet = reply(asks(MessageType.DISCOVER, BIOS, chaddr=PI), scope).packet
    assert dhcp.decode_suboptions(packet.options[Option.VENDOR_SPECIFIC]) == {
        6: b"\x08",
        9: b"\0\0\x11Raspberry Pi Boot",
        10: b"\0PXE",
    }


def test_ipxe_without_http_is_chained_by_url() -> None:
    """iPXE in a ROM looks for a bare name at another server, or gets a script URL that it cannot fetch (edge case 5)."""
    tftp_only = dhcp.encode_suboptions({0x15: b"\1", 0x18: b"\1"})
    packet = reply(asks(MessageType.DISCOVER, {**IPXE, Option.IPXE: tftp_only})).packet
    assert packet.file == b"tftp://10.77.0.1/undionly.kpxe"


@pytest.mark.parametrize("user_class", [b"iPXE", b"\x04iPXE"])
def test_ipxe_is_not_loaded_for_ever(user_class: bytes) -> None:
    """iPXE gets itself again and again, because it sends the user class of every iPXE (edge case 6)."""
    features = dhcp.encode_suboptions({0x13: b"\1", 0x15: b"\1"})
    for options in ({}, {Option.IPXE: features}):
        packet = reply(asks(MessageType.DISCOVER, {**BIOS, Option.USER_CLASS: user_class, **options})).packet
        assert packet.file.endswith(b"/boot.ipxe")


def test_uboot_reads_the_header() -> None:
    """U-Boot beside another DHCP server finds no file: it reads the BOOTP header, and never asks again (edge case 12)."""
    uboot = announces(0x16, b"U-Boot.armv8")
    packet = reply(asks(MessageType.DISCOVER, uboot), replace(ALL_FILES, proxy=True)).packet
    assert packet.file == packet.options[Option.BOOT_FILE_NAME] == b"snponly-arm64.efi"
    assert packet.siaddr == OURS


@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_boot_url_is_plain(options: dict[Option, bytes]) -> None:
    """HTTP boot fails on `//` in the path (edge case 15)."""
    file = reply(asks(MessageType.DISCOVER, options)).packet.file.decode()
    assert "//" not in file.partition("://")[2]


@pytest.mark.parametrize("scope", [SERVER, PROXY])
@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_boot_server_is_an_address(scope: Scope, options: dict[Option, bytes]) -> None:
    """
    Firmware asks the DHCP server beside us for our file, or broadcasts to port 4011 (edge cases 9, 17).

    And it cannot look up a name (edge case 16).
    """
    packet = reply(asks(MessageType.DISCOVER, options), scope).packet
    assert packet.siaddr == OURS
    assert packet.options[Option.SERVER_ID] == OURS.packed
    if packet.file:
        assert packet.options[Option.TFTP_SERVER_NAME] == b"10.77.0.1"
        assert packet.options[Option.TFTP_SERVER_ADDRESS] == OURS.packed


@pytest.mark.parametrize(
    ("uuid", "answered"), [(None, True), (b"", True), (UUID, True), (b"\1" * 17, False), (b"\0", False)]
)
def test_uuid_of_firmware(uuid: bytes | None, answered: bool) -> None:
    """Firmware without a UUID does not boot, one with it does not get it back, or nonsense is answered (edge case 1)."""
    options = {**BIOS, Option.CLIENT_UUID: uuid} if uuid is not None else {Option.VENDOR_CLASS: b"PXEClient"}
    decision = decide(asks(MessageType.DISCOVER, options))
    assert isinstance(decision, Reply) == answered
    if isinstance(decision, Reply) and uuid:
        assert decision.packet.options[Option.CLIENT_UUID] == uuid


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

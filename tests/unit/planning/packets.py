"""What DHCP clients send, and a provider that answers: for the tests of all that is decided about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

from provider.domain import mac as macs
from provider.domain.lease import Claimant
from provider.domain.mac import MacAddress
from provider.planning import offer, proxy_style
from provider.planning.leases import LeaseTable
from provider.planning.proxy_style import Style
from provider.planning.reply import Asked, Decision, Reply, Scope
from provider.planning.subnets import Leasing, Subnet, Subnets, site_options
from provider.wire import pxe
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
RELAY = IPv4Address("10.88.0.254")

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


def announces(arch: int, vendor: bytes = b"PXEClient:Arch:00000:UNDI:002001") -> dict[int, bytes]:
    return {Option.VENDOR_CLASS: vendor, Option.CLIENT_ARCH: arch.to_bytes(2, "big"), Option.CLIENT_UUID: UUID}


def asks(kind: MessageType, options: dict[int, bytes], **fields: object) -> Packet:
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


def seconds(packet: Packet, code: int) -> int:
    return int.from_bytes(packet.options[code], "big")


def selecting(address: IPv4Address, server: IPv4Address = OURS) -> Packet:
    return asks(MessageType.REQUEST, {Option.SERVER_ID: server.packed, Option.REQUESTED_ADDRESS: address.packed})


def init_reboot(address: IPv4Address) -> Packet:
    return asks(MessageType.REQUEST, {Option.REQUESTED_ADDRESS: address.packed})


def renewing(address: IPv4Address) -> Packet:
    return asks(MessageType.REQUEST, {}, ciaddr=address)

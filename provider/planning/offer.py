"""
What to answer to one DHCP packet: a pure decision.

`Scope` is one interface as the settings have it, `decide` takes a packet that came in on it and gives a `Reply`, `Forget` or
`Ignore` with a reason. In server mode we lease addresses and add the boot part for those who boot. In proxy mode another
server leases, and only boot clients hear from us: a ProxyDHCP offer on port 67, and the details on port 4011.

| Asks | Gets as boot file |
|---|---|
| PXE firmware (option 60 PXEClient) | the NBP of its architecture, by TFTP (`pxe.NBP`) |
| UEFI HTTP boot (option 60 HTTPClient) | the same, as an HTTP URL |
| iPXE (user class, or its features in option 175) | the URL of the boot script |
| anything else | nothing but an address, and that in server mode only |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

from provider.domain.lease import Lease
from provider.planning.leases import LeaseTable
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option, Packet

BROADCAST = IPv4Address("255.255.255.255")
SERVER_PORT = 67
CLIENT_PORT = 68


@dataclass(frozen=True)
class Scope:
    """One interface that we answer on."""

    interface: str
    address: IPv4Address
    network: IPv4Network
    proxy: bool
    http_port: int
    boot_files: frozenset[str]
    """Names that TFTP serves; nothing else is ever advertised."""
    lease_time: timedelta = timedelta(hours=1)
    boot_lease_time: timedelta = timedelta(minutes=2)
    router: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    domain: str = ""

    @property
    def script_url(self) -> str:
        """Where iPXE finds its script; some builds want the name to end in .ipxe (edge case 42)."""
        return f"http://{self.address}:{self.http_port}/boot.ipxe"

    def file_url(self, name: str) -> str:
        """Where UEFI HTTP boot finds a boot file."""
        return f"http://{self.address}:{self.http_port}/assets/boot/{name}"


@dataclass(frozen=True)
class Reply:
    """Send `packet` to `to`; if there is a lease, save it first."""

    packet: Packet
    to: tuple[IPv4Address, int]
    event: str
    lease: Lease | None = None
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Forget:
    """A client gave an address back, or found it in use: save the lease as it is now, and send nothing."""

    lease: Lease
    event: str


@dataclass(frozen=True)
class Ignore:
    """Send nothing, because of `reason`. `warn` if an operator should hear of it."""

    reason: str
    warn: bool = False


Decision = Reply | Forget | Ignore


@dataclass(frozen=True)
class Asked:
    """One packet and how it came."""

    packet: Packet
    source: tuple[IPv4Address, int]
    port: int
    """The port of ours that it came to: 67 or 4011."""
    may_netboot: bool


def decide(asked: Asked, scope: Scope, table: LeaseTable | None, now: datetime) -> Decision:
    """Decide the answer. `table` is changed by what is offered and leased; in proxy mode there is none."""
    packet = asked.packet
    if packet.op != dhcp.BOOTREQUEST:
        return Ignore("not a request")
    if packet.message_type is None:
        return Ignore("plain BOOTP, without a DHCP message type")
    if packet.giaddr != dhcp.NOWHERE and packet.giaddr not in scope.network:
        return Ignore(f"the relay {packet.giaddr} is of a subnet that is not configured here")
    client = pxe.client(packet)
    if not client.valid:
        return Ignore("option 97 is malformed")
    boots = client.is_pxe or client.is_http or client.is_ipxe
    if boots and not asked.may_netboot:
        return Ignore("the machine was rejected or is cordoned: left to its next boot device")
    if asked.port == pxe.SERVER_PORT:
        return _boot_service(asked, scope, client)
    if scope.proxy or table is None:
        return (
            _proxy(asked, scope, client) if boots else Ignore("not a boot client; its addresses are another's business")
        )
    return _serve(asked, scope, table, client, now)


def stage(client: pxe.Client) -> str:
    """Which of the programs that share one MAC address is speaking."""
    if client.is_ipxe:
        return "ipxe"
    return "firmware" if client.is_pxe or client.is_http else "os"


# --- the boot part ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Boot:
    """What goes into the answer of a boot client."""

    file: str
    options: dict[int, bytes]


def _boot(scope: Scope, client: pxe.Client) -> _Boot | Ignore:
    if client.is_ipxe:
        return _Boot(scope.script_url, {Option.IPXE: pxe.no_proxy_wait()})
    name = pxe.NBP.get(client.arch) if client.arch is not None else None
    if name is None:
        return Ignore("no NBP for its architecture (option 93)", warn=True)
    if name not in scope.boot_files:
        return Ignore(f"its NBP {name} is missing: run bootwright assets build", warn=True)
    if client.is_http:
        return _Boot(scope.file_url(name), {Option.VENDOR_CLASS: pxe.HTTP_CLIENT})
    return _Boot(name, {Option.VENDOR_CLASS: pxe.PXE_CLIENT})


def _boot_options(scope: Scope, packet: Packet, boot: _Boot) -> dict[int, bytes]:
    """The boot part as options; firmware reads either these or the header fields, so both are filled."""
    options = dict(boot.options)
    options[Option.TFTP_SERVER_NAME] = str(scope.address).encode()
    options[Option.BOOT_FILE_NAME] = boot.file.encode()
    options[Option.TFTP_SERVER_ADDRESS] = scope.address.packed
    if uuid := packet.options.get(Option.CLIENT_UUID):
        options[Option.CLIENT_UUID] = uuid
    return options


# --- ProxyDHCP -------------------------------------------------------------------------------------------------------


def _proxy(asked: Asked, scope: Scope, client: pxe.Client) -> Decision:
    """Answer a DHCPDISCOVER beside a foreign server."""
    packet = asked.packet
    if packet.message_type is not MessageType.DISCOVER:
        return Ignore("meant for the DHCP server beside us")
    boot = _boot(scope, client)
    if isinstance(boot, Ignore):
        return boot
    options: dict[int, bytes] = {Option.VENDOR_CLASS: pxe.HTTP_CLIENT if client.is_http else pxe.PXE_CLIENT}
    file = boot.file
    if client.is_pxe and not client.is_ipxe and client.arch is not pxe.Arch.BIOS:
        # EDK2 takes this offer as "ask me on port 4011", and refuses one that already names a file.
        file = ""
        if uuid := packet.options.get(Option.CLIENT_UUID):
            options[Option.CLIENT_UUID] = uuid
    else:
        options = {**_boot_options(scope, packet, boot), **options}
        if not client.is_http:
            options[Option.VENDOR_SPECIFIC] = pxe.discovery_control()
    reply = _answer(packet, scope, MessageType.OFFER, options, file=file, siaddr=scope.address)
    return Reply(reply, _destination(packet, reply), "dhcp.offered", facts={"stage": stage(client), "mode": "proxy"})


def _boot_service(asked: Asked, scope: Scope, client: pxe.Client) -> Decision:
    """Answer on port 4011: the second half of ProxyDHCP, to the port that the client asked from."""
    packet = asked.packet
    if packet.message_type not in (MessageType.REQUEST, MessageType.INFORM, MessageType.DISCOVER):
        return Ignore("not a request for boot details")
    if not (client.is_pxe or client.is_http or client.is_ipxe):
        return Ignore("not a boot client")
    boot = _boot(scope, client)
    if isinstance(boot, Ignore):
        return boot
    options = _boot_options(scope, packet, boot)
    options.setdefault(Option.VENDOR_CLASS, pxe.PXE_CLIENT)
    reply = _answer(packet, scope, MessageType.ACK, options, file=boot.file, siaddr=scope.address)
    to = asked.source if asked.source[0] != dhcp.NOWHERE else (BROADCAST, CLIENT_PORT)
    return Reply(reply, to, "pxe.acknowledged", facts={"file": boot.file})


# --- a server of our own ---------------------------------------------------------------------------------------------


def _serve(asked: Asked, scope: Scope, table: LeaseTable, client: pxe.Client, now: datetime) -> Decision:
    packet = asked.packet
    match packet.message_type:
        case MessageType.DISCOVER:
            return _discover(packet, scope, table, client, now)
        case MessageType.REQUEST:
            return _request(packet, scope, table, client, now)
        case MessageType.DECLINE:
            address = packet.address(Option.REQUESTED_ADDRESS) or dhcp.NOWHERE
            lease = table.decline(packet.chaddr, address, now)
            return Forget(lease, "dhcp.declined") if lease else Ignore("declines an address that it does not have")
        case MessageType.RELEASE:
            lease = table.release(packet.chaddr, packet.ciaddr, now)
            return Forget(lease, "dhcp.released") if lease else Ignore("releases an address that it does not have")
        case MessageType.INFORM:
            return _inform(packet, scope)
        case _:
            return Ignore("a message that only servers send")


def _discover(packet: Packet, scope: Scope, table: LeaseTable, client: pxe.Client, now: datetime) -> Decision:
    boot = _boot_part(scope, client)
    if isinstance(boot, Ignore):
        return boot
    address = table.choose(packet.chaddr, packet.address(Option.REQUESTED_ADDRESS), now)
    if address is None:
        return Ignore(f"the pool is exhausted: all {table.size()} addresses are leased", warn=True)
    table.hold(packet.chaddr, address, now)
    reply = _leased(packet, scope, MessageType.OFFER, address, client, boot)
    return Reply(
        reply, _destination(packet, reply), "dhcp.offered", facts={"address": str(address), "stage": stage(client)}
    )


def _request(packet: Packet, scope: Scope, table: LeaseTable, client: pxe.Client, now: datetime) -> Decision:
    """DHCPREQUEST in its four states (RFC 2131 section 4.3.2)."""
    chosen = packet.address(Option.SERVER_ID)
    if chosen is not None and chosen != scope.address:
        return Ignore(f"chose another server, {chosen}")
    wanted = packet.address(Option.REQUESTED_ADDRESS) or packet.ciaddr
    if wanted == dhcp.NOWHERE:
        return Ignore("names no address")
    if not table.may_have(packet.chaddr, wanted, now):
        return _refuse(packet, scope, f"{wanted} cannot be leased to it")
    boot = _boot_part(scope, client)
    if isinstance(boot, Ignore):
        return boot
    lease = table.grant(packet.chaddr, wanted, now, _duration(scope, client))
    reply = _leased(packet, scope, MessageType.ACK, wanted, client, boot)
    facts = {"address": str(wanted), "stage": stage(client)}
    return Reply(reply, _destination(packet, reply), "dhcp.acknowledged", lease, facts)


def _refuse(packet: Packet, scope: Scope, why: str) -> Reply:
    """DHCPNAK: the client starts over (RFC 2131 section 4.3.2); it cannot have the address that it thinks it has."""
    options: dict[int, bytes] = {Option.MESSAGE: why.encode()[:255]}
    nak = _answer(packet, scope, MessageType.NAK, options)
    to = (packet.giaddr, SERVER_PORT) if packet.giaddr != dhcp.NOWHERE else (BROADCAST, CLIENT_PORT)
    return Reply(nak, to, "dhcp.refused", facts={"reason": why})


def _inform(packet: Packet, scope: Scope) -> Decision:
    """A client that has its address and wants the rest (RFC 2131 section 4.3.5): no lease, no lease time."""
    if packet.ciaddr == dhcp.NOWHERE:
        return Ignore("DHCPINFORM without an address")
    reply = _answer(packet, scope, MessageType.ACK, _site_options(scope))
    return Reply(reply, (packet.ciaddr, CLIENT_PORT), "dhcp.informed")


def _boot_part(scope: Scope, client: pxe.Client) -> _Boot | Ignore | None:
    if not (client.is_pxe or client.is_http or client.is_ipxe):
        return None
    return _boot(scope, client)


def _leased(
    packet: Packet, scope: Scope, kind: MessageType, address: IPv4Address, client: pxe.Client, boot: _Boot | None
) -> Packet:
    seconds = int(_duration(scope, client).total_seconds())
    options: dict[int, bytes] = {
        Option.LEASE_TIME: dhcp.encode_seconds(seconds),
        Option.RENEWAL_TIME: dhcp.encode_seconds(seconds // 2),
        Option.REBINDING_TIME: dhcp.encode_seconds(seconds * 7 // 8),
        **_site_options(scope),
    }
    if boot is None:
        return _answer(packet, scope, kind, options, yiaddr=address)
    options |= _boot_options(scope, packet, boot)
    if client.is_pxe and not client.is_ipxe:
        options[Option.VENDOR_SPECIFIC] = pxe.discovery_control()
    return _answer(packet, scope, kind, options, yiaddr=address, file=boot.file, siaddr=scope.address)


def _site_options(scope: Scope) -> dict[int, bytes]:
    options: dict[int, bytes] = {
        Option.SUBNET_MASK: scope.network.netmask.packed,
        Option.BROADCAST_ADDRESS: scope.network.broadcast_address.packed,
    }
    if scope.router is not None:
        options[Option.ROUTER] = scope.router.packed
    if scope.dns:
        options[Option.DNS] = dhcp.encode_addresses(*scope.dns)
    if scope.domain:
        options[Option.DOMAIN_NAME] = scope.domain.encode()
    return options


def _duration(scope: Scope, client: pxe.Client) -> timedelta:
    return scope.lease_time if stage(client) == "os" else scope.boot_lease_time


def _answer(
    packet: Packet,
    scope: Scope,
    kind: MessageType,
    options: dict[int, bytes],
    *,
    yiaddr: IPv4Address = dhcp.NOWHERE,
    siaddr: IPv4Address = dhcp.NOWHERE,
    file: str = "",
) -> Packet:
    """Fill in what every answer has (RFC 2131 table 3); option 82 goes back as it came (RFC 3046 section 2.2)."""
    head: dict[int, bytes] = {Option.MESSAGE_TYPE: bytes((kind,)), Option.SERVER_ID: scope.address.packed}
    relay = packet.options.get(Option.RELAY_AGENT)
    tail: dict[int, bytes] = {} if relay is None else {Option.RELAY_AGENT: relay}
    return Packet(
        op=dhcp.BOOTREPLY,
        xid=packet.xid,
        chaddr=packet.chaddr,
        options={**head, **options, **tail},
        flags=packet.flags,
        ciaddr=packet.ciaddr if kind is MessageType.ACK else dhcp.NOWHERE,
        yiaddr=yiaddr,
        siaddr=siaddr,
        giaddr=packet.giaddr,
        file=file.encode()[:127],
    )


def _destination(packet: Packet, reply: Packet) -> tuple[IPv4Address, int]:
    """
    RFC 2131 section 4.1. A client without an address that could take unicast gets broadcast all the same: unicast to it
    would need a forged ARP entry, and every client accepts this.
    """
    if packet.giaddr != dhcp.NOWHERE:
        return packet.giaddr, SERVER_PORT
    if packet.ciaddr != dhcp.NOWHERE and reply.message_type is MessageType.ACK:
        return packet.ciaddr, CLIENT_PORT
    return BROADCAST, CLIENT_PORT

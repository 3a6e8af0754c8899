"""
What is decided about one DHCP packet, and how an answer is put together and addressed (RFC 2131 table 3, section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from provider.domain.lease import Lease
from provider.domain.machine import Attachment
from provider.planning.loader import Loader
from provider.planning.proxy_style import Style
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option, Packet, RelayOption

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
    ports: tuple[int, ...] = (SERVER_PORT, pxe.SERVER_PORT)
    """Those of ours that we listen on."""
    missing: str = ""
    """Servers of ours that could not be opened on it; as long as there are any, nobody is told to boot from us."""
    has_tftp: bool = True
    """Whether we serve files by TFTP at all; else only those who know HTTP can boot."""

    @property
    def script_url(self) -> str:
        """Where iPXE finds its script; some builds want the name to end in .ipxe (edge case 42)."""
        return f"http://{self.address}:{self.http_port}/boot.ipxe"

    def file_url(self, name: str) -> str:
        """Where UEFI HTTP boot finds a boot file; never with `//` in its path, nor by way of a redirect (edge case 15)."""
        return f"http://{self.address}:{self.http_port}/assets/boot/{name}"

    def tftp_url(self, name: str) -> str:
        """The same for those who want a URL and know no HTTP."""
        return f"tftp://{self.address}/{name}"


@dataclass(slots=True)
class Asked:
    """One packet and how it came. Nobody changes one that is made; as with a Packet, to freeze it would cost too much."""

    packet: Packet
    client: pxe.Client
    """What the packet says of its sender: `pxe.client` of it."""
    source: tuple[str, int]
    port: int
    """The port of ours that it came to: 67 or 4011."""
    may_netboot: bool
    loader: Loader = Loader.IPXE
    style: Style = Style.COMPLETE
    """Of an offer beside another DHCP server."""


@dataclass(slots=True)
class To:
    """Where an answer goes. Nobody changes it, likewise."""

    address: IPv4Address
    port: int = CLIENT_PORT
    by_hardware: bool = False
    """The client does not answer ARP for `address` yet: put the frame to its chaddr."""


EVERYBODY = To(BROADCAST)


@dataclass(slots=True)
class Reply:
    """Send `packet` to `to`, after `leases` are saved. Nobody changes it, likewise."""

    packet: Packet
    to: To
    event: str
    """What the machine's history says of it; empty: nothing, another event will tell as much."""
    leases: tuple[Lease, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    largest: int = 548
    """Bytes of UDP payload that the client takes."""
    warning: str = ""
    """What an operator should hear."""
    warning_event: str = "dhcp.guessed"


@dataclass(frozen=True, slots=True)
class Verify:
    """Send nothing yet: find out by ARP whether somebody uses `address`, and then decide again."""

    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Forget:
    """A client gave an address back, or found it in use: save the lease as it is now, and send nothing."""

    lease: Lease
    event: str
    warning: str = ""
    """What an operator should hear."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """Send nothing, because of `reason`. `warn` if an operator should hear of it."""

    reason: str
    warn: bool = False
    again: bool = False
    """The warning is worth repeating; else it is given once of each machine."""


Decision = Reply | Verify | Forget | Ignore


def attachment(packet: Packet, scope: Scope) -> Attachment | None:
    """
    Where the client is, as this packet tells.

    None for a renewal by unicast, which may come any way, and for what follows a DHCPOFFER, because that told it.
    """
    if Option.SERVER_ID in packet.options:
        return None
    if packet.giaddr == dhcp.NOWHERE:
        return Attachment(scope.interface) if packet.ciaddr == dhcp.NOWHERE else None
    return _behind(scope.interface, packet.giaddr, packet.options.get(Option.RELAY_AGENT))


@lru_cache(maxsize=1024)
def _behind(interface: str, giaddr: IPv4Address, option_82: bytes | None) -> Attachment:
    """Behind a relay; many clients are at one place."""
    return Attachment(interface, str(giaddr), *dhcp.relay_port(option_82))


def whence(packet: Packet, scope: Scope) -> str:
    """The same for people, with everything that leads to the place."""
    parts = [f"on {scope.interface}"]
    if packet.giaddr != dhcp.NOWHERE:
        parts.append(f"relay {packet.giaddr}")
    if Option.RELAY_AGENT not in packet.options:
        return ", ".join((*parts, "without option 82"))
    names = ("circuit-id", "remote-id")
    return ", ".join(
        (*parts, *(f"{name} {value}" for name, value in zip(names, packet.relay_port, strict=True) if value))
    )


def answer(
    packet: Packet,
    scope: Scope,
    kind: MessageType,
    options: Mapping[int, bytes],
    *,
    yiaddr: IPv4Address = dhcp.NOWHERE,
    siaddr: IPv4Address = dhcp.NOWHERE,
    file: str = "",
) -> Packet:
    """
    Fill in what every answer has (RFC 2131 table 3).

    The client identifier goes back (RFC 6842), and option 82 as it came and as the last (RFC 3046 section 2.2).
    """
    filled: dict[int, bytes] = {Option.MESSAGE_TYPE: bytes((kind,)), Option.SERVER_ID: server_id(packet, scope).packed}
    if (client_id := packet.options.get(Option.CLIENT_ID)) is not None:
        filled[Option.CLIENT_ID] = client_id
    filled.update(options)
    if (relay := packet.options.get(Option.RELAY_AGENT)) is not None:
        filled[Option.RELAY_AGENT] = relay
    return Packet(
        op=dhcp.BOOTREPLY,
        xid=packet.xid,
        chaddr=packet.chaddr,
        options=filled,
        flags=packet.flags,
        ciaddr=packet.ciaddr if kind is MessageType.ACK else dhcp.NOWHERE,
        yiaddr=yiaddr,
        siaddr=siaddr,
        giaddr=packet.giaddr,
        file=file.encode()[:127],
    )


def scope_of(packet: Packet, scope: Scope, others: Iterable[Scope]) -> Scope:
    """
    The interface that an answer comes from: the one that the packet came in on, as a rule.

    A client that has an address of another network of ours renews and releases it by unicast to our address there. Whichever
    way that came, it is answered as that address: the client knows its server by it, and is reached there.
    """
    own = packet.ciaddr
    if own == dhcp.NOWHERE or packet.giaddr != dhcp.NOWHERE or own in scope.network:
        return scope
    if packet.message_type not in (MessageType.REQUEST, MessageType.RELEASE):
        return scope
    return next((each for each in others if own in each.network and not each.proxy), scope)


def server_id(packet: Packet, scope: Scope) -> IPv4Address:
    """Who we are to this client: the relay may want to stand in for us at renewals (RFC 5107)."""
    relay = packet.options.get(Option.RELAY_AGENT)
    if relay is not None and packet.giaddr != dhcp.NOWHERE:
        override = dhcp.decode_suboptions(relay).get(RelayOption.SERVER_ID_OVERRIDE, b"")
        if len(override) == 4:
            return IPv4Address(override)
    return scope.address


def destination(packet: Packet, yiaddr: IPv4Address) -> To:
    """Where a DHCPOFFER or DHCPACK goes (RFC 2131 section 4.1)."""
    if packet.giaddr != dhcp.NOWHERE:
        return To(packet.giaddr, SERVER_PORT)
    if packet.ciaddr != dhcp.NOWHERE:
        return To(packet.ciaddr)
    if packet.wants_broadcast or yiaddr == dhcp.NOWHERE:
        return EVERYBODY
    return To(yiaddr, by_hardware=True)

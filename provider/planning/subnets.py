"""
The subnets that we lease addresses of, and which of them a client is on.

`Leasing` is what the settings say of one subnet, `Subnet` that subnet with its network and its leases: one that an interface
of ours is attached to, or one behind relays. A client is on the subnet that its relay names (RFC 3527 link selection, else
giaddr), else on the one of the address that it has, else on the one that its packet came in from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

from provider.domain.lease import Lease, Reservation
from provider.planning.conflicts import Probes
from provider.planning.leases import LeaseTable, Pool
from provider.wire import dhcp
from provider.wire.dhcp import Option

_REMEMBERED = 1024
"""Of how many parameter lists, and links, we remember what they led to; real networks have a dozen."""

Range = tuple[IPv4Address, IPv4Address]
"""Lowest and highest address, both included."""


@dataclass(frozen=True)
class Leasing:
    """How one subnet is served, whatever its network."""

    ranges: tuple[Range, ...]
    excluded: tuple[Range, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    lease_time: timedelta = timedelta(hours=1)
    boot_lease_time: timedelta = timedelta(minutes=2)
    """For firmware and iPXE."""
    conflict_probe: timedelta = timedelta(0)
    """How long an offer waits for somebody to say by ARP that the address is in use; 0: nobody is asked."""
    clients_per_port: int = 0
    """Clients at one relay port that may have addresses when the pool runs short; 0: any number."""
    options: Mapping[int, bytes] = field(default_factory=dict)
    """For each client that asks for them (option 55), and for those that ask for nothing in particular."""
    device_options: Mapping[int, bytes] = field(default_factory=dict)
    """For those that ask for them and are no boot clients, such as phones and switches: where to load from."""

    def outside(self, network: IPv4Network) -> list[IPv4Address]:
        """Addresses to lease that are not in the network, or not for hosts."""
        ends = [address for each in self.ranges for address in each]
        return not_leasable((*ends, *(reservation.address for reservation in self.reservations)), network)


def not_leasable(addresses: Iterable[IPv4Address], network: IPv4Network) -> list[IPv4Address]:
    """Those that are not in the network, or not for hosts."""
    special = (network.network_address, network.broadcast_address) if network.prefixlen < 31 else ()
    return [address for address in addresses if address not in network or address in special]


class Subnet:
    """One network and its leases. `ours` are addresses in it that are the provider's own."""

    def __init__(
        self, network: IPv4Network, leasing: Leasing, *, ours: Sequence[IPv4Address] = (), known: Iterable[Lease] = ()
    ) -> None:
        self.network = network
        self.leasing = leasing
        self.ours = frozenset(ours)
        self._reserved = frozenset(each.address for each in leasing.reservations)
        self._more: tuple[Reservation, ...] = ()
        self.table = LeaseTable(self._pool(), (lease for lease in known if lease.address in network))
        self.reserve(())
        self.probes = Probes(leasing.conflict_probe)
        self._mask: dict[int, bytes] = {Option.SUBNET_MASK: network.netmask.packed}
        self._options = dict(leasing.options)
        if network.prefixlen < 31:  # A link between two has no broadcast address (RFC 3021), nor has a single host.
            self._options = {Option.BROADCAST_ADDRESS: network.broadcast_address.packed, **leasing.options}
        self._told: dict[tuple[bytes, bool], Mapping[int, bytes]] = {}

    def may_reserve(self, address: IPv4Address) -> bool:
        """Whether an operator may: a client can have it, and the settings do not reserve it."""
        ends = () if self.network.prefixlen > 30 else (self.network.network_address, self.network.broadcast_address)
        return address in self.network and address not in (*ends, *self.ours, *self._reserved)

    def reserve(self, more: Iterable[Reservation]) -> None:
        """Replace the operator's reservations; those of the settings stay, and win."""
        self._more = tuple(more)
        own = [each for each in self.leasing.reservations if each.address not in self.ours]
        self.table.reserve([*own, *(each for each in self._more if self.may_reserve(each.address))])

    def clock_was_set(self, was: datetime, now: datetime) -> list[Lease]:
        """Somebody set the clock; gives the leases to be saved."""
        longest = max(self.leasing.lease_time, self.leasing.boot_lease_time)
        return self.table.clock_was_set(was, now, longest)

    def keep_out(self, ours: Iterable[IPv4Address]) -> None:
        """These are the provider's own addresses in it now."""
        new = frozenset(ours)
        if new != self.ours:
            self.ours = new
            self.table.lease_out_of(self._pool())
            self.reserve(self._more)

    def _pool(self) -> Pool:
        return Pool(self.leasing.ranges, (*self.leasing.excluded, *((address, address) for address in self.ours)))

    def told(self, parameter_list: bytes, *, boots: bool) -> Mapping[int, bytes]:
        """The options for a client with this option 55, in the order that it asks for (RFC 2132 section 9.8)."""
        key = (parameter_list, boots)
        told = self._told.get(key)
        if told is None:
            if len(self._told) >= _REMEMBERED:
                self._told.clear()
            told = self._told[key] = self._tell(parameter_list, boots=boots)
        return told

    def _tell(self, parameter_list: bytes, *, boots: bool) -> Mapping[int, bytes]:
        if not parameter_list:
            return {**self._mask, **self._options}
        known = self._options if boots else {**self._options, **self.leasing.device_options}
        return {**self._mask, **{code: known[code] for code in parameter_list if code in known}}


class Subnets:
    """All subnets; their networks do not overlap."""

    def __init__(self, subnets: Iterable[Subnet] = ()) -> None:
        self._subnets = tuple(subnets)
        self._found: dict[int, Subnet | None] = {}

    def all(self) -> Sequence[Subnet]:
        """Each of them."""
        return self._subnets

    def serve(self, network: IPv4Network, leasing: Leasing, known: Iterable[Lease] = ()) -> Subnet:
        """
        Lease addresses of a network from now on, unless we do already: then its leases and offers are as they were.

        One that overlaps it belongs to the past, as an interface's network before its prefix changed; its leases move over.
        """
        before = [each for each in self._subnets if each.network.overlaps(network)]
        for each in before:
            if each.network == network and each.leasing is leasing:
                return each
        leases = [*known, *(lease for each in before for lease in each.table.leases())]
        subnet = Subnet(network, leasing, known=leases)
        self._subnets = (*(each for each in self._subnets if each not in before), subnet)
        self._found.clear()
        return subnet

    def of(self, address: IPv4Address) -> Subnet | None:
        """The one that the address is in."""
        number = int(address)  # As a key, an address takes eight times as long.
        if number not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[number] = next((each for each in self._subnets if address in each.network), None)
        return self._found[number]


def site_options(
    *,
    router: IPv4Address | None = None,
    dns: Sequence[IPv4Address] = (),
    ntp: Sequence[IPv4Address] = (),
    domain: str = "",
    search: Sequence[str] = (),
    routes: Sequence[tuple[IPv4Network, IPv4Address]] = (),
    mtu: int | None = None,
) -> dict[int, bytes]:
    """
    What a site tells its clients, as options.

    A client that takes option 121 ignores option 3, so the default route stands in both (RFC 3442).
    """
    options: dict[int, bytes] = {}
    if routes:
        everywhere = IPv4Network("0.0.0.0/0")
        has_default = router is None or any(to == everywhere for to, _via in routes)
        default = () if has_default or router is None else ((everywhere, router),)
        options[Option.STATIC_ROUTES] = dhcp.encode_routes((*routes, *default))
    if router is not None:
        options[Option.ROUTER] = router.packed
    if dns:
        options[Option.DNS] = dhcp.encode_addresses(*dns)
    if domain:
        options[Option.DOMAIN_NAME] = domain.encode()
    if search:
        options[Option.DOMAIN_SEARCH] = dhcp.encode_domains(search)
    if ntp:
        options[Option.NTP_SERVERS] = dhcp.encode_addresses(*ntp)
    if mtu is not None:
        options[Option.INTERFACE_MTU] = mtu.to_bytes(2, "big")
    return options


def device_options(
    *, tftp_server_name: str = "", boot_file: str = "", tftp_servers: Sequence[IPv4Address] = ()
) -> dict[int, bytes]:
    """Where devices that are not our machines load from: options 66, 67 and 150."""
    options: dict[int, bytes] = {}
    if tftp_server_name:
        options[Option.TFTP_SERVER_NAME] = tftp_server_name.encode()
    if boot_file:
        options[Option.BOOT_FILE_NAME] = boot_file.encode()
    if tftp_servers:
        options[Option.TFTP_SERVER_ADDRESS] = dhcp.encode_addresses(*tftp_servers)
    return options

"""
Which interfaces we serve now, and which sockets that takes: pure decisions.

The settings name interfaces (`Wanted`), the kernel has some of them (`Link`), with addresses that come and go. `decide` puts
both together, each time anew: a `Station` is one interface of the settings as it stands, with its `Scope` if it is served, and
with what is wrong if something is. `openings` says which servers are open where, and `difference` what to close and what to
open on the way from one such state to the next; what is in both is not touched.

An interface without its address is not served at all. One whose addresses cannot be leased, because the pool is not of its
network any more or the network is leased elsewhere already, has no DHCP; files and agents go on. A link that is down changes
nothing: sockets outlive that, and are needed as soon as it is up. Where a server of boot files cannot be opened, DHCP goes
on leasing and tells nobody of boot files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from provider.planning.reply import Scope
from provider.planning.subnets import Leasing


class Service(Enum):
    """What is open on an interface, in the order in which it is opened."""

    DHCP = "DHCP"
    TFTP = "TFTP"
    ROUTER = "router advertisements"
    BOOT_HTTP = "boot HTTP"
    AGENT_HTTPS = "agent HTTPS"
    TALOS_AGENTS = "Talos agents"


_ORDER = list(Service)
_ON_ADDRESS_ONLY = (Service.BOOT_HTTP, Service.AGENT_HTTPS, Service.TALOS_AGENTS)
_BOOTED_FROM = (Service.TFTP, *_ON_ADDRESS_ONLY)


@dataclass(frozen=True)
class Link:
    """What the kernel has under a name."""

    index: int
    """An interface that is made again under its name has another one; sockets stay with the old."""
    addresses: tuple[IPv4Interface, ...] = ()
    """In the kernel's order, with their networks."""
    up: bool = True
    carrier: bool = True


@dataclass(frozen=True)
class Wanted:
    """One interface as the settings want it."""

    name: str
    services: frozenset[Service]
    address: IPv4Address | None = None
    """Ours on it; None: the first that it has."""
    proxy: bool = False
    ports: tuple[int, ...] = ()
    """Of DHCP."""
    leasing: Leasing | None = None
    """With `dhcp: server`."""
    http_port: int = 8080
    boot_files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Problem:
    """Why something is not served, and what to do."""

    reason: str
    hint: str


@dataclass(frozen=True)
class Station:
    """One interface of the settings, as it is now."""

    wanted: Wanted
    link: Link | None = None
    scope: Scope | None = None
    """None: it is not served."""
    problem: Problem | None = None

    @property
    def name(self) -> str:
        """Of the interface."""
        return self.wanted.name

    @property
    def waits_for(self) -> Problem | None:
        """What is missing so that machines on it can boot."""
        if self.problem is not None or self.link is None:
            return self.problem
        if not self.link.up:
            return Problem(f"interface {self.name} is down", f"ip link set {self.name} up")
        if not self.link.carrier:
            return Problem(f"interface {self.name} has no carrier", "look at its cable, and at the other end")
        return None


@dataclass(frozen=True)
class Opening:
    """One server on one interface."""

    service: Service
    scope: Scope
    index: int
    """Of the interface; 0 where sockets are bound to the address alone, wherever it is."""
    leasing: Leasing | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Difference:
    """What leads from one state to another: first close, then open."""

    close: tuple[Opening, ...]
    open: tuple[Opening, ...]


def decide(
    wanted: Iterable[Wanted], links: Mapping[str, Link], behind_relays: Iterable[IPv4Network] = ()
) -> tuple[Station, ...]:
    """Put settings and kernel together, in the order of the settings; of two networks that overlap the first is leased."""
    leased = list(behind_relays)
    stations = []
    for each in wanted:
        station = _station(each, links.get(each.name), leased)
        if station.scope is not None and each.leasing is not None and station.problem is None:
            leased.append(station.scope.network)
        stations.append(station)
    return tuple(stations)


def openings(stations: Iterable[Station], failed: Collection[Opening] = ()) -> frozenset[Opening]:
    """What is open then, and DHCP with the word of those that failed to open."""
    return frozenset(_with_missing(opening, failed) for station in stations for opening in _openings(station))


def difference(before: frozenset[Opening], after: frozenset[Opening]) -> Difference:
    """What to close and what to open."""
    return Difference(_in_order(before - after), _in_order(after - before))


def _station(wanted: Wanted, link: Link | None, leased: Sequence[IPv4Network]) -> Station:
    if link is None:
        missing = Problem(
            f"there is no interface {wanted.name}", "list them with `ip -br addr` and mend network.interfaces"
        )
        return Station(wanted, problem=missing)
    own = next((each for each in link.addresses if wanted.address in (None, each.ip)), None)
    if own is None:
        return Station(wanted, link, problem=_without_address(wanted, link))
    scope = Scope(
        interface=wanted.name,
        address=own.ip,
        network=own.network,
        proxy=wanted.proxy,
        http_port=wanted.http_port,
        boot_files=wanted.boot_files,
        ports=wanted.ports,
        has_tftp=Service.TFTP in wanted.services,
    )
    return Station(wanted, link, scope, None if wanted.leasing is None else _unleasable(scope, wanted.leasing, leased))


def _without_address(wanted: Wanted, link: Link) -> Problem:
    if wanted.address is None:
        return Problem(
            f"interface {wanted.name} has no IPv4 address", f"give it one: ip addr add ADDRESS/PREFIX dev {wanted.name}"
        )
    others = ", ".join(str(each.ip) for each in link.addresses) or "none"
    return Problem(
        f"interface {wanted.name} does not have the address {wanted.address}, which network.interfaces gives it",
        f"its addresses: {others}; mend the setting, or: ip addr add {wanted.address}/PREFIX dev {wanted.name}",
    )


def _unleasable(scope: Scope, leasing: Leasing, leased: Sequence[IPv4Network]) -> Problem | None:
    if outside := leasing.outside(scope.network):
        return Problem(
            f"{outside[0]} cannot be leased on {scope.interface}, whose network is {scope.network}",
            "mend its pool and reservations in network.interfaces, or the address of the interface",
        )
    own = next((each for each in leasing.reservations if each.address == scope.address), None)
    if own is not None:
        return Problem(
            f"{own.address} is reserved for {own.value}, and is ours on {scope.interface}",
            "mend the reservations in network.interfaces, or the address of the interface",
        )
    for other in leased:
        if scope.network.overlaps(other):
            return Problem(
                f"addresses are leased in {other} and cannot be in {scope.network} on {scope.interface}: they overlap",
                "mend network.interfaces and network.subnets, or the addresses of the interfaces",
            )
    return None


def _openings(station: Station) -> Iterable[Opening]:
    scope, link = station.scope, station.link
    if scope is None or link is None:
        return
    without = {Service.DHCP, Service.ROUTER} if station.problem is not None else set()
    for service in station.wanted.services - without:
        index = 0 if service in _ON_ADDRESS_ONLY else link.index
        yield Opening(service, scope, index, station.wanted.leasing if service is Service.DHCP else None)


def _with_missing(opening: Opening, failed: Collection[Opening]) -> Opening:
    if opening.service is not Service.DHCP:
        return opening
    here = [each.service for each in failed if each.scope == opening.scope]
    missing = ", ".join(service.value for service in _BOOTED_FROM if service in here)
    return replace(opening, scope=replace(opening.scope, missing=missing))


def _in_order(these: Iterable[Opening]) -> tuple[Opening, ...]:
    return tuple(sorted(these, key=lambda each: (_ORDER.index(each.service), each.scope.interface, each.index)))

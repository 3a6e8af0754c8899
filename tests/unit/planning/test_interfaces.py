"""Which interfaces are served, and what is closed and opened when they change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from provider.domain.lease import Reservation, ReservedBy
from provider.planning import interfaces
from provider.planning.interfaces import Link, Opening, Service, Wanted
from provider.planning.subnets import Leasing

EVERYTHING = frozenset(Service)
BOUND_TO_INTERFACES = frozenset({Service.DHCP, Service.TFTP, Service.ROUTER})
FILES = frozenset({Service.TFTP, Service.BOOT_HTTP, Service.AGENT_HTTPS, Service.TALOS_AGENTS})
LEASING = Leasing(((IPv4Address("10.77.0.100"), IPv4Address("10.77.0.199")),))
ETH1 = Wanted("eth1", EVERYTHING, ports=(67, 4011), leasing=LEASING)
ETH2 = replace(ETH1, name="eth2")
PROXY = Wanted("eth3", EVERYTHING, proxy=True, ports=(67, 4011))
OFF = Wanted("eth4", FILES)


def link(*addresses: str, index: int = 5, up: bool = True, carrier: bool = True) -> Link:
    return Link(index, tuple(map(IPv4Interface, addresses)), up, carrier)


def open_on(*wanted: Wanted, links: Mapping[str, Link]) -> frozenset[Opening]:
    return interfaces.openings(interfaces.decide(wanted, links))


RESERVED_OURS = replace(LEASING, reservations=(Reservation(IPv4Address("10.77.0.1"), ReservedBy.MAC, "m", ""),))
RESERVED_OUTSIDE = replace(LEASING, reservations=(Reservation(IPv4Address("10.78.0.5"), ReservedBy.MAC, "m", ""),))


@pytest.mark.parametrize(
    ("wanted", "found", "address", "services", "waits_for"),
    [
        pytest.param(ETH1, link("10.77.0.1/24"), "10.77.0.1", EVERYTHING, "", id="as wanted"),
        pytest.param(ETH1, link("10.77.0.1/24", "10.99.0.1/24"), "10.77.0.1", EVERYTHING, "", id="the first address"),
        pytest.param(
            replace(ETH1, address=IPv4Address("10.77.0.2")),
            link("10.99.0.1/24", "10.77.0.2/25"),
            "10.77.0.2",
            FILES,
            "10.77.0.199 cannot be leased on eth1, whose network is 10.77.0.0/25",
            id="the address of the settings, with its own network",
        ),
        pytest.param(
            replace(PROXY, address=IPv4Address("10.77.0.2")),
            link("10.77.0.1/24", "10.77.0.2/24"),
            "10.77.0.2",
            EVERYTHING,
            "",
            id="the address of the settings",
        ),
        pytest.param(ETH1, None, None, frozenset(), "there is no interface eth1", id="no interface"),
        pytest.param(ETH1, link(), None, frozenset(), "interface eth1 has no IPv4 address", id="no address"),
        pytest.param(
            replace(ETH1, address=IPv4Address("10.77.0.2")),
            link("10.77.0.1/24"),
            None,
            frozenset(),
            "interface eth1 does not have the address 10.77.0.2",
            id="another address",
        ),
        pytest.param(
            ETH1, link("10.78.0.1/24"), "10.78.0.1", FILES, "10.77.0.100 cannot be leased on eth1", id="pool outside"
        ),
        pytest.param(
            replace(ETH1, leasing=RESERVED_OUTSIDE),
            link("10.77.0.1/24"),
            "10.77.0.1",
            FILES,
            "10.78.0.5 cannot be leased on eth1",
            id="reservation outside",
        ),
        pytest.param(
            replace(ETH1, leasing=RESERVED_OURS),
            link("10.77.0.1/24"),
            "10.77.0.1",
            FILES,
            "10.77.0.1 is reserved for m, and is ours on eth1",
            id="our own address reserved",
        ),
        pytest.param(
            ETH1, link("10.88.0.1/16"), "10.88.0.1", FILES, "10.77.0.100 cannot be leased", id="pool outside, larger"
        ),
        pytest.param(PROXY, link("10.78.0.1/24"), "10.78.0.1", EVERYTHING, "", id="a proxy goes anywhere"),
        pytest.param(OFF, link("10.78.0.1/24"), "10.78.0.1", FILES, "", id="no DHCP wanted"),
        pytest.param(
            ETH1, link("10.77.0.1/24", up=False), "10.77.0.1", EVERYTHING, "interface eth1 is down", id="down"
        ),
        pytest.param(
            ETH1,
            link("10.77.0.1/24", carrier=False),
            "10.77.0.1",
            EVERYTHING,
            "interface eth1 has no carrier",
            id="no carrier",
        ),
    ],
)
def test_one_interface(
    wanted: Wanted, found: Link | None, address: str | None, services: frozenset[Service], waits_for: str
) -> None:
    """Something is open where nobody can use it, or closed without a reason that names what to mend."""
    links = {} if found is None else {wanted.name: found}
    (station,) = interfaces.decide([wanted], links)
    assert (None if station.scope is None else str(station.scope.address)) == address
    assert {each.service for each in interfaces.openings([station])} == services
    if waits_for:
        assert station.waits_for is not None
        assert station.waits_for.reason.startswith(waits_for)
        assert station.waits_for.hint
    else:
        assert station.waits_for is None


def test_networks_that_overlap() -> None:
    """An address is leased twice (invariant 5), or the interface that was there first loses its DHCP."""
    links = {"eth1": link("10.77.0.1/24"), "eth2": link("10.77.0.2/16")}
    first, second = interfaces.decide([ETH1, ETH2], links)
    assert first.problem is None
    assert second.problem is not None
    assert "10.77.0.0/24 and cannot be in 10.77.0.0/16 on eth2" in second.problem.reason
    assert {each.service for each in interfaces.openings([second])} == FILES
    (alone,) = interfaces.decide([ETH1], links, [IPv4Network("10.77.0.128/25")])
    assert alone.problem is not None
    beside, proxy = interfaces.decide([ETH1, PROXY], {**links, "eth3": link("10.77.0.3/24")})
    assert beside.problem is proxy.problem is None, "who leases nothing is in nobody's way"
    away, back = interfaces.decide([ETH1, ETH2], {"eth2": links["eth2"]})
    assert away.problem is not None
    assert back.problem is None, "the other one is not there"


def test_nothing_changes() -> None:
    """What did not change is disturbed: by another look, by another interface, or because a link is down for a moment."""
    links = {"eth1": link("10.77.0.1/24"), "eth3": link("10.78.0.1/24", index=6)}
    before = open_on(ETH1, PROXY, links=links)
    assert interfaces.difference(before, open_on(ETH1, PROXY, links=dict(links))) == interfaces.Difference((), ())
    down = {**links, "eth1": replace(links["eth1"], up=False, carrier=False)}
    assert open_on(ETH1, PROXY, links=down) == before
    more = {**links, "eth1": link("10.77.0.1/24", "10.99.0.1/24")}
    assert open_on(ETH1, PROXY, links=more) == before
    gone = interfaces.difference(before, open_on(ETH1, PROXY, links={"eth1": links["eth1"]}))
    assert {each.scope.interface for each in gone.close} == {"eth3"}
    assert gone.open == ()


@pytest.mark.parametrize(
    ("after", "closed", "opened"),
    [
        pytest.param(link("10.77.0.2/24"), EVERYTHING, EVERYTHING, id="another address"),
        pytest.param(
            link("10.77.0.1/24", index=9),
            BOUND_TO_INTERFACES,
            BOUND_TO_INTERFACES,
            id="another index: listeners are bound to the address",
        ),
        pytest.param(link("10.99.0.1/24"), EVERYTHING, FILES, id="another network"),
        pytest.param(link(), EVERYTHING, frozenset(), id="no address"),
    ],
)
def test_difference(after: Link, closed: frozenset[Service], opened: frozenset[Service]) -> None:
    """Sockets stay on an interface, or an address, that is gone."""
    before = open_on(ETH1, links={"eth1": link("10.77.0.1/24")})
    difference = interfaces.difference(before, open_on(ETH1, links={"eth1": after}))
    assert {each.service for each in difference.close} == closed
    assert {each.service for each in difference.open} == opened
    assert [each.service for each in difference.open] == [each for each in Service if each in opened], "in their order"
    back = interfaces.difference(open_on(ETH1, links={"eth1": after}), before)
    assert (set(back.open), set(back.close)) == (set(difference.close), set(difference.open))


@pytest.mark.parametrize(
    ("failed", "missing"),
    [
        (set(), ""),
        ({Service.TFTP}, "TFTP"),
        ({Service.AGENT_HTTPS, Service.BOOT_HTTP}, "boot HTTP, agent HTTPS"),
        ({Service.DHCP}, ""),
        ({Service.ROUTER}, ""),
    ],
)
def test_dhcp_names_what_is_served(failed: set[Service], missing: str) -> None:
    """DHCP sends machines to servers that could not be opened (invariant 10), or those of another interface keep it silent."""
    stations = interfaces.decide([ETH1, PROXY], {"eth1": link("10.77.0.1/24"), "eth3": link("10.78.0.1/24", index=6)})
    wanted = interfaces.openings(stations)
    closed = [each for each in wanted if each.service in failed and each.scope.interface == "eth1"]
    now_wanted = interfaces.openings(stations, closed)
    assert {each for each in now_wanted if each.service is not Service.DHCP} == {
        each for each in wanted if each.service is not Service.DHCP
    }
    said = {each.scope.interface: each.scope.missing for each in now_wanted if each.service is Service.DHCP}
    assert said == {"eth1": missing, "eth3": ""}


def test_tftp_that_is_switched_off() -> None:
    """DHCP takes it for served, and names files that nobody has (invariant 10)."""
    off = replace(ETH1, services=ETH1.services - {Service.TFTP})
    for wanted in (ETH1, off):
        (dhcp,) = (
            each for each in open_on(wanted, links={"eth1": link("10.77.0.1/24")}) if each.service is Service.DHCP
        )
        assert dhcp.scope.has_tftp is (Service.TFTP in wanted.services)


def test_leasing_goes_with_dhcp() -> None:
    """DHCP is opened without its pool, or a proxy with one."""
    openings = open_on(ETH1, PROXY, links={"eth1": link("10.77.0.1/24"), "eth3": link("10.78.0.1/24", index=6)})
    leasing = {(each.service, each.scope.interface): each.leasing for each in openings if each.leasing is not None}
    assert leasing == {(Service.DHCP, "eth1"): LEASING}

"""Who takes how much of a pool at which relay port."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain import mac as macs
from provider.domain.lease import Claimant, Lease, Reservation, ReservedBy
from provider.planning import ports
from provider.planning.leases import HOLD, LeaseTable, Pool
from provider.planning.ports import Port, Ports

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIRST = IPv4Address("10.0.0.10")
SIZE, LIMIT = 40, 8
SHORT = 30
"""Addresses in use from which on less than a quarter is left."""


def at(number: int, circuit_id: str = "ge-0/0/1", remote_id: str = "sw") -> Claimant:
    return Claimant(macs.from_bytes(bytes((2, 0, 0, 0)) + number.to_bytes(2, "big")), "", circuit_id, remote_id)


def flood(
    table: LeaseTable, *, takes: bool, circuit_id: str = "ge-0/0/1", start: int = 1000, now: datetime = NOW
) -> int:
    """Ever new clients at one port, until they get nothing; how many addresses they have got."""
    for number in range(200):
        who = at(start + number, circuit_id)
        if table.crowded(who, LIMIT, now) or (address := table.offer(who, None, now)) is None:
            return number
        if takes:
            table.grant(who, address, now, HOUR)
    raise AssertionError


@pytest.fixture
def table() -> LeaseTable:
    return LeaseTable(Pool([(FIRST, FIRST + SIZE - 1)]))


@pytest.mark.parametrize("takes", [True, False], ids=["leases", "offers"])
def test_one_port_does_not_starve_the_others(table: LeaseTable, takes: bool) -> None:
    """Somebody at one switch port takes the whole pool, by leases or by DHCPDISCOVERs alone, and nobody else can boot."""
    assert flood(table, takes=takes) == SHORT
    assert flood(table, takes=True, circuit_id="ge-0/0/2", start=2000) == LIMIT, "an honest port has as much as it may"
    assert not table.crowded(at(1, ""), LIMIT, NOW), "and so has one who came without option 82"


def test_one_circuit_id_for_all() -> None:
    """A relay that puts the name of its network into the circuit-id has no more than 64 clients, however large the pool is."""
    table = LeaseTable(Pool([(FIRST, FIRST + 999)]))
    for number in range(700):
        assert not table.crowded(at(number), LIMIT, NOW)
        table.grant(at(number), FIRST + number, NOW, HOUR)


def test_those_who_have_something_go_on(table: LeaseTable) -> None:
    """A machine that runs loses its address because its neighbours at the same port are many."""
    flood(table, takes=True)
    reserved = at(1)
    table.reserve([Reservation(FIRST + 35, ReservedBy.MAC, reserved.mac)])
    assert table.crowded(at(2), LIMIT, NOW)
    assert not table.crowded(at(1000), LIMIT, NOW), "it has a lease"
    assert not table.crowded(reserved, LIMIT, NOW)
    assert not table.crowded(at(2), 0, NOW), "no limit"
    assert not table.crowded(at(2), LIMIT, NOW + HOUR), "their leases are over"


def test_offer_is_kept(table: LeaseTable) -> None:
    """A client that was offered the last address that its port may have cannot take it."""
    flood(table, takes=False)
    assert not table.crowded(at(1000), LIMIT, NOW)
    assert table.crowded(at(1000), LIMIT, NOW + HOLD - timedelta(seconds=1)) is False
    assert table.crowded(at(1), LIMIT, NOW + HOLD - timedelta(seconds=1))
    assert not table.crowded(at(1), LIMIT, NOW + HOLD)


def test_limit_survives_a_restart(table: LeaseTable) -> None:
    """The counts begin at nothing after a restart, and the flooder takes the rest."""
    flood(table, takes=True)
    again = LeaseTable(Pool([(FIRST, FIRST + SIZE - 1)]), table.leases())
    assert again.crowded(at(1), LIMIT, NOW)
    assert not again.crowded(at(1, "ge-0/0/2"), LIMIT, NOW)


def test_machine_that_was_moved(table: LeaseTable) -> None:
    """It counts at its old port."""
    for number in range(LIMIT):
        table.grant(at(number), FIRST + number, NOW, HOUR)
    table.grant(at(0, "ge-0/0/2"), FIRST, NOW, HOUR)
    flood(table, takes=True, circuit_id="ge-0/0/3")
    assert not table.crowded(at(50), LIMIT, NOW)
    table.grant(at(50), FIRST + 39, NOW, HOUR)
    assert table.crowded(at(51), LIMIT, NOW)


def test_warnings_say_where(table: LeaseTable) -> None:
    """Nobody knows which cable to pull, or the log has a line for each packet."""
    flood(table, takes=True)
    minute = timedelta(minutes=1)
    said = [table.crowd(at(1), NOW + minute * part) for part in (0, 0.5, 1)]
    assert said[1] is None
    assert said[0] == said[2]
    assert said[0] is not None
    assert said[0].startswith(
        f"{SHORT} clients at ge-0/0/1 of sw have addresses, and of {SIZE} addresses {SHORT} are leased"
    )
    flood(table, takes=True, circuit_id="")
    exhausted = table.exhaustion(NOW)
    assert exhausted is not None
    assert exhausted.endswith("; clients are at ge-0/0/1 of sw (30), behind sw (10)")


def test_many_ports_are_summed_up() -> None:
    """The warning about a full pool is as long as the pool."""
    table = LeaseTable(Pool([(FIRST, FIRST + 9)]))
    names = ["a"] * 4 + ["b"] * 2 + ["", "d", "e"]
    for number, name in enumerate(names):
        table.grant(at(number, name, ""), FIRST + number, NOW, HOUR)
    table.offer(at(100, "b", ""), None, NOW)
    exhausted = table.exhaustion(NOW)
    assert exhausted is not None
    assert exhausted.endswith("; clients are at a (4), at b (3), without option 82 (1), elsewhere (2)")


def test_overshoot_within_a_second() -> None:
    """Counting once a second, we give the last quarter away before the next count."""
    table = LeaseTable(Pool([(FIRST, FIRST + 99)]), [Lease(FIRST + n, at(n, "x"), NOW + HOUR) for n in range(74)])
    assert not table.crowded(at(500, "x"), LIMIT, NOW)
    assert flood(table, takes=True, circuit_id="x") == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "a", "b"]), st.sampled_from(["", "r"]))))
def test_index(puts: list[tuple[int, str, str]]) -> None:
    """An address counts at two ports, or at none; or the index grows with each move."""
    index, last = Ports(), dict[int, Port]()
    for number, circuit_id, remote_id in puts:
        index.put(number, (circuit_id, remote_id))
        last[number] = (circuit_id, remote_id)
    for port in {("a", ""), ("a", "r"), ("b", ""), ("b", "r"), ("", ""), ("", "r")}:
        assert set(index.at(port)) == ({number for number, its in last.items() if its == port} if port[0] else set())
    assert set(index._at) <= set(last.values())


@pytest.mark.parametrize(
    ("port", "text"),
    [(("c", "r"), "at c of r"), (("c", ""), "at c"), (("", "r"), "behind r"), (("", ""), "without option 82")],
)
def test_spelling(port: Port, text: str) -> None:
    """The warning has empty names in it."""
    assert ports.spell(port) == text

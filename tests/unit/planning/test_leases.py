"""Who gets which address of a subnet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from provider.domain import mac as macs
from provider.domain import smbios
from provider.domain.lease import Claimant, Lease, Reservation, ReservedBy
from provider.domain.mac import MacAddress
from provider.planning.leases import DECLINES, HOLD, QUARANTINE, LeaseTable, Pool

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
FIRST = IPv4Address("10.0.0.10")
UUID = "00112233-4455-6677-8899-aabbccddeeff"


def mac(number: int) -> MacAddress:
    return macs.from_bytes(bytes((2, 0, 0, 0)) + number.to_bytes(2, "big"))


def one(number: int, **more: str) -> Claimant:
    return Claimant(mac(number), **more)


def pool(size: int) -> Pool:
    return Pool([(FIRST, FIRST + size - 1)])


def table(size: int = 4, *reservations: Reservation) -> LeaseTable:
    return LeaseTable(pool(size), reservations=reservations)


def offered(leases: LeaseTable, *numbers: int, now: datetime = NOW) -> list[IPv4Address | None]:
    return [leases.offer(one(number), None, now) for number in numbers]


# --- pools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("excluded", "left"),
    [
        ([], [1, 2, 3, 4, 5, 8, 9]),
        ([(1, 1), (9, 9)], [2, 3, 4, 5, 8]),
        ([(3, 3), (3, 3)], [1, 2, 4, 5, 8, 9]),
        ([(4, 8)], [1, 2, 3, 9]),
        ([(0, 20)], []),
        ([(6, 7)], [1, 2, 3, 4, 5, 8, 9]),
    ],
)
def test_pool(excluded: list[tuple[int, int]], left: list[int]) -> None:
    """An excluded address is leased, or one that is not excluded is lost."""
    made = Pool(
        [(FIRST + 8, FIRST + 9), (FIRST + 1, FIRST + 5)], [(FIRST + first, FIRST + last) for first, last in excluded]
    )
    assert [number - int(FIRST) for number in made] == left
    assert [number for number in range(20) if int(FIRST) + number in made] == left
    assert len(made) == len(left)


# --- the order of choice ---------------------------------------------------------------------------------------------


def test_new_clients_get_different_addresses() -> None:
    """Two clients are offered one address."""
    assert offered(table(), 1, 2, 1, 2) == [FIRST, FIRST + 1, FIRST, FIRST + 1]


def test_a_wish_is_granted_if_it_can_be() -> None:
    """A client that asks for its earlier address gets another, or one that is not free, not ours, or no address at all."""
    leases = table()
    leases.grant(one(1), FIRST, NOW, HOUR)
    assert leases.offer(one(2), FIRST + 3, NOW) == FIRST + 3
    assert leases.offer(one(3), FIRST, NOW) == FIRST + 1
    assert leases.offer(one(4), FIRST + 9, NOW) == FIRST + 2


def test_returning_client_gets_its_address_after_years() -> None:
    """A machine has another address after each weekend."""
    leases = table()
    leases.grant(one(1), FIRST + 2, NOW, HOUR)
    assert leases.offer(one(1), FIRST, NOW + 1000 * HOUR) == FIRST + 2


def test_unused_addresses_come_before_expired_ones() -> None:
    """An address is taken from a client that is away, although others are free."""
    leases = table(3)
    for number in range(2):
        leases.grant(one(number), FIRST + number, NOW, (2 - number) * HOUR)
    later = NOW + 3 * HOUR
    assert offered(leases, 7, 8, 9, now=later) == [FIRST + 2, FIRST + 1, FIRST], "then the one that expired first"


def test_exhausted_pool() -> None:
    """Nobody learns that the pool is too small, or the machine that has an address loses it to one that has none."""
    leases = table(2)
    leases.grant(one(1), FIRST, NOW, HOUR)
    leases.grant(one(2), FIRST + 1, NOW, HOUR)
    assert offered(leases, 3, 1) == [None, FIRST]
    said = leases.exhaustion(NOW)
    assert said is not None
    assert "of 2 addresses 2 are leased, 0 offered, 0 in quarantine, 0 reserved" in said
    assert leases.exhaustion(NOW + 59 * SECOND) is None
    assert leases.exhaustion(NOW + 60 * SECOND) is not None


# --- offers ----------------------------------------------------------------------------------------------------------


def test_offer_is_held_for_a_while() -> None:
    """An address that was offered is given to another before its client can ask for it."""
    leases = table(2)
    assert leases.offer(one(1), FIRST, NOW) == FIRST
    assert leases.offer(one(2), FIRST, NOW) == FIRST + 1
    assert leases.may_have(one(1), FIRST, NOW)
    assert not leases.may_have(one(2), FIRST, NOW)
    assert leases.offer(one(3), FIRST, NOW + HOLD) == FIRST


def test_flood_of_discovers_does_not_lock_the_pool() -> None:
    """Somebody who only ever sends DHCPDISCOVERs keeps everybody from booting for as long as he likes."""
    leases = table(4)
    offered(leases, *range(100, 200))
    (mine,) = offered(leases, 1)
    assert mine is not None
    offered(leases, *range(200, 300), now=NOW + 4 * SECOND)
    assert leases.may_have(one(1), mine, NOW + 5 * SECOND), "firmware takes seconds to choose"
    leases.grant(one(1), mine, NOW + 5 * SECOND, HOUR)
    assert mine not in offered(leases, *range(300, 400), now=NOW + 6 * SECOND)


def test_longest_offered_comes_first() -> None:
    """A flood, or a crowd, gets the address of a client that is about to ask for it, though other offers are older."""
    leases = table(3)
    assert [offered(leases, number, now=NOW + number * SECOND) for number in range(5)] == [
        [FIRST],
        [FIRST + 1],
        [FIRST + 2],
        [FIRST],
        [FIRST + 1],
    ]
    assert [leases.is_contended(FIRST + number) for number in range(3)] == [True, True, False]


def test_first_to_ask_gets_what_was_offered_to_several() -> None:
    """An address that two were offered is leased to both (invariant 5), or to none; or asking again makes it one client's."""
    leases = table(1)
    assert offered(leases, 1, 2, 2) == [FIRST, FIRST, FIRST]
    assert leases.may_have(one(1), FIRST, NOW)
    assert leases.may_have(one(2), FIRST, NOW)
    leases.grant(one(1), FIRST, NOW, HOUR)
    assert not leases.may_have(one(2), FIRST, NOW)
    assert offered(leases, 2) == [None]
    assert not leases.is_contended(FIRST)


def test_own_address_in_spite_of_a_flood() -> None:
    """A machine whose lease has ended gets no address, or another one, because strangers were offered all there are."""
    leases = table(4)
    leases.grant(one(1), FIRST, NOW, HOUR)
    leases.grant(one(2), FIRST + 1, NOW, 2 * HOUR)
    later = NOW + HOUR + SECOND
    offered(leases, *range(100, 103), now=later)
    assert FIRST + 1 not in offered(leases, *range(103, 200), now=later), "that one's lease runs"
    assert leases.may_have(one(1), FIRST, later), "at its renewal"
    assert offered(leases, 1, 2, now=later) == [FIRST, FIRST + 1]
    leases.grant(one(1), FIRST, later, HOUR)
    assert leases.owner(FIRST) == mac(1)


def test_reserved_address_in_spite_of_a_flood() -> None:
    """Strangers are offered an address that is kept for a machine, or its own other interface keeps it from it."""
    leases = table(2, Reservation(FIRST + 1, ReservedBy.UUID, UUID))
    assert set(offered(leases, *range(100, 200))) == {FIRST}
    assert leases.offer(one(1, uuid=UUID), None, NOW) == FIRST + 1
    assert set(offered(leases, *range(200, 300))) == {FIRST}
    assert leases.offer(one(2, uuid=UUID), None, NOW) == FIRST + 1
    leases.grant(one(1, uuid=UUID), FIRST + 1, NOW, HOUR)
    assert not leases.may_have(one(2, uuid=UUID), FIRST + 1, NOW)


def test_repeated_discovers_cost_one_address() -> None:
    """A client that cannot hear us eats the pool."""
    leases = table(2)
    assert {leases.offer(one(1), FIRST, NOW + number * SECOND) for number in range(100)} == {FIRST}
    assert offered(leases, 2) == [FIRST + 1]
    assert len(leases.leases()) == 0


def test_offer_does_not_shorten_a_lease() -> None:
    """A client that discovers again, and then dies, loses its running lease after 30 s."""
    leases = table(1)
    leases.grant(one(1), FIRST, NOW, HOUR)
    leases.offer(one(1), None, NOW)
    assert offered(leases, 2, now=NOW + 59 * 60 * SECOND) == [None]


# --- leases ----------------------------------------------------------------------------------------------------------


def test_client_has_one_lease() -> None:
    """A client that moved holds two addresses, after a restart at the latest."""
    leases = table(2)
    leases.grant(one(1), FIRST, NOW, HOUR)
    saved = leases.grant(one(1), FIRST + 1, NOW, 60 * SECOND)
    assert [(lease.address, lease.expires_at) for lease in saved] == [(FIRST + 1, NOW + 60 * SECOND), (FIRST, NOW)]
    assert offered(leases, 2) == [FIRST]
    assert offered(LeaseTable(pool(2), saved), 2, 1) == [FIRST, FIRST + 1]


def test_table_is_made_of_what_was_saved() -> None:
    """After a restart a client loses its address, or an address is leased twice (invariants 4 and 5)."""
    before = table(3)
    saved = [before.grant(one(number), FIRST + number, NOW, HOUR)[0] for number in range(2)]
    after = LeaseTable(pool(3), saved)
    assert offered(after, 1, 0, 7) == [FIRST + 1, FIRST, FIRST + 2]


def test_released_address() -> None:
    """A released address stays blocked, or the client that comes back gets another."""
    leases = table(1)
    leases.grant(one(1), FIRST, NOW, HOUR)
    assert leases.release(mac(2), FIRST, NOW) is None
    ended = leases.release(mac(1), FIRST, NOW)
    assert ended is not None
    assert ended.expires_at == NOW
    assert offered(leases, 1) == [FIRST]
    assert offered(leases, 2, now=NOW + HOLD) == [FIRST]


@pytest.mark.parametrize("leased", [True, False])
def test_quarantine(leased: bool) -> None:
    """An address that is in use is given away again at once, or never again, or anybody can have any address declined."""
    leases = table(1)
    if leased:
        leases.grant(one(1), FIRST, NOW, HOUR)
    else:
        leases.offer(one(1), None, NOW)
    assert leases.decline(mac(2), FIRST, NOW) is None
    assert leases.decline(mac(1), FIRST + 1, NOW) is None
    declined = leases.decline(mac(1), FIRST, NOW)
    assert declined is not None
    assert declined.expires_at == NOW + QUARANTINE
    assert offered(leases, 1, 2, now=NOW + QUARANTINE - SECOND) == [None, None]
    assert leases.owner(FIRST) is None
    assert offered(leases, 2, now=NOW + QUARANTINE) == [FIRST]


def declines_all(leases: LeaseTable, number: int, times: int) -> None:
    for _ in range(times):
        address = leases.offer(one(number), None, NOW)
        assert address is not None
        leases.grant(one(number), address, NOW, HOUR)
        assert leases.decline(mac(number), address, NOW) is not None


def test_who_declines_everything_keeps_few_addresses() -> None:
    """One broken client quarantines the whole pool, and nobody else boots."""
    leases = table(8)
    declines_all(leases, 1, 20)
    assert leases.census(NOW).quarantined == leases.declined_by(mac(1), NOW) == DECLINES
    assert len({*offered(leases, 2, 3, 4, 5)} - {None}) == 4, "half of the pool is left for the others"
    again = LeaseTable(pool(8), leases.leases())
    assert again.declined_by(mac(1), NOW) == DECLINES, "after a restart too"
    assert again.declined_by(mac(1), NOW + QUARANTINE) == 0


def test_outdated_offer_is_declined_by_nobody() -> None:
    """A client declines what it was offered long ago, and with that takes away another's lease."""
    leases = table(1)
    assert offered(leases, 1) == [FIRST]
    leases.grant(one(2), FIRST, NOW + HOLD, HOUR)
    assert leases.decline(mac(1), FIRST, NOW + HOLD) is None
    assert leases.owner(FIRST) == mac(2)


def test_quarantine_ends_with_the_next_lease() -> None:
    """An address that is leased again counts against the client that once declined it."""
    leases = table(1)
    declines_all(leases, 1, 1)
    leases.grant(one(2), FIRST, NOW + QUARANTINE, HOUR)
    assert leases.declined_by(mac(1), NOW + QUARANTINE) == 0
    assert leases.release(mac(2), FIRST, NOW + QUARANTINE) is not None


def test_address_outside_of_the_pool_is_left() -> None:
    """Who has an address that the operator took out of the pool keeps it for ever, or it is given to the next."""
    (lease,) = table().grant(one(1), FIRST + 9, NOW, HOUR)
    smaller = LeaseTable(pool(4), [lease])
    assert not smaller.may_have(one(1), FIRST + 9, NOW), "its renewal is refused"
    assert smaller.offer(one(1), FIRST + 9, NOW) == FIRST
    assert offered(smaller, *range(2, 6)) == [FIRST + 1, FIRST + 2, FIRST + 3, FIRST]
    assert FIRST + 9 not in offered(smaller, *range(6, 12), now=NOW + 2 * HOUR)


def test_whole_class_b_is_leased() -> None:
    """A large pool is not leased to its end, or gets slower towards it."""
    leases = table(65_534)
    addresses = {
        leases.offer(Claimant(macs.from_bytes(number.to_bytes(6, "big"))), None, NOW) for number in range(65_534)
    }
    assert len(addresses) == 65_534
    assert offered(leases, 1) == [FIRST]


# --- clocks ----------------------------------------------------------------------------------------------------------


def test_clock_that_goes_forward_ends_no_lease() -> None:
    """NTP sets the clock some time after a start without a clock chip, and all addresses in use are given away."""
    leases = table(2)
    leases.grant(one(1), FIRST, NOW, HOUR)
    leases.grant(one(2), FIRST + 1, NOW - 2 * HOUR, HOUR)
    later = NOW + 9 * HOUR
    assert [(lease.address, lease.expires_at) for lease in leases.clock_was_set(NOW, later, HOUR)] == [
        (FIRST, later + HOUR)
    ], "to be saved"
    assert offered(leases, 3, 4, now=later) == [FIRST + 1, FIRST + 1]
    assert leases.may_have(one(1), FIRST, later)
    assert offered(leases, 4, 5, now=later + HOUR) == [FIRST + 1, FIRST]


def test_clock_that_goes_back_lengthens_no_lease() -> None:
    """The clock was wrong for a moment, and addresses are blocked until it is that late."""
    leases = table(3)
    leases.grant(one(1), FIRST, NOW, HOUR)
    leases.grant(one(2), FIRST + 1, NOW - 2 * HOUR, HOUR)
    offered(leases, 3)
    earlier = NOW - 9 * HOUR
    changed = leases.clock_was_set(NOW, earlier, HOUR)
    assert {lease.address: lease.expires_at for lease in changed} == {
        FIRST: earlier + HOUR,
        FIRST + 1: earlier + HOUR,
    }
    assert leases.may_have(one(1), FIRST, earlier)
    assert offered(leases, 4, now=earlier + HOLD) == [FIRST + 2], "nor is an offer held longer"
    assert None not in offered(leases, 5, 6, 7, now=earlier + HOUR)


def test_exhaustion_is_told_after_the_clock_went_back() -> None:
    """The warning is not given for hours, because it was given in what is the future now."""
    leases = table(1)
    assert leases.exhaustion(NOW) is not None
    leases.clock_was_set(NOW, NOW - 9 * HOUR, HOUR)
    assert leases.exhaustion(NOW - 9 * HOUR) is not None


# --- reservations ----------------------------------------------------------------------------------------------------

BY_MAC = Reservation(FIRST, ReservedBy.MAC, mac(1))
BY_UUID = Reservation(FIRST, ReservedBy.UUID, UUID)
BY_PORT = Reservation(FIRST, ReservedBy.CIRCUIT_ID, "ge-0/0/1")
BY_PORT_OF_ONE = Reservation(FIRST, ReservedBy.CIRCUIT_ID, "ge-0/0/1", "switch-1")
BESIDE = Reservation(FIRST - 1, ReservedBy.MAC, mac(1))


@pytest.mark.parametrize(
    ("reservation", "claimant", "is_its"),
    [
        (BY_MAC, one(1), True),
        (BY_MAC, one(2, uuid=UUID), False),
        (BY_UUID, one(2, uuid=UUID), True),
        (BY_UUID, one(2, uuid=smbios.byte_swapped(UUID)), True),
        (BY_UUID, one(2), False),
        (BY_PORT, one(2, circuit_id="ge-0/0/1"), True),
        (BY_PORT, one(2, circuit_id="ge-0/0/1", remote_id="switch-2"), True),
        (BY_PORT, one(2, circuit_id="ge-0/0/2"), False),
        (BY_PORT_OF_ONE, one(2, circuit_id="ge-0/0/1", remote_id="switch-1"), True),
        (BY_PORT_OF_ONE, one(2, circuit_id="ge-0/0/1", remote_id="switch-2"), False),
        (BESIDE, one(1), True),
        (BESIDE, one(2), False),
    ],
)
def test_reserved_address(reservation: Reservation, claimant: Claimant, is_its: bool) -> None:
    """A reserved address goes to somebody else, or not to the one it is for, in whatever byte order firmware tells its UUID."""
    leases = table(4, reservation)
    assert leases.may_have(claimant, reservation.address, NOW) is is_its
    assert (leases.offer(claimant, reservation.address, NOW) == reservation.address) is is_its


def test_reservation_beats_the_earlier_lease() -> None:
    """A client that had an address before it was given a reserved one never moves to that."""
    leases = table()
    leases.grant(one(1), FIRST + 2, NOW, HOUR)
    leases.reserve([BY_MAC])
    assert leases.offer(one(1), FIRST + 2, NOW) == FIRST


def test_reserved_address_in_use_is_left_until_its_lease_ends() -> None:
    """Reserving an address takes it from a machine that works with it (invariant 5), or that machine keeps it for ever."""
    leases = table()
    leases.grant(one(9), FIRST, NOW, HOUR)
    leases.reserve([BY_MAC])
    assert leases.offer(one(1), None, NOW) == FIRST + 1
    assert not leases.may_have(one(9), FIRST, NOW), "its renewal is refused, so it moves"
    assert leases.offer(one(1), None, NOW + HOUR) == FIRST


def test_system_has_the_address_of_its_firmware() -> None:
    """The system tells no UUID, so it gets another address than its firmware, in spite of the reservation."""
    leases = table(4, BY_UUID)
    (lease,) = leases.grant(one(1, uuid=UUID), FIRST, NOW, HOUR)
    assert lease.claimant.uuid == UUID
    assert leases.may_have(one(1), FIRST, NOW)
    renewed = leases.grant(one(1), FIRST, NOW, HOUR)
    again = LeaseTable(pool(4), renewed, [BY_UUID])
    assert offered(again, 1, now=NOW + 2 * HOUR) == [FIRST]


def test_port_is_remembered_over_a_unicast_renewal() -> None:
    """Renewals pass by the relay, so a reservation by port is lost at T1."""
    leases = table(4, BY_PORT_OF_ONE)
    port = {"circuit_id": "ge-0/0/1", "remote_id": "switch-1"}
    leases.grant(one(1, **port), FIRST, NOW, HOUR)
    assert leases.may_have(one(1), FIRST, NOW)
    assert leases.grant(one(1), FIRST, NOW, HOUR)[0].claimant == one(1, **port)
    assert not leases.may_have(one(1, circuit_id="ge-0/0/2", remote_id="switch-1"), FIRST, NOW), "it was replugged"


def test_reservation_that_is_gone_frees_its_address() -> None:
    """An address is lost to the pool once its reservation is removed."""
    leases = table(1, BY_MAC)
    assert offered(leases, 2) == [None]
    leases.reserve([])
    assert offered(leases, 2) == [FIRST]


# --- anything, in any order ------------------------------------------------------------------------------------------

SIZE = 5
addresses = st.integers(-1, SIZE).map(lambda number: FIRST + number)
clients = st.integers(1, 8).map(one)


class Anything(RuleBasedStateMachine):
    """Clients do what they like; two of them must never hold one address."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.leases = table(SIZE)
        self.saved: dict[IPv4Address, Lease] = {}

    @rule(client=clients, wish=st.none() | addresses, takes=st.booleans())
    def discover(self, client: Claimant, wish: IPv4Address | None, takes: bool) -> None:
        address = self.leases.offer(client, wish, self.now)
        if address is None:
            return
        assert self.leases.may_have(client, address, self.now), "what is offered can be had"
        assert not any(
            lease.address == address and lease.expires_at > self.now and lease.claimant.mac != client.mac
            for lease in self.saved.values()
        )
        if takes:
            self.request(client, address)

    @rule(client=clients, address=addresses)
    def request(self, client: Claimant, address: IPv4Address) -> None:
        if self.leases.may_have(client, address, self.now):
            for lease in self.leases.grant(client, address, self.now, 20 * SECOND):
                self.save(lease)

    @rule(client=clients, address=addresses)
    def decline(self, client: Claimant, address: IPv4Address) -> None:
        self.save(self.leases.decline(client.mac, address, self.now))

    @rule(client=clients, address=addresses)
    def release(self, client: Claimant, address: IPv4Address) -> None:
        self.save(self.leases.release(client.mac, address, self.now))

    @rule(client=clients)
    def withdraw(self, client: Claimant) -> None:
        self.leases.withdraw(client.mac)

    @rule(client=clients, address=addresses)
    def reserve(self, client: Claimant, address: IPv4Address) -> None:
        self.leases.reserve([Reservation(address, ReservedBy.MAC, client.mac)])

    @rule()
    def reserve_nothing(self) -> None:
        self.leases.reserve([])

    @rule(seconds=st.sampled_from([1, 5, 25, 700]))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule(seconds=st.sampled_from([-100_000, -20, 20, 100_000]))
    def set_clock(self, seconds: int) -> None:
        was, self.now = self.now, self.now + seconds * SECOND
        for lease in self.leases.clock_was_set(was, self.now, 20 * SECOND):
            self.save(lease)

    @rule()
    def restart(self) -> None:
        self.leases = LeaseTable(pool(SIZE), self.saved.values())

    def save(self, lease: Lease | None) -> None:
        if lease is not None:
            self.saved[lease.address] = lease

    @invariant()
    def client_has_one_address(self) -> None:
        for leases in (self.leases.leases(), self.saved.values()):
            live = [each.claimant.mac for each in leases if each.expires_at > self.now and not each.declined]
            assert len(live) == len(set(live))

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.leases.leases()) <= SIZE + 2

    def teardown(self) -> None:
        """After a while without requests, the whole pool can be had again: no address was lost on the way."""
        self.leases.reserve([])
        self.now += QUARANTINE + HOLD
        found = {self.leases.offer(one(100 + number), None, self.now) for number in range(SIZE)}
        assert found == {FIRST + number for number in range(SIZE)}


Anything.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnything = Anything.TestCase

"""
Which address a DHCP client gets: the table of one subnet, in memory.

Pure bookkeeping: `now` is an argument, and nothing here is on disk until the shell has saved what `grant` gave. A client is
its MAC address: firmware, iPXE and operating system use three different client identifiers (edge case 24). What firmware
alone tells, its UUID, is kept with the lease, so that a reservation holds for the system too.

An address is chosen in this order: reserved for the client, its own from earlier, the one it asks for, one that was never
used, the one whose lease expired first, the one that waits for its DHCPREQUEST longest. An offered address is held for `HOLD`,
from all but those that it is reserved for and the one who had it last. When there are no others, it is offered to the next as
well, and who asks for it first gets it: a flood of DHCPDISCOVERs locks nobody out. And the last quarter of the pool is kept from
a relay port at which very many clients ask (`crowded`).

All steps cost the same however large the pool is, except `census`.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from provider.domain import smbios
from provider.domain.lease import Claimant, Lease, Reservation, ReservedBy
from provider.domain.mac import MacAddress
from provider.planning import ports
from provider.planning.ports import Port, Ports
from provider.planning.seldom import Seldom

HOLD = timedelta(seconds=30)
"""How long an offered address waits for its DHCPREQUEST."""

QUARANTINE = timedelta(minutes=10)
"""How long nobody gets an address that is in use without a lease."""

DECLINES = 4
"""Addresses that one client keeps in quarantine: one that declines everything must not take the pool from the others."""


_RECOUNT = timedelta(seconds=1)
"""How long a count of the addresses in use serves, with those that were given out since on top."""


_PORTS_TOLD = 3
"""Most relay ports that one warning names."""


class Pool:
    """The addresses that a subnet leases: ranges, both ends included, without the excluded ones."""

    def __init__(
        self,
        ranges: Iterable[tuple[IPv4Address, IPv4Address]],
        excluded: Iterable[tuple[IPv4Address, IPv4Address]] = (),
    ) -> None:
        left = sorted((int(first), int(last)) for first, last in ranges)
        for first, last in excluded:
            left = [part for whole in left for part in _cut(whole, int(first), int(last))]
        self._ranges = left

    def __contains__(self, number: int) -> bool:
        for first, last in self._ranges:  # noqa: SIM110 - `any` takes three times as long, several times a packet
            if first <= number <= last:
                return True
        return False

    def __iter__(self) -> Iterator[int]:
        for first, last in self._ranges:
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self._ranges)


def _cut(whole: tuple[int, int], first: int, last: int) -> Iterator[tuple[int, int]]:
    """What is left of a range without first..last."""
    start, end = whole
    if start <= min(end, first - 1):
        yield start, min(end, first - 1)
    if max(start, last + 1) <= end:
        yield max(start, last + 1), end


@dataclass(frozen=True)
class Census:
    """How the addresses of a pool are used."""

    total: int
    leased: int
    offered: int
    quarantined: int
    reserved: int

    def __str__(self) -> str:
        return (
            f"of {self.total} addresses {self.leased} are leased, {self.offered} offered, "
            f"{self.quarantined} in quarantine, {self.reserved} reserved"
        )


@dataclass(slots=True)
class _Offer:
    mac: MacAddress
    at: datetime
    port: Port
    is_firm: bool
    """Made to this client alone."""


class LeaseTable:
    """The leases, offers and reservations of one subnet. Addresses are numbers inside, which are quicker to look up."""

    def __init__(self, pool: Pool, known: Iterable[Lease] = (), reservations: Sequence[Reservation] = ()) -> None:
        self._pool = pool
        self._leases: dict[int, Lease] = {}
        self._by_mac: dict[MacAddress, int] = {}
        self._offers: OrderedDict[int, _Offer] = OrderedDict()
        """The oldest first. (A dict looks for its first entry past all that were deleted.)"""
        self._offer_of: dict[MacAddress, int] = {}
        self._told = Seldom()
        self._ports = Ports()
        self._used, self._counted_at = 0, datetime.min.replace(tzinfo=UTC)
        self._expiring: list[tuple[datetime, int]] = []
        self._returned: OrderedDict[int, None] = OrderedDict()
        """A set in order: addresses that were used and are nobody's again."""
        self._client_ids: dict[int, int] = {}
        """Hashes of option 61, by which addresses were leased since we started; it may have kilobytes."""
        self._declined: dict[MacAddress, dict[int, None]] = {}
        """Whose DHCPDECLINE put what into quarantine, the oldest first."""
        for lease in sorted(known, key=lambda lease: lease.expires_at):
            self._put(lease)
        self.reserve(reservations)

    def lease_out_of(self, pool: Pool) -> None:
        """Replace the pool. Who has a lease of an address that is not in it must leave at its renewal."""
        self._pool = pool
        self._start_over()

    def reserve(self, reservations: Sequence[Reservation]) -> None:
        """Replace all reservations. Who has a lease of an address that is another's now must leave at its renewal."""
        self._reserved = {int(reservation.address): reservation for reservation in reservations}
        self._named: dict[tuple[ReservedBy, str], list[int]] = {}
        for number, reservation in self._reserved.items():
            self._named.setdefault((reservation.by, reservation.value), []).append(number)
        self._start_over()

    def is_empty(self) -> bool:
        """Whether there is no address to lease at all."""
        return not self._pool and not self._reserved

    def leases(self) -> list[Lease]:
        """All leases, the ended ones too."""
        return list(self._leases.values())

    def owner(self, address: IPv4Address) -> MacAddress | None:
        """Who has or had the address last."""
        lease = self._leases.get(int(address))
        return None if lease is None or lease.declined else lease.claimant.mac

    def lease_of(self, mac: MacAddress) -> Lease | None:
        """The lease that the client has or had."""
        number = self._by_mac.get(mac)
        return None if number is None else self._leases[number]

    def may_have(self, claimant: Claimant, address: IPv4Address, now: datetime) -> bool:
        """Whether the client can be given this very address."""
        return self._may_have(self._recognised(claimant), int(address), now)

    def is_known(self, address: IPv4Address, now: datetime) -> bool:
        """Whether somebody has a lease of the address, or it is reserved: that we know whose it is."""
        lease = self._leases.get(int(address))
        return int(address) in self._reserved or (lease is not None and lease.expires_at > now)

    def is_ours(self, address: IPv4Address) -> bool:
        """Whether it is of the pool, or reserved: that it is ours to give."""
        return int(address) in self._pool or int(address) in self._reserved

    def offer(self, claimant: Claimant, requested: IPv4Address | None, now: datetime) -> IPv4Address | None:
        """Choose an address by the order above and hold it for the client; None if the pool is exhausted."""
        claimant = self._recognised(claimant)
        number = self._wished(claimant, requested, now)
        if number is None:
            number = self._free(now)
        if number is None:
            return None
        self._hold(claimant, number, now)
        return IPv4Address(number)

    def is_contended(self, address: IPv4Address) -> bool:
        """Whether it is offered to more than one client, because there are no others."""
        offer = self._offers.get(int(address))
        return offer is not None and not offer.is_firm

    def withdraw(self, mac: MacAddress) -> None:
        """The client took another server's offer."""
        self._withdraw(mac)

    def grant(
        self, claimant: Claimant, address: IPv4Address, now: datetime, duration: timedelta, client_id: bytes = b""
    ) -> tuple[Lease, ...]:
        """
        Lease the address to the client, and end the lease that it has of another.

        Save all that this gives before the DHCPACK leaves: the first is the new lease.
        """
        self._take(int(address), now)
        self._client_ids[int(address)] = hash(client_id)
        self._withdraw(claimant.mac)
        outdated = self._offers.get(int(address))
        if outdated is not None:
            self._withdraw(outdated.mac)  # Else that client could still decline it.
        lease = Lease(address, self._recognised(claimant), now + duration)
        left = self.lease_of(claimant.mac)
        self._put(lease)
        if left is None or left.address == address or left.expires_at <= now:
            return (lease,)
        return lease, self._end(left, now)

    def decline(self, mac: MacAddress, address: IPv4Address, now: datetime) -> Lease | None:
        """
        Quarantine an address that its client found in use; None if the client does not have it.

        A client that declined `DECLINES` already gets the first of them out again: another client may find it free.
        """
        number = int(address)
        if mac not in (self._holder(number), self._offered_to(number)):
            return None
        declined = [each for each in self._declined.pop(mac, ()) if self._leases[each].expires_at > now]
        while len(declined) >= DECLINES:
            self._end(self._leases[declined.pop(0)], now)
        self._declined[mac] = dict.fromkeys(declined)
        return self.quarantine(mac, address, now)

    def declined_by(self, mac: MacAddress, now: datetime) -> int:
        """How many addresses are in quarantine because of this client."""
        return sum(self._leases[number].expires_at > now for number in self._declined.get(mac, ()))

    def quarantine(self, mac: MacAddress, address: IPv4Address, now: datetime) -> Lease:
        """Keep an address from everybody, because somebody uses it who has no lease; `mac` found out."""
        number = int(address)
        offer = self._offers.get(number)
        if offer is not None:
            self._withdraw(offer.mac)
        bad = Lease(address, Claimant(mac), now + QUARANTINE, declined=True)
        self._put(bad)
        return bad

    def release(self, mac: MacAddress, address: IPv4Address, now: datetime, client_id: bytes = b"") -> Lease | None:
        """
        End a lease at once; the client gets the same address again if nobody needs it meanwhile.

        None if it is not this client's, or if the client calls itself something else than when it got it (RFC 2131 section 2):
        what the machine runs now has the address, and what ran before gives it back.
        """
        lease = self._leases.get(int(address))
        if lease is None or lease.claimant.mac != mac or lease.declined:
            return None
        if self._client_ids.get(int(address), hash(client_id)) != hash(client_id):
            return None
        return self._end(lease, now)

    def clock_was_set(self, was: datetime, now: datetime, longest: timedelta) -> list[Lease]:
        """
        Somebody set the clock: what would be `was` is `now`. Gives the leases that changed, to be saved.

        Clients count seconds, so a lease must not end sooner than its client believes. Forward, all that run go on for as
        long as they had. Back, they keep their end, which may have been right, but none is longer than the `longest` there
        is: it would block its address for as long as the clock was wrong.
        """
        step, changed = now - was, []
        for lease in self._leases.values():
            expires_at = self._reckoned(lease, was, now, longest)
            if expires_at != lease.expires_at:
                changed.append(replace(lease, expires_at=expires_at))
        for lease in changed:
            self._leases[int(lease.address)] = lease
        for number, offer in self._offers.items():
            self._offers[number] = replace(offer, at=offer.at + step)
        self._rebuild_expiring()
        return changed

    def census(self, now: datetime) -> Census:
        """Count; costs a look at every lease."""
        live = [lease for lease in self._leases.values() if lease.expires_at > now]
        return Census(
            total=len(self._pool),
            leased=sum(not lease.declined for lease in live),
            offered=sum(offer.at + HOLD > now for offer in self._offers.values()),
            quarantined=sum(lease.declined for lease in live),
            reserved=sum(number in self._pool for number in self._reserved),
        )

    def exhaustion(self, now: datetime) -> str | None:
        """
        How the pool is used, and where, for a warning; None if that was said within the last minute.

        Counting looks at every lease, and floods come just when the pool is exhausted.
        """
        if not self._told.may("exhausted", now):
            return None
        return f"the pool is exhausted: {self.census(now)}; clients are {self._where(now)}"

    def crowded(self, claimant: Claimant, limit: int, now: datetime) -> bool:
        """
        Whether the client can have no new address, because `limit` clients at its relay port have some already, and less than a
        quarter of the pool is left for all others. With a limit of 0 there is none.

        Only then, because at many sites the circuit-id names no port but a whole network. Those with a lease, an offer or a
        reservation go on.
        """
        if not limit or not claimant.circuit_id or not self._runs_short(now) or self._has_title(claimant, now):
            return False
        return self._count(claimant.port, now, limit) >= limit

    def crowd(self, claimant: Claimant, now: datetime) -> str | None:
        """How many there are at its port, for a warning; None if that was said of this port within the last minute."""
        if not self._told.may(claimant.port, now):
            return None
        count = self._count(claimant.port, now, len(self._leases) + len(self._offers))
        return f"{count} clients {ports.spell(claimant.port)} have addresses, and {self.census(now)}"

    # --- inside ---

    def _reckoned(self, lease: Lease, was: datetime, now: datetime, longest: timedelta) -> datetime:
        """When the lease ends by a clock that was set."""
        runs = lease.expires_at > was
        if now > was:
            return lease.expires_at + (now - was) if runs else lease.expires_at
        if lease.declined:
            return min(lease.expires_at, now + QUARANTINE) if runs else min(lease.expires_at, now)
        is_last = self._by_mac.get(lease.claimant.mac) == int(lease.address)  # It may run on by the right clock.
        return min(lease.expires_at, now + longest) if runs or is_last else min(lease.expires_at, now)

    def _start_over(self) -> None:
        """Look for free addresses from the beginning: which are has changed."""
        self._fresh = iter(self._pool)
        self._returned.clear()
        self._rebuild_expiring()

    def _wished(self, claimant: Claimant, requested: IPv4Address | None, now: datetime) -> int | None:
        """The best address that the client has a title or a wish to, if it may have one."""
        wishes = [self._by_mac.get(claimant.mac), self._offer_of.get(claimant.mac)]
        if requested is not None:
            wishes.append(int(requested))
        for number in (*self._reserved_for(claimant), *wishes):
            if number is not None and self._may_have(claimant, number, now):
                return number
        return None

    def _has_title(self, claimant: Claimant, now: datetime) -> bool:
        """Whether some address is the client's already."""
        lease = self.lease_of(claimant.mac)
        number = self._offer_of.get(claimant.mac)
        return (
            (lease is not None and lease.expires_at > now)
            or (number is not None and self._offers[number].at + HOLD > now)
            or bool(self._reserved_for(claimant))
        )

    def _runs_short(self, now: datetime) -> bool:
        """Whether less than a quarter of the pool is left, counted anew once a second."""
        most = len(self._pool) - len(self._pool) // 4
        if len(self._leases) + len(self._offers) < most:
            return False
        if not self._counted_at <= now < self._counted_at + _RECOUNT:
            census = self.census(now)
            self._used, self._counted_at = census.leased + census.offered + census.quarantined, now
        return self._used >= most

    def _take(self, number: int, now: datetime) -> None:
        """Count an address that is about to be given out."""
        lease, offer = self._leases.get(number), self._offers.get(number)
        if (lease is None or lease.expires_at <= now) and (offer is None or offer.at + HOLD <= now):
            self._used += 1

    def _count(self, port: Port, now: datetime, most: int) -> int:
        """How many addresses clients at the port have, counted up to `most`."""
        count, gone = 0, []
        for number in self._ports.at(port):
            if count == most:
                break
            if self._is_used_at(number, port, now):
                count += 1
            else:
                gone.append(number)
        for number in gone:
            self._ports.drop(number)
        return count

    def _is_used_at(self, number: int, port: Port, now: datetime) -> bool:
        offer, lease = self._offers.get(number), self._leases.get(number)
        if offer is not None and offer.at + HOLD > now and offer.port == port:
            return True
        return lease is not None and lease.expires_at > now and not lease.declined and lease.claimant.port == port

    def _where(self, now: datetime) -> str:
        """The ports at which most addresses are used."""
        used = Counter(
            lease.claimant.port for lease in self._leases.values() if lease.expires_at > now and not lease.declined
        )
        used.update(offer.port for offer in self._offers.values() if offer.at + HOLD > now)
        most = [f"{ports.spell(port)} ({count})" for port, count in used.most_common(_PORTS_TOLD)]
        others = used.total() - sum(count for _port, count in used.most_common(_PORTS_TOLD))
        return ", ".join((*most, f"elsewhere ({others})") if others else most) or "nowhere"

    def _reserved_for(self, claimant: Claimant) -> list[int]:
        if not self._reserved:
            return []
        names = (
            (ReservedBy.MAC, claimant.mac),
            (ReservedBy.UUID, claimant.uuid),
            (ReservedBy.UUID, smbios.byte_swapped(claimant.uuid)),
            (ReservedBy.CIRCUIT_ID, claimant.circuit_id),
        )
        return [number for name in names for number in self._named.get(name, ())]

    def _hold(self, claimant: Claimant, number: int, now: datetime) -> None:
        mac = claimant.mac
        before = self._offers.get(number)
        self._withdraw(mac)
        lease = self._leases.get(number)
        if lease is not None and lease.claimant.mac == mac and lease.expires_at > now + HOLD:
            return  # Its lease holds it longer than the offer would.
        self._take(number, now)
        if before is not None:
            self._withdraw(before.mac)
        is_firm = before is None or before.at + HOLD <= now or (before.mac == mac and before.is_firm)
        self._offers[number] = _Offer(mac, now, claimant.port, is_firm)
        self._offer_of[mac] = number
        self._ports.put(number, claimant.port)

    def _recognised(self, claimant: Claimant) -> Claimant:
        """The claimant with what it told when it got its lease: systems do not tell the UUID that their firmware told."""
        number = self._by_mac.get(claimant.mac)
        if number is None:
            return claimant
        before = self._leases[number].claimant
        if before == claimant:
            return before
        if claimant.circuit_id:
            return replace(claimant, uuid=claimant.uuid or before.uuid)
        return replace(before, uuid=claimant.uuid or before.uuid)

    def _may_have(self, claimant: Claimant, number: int, now: datetime) -> bool:
        lease = self._leases.get(number)
        if lease is not None and lease.expires_at > now and (lease.declined or lease.claimant.mac != claimant.mac):
            return False
        reservation = self._reserved.get(number)
        if reservation is not None:
            return reservation.is_for(claimant)
        offer = self._offers.get(number)
        if offer is not None and offer.is_firm and offer.mac != claimant.mac and offer.at + HOLD > now:
            return self._by_mac.get(claimant.mac) == number and number in self._pool
        return number in self._pool

    def _holder(self, number: int) -> MacAddress | None:
        lease = self._leases.get(number)
        return None if lease is None or lease.declined else lease.claimant.mac

    def _offered_to(self, number: int) -> MacAddress | None:
        offer = self._offers.get(number)
        return None if offer is None else offer.mac

    def _put(self, lease: Lease) -> None:
        number, mac = int(lease.address), lease.claimant.mac
        holder = self._holder(number)
        if holder is not None and holder != mac and self._by_mac.get(holder) == number:
            del self._by_mac[holder]
        self._acquit(number)
        self._leases[number] = lease
        if not lease.declined:
            self._by_mac[mac] = number
            self._ports.put(number, lease.claimant.port)
        else:
            self._declined.setdefault(mac, {})[number] = None
            if self._by_mac.get(mac) == number:
                del self._by_mac[mac]
        self._expires(lease)

    def _acquit(self, number: int) -> None:
        """What is said of the address now is not what a DHCPDECLINE said."""
        before = self._leases.get(number)
        if before is None or not before.declined:
            return
        declined = self._declined.get(before.claimant.mac, {})
        declined.pop(number, None)
        if not declined:
            self._declined.pop(before.claimant.mac, None)

    def _end(self, lease: Lease, now: datetime) -> Lease:
        ended = replace(lease, expires_at=now)
        self._leases[int(lease.address)] = ended
        self._expires(ended)
        return ended

    def _withdraw(self, mac: MacAddress) -> None:
        """Forget what is offered to the client, and let others have it."""
        number = self._offer_of.pop(mac, None)
        if number is None:
            return
        del self._offers[number]
        lease = self._leases.get(number)
        if lease is None:
            self._returned[number] = None
        else:
            self._expires(lease)

    def _free(self, now: datetime) -> int | None:
        """An address for somebody new."""
        self._forget_offers(now - HOLD)
        number = self._unused()
        if number is None:
            number = self._expired(now)
        return self._longest_offered(now) if number is None else number

    def _unused(self) -> int | None:
        """One without a lease: never used, else given back."""
        for number in self._fresh:
            if self._is_unused(number):
                return number
        while self._returned:
            number, _ = self._returned.popitem(last=False)
            if self._is_unused(number) and number in self._pool:
                return number
        return None

    def _is_unused(self, number: int) -> bool:
        return number not in self._leases and number not in self._offers and number not in self._reserved

    def _expired(self, now: datetime) -> int | None:
        """The one whose lease expired first."""
        while self._expiring and self._expiring[0][0] <= now:
            expired_at, number = heapq.heappop(self._expiring)
            lease = self._leases.get(number)
            if lease is None or lease.expires_at != expired_at:
                continue  # It was renewed or replaced since.
            if number not in self._offers and number not in self._reserved and number in self._pool:
                return number
        return None

    def _longest_offered(self, now: datetime) -> int | None:
        """The one whose offer was not taken up for longest."""
        for number in self._offers:
            lease = self._leases.get(number)
            if number not in self._reserved and number in self._pool and (lease is None or lease.expires_at <= now):
                return number
        return None

    def _forget_offers(self, before: datetime) -> None:
        """Withdraw the offers that were made before then."""
        old = []
        for offer in self._offers.values():
            if offer.at > before:
                break
            old.append(offer.mac)
        for mac in old:
            self._withdraw(mac)

    def _expires(self, lease: Lease) -> None:
        heapq.heappush(self._expiring, (lease.expires_at, int(lease.address)))
        if len(self._expiring) > 2 * len(self._leases) + 64:
            self._rebuild_expiring()

    def _rebuild_expiring(self) -> None:
        """Each renewal leaves an outdated entry behind; once they are the most, start over."""
        self._expiring = [(lease.expires_at, number) for number, lease in self._leases.items()]
        heapq.heapify(self._expiring)

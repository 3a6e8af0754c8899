"""
Which address a DHCP client gets: the table of one interface, in memory.

Pure bookkeeping: `now` is an argument, and nothing here is on disk until the shell has saved what `choose` and `grant` gave.
A client is its MAC address: firmware, iPXE and operating system use three different client identifiers (edge case 24). It
keeps its address as long as the pool allows; a new client gets one that was never used, else the one that expired first.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from ipaddress import IPv4Address

from provider.domain.lease import Lease
from provider.domain.mac import MacAddress

HOLD = timedelta(seconds=30)
"""How long an offered address waits for its DHCPREQUEST."""

QUARANTINE = timedelta(minutes=10)
"""How long nobody gets an address that a client found in use."""


class LeaseTable:
    """The leases and offers of one interface with the pool `first` to `last`, both included."""

    def __init__(
        self, interface: str, first: IPv4Address, last: IPv4Address, ours: IPv4Address, known: Iterable[Lease] = ()
    ) -> None:
        self._interface = interface
        self._first, self._last = int(first), int(last)
        self._ours = int(ours)
        self._by_address: dict[IPv4Address, Lease] = {}
        self._by_mac: dict[MacAddress, IPv4Address] = {}
        self._next_unused = self._first
        for lease in sorted(known, key=lambda lease: lease.expires_at):
            self._put(lease)

    def __len__(self) -> int:
        return len(self._by_address)

    def size(self) -> int:
        """How many addresses the pool has."""
        return self._last - self._first + 1

    def of(self, mac: MacAddress) -> Lease | None:
        """The lease or offer that the client has or had."""
        address = self._by_mac.get(mac)
        return None if address is None else self._by_address[address]

    def owner(self, address: IPv4Address) -> MacAddress | None:
        """Who has or had the address last."""
        lease = self._by_address.get(address)
        return None if lease is None or lease.declined else lease.mac

    def may_have(self, mac: MacAddress, address: IPv4Address, now: datetime) -> bool:
        """Whether the client can be given this very address."""
        if not self._first <= int(address) <= self._last or int(address) == self._ours:
            return False
        lease = self._by_address.get(address)
        return lease is None or (lease.mac == mac and not lease.declined) or lease.expires_at <= now

    def choose(self, mac: MacAddress, requested: IPv4Address | None, now: datetime) -> IPv4Address | None:
        """The address for a client: its own, else the one it asks for, else a free one; None if the pool is full."""
        own = self._by_mac.get(mac)
        for candidate in (own, requested):
            if candidate is not None and self.may_have(mac, candidate, now):
                return candidate
        return self._unused() or self._expired(now)

    def hold(self, mac: MacAddress, address: IPv4Address, now: datetime) -> None:
        """Keep an offered address for the client; an offer never shortens what it has."""
        lease = self._by_address.get(address)
        if lease is not None and lease.mac == mac and lease.expires_at > now + HOLD:
            return
        self._put(Lease(str(address), mac, self._interface, now + HOLD))

    def grant(self, mac: MacAddress, address: IPv4Address, now: datetime, duration: timedelta) -> Lease:
        """Lease the address to the client; save what this gives before the DHCPACK leaves."""
        lease = Lease(str(address), mac, self._interface, now + duration)
        self._put(lease)
        return lease

    def decline(self, mac: MacAddress, address: IPv4Address, now: datetime) -> Lease | None:
        """Quarantine an address that its client found in use; None if it never had it."""
        lease = self._by_address.get(address)
        if lease is None or lease.mac != mac:
            return None
        self._by_mac.pop(mac, None)
        bad = Lease(str(address), mac, self._interface, now + QUARANTINE, declined=True)
        self._by_address[address] = bad
        return bad

    def release(self, mac: MacAddress, address: IPv4Address, now: datetime) -> Lease | None:
        """End a lease at once; the client gets the same address again if nobody needs it meanwhile."""
        lease = self._by_address.get(address)
        if lease is None or lease.mac != mac or lease.declined:
            return None
        ended = Lease(str(address), mac, self._interface, now)
        self._by_address[address] = ended
        return ended

    def _put(self, lease: Lease) -> None:
        address = IPv4Address(lease.address)
        before = self._by_address.get(address)
        if before is not None and before.mac != lease.mac and self._by_mac.get(before.mac) == address:
            del self._by_mac[before.mac]
        old = self._by_mac.get(lease.mac)
        if old is not None and old != address:
            del self._by_address[old]
        self._by_address[address] = lease
        if not lease.declined:
            self._by_mac[lease.mac] = address

    def _unused(self) -> IPv4Address | None:
        while self._next_unused <= self._last:
            address = IPv4Address(self._next_unused)
            self._next_unused += 1
            if address not in self._by_address and int(address) != self._ours:
                return address
        return None

    def _expired(self, now: datetime) -> IPv4Address | None:
        """The one that expired first; also finds what `_put` freed when a client moved."""
        for number in range(self._first, self._last + 1):
            if IPv4Address(number) not in self._by_address and number != self._ours:
                return IPv4Address(number)
        oldest = min(self._by_address.values(), key=lambda lease: lease.expires_at, default=None)
        return IPv4Address(oldest.address) if oldest is not None and oldest.expires_at <= now else None

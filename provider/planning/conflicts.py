"""
Whether somebody uses an address without a lease, as ARP tells: pure decisions about probes (RFC 5227 section 2.1.1).

RFC 2131 section 3.1 wants a server to look before it offers. So an address that its client does not hold is offered only
after nobody answered a probe for `Probes.wait`. The DHCPDISCOVER waits in its `Probe` meanwhile, and the table of leases
holds the address; when the probe is over, `offer.decide` decides again. If somebody else than the client uses the address,
the shell quarantines it as after a DHCPDECLINE, and the next one is probed, `TRIES` in all. Then the client hears nothing until
it asks again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address

from provider.domain import mac as macs
from provider.domain.mac import MacAddress
from provider.planning.reply import Asked

TRIES = 3
"""Addresses that are probed for one DHCPDISCOVER: three times the usual wait is less than the first time-out of clients."""

MOST = 4096
"""Probes at one time. With more clients than that it is better to offer without a probe than not at all."""

FRESH = timedelta(seconds=30)
"""How long an address that nobody used is taken for free: as long as an offer is held."""


@dataclass(slots=True)
class Probe:
    """One question to the network: who uses `address`?"""

    address: IPv4Address
    asked: Asked
    """What its client asked last: firmware may ask again with another xid, and wants that answered."""
    tries: int
    """1 for the first address that this DHCPDISCOVER led to."""

    @property
    def mac(self) -> MacAddress:
        """The client's MAC address."""
        return self.asked.packet.chaddr


class Probes:
    """The probes of one network, at most one for each client. Addresses are four bytes inside, as ARP has them."""

    def __init__(self, wait: timedelta) -> None:
        """With a `wait` of 0, nothing is ever probed."""
        self.wait = wait
        self._of: dict[MacAddress, Probe] = {}
        self._running: dict[bytes, Probe] = {}
        self._free_until: dict[bytes, datetime] = {}
        """The oldest first."""

    def needed(self, mac: MacAddress, address: IPv4Address, now: datetime) -> bool:
        """Whether the address, which the client does not hold, is to be probed before it is offered."""
        if not self.wait:
            return False
        running = self._of.get(mac)
        if running is not None and running.address == address:
            return True
        free_until = self._free_until.get(address.packed)
        return len(self._running) < MOST and (free_until is None or free_until <= now)

    def begin(self, asked: Asked, address: IPv4Address, tries: int) -> Probe | None:
        """The probe to send and to wait for; None if it was sent already, and will be answered with what is asked now."""
        running = self._of.get(asked.packet.chaddr)
        if running is not None:
            if running.address == address:
                running.asked = asked
                return None
            self._end(running)
        probe = Probe(address, asked, tries)
        self._of[probe.mac] = self._running[address.packed] = probe
        return probe

    def heard(self, address: bytes, sender: bytes) -> Probe | None:
        """
        Somebody said by ARP that it has this address: the probe that is over with it, or None.

        Any ARP packet says so, not answers only. What the client says of itself is no conflict: it still has the address from
        before.
        """
        probe = self._running.get(address)
        if probe is None or sender == macs.to_bytes(probe.mac):
            return None
        self._end(probe)
        return probe

    def silence(self, probe: Probe, now: datetime) -> bool:
        """Nobody answered for `wait`: true if the probe had not ended before, and the address is free."""
        if self._of.get(probe.mac) is not probe:
            return False
        self._end(probe)
        self._forget(now)
        self._free_until[probe.address.packed] = now + FRESH
        return True

    def abandon(self) -> None:
        """Nobody listens any more: forget the probes that run, so that their clients are asked about anew."""
        self._of.clear()
        self._running.clear()

    def _end(self, probe: Probe) -> None:
        del self._of[probe.mac]
        if self._running.get(probe.address.packed) is probe:
            del self._running[probe.address.packed]

    def _forget(self, now: datetime) -> None:
        outdated = []
        for address, until in self._free_until.items():
            if until > now:
                break
            outdated.append(address)
        for address in outdated:
            del self._free_until[address]

"""
The ARP shell: sends the probes that `planning.conflicts` decides on, and waits for answers, on one interface.

Each probe is one packet and one timer, so any number of them run at once and nobody waits for another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from ipaddress import IPv4Address

import structlog

from provider.domain import mac as macs
from provider.domain.mac import MacAddress
from provider.netboot import arp, sockets
from provider.planning.conflicts import Probe, Probes
from provider.planning.reply import Asked

log = structlog.get_logger()

_BATCH = 64
"""Packets read in one turn of the loop, so that others get theirs."""

_LONGEST = 64
"""Bytes of an ARP packet that are read; what follows pads the frame."""

_EVERYBODY = macs.parse("ff:ff:ff:ff:ff:ff")


class Prober:
    """
    Asks the network of one interface; `over` is called at the end of each probe, with the MAC address that uses the address,
    or None if it is free. Made in a running loop.
    """

    def __init__(
        self,
        interface: str,
        probes: Probes,
        over: Callable[[Probe, MacAddress | None], None],
        clock: Callable[[], datetime],
    ) -> None:
        """
        Open the socket and listen.

        Raises:
            PermanentError: If the privilege is missing or there is no such interface.
        """
        self._interface = interface
        self._probes = probes
        self._over = over
        self._clock = clock
        self._sock = sockets.open_packet(interface, sockets.ETHERTYPE_ARP)
        self._packet = arp.probe(sockets.hardware_address(self._sock))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._readable)

    def begin(self, asked: Asked, address: IPv4Address, tries: int) -> None:
        """Probe the address for this client, unless that is done already."""
        probe = self._probes.begin(asked, address, tries)
        if probe is None:
            return
        try:
            sockets.send_to_hardware(self._sock, _EVERYBODY, self._packet + address.packed, sockets.ETHERTYPE_ARP)
        except OSError as error:
            # Then nobody answers, and the address is offered as it would be without a probe.
            log.warning("dhcp.probe_failed", address=str(address), mac=probe.mac, error=str(error))
        self._loop.call_later(self._probes.wait.total_seconds(), self._waited, probe)

    def close(self) -> None:
        """Let go of the socket; the probes that run are forgotten."""
        self._loop.remove_reader(self._sock)
        self._probes.abandon()
        self._sock.close()

    def _waited(self, probe: Probe) -> None:
        if self._sock.fileno() >= 0 and self._probes.silence(probe, self._clock()):
            self._over(probe, None)

    def _readable(self) -> None:
        for _ in range(_BATCH):
            try:
                raw = self._sock.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("dhcp.receive_failed", interface=self._interface, error=str(error))
                return
            said = arp.sender(raw)
            if said is None:
                continue
            address, user = said
            probe = self._probes.heard(address, user)
            if probe is not None:
                self._over(probe, macs.from_bytes(user))

"""
The DHCP shell: ports 67 and 4011 of each interface.

A datagram is decoded and decided at once, in the loop's own turn; only saving a lease awaits. Many savings are under way at
the same time and share commits, so one slow disk write delays nobody else's offer. A DHCPACK leaves after its lease is on
disk, never before. When more than `SAVING` leases wait, further requests are dropped: their clients ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from ipaddress import IPv4Address
from typing import Protocol

import structlog

from provider.domain.errors import BootwrightError, MalformedPacketError
from provider.domain.lease import Lease
from provider.domain.mac import MacAddress
from provider.netboot import sockets
from provider.planning import offer
from provider.planning.leases import LeaseTable
from provider.planning.offer import Asked, Forget, Ignore, Reply, Scope
from provider.wire import dhcp, pxe

log = structlog.get_logger()

SAVING = 1024
"""Most leases on their way to the disk at one time, over all interfaces."""

_BATCH = 64
"""Datagrams read in one turn of the loop, so that others get theirs."""


class Leases(Protocol):
    """Where leases live; `store.leases.LeaseStore` is one."""

    async def load(self) -> list[Lease]:
        """All leases, the expired ones too."""

    async def save(self, lease: Lease) -> None:
        """Return when the lease is on disk."""


class BootWatch(Protocol):
    """Who knows the machines; `reconcile.machines.Machines` is one. Neither method waits or raises."""

    def may_netboot(self, mac: MacAddress) -> bool:
        """False for a machine that was rejected or cordoned."""

    def note(self, mac: MacAddress, name: str, **data: str | int | float | bool | None) -> None:
        """Something happened to the machine with this MAC address."""


class DhcpServer:
    """
    Serves all scopes. Call `start`, which binds, then `run`.

    `pools` gives first and last address for each interface in server mode.
    """

    def __init__(
        self,
        scopes: Sequence[Scope],
        pools: dict[str, tuple[IPv4Address, IPv4Address]],
        leases: Leases,
        watch: BootWatch,
        clock: Callable[[], datetime],
    ) -> None:
        self._scopes = scopes
        self._pools = pools
        self._leases = leases
        self._watch = watch
        self._clock = clock
        self._tables: dict[str, LeaseTable] = {}
        self._sockets: list[tuple[socket.socket, int, Scope]] = []
        self._saving = 0
        self._booting: dict[MacAddress, datetime] = {}
        self._group: asyncio.TaskGroup | None = None

    async def start(self) -> None:
        """
        Load the leases and bind all sockets.

        Raises:
            PermanentError: If a port cannot be had.
        """
        known = await self._leases.load()
        for scope in self._scopes:
            if scope.interface in self._pools:
                mine = [lease for lease in known if lease.interface == scope.interface]
                self._tables[scope.interface] = _table(scope, self._pools[scope.interface], mine)
            for port in (offer.SERVER_PORT, pxe.SERVER_PORT):
                sock = sockets.bind_udp(scope.interface, port, broadcast=True)
                self._sockets.append((sock, port, scope))

    async def run(self) -> None:
        """Serve for ever; ends the daemon if it fails."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as self._group:
            for sock, port, scope in self._sockets:
                loop.add_reader(sock, self._readable, sock, port, scope)
            try:
                await asyncio.Event().wait()
            finally:
                self.close()

    def close(self) -> None:
        """Let go of all ports."""
        for sock, _port, _scope in self._sockets:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def mac_of(self, address: str) -> MacAddress | None:
        """Whose IPv4 address this is: from our leases, else as the kernel knows it."""
        for table in self._tables.values():
            if (mac := table.owner(IPv4Address(address))) is not None:
                return mac
        return sockets.neighbour(address)

    def booted_since(self, mac: MacAddress, since: datetime) -> bool:
        """Whether the machine asked for network boot after `since`."""
        return self._booting.get(mac, since) > since

    def _readable(self, sock: socket.socket, port: int, scope: Scope) -> None:
        for _ in range(_BATCH):
            try:
                raw, source = sock.recvfrom(4096)
            except BlockingIOError:
                return
            except OSError as error:
                # The interface may be down for a moment; what it owes us is asked again.
                log.warning("dhcp.receive_failed", interface=scope.interface, error=str(error))
                return
            try:
                self._received(sock, raw, (IPv4Address(source[0]), source[1]), port, scope)
            except Exception:
                log.exception("dhcp.failed", interface=scope.interface, source=source[0], raw=raw[:512].hex())

    def _received(
        self, sock: socket.socket, raw: bytes, source: tuple[IPv4Address, int], port: int, scope: Scope
    ) -> None:
        try:
            packet = dhcp.decode(raw)
        except MalformedPacketError as error:
            log.info("dhcp.malformed", interface=scope.interface, source=str(source[0]), error=str(error))
            return
        now = self._clock()
        asked = Asked(packet, source, port, self._watch.may_netboot(packet.chaddr))
        decision = offer.decide(asked, scope, self._tables.get(scope.interface), now)
        log.debug("dhcp.received", mac=packet.chaddr, xid=hex(packet.xid), type=packet.message_type, port=port)
        if isinstance(decision, Ignore):
            self._ignored(packet, decision)
        elif isinstance(decision, Forget):
            address = decision.lease.address
            event = decision.event
            self._save(decision.lease, lambda: self._watch.note(packet.chaddr, event, address=address))
        elif decision.lease is None:
            self._send(sock, decision, now)
        else:
            reply = decision
            self._save(decision.lease, lambda: self._send(sock, reply, now))

    def _ignored(self, packet: dhcp.Packet, decision: Ignore) -> None:
        if decision.warn:
            log.warning("dhcp.ignored", mac=packet.chaddr, xid=hex(packet.xid), reason=decision.reason)
            self._watch.note(packet.chaddr, "dhcp.ignored", reason=decision.reason)
        else:
            log.debug("dhcp.ignored", mac=packet.chaddr, xid=hex(packet.xid), reason=decision.reason)

    def _save(self, lease: Lease, then: Callable[[], None]) -> None:
        """Save the lease, then go on; while that waits, everybody else is served."""
        if self._group is None or self._saving >= SAVING:
            log.warning("dhcp.dropped", mac=lease.mac, reason=f"{self._saving} leases wait for the disk")
            return
        self._saving += 1
        self._group.create_task(self._saved(lease, then), name=f"lease {lease.address}")

    async def _saved(self, lease: Lease, then: Callable[[], None]) -> None:
        try:
            await self._leases.save(lease)
        except BootwrightError as error:
            log.error("dhcp.lease_unsaved", mac=lease.mac, address=lease.address, error=str(error), hint=error.hint)
        else:
            then()
        finally:
            self._saving -= 1

    def _send(self, sock: socket.socket, reply: Reply, now: datetime) -> None:
        to = (str(reply.to[0]), reply.to[1])
        try:
            sock.sendto(dhcp.encode(reply.packet), to)
        except OSError as error:
            log.warning("dhcp.send_failed", mac=reply.packet.chaddr, to=to[0], error=str(error))
            return
        if reply.facts.get("stage") != "os":
            self._remember(reply.packet.chaddr, now)
        self._watch.note(reply.packet.chaddr, reply.event, **reply.facts)

    def _remember(self, mac: MacAddress, now: datetime) -> None:
        if len(self._booting) > 100_000:
            self._booting.clear()
        self._booting[mac] = now


def _table(scope: Scope, pool: tuple[IPv4Address, IPv4Address], known: Iterable[Lease]) -> LeaseTable:
    first, last = pool
    inside = [lease for lease in known if first <= IPv4Address(lease.address) <= last]
    return LeaseTable(scope.interface, first, last, scope.address, inside)

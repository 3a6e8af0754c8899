"""
The DHCP shell: ports 67 and 4011 of each interface, or 4011 alone beside another server on this host.

A datagram is decoded and decided at once, in the loop's own turn; only saving a lease awaits. Leases to be saved gather while
the disk is busy with those before, and go to it together: one task, one commit, then all their DHCPACKs. So an answer leaves
after its lease is on disk, never before, and a slow disk delays nobody's offer. When more than `SAVING` leases wait, further
requests are dropped: their clients ask again.

An offer waits for its ARP probe in the same way: while it does, everybody else is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

import structlog

from provider.domain.errors import BootwrightError, MalformedPacketError, PermanentError
from provider.domain.lease import Lease, Reservation
from provider.domain.mac import MacAddress
from provider.domain.machine import Attachment
from provider.kit.clock import WatchedClock
from provider.kit.signal import Signal
from provider.netboot import sockets
from provider.netboot.conflict_probe import Prober
from provider.netboot.readers import Reader, Readers
from provider.planning import offer, proxy_style, reply
from provider.planning.conflicts import TRIES, Probe
from provider.planning.floods import Floods
from provider.planning.interfaces import Opening
from provider.planning.loader import Loader
from provider.planning.proxy_style import Attempt, Style
from provider.planning.reply import SERVER_PORT, Asked, Forget, Ignore, Reply, Scope, Verify
from provider.planning.subnets import Leasing, Subnet, Subnets
from provider.wire import dhcp, pxe, udp

log = structlog.get_logger()

SAVING = 4096
"""Most leases on their way to the disk at one time."""

WARNED = 4096
"""Machines of which we remember what was said about them last, so as not to say it with each of their packets."""

_BATCH = 64
"""Datagrams read in one turn of the loop, so that others get theirs."""


class Leases(Protocol):
    """Where leases live; `store.leases.LeaseStore` is one."""

    async def load(self) -> list[Lease]:
        """All leases, the expired ones too."""

    async def save(self, leases: Sequence[Lease]) -> None:
        """Return when all of them are on disk."""


class Reservations(Protocol):
    """What operators reserved while we run; `reconcile.addresses.AddressDesk` is one."""

    changed: Signal

    def reservations(self) -> Sequence[Reservation]:
        """All of them."""


class BootWatch(Protocol):
    """Who knows the machines; `reconcile.firmwares.Firmwares` is one. No method waits or raises."""

    def may_netboot(self, mac: MacAddress) -> bool:
        """False for a machine that was rejected or cordoned."""

    def loader(self, mac: MacAddress, *, begins: bool) -> Loader:
        """What UEFI firmware boots with; `begins` when it asks for the first time in a boot."""

    def style(self, mac: MacAddress, first: Style, attempt: Attempt) -> Style:
        """How to speak to PXE firmware that sent a DHCPDISCOVER beside another server; `first` if nothing is known of it."""

    def note(self, mac: MacAddress, name: str, **data: str | int | float | bool | None) -> None:
        """Something happened to the machine with this MAC address."""

    def attached(self, mac: MacAddress, attachment: Attachment) -> None:
        """It was seen there."""


@dataclass(eq=False)
class _Port:
    """
    One well-known port on one interface.

    `packets` reaches clients that have no address yet; `prober` is there where addresses are probed before an offer.
    """

    number: int
    scope: Scope
    sock: socket.socket
    packets: socket.socket
    prober: Prober | None = None

    def close(self) -> None:
        """Let go of its sockets."""
        self.sock.close()
        self.packets.close()
        if self.prober is not None:
            self.prober.close()


class DhcpServer:
    """
    Serves the interfaces that it is open on. Call `start`, then `run`; `open` and `close` at any time after `start`.

    `behind_relays` says how addresses are leased in networks behind relays. How they are in the network of an interface comes
    with its opening; leases and offers of that network outlive the interface, which may come back.
    """

    def __init__(
        self,
        behind_relays: Mapping[IPv4Network, Leasing],
        leases: Leases,
        reservations: Reservations,
        watch: BootWatch,
        clock: Callable[[], datetime],
    ) -> None:
        self._leases = leases
        self._reservations = reservations
        self._watch = watch
        self._log = log.bind()
        """For what is logged of each packet: the other one looks for its settings each time, for a microsecond."""
        self._clock = WatchedClock(clock)
        self._floods = Floods()
        self._subnets = Subnets(Subnet(network, leasing) for network, leasing in behind_relays.items())
        self._unplaced: list[Lease] = []
        """Leases in networks that no interface of ours has had yet."""
        self._ports: list[_Port] = []
        """Port 67 on each interface that is open."""
        self._readers = Readers()
        self._unsaved: list[tuple[Sequence[Lease], Callable[[], None]]] = []
        self._saving = 0
        self._save_now = asyncio.Event()
        self._booting: dict[MacAddress, datetime] = {}
        self._warned: OrderedDict[MacAddress, str] = OrderedDict()

    async def start(self) -> None:
        """
        Load the leases.

        Raises:
            BootwrightError: If the store cannot give them.
        """
        known = await self._leases.load()
        self._subnets = Subnets(Subnet(each.network, each.leasing, known=known) for each in self._subnets.all())
        self._unplaced = [lease for lease in known if self._subnets.of(lease.address) is None]

    def open(self, opening: Opening) -> None:
        """
        Bind the ports of an interface, and lease addresses of its network if that is ours to do.

        Raises:
            PermanentError: If a port cannot be had.
        """
        scope = opening.scope
        if opening.leasing is not None:
            self._lease(scope.network, opening.leasing)
        with contextlib.ExitStack() as half_open:
            readers = [
                half_open.enter_context(contextlib.closing(self._reader(scope, number))) for number in scope.ports
            ]
            half_open.pop_all()
        self._readers.add(opening, *readers)
        self._keep_out_of(scope.network)

    def close(self, opening: Opening) -> None:
        """Let go of the ports of an interface."""
        self._readers.remove(opening)
        self._forget_closed()

    async def run(self) -> None:
        """Serve for ever; ends the daemon if it fails."""
        self._readers.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._save_for_ever(), name="leases")
                group.create_task(self._follow_reservations(), name="reservations")
        finally:
            self._readers.close()

    def leases_here(self, address: IPv4Address) -> bool:
        """Whether an operator may reserve the address."""
        subnet = self._subnets.of(address)
        return subnet is not None and subnet.may_reserve(address)

    def mac_of(self, address: str) -> MacAddress | None:
        """Whose IPv4 address this is: from our leases, else as the kernel knows it."""
        subnet = self._subnets.of(IPv4Address(address))
        owner = None if subnet is None else subnet.table.owner(IPv4Address(address))
        return owner or sockets.neighbour(address)

    def booted_since(self, mac: MacAddress, since: datetime) -> bool:
        """Whether the machine asked for network boot after `since`."""
        return self._booting.get(mac, since) > since

    async def _follow_reservations(self) -> None:
        while True:
            changed = self._reservations.changed.ticket()
            self._reserve()
            await changed.wait()

    def _reserve(self) -> None:
        for subnet in self._subnets.all():
            subnet.reserve(self._reservations.reservations())

    def _lease(self, network: IPv4Network, leasing: Leasing) -> None:
        subnet = self._subnets.serve(network, leasing, self._unplaced)
        self._unplaced = [lease for lease in self._unplaced if lease.address not in network]
        subnet.reserve(self._reservations.reservations())

    def _forget_closed(self) -> None:
        self._ports = [port for port in self._ports if port.sock.fileno() >= 0]

    def _keep_out_of(self, network: IPv4Network) -> None:
        """Lease none of our own addresses."""
        for subnet in self._subnets.all():
            if subnet.network.overlaps(network):
                ours = (opening.scope.address for opening in self._readers)
                subnet.keep_out(address for address in ours if address in subnet.network)

    def _reader(self, scope: Scope, number: int) -> Reader:
        port = self._open(scope, number)
        return Reader(port.sock, scope.interface, lambda: self._readable(port), with_it=[port])

    def _open(self, scope: Scope, number: int) -> _Port:
        sock = sockets.bind_udp(scope.interface, number, broadcast=True)
        try:
            port = _Port(number, scope, sock, sockets.open_packet(scope.interface))
        except PermanentError:
            sock.close()
            raise
        subnet = None if scope.proxy or number != SERVER_PORT else self._subnets.of(scope.address)
        if subnet is not None and subnet.probes.wait:
            try:
                port.prober = Prober(scope.interface, subnet.probes, partial(self._probed, port), self._now)
            except PermanentError:
                port.close()
                raise
        if number == SERVER_PORT:
            self._forget_closed()
            self._ports.append(port)
        return port

    def _readable(self, port: _Port) -> None:
        now = self._now()  # Once for all that are read in this turn: a few milliseconds.
        for _ in range(_BATCH):
            raw, source = port.sock.recvfrom(4096)
            try:
                self._received(port, raw, source, now)
            except Exception:
                log.exception("dhcp.failed", interface=port.scope.interface, source=source[0], raw=raw[:512].hex())

    def _received(self, port: _Port, raw: bytes, source: tuple[str, int], now: datetime) -> None:
        try:
            packet = dhcp.decode(raw)
        except MalformedPacketError as error:
            log.info("dhcp.malformed", interface=port.scope.interface, source=source[0], error=str(error))
            return
        if (excess := self._floods.excess(packet, port.scope, now)) is not None:
            self._ignored(packet, excess)
            return
        if len(self._ports) > 1 and port.number == SERVER_PORT:
            port = self._port_of(packet, port)
        client = pxe.client(packet)
        may_netboot, loader = self._watch.may_netboot(packet.chaddr), self._loader(packet, client, port)
        style = self._style(packet, client, port, now)
        asked = Asked(packet, client, source, port.number, may_netboot, loader, style)
        self._log.debug(
            "dhcp.received", mac=packet.chaddr, xid=hex(packet.xid), type=packet.message_type, port=port.number
        )
        self._answer(port, asked, now)

    def _port_of(self, packet: dhcp.Packet, port: _Port) -> _Port:
        """Who answers; asking the kernel where each packet was sent to (IP_PKTINFO) would cost all of them time."""
        scope = reply.scope_of(packet, port.scope, (each.scope for each in self._ports))
        return next((each for each in self._ports if each.scope is scope), port)

    def _answer(self, port: _Port, asked: Asked, now: datetime, tries: int = 1) -> None:
        """Decide and act; `tries` counts the addresses that were probed for it, this one included."""
        packet = asked.packet
        decision = offer.decide(asked, port.scope, self._subnets, now)
        if isinstance(decision, Reply) and (seen := reply.attachment(packet, port.scope)) is not None:
            self._watch.attached(packet.chaddr, seen)
        if isinstance(decision, Ignore):
            self._ignored(packet, decision)
            return
        if isinstance(decision, Verify):
            if port.prober is not None:
                port.prober.begin(asked, decision.address, tries)
            return
        if isinstance(decision, Reply) and decision.warning:
            self._warn(packet, decision.warning_event, decision.warning)
        if isinstance(decision, Forget):
            address, event = str(decision.lease.address), decision.event
            self._save((decision.lease,), lambda: self._watch.note(packet.chaddr, event, address=address))
            if decision.warning:
                self._warn(packet, "dhcp.suspected", decision.warning)
        elif decision.leases:
            granted = decision
            self._save(granted.leases, lambda: self._send(port, granted, now))
        else:
            self._send(port, decision, now)

    def _now(self) -> datetime:
        was, now = self._clock.look()
        if was is not now:
            leases = [lease for subnet in self._subnets.all() for lease in subnet.clock_was_set(was, now)]
            log.warning("dhcp.clock_set", seconds=round((now - was).total_seconds()), leases=len(leases))
            if leases:
                self._save(leases, lambda: None)
        return now

    def _probed(self, port: _Port, probe: Probe, user: MacAddress | None) -> None:
        """Offer the address, or quarantine it if somebody uses it and look at the next one."""
        now = self._now()
        if user is None:
            self._answer(port, probe.asked, now)
            return
        address, mac = str(probe.address), probe.mac
        log.warning("dhcp.conflict", interface=port.scope.interface, address=address, used_by=user, mac=mac)
        bad = self._subnets.of(probe.address)
        if bad is not None:
            lease = bad.table.quarantine(mac, probe.address, now)
            self._save((lease,), lambda: self._watch.note(mac, "dhcp.conflict", address=address, used_by=user))
        if probe.tries < TRIES:
            self._answer(port, probe.asked, now, probe.tries + 1)

    def _loader(self, packet: dhcp.Packet, client: pxe.Client, port: _Port) -> Loader:
        if client.is_ipxe or client.firmware in (None, pxe.BIOS, pxe.RASPBERRY_PI):
            return Loader.IPXE
        begins = packet.message_type is dhcp.MessageType.DISCOVER or SERVER_PORT not in port.scope.ports
        return self._watch.loader(packet.chaddr, begins=begins)

    def _style(self, packet: dhcp.Packet, client: pxe.Client, port: _Port, now: datetime) -> Style:
        if not port.scope.proxy:
            return Style.COMPLETE
        first = proxy_style.first(client)
        is_asked = port.number == SERVER_PORT and packet.message_type is dhcp.MessageType.DISCOVER
        if not is_asked or not proxy_style.has_choice(client):
            return first
        return self._watch.style(packet.chaddr, first, Attempt(packet.xid, packet.secs, now))

    def _ignored(self, packet: dhcp.Packet, decision: Ignore) -> None:
        if decision.warn:
            self._warn(packet, "dhcp.ignored", decision.reason, again=decision.again)
        else:
            self._log.debug("dhcp.ignored", mac=packet.chaddr, xid=hex(packet.xid), reason=decision.reason)

    def _warn(self, packet: dhcp.Packet, event: str, reason: str, *, again: bool = False) -> None:
        """Tell an operator, and once of each machine, however often it asks."""
        if self._warned.get(packet.chaddr) == reason and not again:
            return
        if len(self._warned) >= WARNED:
            self._warned.popitem(last=False)
        self._warned[packet.chaddr] = reason
        log.warning(event, mac=packet.chaddr, xid=hex(packet.xid), reason=reason)
        self._watch.note(packet.chaddr, event, reason=reason)

    def _save(self, leases: Sequence[Lease], then: Callable[[], None]) -> None:
        """Save the leases, then go on; while that waits, everybody else is served."""
        if self._saving + len(self._unsaved) >= SAVING:
            log.warning("dhcp.dropped", mac=leases[0].claimant.mac, reason=f"{SAVING} leases wait for the disk")
            return
        self._unsaved.append((leases, then))
        self._save_now.set()

    async def _save_for_ever(self) -> None:
        while True:
            await self._save_now.wait()
            self._save_now.clear()
            batch, self._unsaved = self._unsaved, []
            self._saving = len(batch)
            try:
                await self._leases.save([lease for leases, _then in batch for lease in leases])
            except BootwrightError as error:
                log.error("dhcp.leases_unsaved", count=len(batch), error=str(error), hint=error.hint)
            else:
                for _leases, then in batch:
                    then()
            finally:
                self._saving = 0

    def _send(self, port: _Port, decided: Reply, now: datetime) -> None:
        packet, to, scope = decided.packet, decided.to, port.scope
        raw = dhcp.encode(packet, decided.largest)
        try:
            if to.by_hardware:
                frame = udp.datagram((scope.address, port.number), (to.address, to.port), raw)
                sockets.send_to_hardware(port.packets, packet.chaddr, frame)
            else:
                sockets.send_from(port.sock, scope.address, raw, (str(to.address), to.port))
        except OSError as error:
            log.warning("dhcp.send_failed", mac=packet.chaddr, to=str(to.address), error=str(error))
            return
        if decided.facts.get("stage") != "os":
            self._remember(packet.chaddr, now)
        if decided.event:
            self._watch.note(packet.chaddr, decided.event, **decided.facts)

    def _remember(self, mac: MacAddress, now: datetime) -> None:
        if len(self._booting) > 100_000:
            self._booting.clear()
        self._booting[mac] = now

"""
Datagrams to the DHCP ports: decoded, decided, and the answers checked.

One input is up to `MOST_STEPS` datagrams to one provider, which has a network of its own (10.77.0.0/24) and one behind relays
(10.88.0.0/24), and stands beside other DHCP servers on two more interfaces. A step is

| Bytes | Meaning |
|---|---|
| 1 | the interface, the port, what we know of the machine, and whether the provider restarts first |
| 1 | the seconds since the step before (`_WAITS`, in the lowest three bits); two bits of what ARP probes hear; the style |
| raw: 2, and as many | the whole datagram |
| else: 1, 1, 1 | the client's number (`_mac`; 0x80: it wants broadcasts), ciaddr, giaddr: `_ADDRESSES` |
| else: 1, and as many | the options, as they stand on the wire |

In place of ciaddr, 0x80 is the address that was answered last; beside giaddr, it adds options that ask for that.

A DHCPOFFER that waits for an ARP probe is answered as the shell does it: when nobody says that it uses the address, or
with another address when somebody does; or the next packets come first.

What must hold, whatever comes: nobody is promised an address that another has, or that is not his to have; what was promised
is saved, and still holds after a restart; boot files are those that the interface has; an answer fits its client, and reads
as it was meant; beside another server nothing is leased; and no table grows beyond what the pools are worth.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from types import FunctionType, ModuleType

from fuzz.inputs import Reader, demand
from provider.domain import mac as macs
from provider.domain.errors import MalformedPacketError
from provider.domain.lease import Claimant, Lease, Reservation, ReservedBy
from provider.domain.mac import MacAddress
from provider.planning import offer, reply
from provider.planning.conflicts import TRIES, Probe
from provider.planning.floods import Floods
from provider.planning.leases import Pool
from provider.planning.loader import Loader
from provider.planning.proxy_style import ORDER, Style
from provider.planning.reply import Asked, Decision, Forget, Reply, Scope, Verify
from provider.planning.subnets import Leasing, Subnet, Subnets, device_options, site_options
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option, Packet

MOST_STEPS = 16

LIFE = 4096
"""Inputs that one provider takes, where it outlives them."""

MOST_BYTES = 32 << 20
"""Of all tables of one provider; what they remember of strangers is limited in number, and a datagram in size."""

_START = datetime(2026, 1, 1, tzinfo=UTC)
_OURS = IPv4Address("10.77.0.1")
_UUID = b"\0" + bytes(range(16))
_NEAR, _FAR = IPv4Network("10.77.0.0/24"), IPv4Network("10.88.0.0/24")


def _mac(number: int) -> MacAddress:
    """Eight clients, so that they get in each other's way, and as many Raspberry Pis."""
    return macs.from_bytes((b"\xb8\x27\xeb" if number & 0x40 else b"\x52\x54\0") + bytes((0, 0, number & 7)))


_RESERVED = (
    Reservation(IPv4Address("10.77.0.104"), ReservedBy.MAC, _mac(7)),
    Reservation(IPv4Address("10.77.0.200"), ReservedBy.UUID, "03020100-0504-0706-0809-0a0b0c0d0e0f"),
    Reservation(IPv4Address("10.77.0.201"), ReservedBy.CIRCUIT_ID, "p1"),
    Reservation(IPv4Address("10.77.0.202"), ReservedBy.CIRCUIT_ID, "p2", "s"),
)
_RESERVED_FAR = (Reservation(IPv4Address("10.88.0.10"), ReservedBy.MAC, _mac(7)),)
_SITE = site_options(
    router=_OURS,
    dns=[IPv4Address("10.77.0.2"), IPv4Address("10.77.0.3")],
    ntp=[IPv4Address("10.77.0.4")],
    domain="hall.example.com",
)
_MUCH = site_options(
    router=IPv4Address("10.88.0.1"),
    search=[f"row-{number}.hall-of-machines.example.com" for number in range(12)],
    routes=[(IPv4Network((f"10.{number}.0.0", 16)), IPv4Address("10.88.0.1")) for number in range(100, 160)],
    ntp=[IPv4Address("10.88.0.2")] * 30,
    mtu=9000,
)
"""More than fits into the shortest answer, and single options of more than 255 bytes."""
_DEVICES = device_options(tftp_server_name="phones", boot_file="phone.cfg", tftp_servers=[_OURS])
_LEASINGS = {
    _NEAR: Leasing(
        ((IPv4Address("10.77.0.100"), IPv4Address("10.77.0.105")),),
        ((IPv4Address("10.77.0.103"), IPv4Address("10.77.0.103")),),
        _RESERVED,
        conflict_probe=timedelta(seconds=0.5),
        options=_SITE,
        device_options=_DEVICES,
    ),
    _FAR: Leasing(
        ((IPv4Address("10.88.0.10"), IPv4Address("10.88.0.11")),),
        reservations=_RESERVED_FAR,
        clients_per_port=1,
        options=_MUCH,
    ),
}
_POOLS = {network: Pool(each.ranges, each.excluded) for network, each in _LEASINGS.items()}

_FILES = frozenset({"undionly.kpxe", "snponly.efi", "shimx64.efi", "shimaa64.efi"})
_SERVER = Scope("eth0", _OURS, _NEAR, proxy=False, http_port=8080, boot_files=_FILES)
_SCOPES = (
    _SERVER,
    replace(_SERVER, interface="eth1", address=IPv4Address("10.66.0.1"), proxy=True),
    replace(_SERVER, interface="eth2", address=IPv4Address("10.55.0.1"), proxy=True, ports=(pxe.SERVER_PORT,)),
    replace(_SERVER, boot_files=frozenset({"undionly.kpxe", "start4.elf", "ipxe-i386.efi"})),
)

_ADDRESSES = (
    *(dhcp.NOWHERE, reply.BROADCAST, IPv4Address("10.99.0.1")),
    *(_OURS + more for more in (0, 99, 100, 101, 102, 103, 104, 199, 200, 201)),
    *map(IPv4Address, ("10.88.0.1", "10.88.0.10", "10.88.0.11")),
)
_HEADER_BYTES = 240
_NEVER_LEFT_OUT = (Option.CLIENT_ID, Option.MESSAGE_TYPE, Option.SERVER_ID, Option.LEASE_TIME, Option.RELAY_AGENT)
_WAITS = (0, 1, 5, 30, 61, 100, 601, 3601)
"""Seconds: an offer is held for 30, boot leases last 120, quarantine 600, other leases 3,600."""


# How a datagram comes in: bits of the first byte; the lowest two are the interface.
_SCOPE = 0x03
_PORT_4011 = 0x04
_FROM_CIADDR = 0x08
_SILENCED = 0x10
_SIGNED = 0x20
_RAW = 0x40
_RESTART = 0x80

_NOBODY, _SOMEBODY, _ITSELF = range(3)
"""Who says by ARP that it has an address that is probed; 3: nobody yet."""
_STRANGER = bytes(6)


def words() -> Iterable[bytes]:
    """What inputs are made of: whole options."""
    for kind in MessageType:
        yield bytes((Option.MESSAGE_TYPE, 1, kind))
    for address in _ADDRESSES:
        yield bytes((Option.REQUESTED_ADDRESS, 4)) + address.packed
        yield bytes((Option.SERVER_ID, 4)) + address.packed
        yield bytes((5, 4)) + address.packed  # Link selection, within option 82.
    for arch in (*(arch for each in pxe.FIRMWARES for arch in each.archs), 0x08, 0x77):
        yield bytes((Option.CLIENT_ARCH, 2, 0, arch))
    for code, value in (
        (Option.VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003000"),
        (Option.VENDOR_CLASS, b"HTTPClient:Arch:00016:UNDI:003000"),
        (Option.VENDOR_CLASS, b"U-Boot"),
        (Option.USER_CLASS, b"iPXE"),
        (Option.CLIENT_UUID, _UUID),
        (Option.RELAY_AGENT, b"\1\2p1"),
        (Option.RELAY_AGENT, b"\1\2p2\2\1s"),
        (Option.IPXE, b"\x13\1\1\x18\1\1"),
        (Option.MAXIMUM_SIZE, b"\5\xdc"),
        (Option.PARAMETER_LIST, bytes((1, 3, 6, 15, 42, 66, 67, 119, 121, 150))),
        (Option.OVERLOAD, b"\3"),
        (Option.LEASE_TIME, bytes(4)),
        (Option.CLIENT_ID, b"\1\x52\x54\0\0\0\1"),
    ):
        yield bytes((code, len(value))) + value
    yield dhcp.MAGIC


def play(data: bytes) -> None:
    """
    Play one input to a new provider.

    Raises:
        BrokenInvariantError: If what must hold does not.
    """
    World().play(data)


class World:
    """One provider, and what its clients were promised."""

    def __init__(self) -> None:
        self._now = _START
        self._saved: dict[IPv4Address, Lease] = {}
        self._answered = 0
        """Its place in `_ADDRESSES`."""
        self._floods = Floods()
        self._probing: list[tuple[Probe, Scope]] = []
        self._start()

    def play(self, data: bytes) -> None:
        """Play one input; see `play`."""
        reader = Reader(data)
        for _ in range(MOST_STEPS):
            if not reader.has_more:
                break
            self._step(reader)

    def weigh(self) -> int:
        """Bytes of all tables that the provider holds."""
        return _weight((self._subnets, self._floods))

    def _start(self) -> None:
        self._probing.clear()
        self._subnets = Subnets(
            Subnet(network, leasing, ours=[_OURS], known=self._saved.values()) for network, leasing in _LEASINGS.items()
        )

    def _step(self, reader: Reader) -> None:
        how = reader.number()
        then = reader.number()
        self._now += timedelta(seconds=_WAITS[then % len(_WAITS)])
        self._end_probes()
        raw = reader.bytes(reader.number(2)) if how & _RAW else self._datagram(reader)
        if how & _RESTART:
            self._start()
            self._promises_hold()
        try:
            packet = dhcp.decode(raw)
        except MalformedPacketError as error:
            demand(bool(error.field) and 0 <= error.offset <= len(raw), "the error names no place")
            return
        scope = _SCOPES[how & _SCOPE]
        if self._floods.excess(packet, scope, self._now) is None:
            reply.attachment(packet, scope)
            self._answer(_asked(packet, how, scope, ORDER[(then >> 5) % len(ORDER)]), scope, (then >> 3) & 3)

    def _answer(self, asked: Asked, scope: Scope, heard: int, tries: int = 1) -> None:
        """Decide, and probe if it has to be; what is `heard` is `_NOBODY`, `_SOMEBODY`, `_ITSELF` or nothing yet."""
        decision = offer.decide(asked, scope, self._subnets, self._now)
        if not isinstance(decision, Verify):
            self._check(decision, asked, scope)
            return
        subnet = self._subnets.of(decision.address)
        demand(subnet is not None and not scope.proxy, "an address of no subnet is probed")
        if subnet is None:
            return
        probe = subnet.probes.begin(asked, decision.address, tries)
        if heard == _SOMEBODY and subnet.probes.heard(decision.address.packed, _STRANGER) is not None:
            self._save((subnet.table.quarantine(asked.packet.chaddr, decision.address, self._now),))
            if tries < TRIES:
                self._answer(asked, scope, heard, tries + 1)
        elif heard == _ITSELF:
            own = macs.to_bytes(asked.packet.chaddr)
            demand(subnet.probes.heard(decision.address.packed, own) is None, "a client is a conflict of its own")
        if probe is not None:
            self._probing.append((probe, scope))
            if heard == _NOBODY:
                self._end_probes()

    def _end_probes(self) -> None:
        """Nobody said anything for long enough."""
        probing, self._probing = self._probing, []
        for probe, scope in probing:
            subnet = self._subnets.of(probe.address)
            if subnet is not None and subnet.probes.silence(probe, self._now):
                decision = offer.decide(probe.asked, scope, self._subnets, self._now)
                demand(not isinstance(decision, Verify) or decision.address != probe.address, "it is probed again")
                self._check(decision, probe.asked, scope)

    def _datagram(self, reader: Reader) -> bytes:
        who, ciaddr, giaddr = reader.number(), reader.number(), reader.number()
        has = self._answered if ciaddr & 0x80 else ciaddr % len(_ADDRESSES)
        asks = _asks_for(self._answered) if giaddr & 0x80 else b""
        return _header(who, has, (giaddr & 0x7F) % len(_ADDRESSES)) + asks + reader.bytes(reader.number())

    def _check(self, decision: Decision, asked: Asked, scope: Scope) -> None:
        match decision:
            case Reply():
                leases = decision.leases or decision.packet.yiaddr != dhcp.NOWHERE
                demand(not (scope.proxy and leases), "a proxy leases")
                _reads_as_meant(decision, asked.packet)
                _is_served(decision.packet, asked.client, scope)
                self._may_be_promised(decision, asked)
                self._save(decision.leases)
            case Forget():
                demand(not scope.proxy, "a proxy forgets")
                self._save((decision.lease,))

    def _save(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            self._saved[lease.address] = lease
        for network in _LEASINGS:
            holders = [each.claimant.mac for each in self._live() if each.address in network and not each.declined]
            demand(len(holders) == len(set(holders)), "a client has two leases in one network")

    def _live(self) -> list[Lease]:
        return [lease for lease in self._saved.values() if lease.expires_at > self._now]

    def _may_be_promised(self, decision: Reply, asked: Asked) -> None:
        address, client = decision.packet.yiaddr, asked.packet.chaddr
        if address == dhcp.NOWHERE:
            demand(not decision.leases, "a lease without an address")
            return
        self._answered = _ADDRESSES.index(address)
        held = self._saved.get(address)
        if held is not None and held.expires_at > self._now:
            demand(not held.declined, "an address in quarantine is given away")
            demand(held.claimant.mac == client, "an address that somebody has is given away")
        reservation = next((each for each in (*_RESERVED, *_RESERVED_FAR) if each.address == address), None)
        if reservation is None:
            in_a_pool = any(int(address) in pool for pool in _POOLS.values())
            demand(in_a_pool and address != _OURS, "an address that is nobody's to have is given away")
        else:
            said = [each.claimant for each in (*self._saved.values(), *decision.leases) if each.claimant.mac == client]
            says = Claimant(client, asked.client.uuid, *asked.packet.relay_port)
            demand(any(map(reservation.is_for, [says, *said])), "an address that is reserved for another is given away")
        if decision.packet.message_type is MessageType.ACK:
            first = decision.leases[0] if decision.leases else None
            is_its = first is not None and (first.address, first.claimant.mac) == (address, client)
            demand(is_its, "an address is acknowledged and not saved")

    def _promises_hold(self) -> None:
        for lease in self._live():
            subnet = self._subnets.of(lease.address)
            demand(subnet is not None, "a lease of no subnet")
            if subnet is not None and not lease.declined:
                kept = subnet.table.may_have(lease.claimant, lease.address, self._now)
                demand(kept, "a client that has a lease loses it at a restart")


class LongLife:
    """Providers that take one input after the other, whose tables must not grow; only some inputs, as it costs time."""

    def __init__(self) -> None:
        self.journal: list[bytes] = []
        """The inputs that the present provider took."""
        self._world = World()

    def play(self, data: bytes) -> None:
        """Play one more input; see `play`."""
        if len(self.journal) >= LIFE:
            weight = self._world.weigh()
            demand(weight <= MOST_BYTES, f"the tables grew to {weight} bytes")
            self.journal.clear()
            self._world = World()
        self.journal.append(data)
        self._world.play(data)


@cache
def _header(who: int, ciaddr: int, giaddr: int) -> bytes:
    packet = Packet(
        op=dhcp.BOOTREQUEST,
        xid=who,
        chaddr=_mac(who),
        flags=dhcp.BROADCAST_FLAG if who & 0x80 else 0,
        ciaddr=_ADDRESSES[ciaddr],
        giaddr=_ADDRESSES[giaddr],
    )
    return dhcp.encode(packet)[:_HEADER_BYTES]


@cache
def _asks_for(place: int) -> bytes:
    wanted = bytes((Option.REQUESTED_ADDRESS, 4)) + _ADDRESSES[place].packed
    return wanted + bytes((Option.SERVER_ID, 4)) + _OURS.packed


def _asked(packet: Packet, how: int, scope: Scope, style: Style) -> Asked:
    source = packet.ciaddr if how & _FROM_CIADDR else dhcp.NOWHERE
    port = pxe.SERVER_PORT if how & _PORT_4011 else scope.ports[0]
    loader = Loader.SIGNED if how & _SIGNED else Loader.IPXE
    return Asked(packet, pxe.client(packet), (str(source), 68), port, not how & _SILENCED, loader, style)


def _reads_as_meant(decision: Reply, request: Packet) -> None:
    """The answer fits its client, and says what was decided; the last options may be missing, but none that matters."""
    meant = decision.packet
    raw = dhcp.encode(meant, decision.largest)
    demand(len(raw) <= decision.largest, "an answer is longer than its client takes")
    read = dhcp.decode(raw)
    demand(replace(read, options={}) == replace(meant, options={}), "the header of an answer reads differently")
    demand(read.options.items() <= meant.options.items(), "an option of an answer reads differently")
    for code in _NEVER_LEFT_OUT if len(meant.options.get(Option.CLIENT_ID, b"")) < 256 else _NEVER_LEFT_OUT[1:]:
        demand((code in read.options) == (code in meant.options), f"option {code} is left out of an answer")
    for code in (Option.CLIENT_ID, Option.RELAY_AGENT):
        demand(meant.options.get(code) == request.options.get(code), f"option {code} does not come back")
    if relay := meant.options.get(Option.RELAY_AGENT):
        demand(relay[-255:] + b"\xff" in raw[_HEADER_BYTES:], "no relay finds its option")


@cache
def _offered_by(scope: Scope) -> frozenset[bytes]:
    """All that this interface can name as a boot file."""
    spellings = (str, scope.file_url, scope.tftp_url)
    names = [spelled(name) for name in scope.boot_files for spelled in spellings]
    return frozenset(name.encode() for name in ("", scope.script_url, *names))


def _is_served(answer: Packet, client: pxe.Client, scope: Scope) -> None:
    named = {answer.file, answer.options.get(Option.BOOT_FILE_NAME, b"")}
    allowed = _offered_by(scope) if client.boots else {b"", _DEVICES[Option.BOOT_FILE_NAME]}
    demand(named <= allowed, f"a boot file is named that is not there: {named}")


def _weight(root: object) -> int:
    """Bytes of an object and all that hangs on it, code left aside."""
    seen, waiting, total = {id(root)}, [root], 0
    while waiting:
        each = waiting.pop()
        total += sys.getsizeof(each)
        for other in gc.get_referents(each):
            if id(other) not in seen and not isinstance(other, type | ModuleType | FunctionType):
                seen.add(id(other))
                waiting.append(other)
    return total

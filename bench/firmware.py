"""
The part of a simulated machine that is firmware and iPXE: DHCP by broadcast, TFTP, scripts.

All machines of a load process share one interface. They ask from 0.0.0.0 by a packet socket, with MAC addresses of their own in
chaddr and the broadcast flag set, as PXE ROMs do, and hear all answers on one socket at port 68. Their time-outs are those of
real firmware, and every request that is sent again is counted.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from uuid import UUID

from provider.domain import mac as macs
from provider.domain.errors import MalformedPacketError
from provider.domain.mac import MacAddress
from provider.netboot import sockets
from provider.wire import dhcp, tftp, udp
from provider.wire.dhcp import MessageType, Option, Packet

PXE_SECONDS = (4.0, 8.0, 16.0, 32.0)
"""Time-outs of DHCP in a PXE ROM (PXE specification 2.1, section 2.2.1)."""

IPXE_SECONDS = (1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
"""Time-outs of DHCP in iPXE (src/net/udp/dhcp.c, config/dhcp.h)."""

UDHCPC_SECONDS = (2.0, 2.0, 2.0, 2.0)
"""Time-outs of DHCP in the agent (provider/agent/network.py)."""

TFTP_SECONDS = (4.0,) * 6
"""Time-outs of TFTP in EDK2 (Mtftp4Dxe)."""

BLOCK_SIZE = 1468

_BROADCAST = macs.parse("ff:ff:ff:ff:ff:ff")
_ANYBODY = IPv4Address("255.255.255.255")
_NOBODY = IPv4Address(0)
_XID = struct.Struct("!I")
_XID_OFFSET = 4
_RECEIVE_BUFFER = 16 << 20
_SO_RCVBUFFORCE = 33
"""As SO_RCVBUF, past net.core.rmem_max (socket(7)); the socket module has no name for it."""


class GaveUpError(Exception):
    """A machine got no answer, however often it asked."""


@dataclass
class Patience:
    """How often one machine had to ask again."""

    again: int = 0
    """Requests that were sent again, in all."""
    late: int = 0
    """Those among them that were sent again for the second time or later."""

    def silence(self, what: str, tries: int, most: int) -> None:
        """Count a time-out of request `what`, its `tries`th; raises GaveUpError after `most`."""
        if tries >= most:
            raise GaveUpError(f"no answer to {what}, {most} times")
        self.again += 1
        self.late += tries > 1


@dataclass(frozen=True)
class Hardware:
    """Who a machine is."""

    number: int
    mac: MacAddress
    uuid: UUID
    uefi: bool

    @property
    def client_uuid(self) -> bytes:
        """Option 97 (RFC 4578 section 2.3)."""
        return b"\0" + self.uuid.bytes_le


@dataclass(frozen=True)
class Asking:
    """One kind of DHCP client; `options` are what it says of itself."""

    options: Mapping[int, bytes]
    time_outs: Sequence[float]


def rom(hardware: Hardware) -> Asking:
    """The PXE ROM, or UEFI's own PXE."""
    arch = 7 if hardware.uefi else 0
    options = {
        Option.MAXIMUM_SIZE: (1472).to_bytes(2, "big"),
        Option.PARAMETER_LIST: bytes([1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 28, 42, 43, 50, 51, 54, 60, 66, 67, 97, 128]),
        Option.CLIENT_UUID: hardware.client_uuid,
        94: b"\x01\x03\x00" if hardware.uefi else b"\x01\x02\x01",  # UNDI version (RFC 4578 section 2.2)
        Option.CLIENT_ARCH: arch.to_bytes(2, "big"),
        Option.VENDOR_CLASS: f"PXEClient:Arch:{arch:05}:UNDI:003000".encode(),
    }  # fmt: skip
    return Asking(options, PXE_SECONDS)


def ipxe(hardware: Hardware) -> Asking:
    """IPXE, with the features that Debian's has."""
    features = {0x13: b"\1", 0x24 if hardware.uefi else 0x18: b"\1"}
    options = {
        **rom(hardware).options,
        Option.PARAMETER_LIST: bytes([1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 175, 203]),
        Option.USER_CLASS: b"iPXE",
        Option.IPXE: dhcp.encode_suboptions(features),
    }
    return Asking(options, IPXE_SECONDS)


def agent() -> Asking:
    """The agent's udhcpc."""
    return Asking({Option.VENDOR_CLASS: b"bootwright-agent"}, UDHCPC_SECONDS)


@dataclass
class DhcpClients:
    """DHCP of all machines of this process; use `listen`, then `lease` from any number of tasks."""

    interface: str
    _waiting: dict[int, asyncio.Future[Packet]] = field(default_factory=dict)
    _next: int = 0

    def __post_init__(self) -> None:
        self._heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Each process hears all broadcasts.
        self._heard.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._heard.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._heard.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode())
        self._heard.bind(("", 68))
        self._packets = sockets.open_packet(self.interface)

    def listen(self) -> None:
        """Begin to hear answers."""
        asyncio.get_running_loop().add_reader(self._heard, self._readable)

    async def lease(self, hardware: Hardware, asking: Asking, patience: Patience) -> Packet:
        """
        DHCPDISCOVER to DHCPACK.

        Raises:
            GaveUpError: If nobody answers.
        """
        offer = await self._ask(hardware, asking, MessageType.DISCOVER, {}, MessageType.OFFER, patience)
        server = offer.options.get(Option.SERVER_ID, b"")
        wanted: dict[int, bytes] = {Option.REQUESTED_ADDRESS: offer.yiaddr.packed, Option.SERVER_ID: server}
        return await self._ask(hardware, asking, MessageType.REQUEST, wanted, MessageType.ACK, patience)

    async def _ask(
        self,
        hardware: Hardware,
        asking: Asking,
        kind: MessageType,
        further: Mapping[int, bytes],
        wanted: MessageType,
        patience: Patience,
    ) -> Packet:
        self._next += 1
        xid = (hardware.number << 12) + self._next % 4096
        options = {Option.MESSAGE_TYPE: bytes([kind]), **further, **asking.options}
        raw = dhcp.encode(Packet(1, xid, hardware.mac, options, flags=dhcp.BROADCAST_FLAG))
        datagram = udp.datagram((_NOBODY, 68), (_ANYBODY, 67), raw)
        try:
            for tries, seconds in enumerate(asking.time_outs, 1):
                answer: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
                self._waiting[xid] = answer
                sockets.send_to_hardware(self._packets, _BROADCAST, datagram)
                try:
                    async with asyncio.timeout(seconds):
                        packet = await answer
                except TimeoutError:
                    patience.silence(f"DHCP{kind.name}", tries, len(asking.time_outs))
                    continue
                if packet.message_type is not wanted:
                    raise GaveUpError(
                        f"DHCP{kind.name} is answered by {packet.message_type}: {packet.text(Option.MESSAGE)}"
                    )
                return packet
        finally:
            self._waiting.pop(xid, None)
        raise AssertionError("the last silence raises")

    def _readable(self) -> None:
        while True:
            try:
                raw = self._heard.recv(2048)
            except BlockingIOError:
                return
            waiting = self._waiting.get(_XID.unpack_from(raw, _XID_OFFSET)[0]) if len(raw) > 8 else None
            if waiting is None or waiting.done():
                continue
            try:
                waiting.set_result(dhcp.decode(raw))
            except MalformedPacketError as error:
                waiting.set_exception(GaveUpError(f"the server sends nonsense: {error}"))


async def fetch_nbp(source: str, server: str, file: str, window: int, patience: Patience) -> int:
    """
    Fetch a boot file by TFTP as firmware does: ask for its size and hang up, then ask for the file. Gives its size.

    Raises:
        GaveUpError: If the server refuses or falls silent.
    """
    with _Datagrams(source) as sock:
        options = {"tsize": "0", "blksize": str(BLOCK_SIZE)}
        request = tftp.ReadRequest(file, options=options)
        _, size = await _begin(sock, (server, 69), request, patience)
        sock.send(tftp.Error(tftp.ErrorCode.OPTIONS_REFUSED, "User aborted the transfer"))
    with _Datagrams(source) as sock:
        further = {"windowsize": str(window)} if window > 1 else {}
        request = tftp.ReadRequest(file, options={**options, **further})
        window, _ = await _begin(sock, (server, 69), request, patience)
        got = await _receive(sock, window, patience)
    if got != size:
        raise GaveUpError(f"{file} has {size} bytes, and {got} arrived")
    return got


class _Datagrams:
    """A UDP socket at one address; uvloop has none of `loop.sock_recvfrom`."""

    def __init__(self, source: str) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind((source, 0))
        self._readable = asyncio.Event()
        self._peer = ("", 0)

    def __enter__(self) -> _Datagrams:
        asyncio.get_running_loop().add_reader(self._sock, self._readable.set)
        return self

    def __exit__(self, *_error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def send(self, packet: tftp.Packet, to: tuple[str, int] | None = None) -> None:
        """Send to whom we heard from last, or to somebody new."""
        self._sock.sendto(tftp.encode(packet), to or self._peer)

    async def receive(self, seconds: float) -> bytes:
        """The next datagram; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    raw, self._peer = self._sock.recvfrom(2048)
                except BlockingIOError:
                    self._readable.clear()
                    await self._readable.wait()
                else:
                    return raw


async def _begin(
    sock: _Datagrams, server: tuple[str, int], request: tftp.ReadRequest, patience: Patience
) -> tuple[int, int]:
    """Ask until options are agreed on; gives the windowsize, and the file's size."""
    for tries, seconds in enumerate(TFTP_SECONDS, 1):
        sock.send(request, server)
        try:
            raw = await sock.receive(seconds)
        except TimeoutError:
            patience.silence("a TFTP request", tries, len(TFTP_SECONDS))
            continue
        match tftp.decode(raw):
            case tftp.OptionAck(options):
                return int(options.get("windowsize", 1)), int(options["tsize"])
            case other:
                raise GaveUpError(f"TFTP of {request.name} is answered by {other}")
    raise AssertionError("the last silence raises")


async def _receive(sock: _Datagrams, window: int, patience: Patience) -> int:
    """All blocks in their order; gives the bytes. A window with a gap is asked for again after its time-out."""
    block = size = since = tries = 0
    sock.send(tftp.Ack(0))
    while True:
        try:
            raw = await sock.receive(TFTP_SECONDS[0])
        except TimeoutError:
            tries += 1
            patience.silence(f"TFTP block {block}", tries, len(TFTP_SECONDS))
            sock.send(tftp.Ack(block & 0xFFFF))
            since = 0
            continue
        if raw[:2] == b"\0\6":  # The OACK once more, as the server had no ACK in time.
            if block == 0:
                sock.send(tftp.Ack(0))
            continue
        if raw[:2] != b"\0\3":
            raise GaveUpError(f"TFTP is answered by {raw[:64]!r}")
        if int.from_bytes(raw[2:4], "big") != (block + 1) & 0xFFFF:
            continue
        block, size, since, tries = block + 1, size + len(raw) - 4, since + 1, 0
        is_last = len(raw) - 4 < BLOCK_SIZE
        if since == window or is_last:
            sock.send(tftp.Ack(block & 0xFFFF))
            since = 0
        if is_last:
            return size


def expanded(text: str, value: Callable[[str], str]) -> str:
    """Expand iPXE's `${name}` and `${name:format}` in a line of a script."""
    parts = text.split("${")
    return parts[0] + "".join(value(part.split("}", 1)[0]) + part.split("}", 1)[1] for part in parts[1:])

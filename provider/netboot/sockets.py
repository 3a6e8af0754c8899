"""Sockets of one interface, and errors that say what to do when one cannot be had."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from provider.domain import mac as macs
from provider.domain.errors import PermanentError
from provider.domain.mac import MacAddress

_IP_PKTINFO = 8
_PKTINFO = struct.Struct("@i4s4s")
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
_SO_RCVBUFFORCE = 33
"""Of socket(7); Python has no name for it."""
_RECEIVE_BUFFER = 4 << 20
_UDP_SEGMENT = 103
_SEGMENT = struct.Struct("@H")
_MOST_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of the kernel."""
_MOST_BURST_BYTES = 65_000
"""A burst is one IP packet until it is cut."""


def bind_udp(interface: str, port: int, *, broadcast: bool = False, address: str = "") -> socket.socket:
    """
    A non-blocking UDP socket that hears and speaks on one interface only.

    Raises:
        PermanentError: If the privilege is missing, the port is taken, or there is no such interface.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        _keep_much(sock)
        if broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise unusable(error, f"UDP port {port} on {interface}", f"ss -ulpn 'sport = :{port}'") from error
    return sock


def open_packet(interface: str, receives: int = 0) -> socket.socket:
    """
    A non-blocking socket that sends packets of ours to MAC addresses, and receives those of one Ethertype, or nothing.

    Raises:
        PermanentError: If the privilege is missing or there is no such interface.
    """
    what, command = f"a packet socket on {interface}", f"ip -br link show {interface}"
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    except OSError as error:
        raise unusable(error, what, command) from error
    try:
        if receives:
            _keep_much(sock)
        sock.bind((interface, receives))
    except OSError as error:
        sock.close()
        raise unusable(error, what, command) from error
    return sock


def _keep_much(sock: socket.socket) -> None:
    """
    Let the kernel keep what comes while we are busy: in a boot storm thousands of datagrams in a tenth of a second.

    Without CAP_NET_ADMIN it keeps no more than net.core.rmem_max, which holds some 300 as a system comes.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def send_from(sock: socket.socket, source: IPv4Address, payload: bytes, to: tuple[str, int]) -> None:
    """
    Send a datagram from one of our addresses, which need not be the first of its interface (ip(7), IP_PKTINFO).

    Raises:
        OSError: As sending does.
    """
    info = _PKTINFO.pack(0, source.packed, b"")
    sock.sendmsg([payload], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, to)


def send_burst(sock: socket.socket, datagrams: Sequence[bytes], to: tuple[str, int] | None) -> None:
    """
    Send several datagrams of one size, the last of which may be smaller, in one call: the kernel, or the card, cuts them
    apart (udp(7), UDP_SEGMENT). `to` is None for a connected socket.

    Raises:
        OSError: As sending does; CANNOT_BURST are the errors of a path on which it does not work.
    """
    size = len(datagrams[0])
    most = min(_MOST_SEGMENTS, _MOST_BURST_BYTES // size)
    segment = [(socket.SOL_UDP, _UDP_SEGMENT, _SEGMENT.pack(size))]
    for first in range(0, len(datagrams), most):
        part = datagrams[first : first + most]
        if to is None:
            sock.sendmsg(part, segment)
        else:
            sock.sendmsg(part, segment, 0, to)


CANNOT_BURST = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP})
"""A card that makes no checksums, a path whose MTU has become smaller, an old kernel."""


def hardware_address(sock: socket.socket) -> bytes:
    """The MAC address of the interface that a socket of `open_packet` is on."""
    address: bytes = sock.getsockname()[4]
    return address


def send_to_hardware(sock: socket.socket, mac: MacAddress, packet: bytes, ethertype: int = ETHERTYPE_IPV4) -> None:
    """
    Put an IP packet, or another, to a MAC address, by a socket of `open_packet`.

    Raises:
        OSError: As sending does.
    """
    sock.sendto(packet, (sock.getsockname()[0], ethertype, 0, 0, macs.to_bytes(mac)))


def unusable(error: OSError, what: str, command: str) -> PermanentError:
    """Translate the failure to open a socket; `command` shows who has it."""
    if error.errno in (errno.EPERM, errno.EACCES):
        hint = "run as root, or give CAP_NET_BIND_SERVICE and CAP_NET_RAW as the systemd unit does"
        return PermanentError(f"no privilege to open {what}", hint=hint)
    if error.errno == errno.EADDRINUSE:
        return PermanentError(f"{what} is taken by another program", hint=f"see which one: {command}")
    if error.errno == errno.ENODEV:
        return PermanentError(f"cannot open {what}: there is no such interface", hint="list them with: ip -br addr")
    return PermanentError(f"cannot open {what}: {error.strerror}")


def neighbour(address: str, table: Path = Path("/proc/net/arp")) -> MacAddress | None:
    """The MAC address behind an IPv4 address of a connected network, as the kernel knows it."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) >= 4 and fields[0] == address and fields[3] != "00:00:00:00:00:00":
            return macs.parse(fields[3])
    return None

"""
Router advertisements that save booting machines 13 seconds.

iPXE builds with IPv6 (Debian's, and the ROMs in QEMU) ask for a router and wait for one before they go on, even though the
script comes by IPv4. A machine that is booting from us gets an answer: a unicast advertisement (RFC 4861 section 4.2) with
router lifetime 0, without prefix, so that nobody takes us for a router and no address is formed. Nobody else hears anything.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from provider.domain import mac as macs
from provider.domain.errors import PermanentError
from provider.domain.mac import MacAddress
from provider.netboot.readers import Reader, Readers
from provider.planning.interfaces import Opening

log = structlog.get_logger()

BOOTING_FOR = timedelta(minutes=2)
"""How long after its last DHCP answer a machine counts as booting."""

_SOLICITATION = 133
_ADVERTISEMENT = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0)
"""Type 134; the kernel fills in the checksum; hop limit 64, no flags, lifetime 0 (RFC 4861 section 4.2)."""

_IPV6_UNICAST_HOPS = 16
_ICMPV6_FILTER = 1


class RouterAdvertiser:
    """Answers solicitations, where it is open, from MAC addresses for which `boots(mac, since)` is true."""

    def __init__(self, boots: Callable[[MacAddress, datetime], bool], clock: Callable[[], datetime]) -> None:
        self._boots = boots
        self._clock = clock
        self._readers = Readers()

    def open(self, opening: Opening) -> None:
        """
        Open the raw socket of an interface.

        Raises:
            PermanentError: If the privilege is missing, or there is no such interface.
        """
        interface = opening.scope.interface
        sock = _open(interface)
        self._readers.add(opening, Reader(sock, interface, lambda: self._readable(sock)))

    def close(self, opening: Opening) -> None:
        """Let go of it."""
        self._readers.remove(opening)

    async def run(self) -> None:
        """Serve for ever; ends the daemon if it fails."""
        self._readers.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._readers.close()

    def _readable(self, sock: socket.socket) -> None:
        raw, source = sock.recvfrom(1500)
        mac = solicitor(raw, source[0])
        if mac is None or not self._boots(mac, self._clock() - BOOTING_FOR):
            return
        try:
            sock.sendto(_ADVERTISEMENT, source)
        except OSError as error:
            log.debug("router.unanswered", mac=mac, error=str(error))
        else:
            log.debug("router.advertised", mac=mac)


def solicitor(raw: bytes, source: str) -> MacAddress | None:
    """
    Who sent a router solicitation: its source link-layer option (RFC 4861 section 4.6.1), else the MAC address that an
    EUI-64 link-local address carries (RFC 4291 appendix A). None if it is no solicitation or does not tell.
    """
    if len(raw) < 8 or raw[0] != _SOLICITATION:
        return None
    position = 8
    while position + 8 <= len(raw) and raw[position + 1] > 0:
        if raw[position] == 1:
            return macs.from_bytes(raw[position + 2 : position + 8])
        position += 8 * raw[position + 1]
    try:
        identifier = socket.inet_pton(socket.AF_INET6, source.split("%", 1)[0])[8:]
    except OSError:
        return None
    if identifier[3:5] != b"\xff\xfe":
        return None
    return macs.from_bytes(bytes((identifier[0] ^ 2,)) + identifier[1:3] + identifier[5:])


def _open(interface: str) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        sock = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
    except OSError as error:
        raise PermanentError(
            f"no privilege to answer router solicitations on {interface}: {error.strerror}",
            hint="give CAP_NET_RAW as the systemd unit does, or set hasten_ipxe: false",
        ) from error
    try:
        _hear_solicitations(sock, interface)
    except OSError as error:
        sock.close()
        raise PermanentError(
            f"cannot hear router solicitations on {interface}: {error.strerror}",
            hint="IPv6 may be off on the interface: then set hasten_ipxe: false",
        ) from error
    return sock


def _hear_solicitations(sock: socket.socket, interface: str) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    passes_solicitations_only = bytearray(b"\xff" * 32)
    passes_solicitations_only[_SOLICITATION // 32 * 4 + _SOLICITATION % 32 // 8] &= ~(1 << (_SOLICITATION % 8)) & 0xFF
    sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, bytes(passes_solicitations_only))
    # RFC 4861 section 6.1.2: receivers drop advertisements that could have crossed a router.
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_UNICAST_HOPS, 255)
    # Solicitations go to the all-routers group.
    group = socket.inet_pton(socket.AF_INET6, "ff02::2") + struct.pack("@I", socket.if_nametoindex(interface))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)

"""
What the kernel knows of interfaces, and its word when that changes (rtnetlink(7)).

One socket is subscribed to changes of links and IPv4 addresses. It only rings: what is in its messages is not read, because
messages get lost when there are many (ENOBUFS), and because the state is read as a whole afterwards. Changes come in bursts:
a link that is made has three messages, a link that is lost one more for each address.

pyroute2 reads. Its asyncio API opens a datagram endpoint, which uvloop refuses for netlink ("invalid family 16"); so it works
in a thread, where a wait for the kernel's lock of all interfaces delays nobody either.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import defaultdict
from collections.abc import Sequence
from ipaddress import IPv4Interface

import pyroute2
from pyroute2.netlink import rtnl
from pyroute2.netlink.exceptions import NetlinkError

from provider.domain.errors import PermanentError
from provider.kit.threads import Threads
from provider.planning.interfaces import Link

QUIET_SECONDS = 0.1
"""A burst is over when nothing came for so long."""

LONGEST_BURST_SECONDS = 1.0
"""What never ends is looked at all the same, this often."""

_MESSAGE_BYTES = 65_536
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000


class LinkWatch:
    """Call `open` before the first `read`, so that nothing is missed between `read` and `changed`; in the end `close`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._sock: socket.socket | None = None
        self._threads = Threads("links", 1)

    def open(self) -> None:
        """
        Subscribe to changes.

        Raises:
            PermanentError: If netlink is not allowed here.
        """
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._sock.bind((0, rtnl.RTMGRP_LINK | rtnl.RTMGRP_IPV4_IFADDR))
        except OSError as error:
            self.close()
            raise PermanentError(
                f"the kernel does not tell us of interfaces: {error.strerror}",
                hint="allow netlink sockets, with AF_NETLINK in RestrictAddressFamilies of the systemd unit",
            ) from error

    async def read(self) -> dict[str, Link]:
        """
        Those of the interfaces that are there, as they are now.

        Raises:
            OSError: If the kernel cannot say; try again.
        """
        try:
            return await self._threads.run(_read, self._names)
        except NetlinkError as error:
            raise OSError(error.code, str(error)) from error

    async def changed(self) -> None:
        """Return after the next burst of changes."""
        await self._hear()
        clock = asyncio.get_running_loop().time
        end = clock() + LONGEST_BURST_SECONDS
        while clock() < end:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._hear()
            except TimeoutError:
                return

    def close(self) -> None:
        """Hear no more."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        self._threads.close()

    async def _hear(self) -> None:
        if self._sock is None:
            raise AssertionError("open comes first")
        try:
            await asyncio.get_running_loop().sock_recv(self._sock, _MESSAGE_BYTES)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            # Changes were lost: that something changed is all that we wanted to know.


def _read(names: Sequence[str]) -> dict[str, Link]:
    with pyroute2.IPRoute() as netlink:
        addresses: defaultdict[int, list[IPv4Interface]] = defaultdict(list)
        for message in netlink.get_addr(family=socket.AF_INET):
            address = message.get_attr("IFA_LOCAL")
            addresses[message["index"]].append(IPv4Interface(f"{address}/{message['prefixlen']}"))
        links = {}
        for name in names:
            message = _link(netlink, name)
            if message is not None:
                index, flags = message["index"], message["flags"]
                links[name] = Link(index, tuple(addresses[index]), bool(flags & _IFF_UP), bool(flags & _IFF_LOWER_UP))
        return links


def _link(netlink: pyroute2.IPRoute, name: str) -> pyroute2.netlink.nlmsg | None:
    try:
        (message,) = netlink.link("get", ifname=name)
    except NetlinkError as error:
        if error.code in (errno.ENODEV, errno.ERANGE):  # The latter for names that are too long to be one.
            return None
        raise
    return message

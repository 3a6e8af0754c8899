"""
Somebody else's DHCP server on the boot network, for a lab whose provider is a ProxyDHCP server.

It is dnsmasq, which knows nothing of network boot here: it leases addresses. One thing it is told if machines boot by the
signed chain: to name the provider as the server to boot from (siaddr), because GRUB believes the lease alone.

As it wants the same UDP port as the provider, it lives in a network namespace of its own, behind a cable to the boot bridge.
The namespace is the process's and ends with it, and the cable with the namespace.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pyroute2
import structlog
from pyroute2.netlink.exceptions import NetlinkError

from provider.domain.errors import PermanentError
from provider.lab.network import BOOT_BRIDGE
from provider.lab.processes import Process

log = structlog.get_logger()

ADDRESS = IPv4Interface("10.77.0.2/24")
FIRST_LEASE, LAST_LEASE = "10.77.0.20", "10.77.0.99"

_OUTER_END, _INNER_END = "foreign0", "eth0"
_LOOK_SECONDS = 0.02


class ForeignDhcp:
    """The server; `folder` gets its log and its leases, `next_server` is whom it names in siaddr instead of itself."""

    def __init__(self, folder: Path, patience: timedelta, next_server: IPv4Address | None) -> None:
        self._folder = folder
        self._next_server = next_server
        self._patience = patience
        self._process: Process | None = None

    async def open(self) -> None:
        """
        Start it and plug it in; the boot bridge must be there.

        Raises:
            PermanentError: If it does not start.
        """
        log_file = self._folder / "dnsmasq.log"
        # A daemon would change its user, and in a user namespace there is no other.
        command = ["unshare", "--net", "dnsmasq", "--no-daemon", "--conf-file=/dev/null"]
        command += ["--port=0", "--no-ping", "--log-dhcp", f"--interface={_INNER_END}"]
        command += [f"--dhcp-range={FIRST_LEASE},{LAST_LEASE},{ADDRESS.netmask},10m"]
        command += [f"--dhcp-leasefile={self._folder / 'dnsmasq.leases'}"]
        if self._next_server is not None:
            command += [f"--dhcp-boot=,,{self._next_server}"]
        self._process = await Process.start("dnsmasq", command, log_file)
        try:
            async with asyncio.timeout(self._patience.total_seconds()):
                await _left_our_namespace(self._process)
                await _plug_in(self._process.pid)
        except (TimeoutError, NetlinkError) as error:
            raise PermanentError(f"the lab's DHCP server does not start:\n{self._process.tail()}") from error
        log.info("lab.foreign_dhcp_started", address=str(ADDRESS.ip))

    async def close(self) -> None:
        """End it, and with it its namespace and its cable."""
        if self._process is not None:
            await self._process.terminate()

    async def watch(self) -> None:
        """
        Wait until it ends by itself.

        Raises:
            PermanentError: When that happens; says what it logged last.
        """
        if self._process is not None:
            status = await self._process.wait()
            raise PermanentError(f"the lab's DHCP server ended with status {status}:\n{self._process.tail()}")


async def _left_our_namespace(process: Process) -> None:
    """Wait until `unshare` has done its part; a process that ended is gone from it as well, as `watch` will tell."""
    while process.running:
        if _namespace(process.pid) != _namespace(os.getpid()):
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _namespace(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


async def _plug_in(pid: int) -> None:
    """Lay a cable from the boot bridge into the namespace of a process, and give its far end the address."""
    async with pyroute2.AsyncIPRoute() as netlink:
        peer = {"ifname": _INNER_END, "net_ns_pid": pid}
        await netlink.link("add", ifname=_OUTER_END, kind="veth", peer=peer)
        bridge = (await netlink.link_lookup(ifname=BOOT_BRIDGE))[0]
        outer = (await netlink.link_lookup(ifname=_OUTER_END))[0]
        await netlink.link("set", index=outer, master=bridge, state="up")
    async with pyroute2.AsyncIPRoute(netns=f"/proc/{pid}/ns/net") as netlink:
        inner = (await netlink.link_lookup(ifname=_INNER_END))[0]
        await netlink.addr("add", index=inner, address=str(ADDRESS.ip), prefixlen=ADDRESS.network.prefixlen)
        await netlink.link("set", index=inner, state="up")

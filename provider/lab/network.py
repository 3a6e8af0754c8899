"""
The lab's two networks, inside the lab's own network namespace.

Machines boot on `boot0`, a bridge with a tap for each of them; the provider has the first address there. `bmc0` carries
the addresses of the virtual BMCs: it is a bridge without ports, because not every kernel has dummy interfaces.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface

import pyroute2
import structlog
from pyroute2.netlink.exceptions import NetlinkError

from provider.domain.errors import PermanentError

log = structlog.get_logger()

BOOT_BRIDGE = "boot0"
BMC_BRIDGE = "bmc0"
PROVIDER_ADDRESS = IPv4Interface("10.77.0.1/24")
BMC_NETWORK = IPv4Interface("10.77.9.0/24")


def bmc_address(number: int) -> IPv4Address:
    """Address of the BMC of machine `number`, counted from 1."""
    return IPv4Address(int(BMC_NETWORK.network.network_address) + number)


def tap_name(number: int) -> str:
    """Name of the tap of machine `number`, counted from 1."""
    return f"tap{number}"


class Network:
    """
    Bridges, addresses and taps for a number of machines; `close` removes all of it again.

    Must be opened inside a namespace that is the lab's own: it sets up `lo` and takes the names above.
    """

    def __init__(self, machines: int) -> None:
        self._taps = [tap_name(number) for number in range(1, machines + 1)]
        self._bmcs = [bmc_address(number) for number in range(1, machines + 1)]

    async def open(self) -> None:
        """
        Make everything.

        Raises:
            PermanentError: If the kernel refuses, for lack of rights or of a device type.
        """
        try:
            async with pyroute2.AsyncIPRoute() as netlink:
                await self._build(netlink)
        except NetlinkError as error:
            await self.close()
            raise PermanentError(
                f"the lab's network cannot be made: {error}",
                hint="the kernel needs bridge and tun/tap (CONFIG_BRIDGE, CONFIG_TUN), and the lab its own namespace",
            ) from error
        log.info("lab.network_made", taps=len(self._taps))

    async def close(self) -> None:
        """Remove what is there, also after a failed `open`."""
        async with pyroute2.AsyncIPRoute() as netlink:
            for name in (*self._taps, BOOT_BRIDGE, BMC_BRIDGE):
                for index in await netlink.link_lookup(ifname=name):
                    await netlink.link("del", index=index)

    async def _build(self, netlink: pyroute2.AsyncIPRoute) -> None:
        await netlink.link("set", index=await _index(netlink, "lo"), state="up")
        boot = await _add_bridge(netlink, BOOT_BRIDGE, [PROVIDER_ADDRESS])
        await _add_bridge(netlink, BMC_BRIDGE, [IPv4Interface(f"{address}/24") for address in self._bmcs])
        for tap in self._taps:
            await netlink.link("add", ifname=tap, kind="tuntap", mode="tap")
            await netlink.link("set", index=await _index(netlink, tap), master=boot, state="up")


async def _add_bridge(netlink: pyroute2.AsyncIPRoute, name: str, addresses: Iterable[IPv4Interface]) -> int:
    # A new port forwards at once (firmware gives up before 30 s of listening and learning are over), and multicast
    # reaches everybody (iPXE's router solicitations are lost to snooping otherwise).
    await netlink.link("add", ifname=name, kind="bridge", br_forward_delay=0, br_mcast_snooping=0)
    index = await _index(netlink, name)
    for address in addresses:
        await netlink.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
    await netlink.link("set", index=index, state="up")
    return index


async def _index(netlink: pyroute2.AsyncIPRoute, name: str) -> int:
    index: int = (await netlink.link_lookup(ifname=name))[0]
    return index

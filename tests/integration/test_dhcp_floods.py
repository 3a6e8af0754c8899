"""Floods by perfdhcp, which speaks as a relay, beside a polite client on the same wire."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.integration.test_dhcp_conflicts import SHOUT
from tests.integration.test_dhcp_server import LEASING, Notebook, client, discover, serving, udhcpc
from tests.integration.wires import Wire, must, wire

NETWORK = IPv4Network("10.77.0.0/16")
LARGE = replace(LEASING, ranges=((IPv4Address("10.77.1.0"), IPv4Address("10.77.100.255")),), clients_per_port=64)
AT_ONE_PORT = "0109" + b"ge-0/0/13".hex() + "0205" + b"sw-12".hex()
"""Option 82 with circuit-id and remote-id."""


@pytest.fixture
def cable() -> Iterator[Wire]:
    with wire("10.77.0.1/16") as made:
        must(*made.inside("ip", "addr", "add", "10.77.0.2/16", "dev", made.theirs))
        yield made


async def perfdhcp(cable: Wire, *more: str) -> tuple[int, int]:
    """DHCPDISCOVERs that it sent, and DHCPACKs that it got."""
    arguments = ("-4", "-l", cable.theirs, "-W", "500000", *more, "10.77.0.1")
    status, output = await client(cable, "perfdhcp", *arguments, timeout=60)
    assert status in (0, 3), output  # 3: not all were answered
    sent = [int(number) for number in re.findall(r"^sent packets: (\d+)$", output, re.MULTILINE)]
    received = [int(number) for number in re.findall(r"^received packets: (\d+)$", output, re.MULTILINE)]
    return sent[0], received[1]


def warnings(notebook: Notebook) -> list[str]:
    events = ("dhcp.ignored", "dhcp.exhausted")
    return [str(data["reason"]) for _mac, name, data in notebook.noted if name in events]


def test_storm_is_no_flood(cable: Wire) -> None:
    """Many machines that are switched on at one moment are taken for a flood."""

    async def main() -> None:
        notebook = Notebook()
        async with serving(cable, notebook, leasing=LARGE, network=NETWORK):
            sent, acknowledged = await perfdhcp(cable, "-R", "5000", "-r", "500", "-p", "4")
        assert sent > 1000
        assert acknowledged == sent
        assert warnings(notebook) == []

    asyncio.run(main())


def test_one_client_gone_mad(cable: Wire) -> None:
    """A client that asks thousands of times a second keeps us busy, so that others wait."""

    async def main() -> None:
        notebook = Notebook()
        async with serving(cable, notebook, leasing=LARGE, network=NETWORK), asyncio.TaskGroup() as group:
            flood = group.create_task(perfdhcp(cable, "-R", "1", "-r", "2000", "-p", "4"))
            await asyncio.sleep(1)
            output = await udhcpc(cable)
            assert output.count("broadcasting discover") == 1
            assert not flood.done()
            sent, acknowledged = await flood
        assert sent > 2000
        assert 1 <= acknowledged <= 20
        (reason,) = warnings(notebook)
        assert reason.endswith("it is on wire-ours, relay 10.77.0.2, without option 82")

    asyncio.run(main())


def test_one_port_gone_mad(cable: Wire) -> None:
    """Somebody at one switch port takes the whole pool under ever new MAC addresses, and nobody else can boot."""

    async def main() -> None:
        notebook = Notebook()
        leasing = replace(LEASING, clients_per_port=8)
        async with serving(cable, notebook, leasing=leasing, network=NETWORK), asyncio.TaskGroup() as group:
            flood = group.create_task(
                perfdhcp(cable, "-R", "100000", "-r", "300", "-p", "4", "-o", f"82,{AT_ONE_PORT}")
            )
            await asyncio.sleep(2)
            output = await udhcpc(cable)
            assert output.count("broadcasting discover") == 1
            assert not flood.done()
            sent, acknowledged = await flood
        assert sent > 400
        assert acknowledged <= 75, "the last quarter is for others"
        assert len(notebook.leases) == acknowledged + 1
        (reason,) = warnings(notebook)
        assert "clients at ge-0/0/13 of sw-12 have addresses, and of 100 addresses" in reason
        assert reason.endswith("it is on wire-ours, relay 10.77.0.2, circuit-id ge-0/0/13, remote-id sw-12")

    asyncio.run(main())


def test_burst_of_strangers(cable: Wire) -> None:
    """After a burst of DHCPDISCOVERs from made-up MAC addresses the pool is locked by offers that nobody wants."""

    async def main() -> None:
        notebook = Notebook()
        leasing = replace(LEASING, conflict_probe=timedelta(seconds=0.3))
        frame = discover("52:54:00:aa:bb:cc", "PXEClient:Arch:00007:UNDI:003000", b"\0\7").hex()
        async with serving(cable, notebook, leasing=leasing, network=NETWORK):
            status, output = await client(cable, "python3", "-c", SHOUT, cable.theirs, frame, "5000", "2")
            assert status == 0, output
            await udhcpc(cable, "-t", "10")
        (reason,) = warnings(notebook)
        assert reason.startswith("the pool is exhausted: of 100 addresses 0 are leased, 100 offered")
        assert reason.endswith("clients are without option 82 (100); it is on wire-ours, without option 82")

    asyncio.run(main())

"""Addresses that somebody uses without a lease: hosts that were configured by hand, on a bridge with us and the clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from scapy.layers.l2 import ARP, Ether

from tests.integration.test_dhcp_server import LEASING, Notebook, client, discover, serving, udhcpc
from tests.integration.wires import Wire, must, run

PROBING = replace(LEASING, conflict_probe=timedelta(seconds=0.3))
FIRST = IPv4Address("10.77.0.100")
SQUATTER = "52:54:00:00:00:99"
CLIENT = Wire("wire-ours", "eth0", "client")
HOST = Wire("wire-ours", "eth0", "host")
"""The other machine on the bridge."""


@contextlib.contextmanager
def bridge(address: str = "10.77.0.1/24") -> Iterator[None]:
    """We, a client and another host on one bridge, which is in a namespace of its own."""
    names = ("switch", CLIENT.namespace, HOST.namespace)
    for name in names:
        must("ip", "netns", "add", name)
    try:
        must("ip", "-n", "switch", "link", "add", "br0", "type", "bridge")
        must("ip", "-n", "switch", "link", "set", "br0", "up")
        must("ip", "link", "add", CLIENT.ours, "type", "veth", "peer", "name", "us", "netns", "switch")
        must("ip", "addr", "add", address, "dev", CLIENT.ours)
        must("ip", "link", "set", CLIENT.ours, "up")
        for name in (CLIENT.namespace, HOST.namespace):
            must("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", "switch")
            must("ip", "-n", name, "link", "set", "eth0", "up")
        must("ip", "-n", HOST.namespace, "link", "set", "eth0", "address", SQUATTER)
        for port in ("us", CLIENT.namespace, HOST.namespace):
            must("ip", "-n", "switch", "link", "set", port, "master", "br0", "up")
        _wait_until_forwarding()
        yield
    finally:
        run("ip", "link", "del", CLIENT.ours)
        for name in names:
            run("ip", "netns", "del", name)


def _wait_until_forwarding() -> None:
    """The kernel takes up to a second to believe in a cable."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        ports = json.loads(must("ip", "-n", "switch", "-j", "-d", "link", "show", "master", "br0"))
        if all(port["linkinfo"]["info_slave_data"]["state"] == "forwarding" for port in ports):
            return
        time.sleep(0.05)
    raise AssertionError(ports)


@contextlib.contextmanager
def listening(interface: str = CLIENT.ours) -> Iterator[socket.socket]:
    """Hears everything on the wire, in both directions."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(3)) as ears:
        ears.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        ears.bind((interface, 3))
        yield ears


def probes(ears: socket.socket) -> list[str]:
    """The addresses that were probed, by the frames that were heard."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = ears.recv(2048)
            if frame[12:14] == b"\x08\x06" and (arp := Ether(frame)[ARP]).psrc == "0.0.0.0":
                assert Ether(frame).dst == "ff:ff:ff:ff:ff:ff"
                found.append(arp.pdst)
    return found


def squat(*addresses: str) -> None:
    """Configure the other host by hand."""
    for address in addresses:
        must("ip", "-n", HOST.namespace, "addr", "add", f"{address}/24", "dev", "eth0")


def obtained(output: str) -> str:
    found = re.search(r"lease of ([0-9.]+) obtained", output)
    assert found, output
    return found[1]


def test_address_of_a_host_that_was_configured_by_hand(tmp_path: Path) -> None:
    """Two machines have one address, because one of them never asked us (RFC 2131 section 3.1)."""

    async def main() -> None:
        notebook = Notebook()
        async with serving(CLIENT, notebook, leasing=PROBING):
            assert obtained(await udhcpc(CLIENT)) == "10.77.0.101"
            must("ip", "-n", CLIENT.namespace, "link", "set", "eth0", "address", "52:54:00:00:00:02")
            files = ("-lf", str(tmp_path / "leases"), "-pf", str(tmp_path / "pid"))
            status, output = await client(CLIENT, "dhclient", "-4", "-1", "-v", "-sf", "/bin/true", *files, "eth0")
            assert status == 0, output
            await client(CLIENT, "dhclient", "-x", *files, "eth0")
            assert "bound to 10.77.0.102" in output
        assert notebook.leases[FIRST].declined, "it is on disk, so we know it after a restart"
        conflicts = [data for _mac, name, data in notebook.noted if name == "dhcp.conflict"]
        assert conflicts == [{"address": str(FIRST), "used_by": SQUATTER}]

    with bridge():
        squat(str(FIRST))
        asyncio.run(main())


def test_one_question_leads_to_three_probes() -> None:
    """A client waits for as long as there are addresses in use, or the pool stays blocked by them for ever."""

    async def main() -> None:
        notebook = Notebook()
        async with serving(CLIENT, notebook, leasing=PROBING):
            with listening() as ears:
                status, output = await client(
                    CLIENT, "busybox", "udhcpc", "-i", "eth0", "-q", "-n", "-f", "-t", "1", "-T", "2", "-s", "/bin/true"
                )
                assert status == 1, output
                assert probes(ears) == [str(FIRST + number) for number in range(3)]
            assert obtained(await udhcpc(CLIENT)) == "10.77.0.104"
        assert sum(lease.declined for lease in notebook.leases.values()) == 4

    with bridge():
        squat(*(str(FIRST + number) for number in range(4)))
        asyncio.run(main())


def test_client_that_has_its_address_already() -> None:
    """A machine whose lease we lost is driven from its address by its own answer; or it is probed at each renewal."""

    async def main() -> None:
        async with serving(CLIENT, Notebook(), leasing=PROBING):
            with listening() as ears:
                assert obtained(await udhcpc(CLIENT)) == str(FIRST)
                assert probes(ears) == [str(FIRST)]
                assert obtained(await udhcpc(CLIENT)) == str(FIRST)
                assert probes(ears) == [], "it holds the address now"

    with bridge():
        must("ip", "-n", CLIENT.namespace, "addr", "add", f"{FIRST}/24", "dev", "eth0")
        asyncio.run(main())


def test_announced_address() -> None:
    """A host that takes the address while we wait is not noticed, because it announces instead of answering."""

    async def main() -> None:
        leasing = replace(PROBING, conflict_probe=timedelta(seconds=2))
        async with serving(CLIENT, Notebook(), leasing=leasing), asyncio.TaskGroup() as group:
            announcing = group.create_task(
                client(HOST, "busybox", "arping", "-U", "-c", "30", "-w", "30", "-I", "eth0", str(FIRST))
            )
            assert obtained(await udhcpc(CLIENT, "-T", "5")) == "10.77.0.101"
            announcing.cancel()

    with bridge():
        must(*HOST.inside("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=8"))
        squat(str(FIRST))
        asyncio.run(main())


SHOUT = """
import socket, sys, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
raw.bind((sys.argv[1], 0))
raw.settimeout(0.1)
frame, count, patience = bytes.fromhex(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
began = time.monotonic()
for number in range(count):
    mac = b"\\2\\0\\0\\0" + number.to_bytes(2, "big")
    raw.send(frame[:6] + mac + frame[12:40] + b"\\0\\0" + frame[42:70] + mac + frame[76:])
offered = {}
while len(offered) < count and time.monotonic() - began < patience:
    try:
        heard = raw.recv(4096)
    except TimeoutError:
        continue
    if heard[12:14] == b"\\x08\\0" and heard[23] == 17 and heard[36:38] == b"\\0\\x44":
        offered[heard[70:76]] = heard[58:62].hex()
print(len(offered), len(set(offered.values())), time.monotonic() - began)
"""
"""Many DHCPDISCOVERs from as many MAC addresses; how many offers of how many addresses came, and after how many seconds."""


def test_a_thousand_machines_at_once() -> None:
    """Machines wait for each other's probes: 300 s in all."""
    machines = 1000

    async def main() -> None:
        network = IPv4Network("10.77.0.0/16")
        leasing = replace(PROBING, ranges=((IPv4Address("10.77.1.0"), IPv4Address("10.77.8.255")),))
        async with serving(CLIENT, Notebook(), leasing=leasing, network=network):
            frame = discover("52:54:00:aa:bb:cc", "PXEClient:Arch:00007:UNDI:003000", b"\0\7").hex()
            with listening() as ears:
                status, output = await client(CLIENT, "python3", "-c", SHOUT, "eth0", frame, str(machines), "20")
                assert status == 0, output
                probed = probes(ears)
            offers, addresses, seconds = output.split()
            assert (int(offers), int(addresses)) == (machines, machines)
            assert len(probed) == len(set(probed)) == machines
            assert float(seconds) < 10

    with bridge("10.77.0.1/16"):
        asyncio.run(main())


def test_one_probe_for_a_client_that_asks_again() -> None:
    """Each retry of a client that does not wait for us is another probe, and another offer."""

    async def main() -> None:
        leasing = replace(PROBING, conflict_probe=timedelta(seconds=2.5))
        async with serving(CLIENT, Notebook(), leasing=leasing):
            with listening() as ears:
                output = await udhcpc(CLIENT)
                assert probes(ears) == [obtained(output)]
            assert output.count("broadcasting discover") > 1
            assert output.count("broadcasting select") == 1

    with bridge():
        asyncio.run(main())

"""What is heard of us beside a DHCP server that others wrote, by clients that do not boot: nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from tests.integration.test_dhcp_proxy import Command, dhclient, dhcpd, dnsmasq, foreign_host, kea, serving_foreign
from tests.integration.test_dhcp_server import Notebook, client, serving
from tests.integration.wires import Wire, wire

LISTEN = """
import socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
raw.bind((sys.argv[1], 0))
print("listening", flush=True)
while True:
    heard = raw.recv(4096)
    if heard[23] == 17 and int.from_bytes(heard[34:36], "big") in (67, 4011):
        print(socket.inet_ntoa(heard[26:30]), flush=True)
"""
"""Prints the sender of each DHCP answer that comes to the client's interface."""


async def whole_life(cable: Wire, folder: Path) -> None:
    """DISCOVER, REQUEST, renewal and release by busybox; the same and INIT-REBOOT by ISC's client."""
    program = ("busybox", "udhcpc", "-i", cable.theirs, "-f", "-R", "-t", "5", "-T", "1", "-s", str(folder / "script"))
    (folder / "script").write_text('#!/bin/sh\n[ "$1" != bound ] || ip addr replace "$ip/24" dev "$interface"\n')
    (folder / "script").chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        *cable.inside(*program), stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert process.stderr is not None
    for order in (signal.SIGUSR1, signal.SIGTERM):
        async with asyncio.timeout(30):
            while b"obtained" not in (line := await process.stderr.readline()):
                assert line, "it ended without a lease"
        process.send_signal(order)
    await process.wait()
    await dhclient(cable, folder)
    await dhclient(cable, folder)  # With a lease in its file: INIT-REBOOT.
    files = ("-lf", str(folder / "client.leases"), "-pf", str(folder / "client.pid"))
    await client(cable, "dhclient", "-4", "-r", "-cf", "/dev/null", "-sf", "/bin/true", *files, cable.theirs)


@pytest.mark.parametrize("foreign", [dnsmasq, dhcpd, kea])
def test_nothing_is_heard_of_us(tmp_path: Path, foreign: Command) -> None:
    """In proxy mode we answer clients of the server that is there: with an address, a DHCPNAK, or anything."""

    async def main(cable: Wire) -> None:
        notebook = Notebook()
        listener = await asyncio.create_subprocess_exec(
            *cable.inside(sys.executable, "-c", LISTEN, cable.theirs), stdout=asyncio.subprocess.PIPE
        )
        assert listener.stdout is not None
        await listener.stdout.readline()
        async with serving(cable, notebook, proxy=True):
            await whole_life(cable, tmp_path)
        listener.terminate()
        output, _ = await listener.communicate()
        assert set(output.split()) == {b"10.77.0.2"}
        assert (notebook.leases, notebook.noted) == ({}, [])

    with wire() as cable, foreign_host(cable) as inside, serving_foreign(foreign(tmp_path, "foreign1", False), *inside):
        asyncio.run(main(cable))

"""The kernel's word on interfaces, and sockets of interfaces that went away, in the loop that the daemon has."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TypeVar

import pytest
import structlog
import uvloop

from provider.netboot.links import LinkWatch
from provider.netboot.readers import REST_SECONDS, Reader
from tests.integration.wires import must, wire

T = TypeVar("T")
PATIENCE = 30.0  # seconds


def with_watch(names: list[str], use: Callable[[LinkWatch], Awaitable[T]]) -> T:
    async def main() -> T:
        watch = LinkWatch(names)
        watch.open()
        try:
            async with asyncio.timeout(PATIENCE):
                return await use(watch)
        finally:
            watch.close()

    return uvloop.run(main())


def test_what_is_there() -> None:
    """A link is taken for another, or its addresses come in another order than the kernel's."""

    async def use(watch: LinkWatch) -> None:
        links = await watch.read()
        assert set(links) == {"wire-ours", "lo"}
        ours = links["wire-ours"]
        assert ours.index == socket.if_nametoindex("wire-ours")
        assert [str(each) for each in ours.addresses] == ["10.77.0.1/24", "10.76.0.1/16", "10.77.0.5/24"]
        assert (ours.up, ours.carrier) == (True, True)
        must(*cable.inside("ip", "link", "set", cable.theirs, "down"))
        await watch.changed()
        ours = (await watch.read())["wire-ours"]
        assert (ours.up, ours.carrier) == (True, False)
        must("ip", "link", "set", cable.ours, "down")
        await watch.changed()
        assert not (await watch.read())["wire-ours"].up

    with wire() as cable:
        for address in ("10.77.0.5/24", "10.76.0.1/16"):
            must("ip", "addr", "add", address, "dev", cable.ours)
        with_watch(["wire-ours", "lo", "none", "a-name-that-is-much-too-long-for-one"], use)


def drops() -> int:
    """Messages that netlink sockets here have lost."""
    return sum(int(line.split()[8]) for line in Path("/proc/net/netlink").read_text().splitlines()[1:])


def batch(lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


def test_more_changes_than_fit() -> None:
    """When messages are lost (ENOBUFS), the watch ends, or the last state is not seen."""
    turns = "".join(
        f"addr add 10.1.{number // 250}.{number % 250}/32 dev wire-ours\n"
        f"addr del 10.1.{number // 250}.{number % 250}/32 dev wire-ours\n"
        for number in range(5000)
    )

    async def use(watch: LinkWatch) -> None:
        batch(turns + "addr add 10.2.0.1/32 dev wire-ours\n")
        assert drops() > 0
        await watch.changed()
        assert (await watch.read())["wire-ours"].addresses[-1] == IPv4Interface("10.2.0.1/32")
        must("ip", "addr", "del", "10.2.0.1/32", "dev", "wire-ours")
        await watch.changed()
        assert (await watch.read())["wire-ours"].addresses == (IPv4Interface("10.77.0.1/24"),)

    with wire():
        with_watch(["wire-ours"], use)


def test_a_burst_is_one_change() -> None:
    """Everything is closed and opened for each message of a burst, or the end of one that never ends is waited for."""

    async def use(watch: LinkWatch) -> None:
        must("ip", "link", "set", "wire-ours", "down")
        must("ip", "link", "set", "wire-ours", "up")
        await watch.changed()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await watch.changed()
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "while :; do ip addr add 10.1.0.1/32 dev wire-ours; ip addr del 10.1.0.1/32 dev wire-ours; done"
        )
        started = asyncio.get_running_loop().time()
        await watch.changed()
        assert asyncio.get_running_loop().time() - started < 10
        process.kill()
        await process.wait()

    with wire():
        with_watch(["wire-ours"], use)


def test_socket_that_fails_rests() -> None:
    """A socket whose interface went away fills the log, takes all time of the loop, or is not read any more after it."""
    taken: list[bytes] = []
    fails = True

    def take() -> None:
        if fails:
            raise OSError(errno.ENETDOWN, "down")
        taken.append(ours.recv(10))

    async def main() -> int:
        nonlocal fails
        reader = Reader(ours, "eth1", take)
        reader.start()
        theirs.send(b"x")
        turns = 0
        async with asyncio.timeout(PATIENCE):
            while not taken:
                turns += 1
                await asyncio.sleep(0.05)
                fails = turns * 0.05 < 1.5 * REST_SECONDS
        reader.close()
        assert ours.fileno() == -1
        return turns

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, structlog.testing.capture_logs() as logged:
        assert uvloop.run(main()) > REST_SECONDS / 0.05
    assert taken == [b"x"]
    assert [each["event"] for each in logged] == ["network.receive_failed"]

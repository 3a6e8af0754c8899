"""TFTP over networks that lose, narrow and block, and with clients that vanish, repeat themselves or stay on one port."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provider.wire.tftp_transfer import Limits
from tests.integration.tftp_bench import PATIENCE, PROBE, SERVER, Bench, atftp, curl, hpa, on, with_bench
from tests.integration.wires import Wire, must

LOSS = {0: "", 10: "5: drop", 30: "2: drop, 5: drop, 8: drop"}
"""Which of ten packets are lost, by per cent. Counted out, not drawn: a test that fails once in a while proves nothing."""


def test_one_port_through_a_firewall(tmp_path: Path) -> None:
    """Behind a firewall that knows port 69 only, no data arrives (edge case 36)."""

    async def use(made: Bench) -> None:
        inside = made.cable.inside()
        must(*inside, "nft", "add table inet firewall")
        must(*inside, "nft", "add chain inet firewall input { type filter hook input priority 0; }")
        must(*inside, "nft", "add rule inet firewall input udp sport != 69 drop")
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(made.fetches("large", curl(), f"-{number}"))
        with _losing(10, made.cable):
            await made.fetches("blocks", atftp("blksize 1468", "windowsize 8"))

    with_bench(tmp_path, use, Limits(retry_after=0.1, retries=12), single_port=True)


def test_blocks_fit_the_path(tmp_path: Path) -> None:
    """Blocks come in fragments, which firmware does not put together (edge case 34)."""

    async def use(made: Bench) -> None:
        must("ip", "link", "set", made.cable.ours, "mtu", "1300")
        status, said = await made.run("python3", "-c", PROBE, SERVER, b"blksize\x001468\0".hex())
        assert status == 0, said
        assert b"blksize\x001268\0" in bytes.fromhex(said)
        await made.fetches("nbp", curl("--tftp-blksize", "1468"))

    with_bench(tmp_path, use)


WINDOW = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(20)
sock.sendto(b"\\0\\1large\\0octet\\0blksize\\x001468\\0windowsize\\x004\\0", (sys.argv[1], 69))
_, server = sock.recvfrom(2048)
print("agreed", flush=True)
sys.stdin.readline()
sock.sendto(b"\\0\\4\\0\\0", server)
print([len(sock.recv(2048)) for _ in range(4)])
"""
"""A client that agrees to options, waits for a line, and prints the sizes of the first window."""


def test_path_that_narrows(tmp_path: Path) -> None:
    """A window goes out in one piece, and never again once the path takes only smaller ones."""

    async def use(made: Bench) -> None:
        command = made.cable.inside("python3", "-c", WINDOW, SERVER)
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"agreed\n"
            must("ip", "link", "set", made.cable.ours, "mtu", "1000")
            said, _ = await process.communicate(b"go\n")
        assert said == b"[1472, 1472, 1472, 1472]\n", "in fragments, but there"

    with_bench(tmp_path, use)


@pytest.mark.parametrize("percent", [10, 30])
@pytest.mark.parametrize(
    "command",
    [
        # With its options it asks for six seconds of patience, and gets them.
        pytest.param(curl("--tftp-no-options"), id="curl"),
        pytest.param(atftp("blksize 1468", "windowsize 8"), id="atftp, windows of 8"),
        pytest.param(hpa, id="tftp-hpa"),
    ],
)
def test_a_bad_cable_only_takes_longer(tmp_path: Path, command: Callable[[str, str], list[str]], percent: int) -> None:
    """A lost packet ends a transfer, or what arrives is not what was sent."""

    async def use(made: Bench) -> None:
        with _losing(percent, made.cable):
            await made.fetches("blocks", command)
            assert "packets 0" not in must("nft", "list", "table", "inet", "loss")

    with_bench(tmp_path, use, Limits(retry_after=0.1, retries=12))


@contextlib.contextmanager
def _losing(percent: int, cable: Wire) -> Iterator[None]:
    """Lose packets in both directions, each where it comes in."""
    rule = f"meta l4proto udp counter numgen inc mod 10 vmap {{ {LOSS[percent]} }}"
    for where, interface in (([], cable.ours), (cable.inside(), cable.theirs)):
        must(*where, "nft", "add table inet loss")
        must(*where, "nft", "add chain inet loss input { type filter hook input priority 0; }")
        must(*where, "nft", f"add rule inet loss input iifname {interface} {rule}")
    try:
        yield
    finally:
        must("nft", "delete table inet loss")


def test_a_client_that_vanishes_is_given_up(tmp_path: Path) -> None:
    """A machine that lost power keeps its transfer, and nobody is told."""

    async def use(made: Bench) -> None:
        # Nobody answers for its port any more: without the drop, ICMP would tell.
        for rule in (
            "table inet gone",
            "chain inet gone out { type filter hook output priority 0; }",
            "rule inet gone out ip protocol icmp drop",
        ):
            must(*made.cable.inside("nft", f"add {rule}"))
        status, said = await made.run("python3", "-c", PROBE, SERVER, "")
        assert status == 0, said
        failed = await made.notebook.heard("tftp.failed")
        assert failed["reason"] == "no answer to block 1 of 5860 after 4 tries"

    with_bench(tmp_path, use, Limits(retry_after=0.05, retries=3))


def test_late_and_double_acknowledgements(tmp_path: Path) -> None:
    """Each duplicate ACK doubles all blocks that follow (Sorcerer's Apprentice, RFC 1123 section 4.2.3.1)."""

    async def use(made: Bench) -> None:
        ack = b"\0\4\0\1".hex()
        status, said = await made.run("python3", "-c", APPRENTICE, SERVER, ack)
        assert status == 0, said
        assert said.split() == ["1", "2", "quiet"]

    with_bench(tmp_path, use, Limits(retry_after=5.0))


APPRENTICE = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.sendto(b"\\0\\1large\\0octet\\0", (sys.argv[1], 69))
block, server = sock.recvfrom(2048)
print(block[3])
for _ in range(5):
    sock.sendto(bytes.fromhex(sys.argv[2]), server)
print(sock.recvfrom(2048)[0][3])
sock.settimeout(1)
try:
    print("again", sock.recvfrom(2048)[0][3])
except TimeoutError:
    print("quiet")
"""
"""Fetch block 1, acknowledge it five times, and list the blocks that come."""


READS_SLOWLY = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 2000))
sock.settimeout(20)
for name in sys.argv[1:]:
    request = b"\\0\\1" + name.encode() + b"\\0octet\\0blksize\\0" + b"1468\\0"
    sock.sendto(request, ("10.77.0.1", 69))
    raw, peer = sock.recvfrom(2048)
    assert raw[:2] == b"\\0\\6", raw[:40]
    print("begun", flush=True)
    sys.stdin.readline()
    number = 0
    while raw[:2] == b"\\0\\6" or len(raw) == 1472:
        sock.sendto(b"\\0\\4" + number.to_bytes(2, "big"), peer)
        raw, peer = sock.recvfrom(2048)
        number += 1
        assert raw[:4] == b"\\0\\3" + number.to_bytes(2, "big"), raw[:40]
    print("done", flush=True)
sock.sendto(request, ("10.77.0.1", 69))
print(sock.recv(2048)[:2].hex())
print("begun", flush=True)
sys.stdin.readline()
sock.sendto(request, ("10.77.0.1", 69))
print(sock.recv(2048)[:2].hex())
"""
"""Download by the steps that standard input gives, always from one port, as some ROMs do; in the end ask twice."""


def test_port_is_opened_again(tmp_path: Path) -> None:
    """A download ends when the interface is configured anew, or the next one from the same client's port is not begun."""

    async def use(made: Bench) -> None:
        server = made.server
        client = await asyncio.create_subprocess_exec(
            *made.cable.inside("python3", "-c", READS_SLOWLY, "nbp"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdin is not None
        assert client.stdout is not None
        async with asyncio.timeout(PATIENCE):
            for _ in range(2):
                while await client.stdout.readline() != b"begun\n":
                    pass
                server.close(on(made.cable))
                server.open(on(made.cable))
                client.stdin.write(b"\n")
            assert await client.stdout.read() == b"0006\n", "answered by the port that is open now"
            assert await client.wait() == 0
        assert await made.notebook.heard("tftp.sent")

    with_bench(tmp_path, use)

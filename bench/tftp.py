"""
`./dev bench tftp`: 40 clients that each fetch the agent's initramfs at the same time, against dnsmasq and atftpd.

Blocks have 1468 bytes, windows 1, 4 and 8 blocks. A server that knows no windows (RFC 7440) is measured all the same: it
answers without them, which is a window of 1.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from bench import ours, stage
from bench.report import Row
from bench.stage import MeasurementError, Stage
from provider.lab.processes import Process

CLIENTS = 40
BLOCK_SIZE = 1468
WINDOWS = (1, 4, 8)
FILE = "assets/x86_64/initramfs.zst"
TARGET = 1.0
WINDOW_TARGET = 3.0
"""What the largest window must gain over none."""

_Server = Callable[[Stage], AbstractAsyncContextManager[Process]]
Rates = Mapping[int, float]
"""Megabytes a second by window."""


async def run(on: Stage) -> list[Row]:
    """Measure all three."""
    root = on.folder / "tftp"
    root.mkdir()
    (root / "assets").symlink_to(on.assets)
    servers: Mapping[str, _Server] = {"ours": ours.serving, "dnsmasq": _dnsmasq, "atftpd": _atftpd}
    measured = {name: await _measure(on, name, server) for name, server in servers.items()}
    return compare(measured.pop("ours"), measured)


def compare(own: Rates, peers: Mapping[str, Rates]) -> list[Row]:
    """Ours beside each peer; the target is the better one, and windows must be worth it."""
    rows = []
    for window in WINDOWS:
        better = max(peers, key=lambda name: peers[name][window])
        for peer, theirs in peers.items():
            target = TARGET if peer == better else None
            rows.append(Row(f"MB/s, windowsize {window}", own[window], peer, theirs[window], target))
    last, first = WINDOWS[-1], WINDOWS[0]
    gain = f"MB/s, windowsize {last} against {first}"
    return [*rows, Row(gain, own[last], "ours", own[first], WINDOW_TARGET)]


async def _measure(on: Stage, name: str, server: _Server) -> Rates:
    async with server(on):
        await _fetch(on, name, WINDOWS[0], clients=1)  # The file is in memory then.
        return {window: await _fetch(on, name, window) for window in WINDOWS}


async def _fetch(on: Stage, name: str, window: int, clients: int = CLIENTS) -> float:
    what = (stage.ADDRESS, FILE, str(clients), str(BLOCK_SIZE), str(window))
    load = await on.load([sys.executable, "-m", "bench.tftp_load", *what])
    got = json.loads(load.output)
    if got["bytes"] != clients * (on.assets / FILE.removeprefix("assets/")).stat().st_size:
        raise MeasurementError(f"{got['bytes']} bytes arrived at {clients} clients")
    rate = float(got["bytes"]) / 1e6 / float(got["seconds"])
    if clients > 1:
        agreed = "" if got["window"] == window else f" (answered with {got['window']})"
        said = f"{name}, windowsize {window}{agreed}: {rate:,.1f} MB/s, {got['repeats']} repeats"
        stage.say(f"{said}; {stage.limits(load.busy)}")
    return rate


@contextlib.asynccontextmanager
async def _dnsmasq(on: Stage) -> AsyncIterator[Process]:
    options = [
        "--conf-file=/dev/null",
        "--port=0",
        "--keep-in-foreground",
        "--log-facility=-",
        "--quiet-tftp",
        "--user=root",
        f"--interface={stage.INTERFACE}",
        "--bind-interfaces",
        "--enable-tftp",
        f"--tftp-root={on.folder / 'tftp'}",
        f"--tftp-max={2 * CLIENTS}",
    ]
    async with on.running("dnsmasq", on.on_server("dnsmasq", *options), ("udp", 69)) as process:
        yield process


@contextlib.asynccontextmanager
async def _atftpd(on: Stage) -> AsyncIterator[Process]:
    options = ["--daemon", "--no-fork", "--bind-address", stage.ADDRESS, "--user", "root", "--group", "root"]
    command = on.on_server("atftpd", *options, "--logfile", "/dev/null", on.folder / "tftp")
    async with on.running("atftpd", command, ("udp", 69)) as process:
        yield process

"""
`./dev bench http`: 16 clients that each fetch one file of 100 MB at the same time, against nginx with sendfile and one worker.

Both servers send the same file; it is in memory after the first round, which is not counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from bench import ours, stage
from bench.report import Row
from bench.stage import MeasurementError, Stage
from provider.lab.processes import Process

CLIENTS = 16
FILE_BYTES = 100_000_000
ROUNDS = 5
TARGET = 1.0

_OUR_PORT = 8080
_NGINX_PORT = 8081
_FILE = "image"


async def run(on: Stage) -> list[Row]:
    """Measure both."""
    file = on.folder / "www" / _FILE
    file.parent.mkdir()
    file.write_bytes(os.urandom(FILE_BYTES))
    own = await _measure(on, "ours", _ours(on, file), _OUR_PORT, "/profiles/bench/kernel")
    peer = await _measure(on, "nginx", _nginx(on, file), _NGINX_PORT, f"/{_FILE}")
    return [Row(f"MB/s to {CLIENTS} clients of 100 MB", own, "nginx", peer, TARGET)]


async def _measure(on: Stage, name: str, server: AbstractAsyncContextManager[Process], port: int, path: str) -> float:
    """Megabytes a second, the median of some rounds."""
    async with server:
        await _fetch(on, port, path)
        rates = []
        for _ in range(ROUNDS):
            rate, busy = await _fetch(on, port, path)
            stage.say(f"{name}: {rate:,.0f} MB/s; {stage.limits(busy)}")
            rates.append(rate)
    return statistics.median(rates)


async def _fetch(on: Stage, port: int, path: str) -> tuple[float, float]:
    what = (stage.ADDRESS, str(port), path, str(CLIENTS))
    load = await on.load([sys.executable, "-m", "bench.http_load", *what])
    got = json.loads(load.output)
    if got["bytes"] != CLIENTS * FILE_BYTES:
        raise MeasurementError(f"{got['bytes']} bytes arrived at {CLIENTS} clients")
    return float(got["bytes"]) / 1e6 / float(got["seconds"]), load.busy


def _ours(on: Stage, file: Path) -> AbstractAsyncContextManager[Process]:
    return ours.serving(on, {"profiles": {"bench": {"kind": "kernel", "kernel": str(file)}}})


@contextlib.asynccontextmanager
async def _nginx(on: Stage, file: Path) -> AsyncIterator[Process]:
    configuration = on.folder / "nginx.conf"
    configuration.write_text(
        f"""
daemon off;
user root;
worker_processes 1;
pid {on.folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 512; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log off;
    server {{ listen {stage.ADDRESS}:{_NGINX_PORT}; root {file.parent}; }}
}}
""",
        encoding="utf-8",
    )
    command = on.on_server("nginx", "-c", configuration)
    async with on.running("nginx", command, ("tcp", _NGINX_PORT)) as process:
        yield process

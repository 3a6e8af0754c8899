"""
What `./dev bench omni` measures: a daemon, the Omni that it is to serve, and the machines, each a process of its own.

Omni and the machines are at the load's end of the cable. `Site` tells how they stand; what users do at Omni is done through the
fake's desk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from bench import omni_load, ours, stage
from bench.omni_load import uuid_of
from bench.stage import MeasurementError, Stage
from provider.kit.unixhttp import UnixHttpError
from provider.lab.omni.desk_client import DeskClient
from provider.lab.processes import Process

PROVIDER = "bench"
GRPC_PORT, MACHINES_PORT, FACTORY_PORT = 50100, 50101, 50102

PATIENCE = 900.0
"""Seconds after which we stop waiting."""

NETWORK = "10.77.128.0/17"
"""Of the machines."""

_LOOKS_EVERY = 0.25
_IMAGES = ("kernel-amd64", "initramfs-amd64.xz")
_TICKS = os.sysconf("SC_CLK_TCK")

Told = Mapping[str, Any]
"""A machine as `omni_load` tells of it."""


@dataclass
class Log:
    """What the provider wrote at Omni so far, as far as it matters."""

    desk: DeskClient
    held: set[str] = field(default_factory=set)
    """UUIDs of machines that bear our finalizer."""
    ready: dict[str, float] = field(default_factory=dict)
    """When each was first said to be ready, in wall-clock seconds."""
    installed: dict[str, float] = field(default_factory=dict)
    _last: int = 0

    async def read(self) -> None:
        """Go on from where we were."""
        while entries := await self.desk.list("log", after=self._last):
            for entry in entries:
                self._last = int(str(entry["number"]))
                self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        resource, spec = entry["resource"], entry["resource"]["spec"]
        if entry["code"] != "OK" or not resource["type"].startswith("InfraMachine"):
            return
        at = datetime.fromisoformat(entry["at"]).timestamp()
        if resource["type"].startswith("InfraMachineStatus"):
            if spec["ready_to_use"]:
                self.ready.setdefault(resource["id"], at)
            if spec["installed"]:
                self.installed.setdefault(resource["id"], at)
        elif resource["finalizers"]:
            self.held.add(resource["id"])


@dataclass(frozen=True)
class Site:
    """All three at work."""

    daemon: Process
    desk: DeskClient
    log: Log
    machines: aiohttp.ClientSession

    async def tell(self) -> list[Told]:
        """All machines as they are."""
        async with self.machines.get(f"http://{stage.LOAD_ADDRESS}:{omni_load.POWER_PORT}/") as response:
            found: list[Told] = await response.json()
            return found

    async def calls(self) -> Counter[str]:
        """Calls of the provider to Omni so far, by method."""
        calls: Counter[str] = Counter()
        for each in await self.desk.list("calls"):
            if PROVIDER in str(each["caller"]):
                calls[str(each["method"])] += int(str(each["count"]))
        return calls

    def cpu(self) -> float:
        """Seconds of CPU that the daemon has used."""
        line = Path(f"/proc/{self.daemon.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(line[11]) + int(line[12])) / _TICKS

    def memory(self, what: str = "VmRSS") -> float:
        """MB of the daemon now; `VmHWM`: at most so far."""
        lines = Path(f"/proc/{self.daemon.pid}/status").read_text(encoding="ascii").splitlines()
        (found,) = [line.split()[1] for line in lines if line.startswith(f"{what}:")]
        return int(found) / 1024

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        """
        Wait until it holds.

        Raises:
            MeasurementError: If it never does, or the daemon ends.
        """
        end = time.monotonic() + PATIENCE
        while not await holds():
            if time.monotonic() > end or not self.daemon.running:
                raise MeasurementError(f"it never came to be that {what}:\n{self.daemon.tail()}")
            await asyncio.sleep(_LOOKS_EVERY)

    async def all_do(self, numbers: Sequence[int], do: Callable[[int], Awaitable[object]]) -> None:
        """The same for each, as fast as Omni takes it."""
        hands = asyncio.Semaphore(8)

        async def one(number: int) -> None:
            async with hands:
                await do(number)

        await asyncio.gather(*map(one, numbers))

    async def accept(self, number: int) -> None:
        """A user accepts it."""
        await self.desk.do("accept", machine=uuid_of(number))


@contextlib.asynccontextmanager
async def at_work(on: Stage) -> AsyncIterator[Site]:
    """A daemon and its Omni, without machines; those come with `booting`."""
    files = on.folder / "files"
    files.mkdir(parents=True)
    for name in _IMAGES:
        (files / name).write_bytes(bytes(1 << 16))
    try:
        async with _omni(on, files) as desk:
            key = on.folder / "key"
            key.write_text(str(await desk.do("create_provider", provider=PROVIDER)), encoding="utf-8")
            changes = {
                "provider": {"id": PROVIDER, "state_dir": str(on.folder / "provider")},
                "manager": {
                    "kind": "omni",
                    "endpoint": f"https://{stage.LOAD_ADDRESS}:{GRPC_PORT}",
                    "key_file": str(key),
                    "ca_file": str(on.folder / "omni" / "tls" / "ca.pem"),
                },
                "talos": {"factory_url": f"http://{stage.LOAD_ADDRESS}:{FACTORY_PORT}"},
            }
            async with ours.serving(on, changes) as daemon, aiohttp.ClientSession() as session:
                site = Site(daemon, desk, Log(desk), session)
                await site.until("Omni hears of us", lambda: _is_known(desk))
                yield site
    except UnixHttpError as error:
        raise MeasurementError(str(error), hint=error.hint) from error


@contextlib.asynccontextmanager
async def booting(on: Stage, count: int) -> AsyncIterator[None]:
    """Machines 0 to `count`, switched on."""
    command = on.on_load(sys.executable, "-m", "bench.omni_load", stage.ADDRESS, "0", str(count))
    process = await Process.start("machines", command, on.folder / "machines.log")
    try:
        await asyncio.sleep(1)
        yield
        if not process.running:
            raise MeasurementError(f"the machines ended:\n{process.tail()}")
    finally:
        await process.terminate()


async def _is_known(desk: DeskClient) -> bool:
    (provider,) = await desk.list("providers")
    return bool(provider["status"])


@contextlib.asynccontextmanager
async def _omni(on: Stage, files: Path) -> AsyncIterator[DeskClient]:
    folder = on.folder / "omni"
    address = stage.LOAD_ADDRESS
    listens = ["--listen", f"{address}:{GRPC_PORT}", "--machines", f"{address}:{MACHINES_PORT}"]
    listens += ["--factory", f"{address}:{FACTORY_PORT}", "--files", str(files), "--state", str(folder), "--tls"]
    command = on.on_load(sys.executable, "-m", "provider.lab.omni", *listens)
    process = await Process.start("omni", command, on.folder / "omni.log")
    try:
        async with DeskClient(folder / "desk.sock") as desk:
            await _listening(process, desk)
            yield desk
    finally:
        await process.terminate()


async def _listening(process: Process, desk: DeskClient) -> None:
    end = time.monotonic() + stage.START_SECONDS
    while True:
        try:
            await desk.list("providers")
        except UnixHttpError as error:
            if time.monotonic() > end or not process.running:
                raise MeasurementError(f"the fake Omni does not start:\n{process.tail()}") from error
            await asyncio.sleep(_LOOKS_EVERY)
        else:
            return

"""
`./dev bench storm`: how long until the manager has the inventories of many machines that are switched on at one moment.

The machines are simulated, and what they say is not: DHCP by broadcast (PXE ROM, iPXE, agent), TFTP of the boot loader,
scripts, the agent's real kernel and initramfs by HTTP, enrolment and inventory over TLS, then a long poll each. Half of them
are BIOS, half UEFI. What is left out is what costs the provider nothing: the time that hardware and kernels need between two
requests.

The provider has its two CPUs alone. The machines and the reference manager, which in a data centre are elsewhere, share the
load's. The server's kernel reaches all machines as behind one router, else it would learn thousands of neighbours, which is more
than it remembers with ordinary settings (net.ipv4.neigh.default.gc_thresh3).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bench import ours, stage
from bench.report import Row
from bench.stage import MeasurementError, Stage
from provider.kit.jsontypes import JsonObject
from provider.kit.unixhttp import UnixHttpError
from provider.lab.daemons import bootwright
from provider.reference_manager.client import Client, control_socket

MACHINES = 1000
TARGET_SECONDS = 60.0
"""For up to MACHINES machines."""

PATIENCE = 900.0
"""Seconds after which we stop waiting."""

NETWORK = "10.77.128.0/17"
POOL = {"first": "10.77.128.0", "last": "10.77.255.254"}

_PROCESSES = 2
_MANAGER = "127.0.0.1:9443"
_EVENT = "agent.inventory_reported"
_STAGES = ("DHCPACK", "NBP", "script", "kernel", "initramfs", "agent", "inventory")

Machine = Mapping[str, Any]
"""One machine as `storm_load` describes it."""


async def run(on: Stage, machines: int = MACHINES) -> list[Row]:
    """Let them come."""
    stage.put_behind_load(NETWORK)
    manager = on.folder / "manager"
    async with on.running(
        "manager", bootwright("manager", "serve", "--state", manager, "--listen", _MANAGER), ("tcp", 9443)
    ):
        changes = {
            "network": {"interfaces": [{"name": stage.INTERFACE, "dhcp": "server", "pool": POOL}]},
            "manager": {
                "url": f"wss://{_MANAGER}/link",
                "token_file": str(manager / "token"),
                "ca_file": str(manager / "ca.pem"),
            },
        }
        async with ours.serving(on, changes), Client(control_socket(manager)) as client:
            return await _storm(on, client, machines)


async def _storm(on: Stage, client: Client, machines: int) -> list[Row]:
    try:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            arrivals = group.create_task(_arrivals(client, machines))
            found = await _load(on, machines, arrivals)
            known = await client.machines()
    except TimeoutError as error:
        raise MeasurementError(f"not all machines were known after {PATIENCE:g} s") from error
    except UnixHttpError as error:
        raise MeasurementError(str(error), hint=error.hint) from error
    with_inventory = sum(_has_inventory(machine) for machine in known)
    if with_inventory != machines:
        raise MeasurementError(f"the manager has the inventories of {with_inventory} of {machines} machines")
    return rows(found, arrivals.result())


async def _arrivals(client: Client, machines: int) -> dict[str, float]:
    """When the manager had each machine's inventory, in wall-clock seconds."""
    arrived: dict[str, float] = {}
    after, told = 0, 0
    while len(arrived) < machines:
        for item in await client.watch(after):
            after = int(str(item["id"]))
            if item["name"] == _EVENT:
                arrived[str(item["machine"])] = datetime.fromisoformat(str(item["received_at"])).timestamp()
        if len(arrived) * 10 // machines > told:
            told = len(arrived) * 10 // machines
            stage.say(f"the manager has {len(arrived)} inventories")
    return arrived


async def _load(on: Stage, machines: int, until: asyncio.Task[dict[str, float]]) -> list[Machine]:
    """Run the machines until the manager knows all of them."""
    share = -(-machines // _PROCESSES)
    counts = [(first, min(share, machines - first)) for first in range(0, machines, share)]
    async with contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(_crowd(on, first, count)) for first, count in counts]
        async with asyncio.TaskGroup() as group:
            lines = [group.create_task(_line(process)) for process in processes]
        await until
        return [machine for line in lines for machine in json.loads(line.result())]


@contextlib.asynccontextmanager
async def _crowd(on: Stage, first: int, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    command = on.on_load(sys.executable, "-m", "bench.storm_load", stage.LOAD_INTERFACE, str(first), str(count))
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=pipe, stdout=pipe, stderr=pipe, limit=1 << 30
    )
    try:
        yield process
    finally:
        await process.communicate(b"")  # The end of its standard input ends it.


async def _line(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None or process.stderr is None:
        raise AssertionError("it was started with pipes")
    line = await process.stdout.readline()
    if not line:
        said = (await process.stderr.read()).decode(errors="replace").strip()
        raise MeasurementError(f"a machine cannot boot: {said}")
    return line


def rows(machines: Sequence[Machine], arrivals: Mapping[str, float]) -> list[Row]:
    """What the machines went through."""
    first = min(machine["began"] for machine in machines)
    waited = [arrivals[machine["id"]] - machine["began"] for machine in machines]
    target = TARGET_SECONDS if len(machines) <= MACHINES else None
    many = f"of {len(machines):,} machines"
    return [
        Row(f"s to the last inventory {many} at the manager", max(arrivals.values()) - first, target=target),
        Row("s to the inventory at the manager, median", statistics.median(waited)),
        Row("s to the inventory at the manager, 95th percentile", _percentile(waited)),
        *(
            Row(f"s to {name}, 95th percentile", _percentile([machine["stages"][name] for machine in machines]))
            for name in _STAGES
        ),
        Row("requests that were sent again", sum(machine["again"] for machine in machines)),
        Row("requests that were sent again twice or more", sum(machine["late"] for machine in machines), target=0),
    ]


def _has_inventory(machine: JsonObject) -> bool:
    state = machine.get("state")
    return isinstance(state, dict) and bool(state.get("inventory"))


def _percentile(values: Sequence[float], share: float = 0.95) -> float:
    return sorted(values)[int(share * (len(values) - 1))]

"""
Where a bench plays: the namespaces, the cable, and who runs on which CPUs.

The process is the first one of namespaces of its own (`provider.lab.namespaces`), so everything here ends with it. Servers
run in its network namespace, at ADDRESS; load runs in the namespace `load`, at the other end of the cable.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provider.domain.errors import BootwrightError
from provider.lab.processes import Process

ADDRESS = "10.77.0.1"
LOAD_ADDRESS = "10.77.0.2"
PREFIX = 16
INTERFACE = "server0"
LOAD_INTERFACE = "load0"
LOAD_NAMESPACE = "load"

SERVER_CPUS = 2
"""What servers get, the same for ours and for the peers."""

START_SECONDS = 60.0
"""A server that does not listen after this never will."""

BUSY = 0.9
"""Share of its CPUs from which on the load may be what limits a rate."""

_KNOCK_SECONDS = 0.05
_LISTENING = {"tcp": "0A", "udp": "07"}
"""State of a listening socket in /proc/net."""


class MeasurementError(BootwrightError):
    """Nothing could be measured, or not what was meant."""


@dataclass(frozen=True)
class Load:
    """What a load program wrote, and what it cost."""

    output: str
    seconds: float
    busy: float
    """Share of the load's CPUs that it used, 0 to 1; near 1, the load was the limit."""


@dataclass(frozen=True)
class Stage:
    """Made by `build`; `folder` is on a disk, because leases are."""

    folder: Path
    assets: Path
    server_cpus: tuple[int, ...]
    load_cpus: tuple[int, ...]

    @property
    def apart(self) -> bool:
        """Whether servers and load are on different CPUs."""
        return self.server_cpus != self.load_cpus

    def on_server(self, *command: str | Path) -> list[str | Path]:
        """The command on the servers' CPUs."""
        return ["taskset", "-c", _list(self.server_cpus), *command]

    def on_load(self, *command: str | Path) -> list[str | Path]:
        """The command on the load's CPUs, at the load's end of the cable."""
        return ["ip", "netns", "exec", LOAD_NAMESPACE, "taskset", "-c", _list(self.load_cpus), *command]

    @contextlib.asynccontextmanager
    async def running(
        self,
        name: str,
        command: Sequence[str | Path],
        ready: tuple[str, int],
        environment: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Process]:
        """Run a server from when it listens, on `ready` (udp or tcp, port), until the block ends."""
        process = await Process.start(name, command, self.folder / f"{name}.log", {**os.environ, **(environment or {})})
        try:
            try:
                async with asyncio.timeout(START_SECONDS):
                    await _listens(process, *ready)
            except TimeoutError as error:
                raise MeasurementError(
                    f"{name} does not listen after {START_SECONDS:g} s:\n{process.tail()}"
                ) from error
            yield process
            if not process.running:
                raise MeasurementError(f"{name} ended while it was measured:\n{process.tail()}")
        finally:
            await process.terminate()

    async def load(self, *commands: Sequence[str | Path], statuses: Sequence[int] = (0,)) -> Load:
        """Run load programs to their ends, all at once; their output is put together."""
        started, cpu = time.monotonic(), _children_seconds()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._run(command, statuses), name="load") for command in commands]
        seconds = time.monotonic() - started
        busy = (_children_seconds() - cpu) / seconds / len(self.load_cpus)
        return Load("".join(task.result() for task in tasks), seconds, busy)

    async def _run(self, command: Sequence[str | Path], statuses: Sequence[int]) -> str:
        process = await asyncio.create_subprocess_exec(
            *map(str, self.on_load(*command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output, errors = await process.communicate()
        if process.returncode not in statuses:
            raise MeasurementError(f"{command[0]} failed: {(errors or output).decode(errors='replace').strip()}")
        return output.decode()


def build(folder: Path, assets: Path) -> Stage:
    """Make the cable, in namespaces that are ours alone; raises MeasurementError."""
    must("mount", "-t", "tmpfs", "tmpfs", "/run")  # Named network namespaces are files there.
    must("ip", "link", "set", "lo", "up")
    must("ip", "netns", "add", LOAD_NAMESPACE)
    inside = ("ip", "-n", LOAD_NAMESPACE)
    must("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", LOAD_INTERFACE, "netns", LOAD_NAMESPACE)
    must("ip", "addr", "add", f"{ADDRESS}/{PREFIX}", "dev", INTERFACE)
    must("ip", "link", "set", INTERFACE, "up")
    must(*inside, "link", "set", "lo", "up")
    must(*inside, "addr", "add", f"{LOAD_ADDRESS}/{PREFIX}", "dev", LOAD_INTERFACE)
    must(*inside, "link", "set", LOAD_INTERFACE, "up")
    servers, load = share_out(sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, load)  # We are load, too, and so is what we start without saying more.
    return Stage(folder, assets, servers, load)


def put_behind_load(network: str) -> None:
    """Let the load have all addresses of a network, as if they were behind a router."""
    must("ip", "route", "add", network, "via", LOAD_ADDRESS)
    must("ip", "-n", LOAD_NAMESPACE, "route", "add", "local", network, "dev", LOAD_INTERFACE)
    # Else the load's kernel says by ARP that it has all those addresses, and the provider finds each one in use.
    setting = f"/proc/sys/net/ipv4/conf/{LOAD_INTERFACE}/arp_ignore"
    must("ip", "netns", "exec", LOAD_NAMESPACE, "sh", "-c", f"echo 1 >{setting}")


def share_out(cpus: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """CPUs of the servers and of the load; with too few of them, everybody has all."""
    if len(cpus) < 2 * SERVER_CPUS:
        return tuple(cpus), tuple(cpus)
    return tuple(cpus[:SERVER_CPUS]), tuple(cpus[SERVER_CPUS:])


def limits(busy: float) -> str:
    """Say how hard the load worked: a rate means little if it was the load that could do no more."""
    warning = ", so the load may be the limit" if busy > BUSY else ""
    return f"the load used {busy:.0%} of its CPUs{warning}"


def say(text: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"bench: {text}\n")


async def _listens(process: Process, kind: str, port: int) -> None:
    while process.running:
        if _is_listening(kind, port):
            return
        await asyncio.sleep(_KNOCK_SECONDS)
    raise MeasurementError(f"{process.name} does not start:\n{process.tail()}")


def _is_listening(kind: str, port: int) -> bool:
    lines = Path(f"/proc/net/{kind}").read_text(encoding="ascii").splitlines()
    rows = (line.split() for line in lines[1:])
    return any(row[1].endswith(f":{port:04X}") and row[3] == _LISTENING[kind] for row in rows)


def _children_seconds() -> float:
    """CPU time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _list(cpus: Sequence[int]) -> str:
    return ",".join(map(str, cpus))


def must(*command: str) -> None:
    """Run a command that makes up the stage; raises MeasurementError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementError(f"{' '.join(command)}: {done.stderr.strip()}")

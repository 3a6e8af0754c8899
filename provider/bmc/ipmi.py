"""
IPMI 2.0 over LAN, through pyghmi in worker processes.

pyghmi keeps sessions, sockets and one I/O loop in globals of its process, blocks, and in some cases never returns (a user that
the BMC does not know, measured). A thread that hangs cannot be ended and would hold that loop for all. So calls run in a few
worker processes (`ipmi_worker.py`), each with one call at a time; one that is not back at its deadline is killed, and the next
call starts a new one. Passwords go through the worker's standard input, never through a command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerState
from provider.domain.errors import PermanentError, TemporaryError
from provider.domain.inventory import FirmwareKind

log = structlog.get_logger()

WORKERS = 8
"""Most calls under way at once; a worker process takes about 40 MB and is ended when it has been idle for a while."""

IDLE = timedelta(seconds=60)

_RETRY_AFTER = timedelta(seconds=10)

_DEVICES = {NextBoot.NETWORK: "network", NextBoot.DISK: "hd", NextBoot.DEFAULT: "default"}


class IpmiPower:
    """One BMC that speaks IPMI; calls to it wait for each other."""

    def __init__(self, bmc: Bmc, workers: IpmiWorkers) -> None:
        self._bmc = bmc
        self._workers = workers
        self._turn = asyncio.Lock()

    async def read(self) -> PowerState:
        """Get Chassis Status (IPMI 2.0 section 28.2)."""
        answer = await self._call("read")
        return PowerState.ON if answer.get("power") == "on" else PowerState.OFF

    async def act(self, action: PowerAction) -> None:
        """Chassis Control (IPMI 2.0 section 28.3)."""
        await self._call("act", action=action.value)

    async def set_next_boot(self, device: NextBoot, firmware: FirmwareKind | None) -> None:
        """Set System Boot Options, parameters 3 and 5 (IPMI 2.0 section 28.12, table 28-14)."""
        await self._call("boot", device=_DEVICES[device], uefi=firmware is FirmwareKind.UEFI)

    async def _call(self, call: str, **arguments: object) -> dict[str, Any]:
        bmc = self._bmc
        request = {
            "address": bmc.address,
            "port": bmc.port,
            "user": bmc.user,
            "password": bmc.password.reveal(),
            "call": call,
            **arguments,
        }
        async with self._turn:
            answer = await self._workers.ask(request)
        match answer.get("failed"):
            case None:
                return answer
            case "login":
                raise PermanentError(
                    f"BMC {bmc.name} refused the login of {bmc.user!r}: {answer['error']}",
                    hint="check user and password of this BMC in `bmcs`, and that IPMI over LAN is allowed for the user",
                )
            case "refused":
                raise PermanentError(f"BMC {bmc.name} refused to {call} {arguments}: {answer['error']}")
            case _:
                raise TemporaryError(
                    f"BMC {bmc.name} does not answer: {answer['error']}",
                    retry_after=_RETRY_AFTER,
                    hint=f"is it reachable? Try: ipmitool -I lanplus -H {bmc.address} -p {bmc.port} -U {bmc.user} mc info",
                )


@dataclass
class _Worker:
    """One worker process and when it may be ended."""

    process: asyncio.subprocess.Process
    idle_since: float = 0.0


class IpmiWorkers:
    """The worker processes. `ask` gives an answer or a failure, always within the deadline."""

    def __init__(self, call_timeout: timedelta) -> None:
        self._timeout = call_timeout
        self._places = asyncio.Semaphore(WORKERS)
        self._idle: list[_Worker] = []

    async def ask(self, request: dict[str, object]) -> dict[str, Any]:
        """Have a worker perform the request; {"failed": ..., "error": ...} if it could not."""
        async with self._places:
            worker = await self._take()
            try:
                async with asyncio.timeout(self._timeout.total_seconds()):
                    answer = await _converse(worker.process, request)
            except TimeoutError:
                await _kill(worker.process)
                return {"failed": "silent", "error": f"no answer within {self._timeout.total_seconds():g} s"}
            except (OSError, ValueError) as error:
                await _kill(worker.process)
                return {"failed": "silent", "error": f"the worker process failed: {error}"}
            except BaseException:
                await _kill(worker.process)
                raise
            worker.idle_since = asyncio.get_running_loop().time()
            self._idle.append(worker)
            return answer

    async def close(self) -> None:
        """End all that are idle; those at work end with their call."""
        while self._idle:
            await _kill(self._idle.pop().process)

    async def _take(self) -> _Worker:
        """The one that worked last, so that the others can grow old and be ended."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            worker = self._idle.pop()
            for old in [each for each in self._idle if now - each.idle_since > IDLE.total_seconds()]:
                self._idle.remove(old)
                await _kill(old.process)
            if worker.process.returncode is None:
                return worker
        return _Worker(await _start())


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "provider.bmc.ipmi_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # So that `_kill` ends its child too.
    )


async def _converse(process: asyncio.subprocess.Process, request: dict[str, object]) -> dict[str, Any]:
    assert process.stdin is not None  # noqa: S101 - it was started with pipes
    assert process.stdout is not None  # noqa: S101 - for mypy: it was made with a pipe
    process.stdin.write(json.dumps(request).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise OSError("it ended")
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError("it did not answer with an object")  # noqa: TRY004 - bad input, not a bad type of ours
    return answer


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()

"""
Calls to BMCs in processes of their own, so that one that hangs can be ended.

The libraries block, and none of them has a deadline: a BMC that sends a byte now and then holds its caller for ever, and a thread
cannot be ended. So each call runs in one of a few worker processes (`children.py` is their inside); one that is not back at its
deadline is killed, and the next call starts a new one. They are started when they are needed, and only they import the library.
Passwords go through a worker's standard input, never through a command line.
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

WORKERS = 8
"""Most calls under way at once; a worker process takes about 40 MB and is ended when it has been idle for a while."""

IDLE = timedelta(seconds=60)


@dataclass
class _Worker:
    """One worker process and when it may be ended."""

    process: asyncio.subprocess.Process
    idle_since: float = 0.0


class Workers:
    """The worker processes. `ask` gives an answer or a failure, always within the deadline."""

    def __init__(self, module: str, call_timeout: timedelta) -> None:
        self._module = module
        self.timeout = call_timeout
        self._places = asyncio.Semaphore(WORKERS)
        self._idle: list[_Worker] = []

    async def ask(self, request: dict[str, object]) -> dict[str, Any]:
        """Have a worker perform the request; {"failed": ..., "error": ...} if it could not."""
        async with self._places:
            worker = await self._take()
            try:
                async with asyncio.timeout(self.timeout.total_seconds()):
                    answer = await _converse(worker.process, request)
            except TimeoutError:
                await _kill(worker.process)
                return {"failed": "silent", "error": f"no answer within {self.timeout.total_seconds():g} s"}
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
        return _Worker(await _start(self._module))


async def _start(module: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
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

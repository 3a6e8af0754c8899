"""
Child processes of the lab: each with its output in a log file, each ended by its own handle.

A child gets its own session, so that Ctrl-C in the terminal reaches the lab alone, which ends its children in order.
Should the lab have no time for that, the process namespace takes them along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from provider.domain.errors import PermanentError

log = structlog.get_logger()

TERMINATION_SECONDS = 10.0
"""Time from SIGTERM to SIGKILL."""


def find_program(name: str) -> str:
    """
    Give the full path of a program; people who are not root often lack the sbin folders in their PATH.

    Raises:
        PermanentError: If it is not installed.
    """
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        raise PermanentError(
            f"the program {name} is not installed",
            hint="`./dev` installs what its verbs need; elsewhere, see its lists of packages",
        )
    return found


class Process:
    """One running child; made by `start`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log_file: Path) -> None:
        self.name = name
        self.log_file = log_file
        self._process = process

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str | Path], log_file: Path, environment: Mapping[str, str] | None = None
    ) -> Process:
        """
        Start a program; its output is added to `log_file`.

        Raises:
            PermanentError: If there is no such program.
        """
        line = [find_program(str(command[0])), *map(str, command[1:])]
        log.debug("process.started", name=name, command=shlex.join(line))
        with log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *line,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        return cls(name, process, log_file)

    @property
    def pid(self) -> int:
        """Process id, in the lab's process namespace."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not been seen to end."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for its end and give the exit status, negative for a signal."""
        return await self._process.wait()

    async def kill(self) -> None:
        """End it as a power cut would: SIGKILL, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def terminate(self) -> None:
        """Ask it to end, wait, and insist after `TERMINATION_SECONDS`."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(TERMINATION_SECONDS):
                await self._process.wait()
        except TimeoutError:
            log.warning("process.did_not_end", name=self.name, pid=self.pid)
            await self.kill()

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log, for an error message."""
        return tail(self.log_file, lines)


def tail(file: Path, lines: int = 15) -> str:
    """Give the last `lines` lines of a text file of any size; empty if there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 200 * lines))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""

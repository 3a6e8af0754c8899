"""
The lab's own world: network, process and mount namespaces that vanish together with the lab.

Three processes take part. The *outer* one is what somebody started in a terminal; it keeps its terminal and does
nothing but wait. It starts util-linux's `unshare`, which makes the namespaces and stays as the parent of the *inner*
process: the same command again, process 1 of the new process namespace, and the one that does all the work.

    outer ──dies──▶ unshare gets SIGKILL ──dies──▶ inner gets SIGKILL ──dies──▶ the kernel kills all others

So whoever of the three is killed, in whatever way, everything ends: the kernel kills a process namespace together with
its process 1, and a network or mount namespace without processes is removed with all that is in it. There is nothing to
clean up, and nothing for the next start to find.

To be ended in order rather than killed, the inner process watches a pipe that the outer one holds open (the
*lifeline*): when SIGINT, SIGTERM or SIGHUP reaches the outer process, it closes the pipe and waits; a second signal
kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import structlog

from provider.domain.errors import PermanentError
from provider.lab.processes import find_program

log = structlog.get_logger()

_LIFELINE = "BOOTWRIGHT_LAB_LIFELINE"
"""Environment variable that makes a process the inner one; its value is the descriptor of the lifeline."""

_NAMESPACES = ("--net", "--pid", "--mount", "--fork", "--kill-child=SIGKILL", "--mount-proc")
_AS_ROOT_OF_ITS_OWN = ("--user", "--map-root-user")


def inside() -> bool:
    """Whether this is the inner process."""
    return _LIFELINE in os.environ


def run_inside(command: Sequence[str], keep: Sequence[int] = ()) -> int:
    """
    Run `command` as process 1 of new namespaces and give its exit status, 128 + N when signal N ended it.

    `keep` are descriptors that the inner process inherits, such as a lock that must not be free before all is over.

    Raises:
        PermanentError: If this kernel does not let us make the namespaces; the hint says what would.
    """
    privileges = _privileges()
    reader, writer = os.pipe()
    wrapper = [find_program("setpriv"), "--pdeathsig", "KILL", find_program("unshare"), *privileges, *_NAMESPACES]
    with os.fdopen(writer, "wb", buffering=0) as lifeline, _signals_caught() as ending:
        process = subprocess.Popen(
            [*wrapper, "--", *command], env={**os.environ, _LIFELINE: str(reader)}, pass_fds=(reader, *keep)
        )
        os.close(reader)
        ending.deliver_to(lifeline, process)
        status = process.wait()
    return 128 - status if status < 0 else status


@contextlib.contextmanager
def ended_by_outer() -> Iterator[None]:
    """Inner process: cancel the task that is in this block once the outer process wants an end, or is gone."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    lifeline = int(os.environ[_LIFELINE])
    # The terminal sends Ctrl-C to the whole process group; one way to end is enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end() -> None:
        loop.remove_reader(lifeline)
        log.info("lab.end_requested")
        if task is not None:
            task.cancel()

    loop.add_reader(lifeline, end)
    try:
        yield
    finally:
        loop.remove_reader(lifeline)


def _privileges() -> tuple[str, ...]:
    """
    Give the arguments of `unshare` that get us the rights to make the namespaces, after trying them.

    Raises:
        PermanentError: If neither root nor a user namespace will do, or taps are not for us.
    """
    privileges = () if os.geteuid() == 0 else _AS_ROOT_OF_ITS_OWN
    probe = subprocess.run(
        [find_program("unshare"), *privileges, *_NAMESPACES, "--", "true"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        raise PermanentError(
            f"the lab cannot make its namespaces: {probe.stderr.strip()}",
            hint="run it as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 "
            "kernel.apparmor_restrict_unprivileged_userns=0 (whichever of the two exists)",
        )
    tun = Path("/dev/net/tun")
    if not os.access(tun, os.R_OK | os.W_OK):
        raise PermanentError(
            f"the lab needs {tun} for the network cards of its machines and may not use it",
            hint=f"run it as root, or: modprobe tun && chmod 0666 {tun} (what most distributions have anyway)",
        )
    return privileges


class _Ending:
    """What signals to the outer process do: the first closes the lifeline, each further one kills."""

    def __init__(self) -> None:
        self._wanted = 0
        self._lifeline: BinaryIO | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._wanted += 1
        self._act()

    def deliver_to(self, lifeline: BinaryIO, process: subprocess.Popen[bytes]) -> None:
        self._lifeline, self._process = lifeline, process
        self._act()

    def _act(self) -> None:
        if self._lifeline is not None and self._wanted >= 1:
            self._lifeline.close()
        if self._process is not None and self._wanted >= 2:
            self._process.kill()


@contextlib.contextmanager
def _signals_caught() -> Iterator[_Ending]:
    """Within this block signals end the inner process in order, not the outer one."""
    ending = _Ending()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, ending.on_signal) for number in numbers}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def own_command() -> list[str]:
    """The command line that started this process, to be started again inside."""
    return [sys.executable, "-P", "-m", "provider", *sys.argv[1:]]

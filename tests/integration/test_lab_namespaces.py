"""The lab's namespaces go with it, whoever of its processes is killed and however."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

OUTER = """
import sys
from provider.lab import namespaces
sys.exit(namespaces.run_inside([sys.executable, "-c", sys.argv[1], sys.argv[2]]))
"""

INNER = """
import asyncio, os, structlog, subprocess, sys
from provider.lab import namespaces, network

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    await network.Network(machines=1).open()
    subprocess.run(["mount", "-t", "tmpfs", sys.argv[1], "/mnt"], check=True)
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    with namespaces.ended_by_outer():
        print("ready", os.getpid(), os.readlink("/proc/self/ns/net"), flush=True)
        await asyncio.sleep(1000)

try:
    asyncio.run(main())
except asyncio.CancelledError:
    print("ended in order", flush=True)
    sys.exit(7)
"""


class Lab:
    """A small lab: bridge, tap, mount, and a child that would stay for ever."""

    def __init__(self, marker: str) -> None:
        self.marker = marker
        self.outer = subprocess.Popen([sys.executable, "-c", OUTER, INNER, marker], stdout=subprocess.PIPE, text=True)
        word, inner_id, self.network = self.line().split()
        assert (word, inner_id) == ("ready", "1"), "the inner process is process 1 of its namespace"
        self.processes = {pid: os.pidfd_open(pid) for pid in _processes_in(self.network)}

    def line(self) -> str:
        assert self.outer.stdout is not None
        return self.outer.stdout.readline()

    @property
    def unshare(self) -> int:
        """The process between the outer one and the inner one."""
        return next(pid for pid in _all_processes() if _parent(pid) == self.outer.pid)

    @property
    def inner(self) -> int:
        return next(pid for pid in _all_processes() if _parent(pid) == self.unshare)

    def wait_until_gone(self) -> None:
        """Wait for the end of each process that was inside: by descriptor, so that no id can be mistaken."""
        for pid, descriptor in self.processes.items():
            assert select.select([descriptor], [], [], 20)[0], f"process {pid} of the lab is still there"
            os.close(descriptor)
        self.outer.wait(20)

    def assert_nothing_left(self) -> None:
        self.wait_until_gone()
        assert not _processes_in(self.network)
        assert self.marker not in Path("/proc/self/mountinfo").read_text()
        assert "boot0" not in _interfaces()
        assert "tap1" not in _interfaces()


def _all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0


def _processes_in(network: str) -> list[int]:
    found = []
    for pid in _all_processes():
        try:
            if str(Path(f"/proc/{pid}/ns/net").readlink()) == network:
                found.append(pid)
        except OSError:
            continue
    return found


def _interfaces() -> str:
    return Path("/proc/net/dev").read_text()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(f"marker-{tmp_path.name}")
    yield lab
    lab.outer.kill()
    lab.outer.wait()
    if lab.outer.stdout:
        lab.outer.stdout.close()


@pytest.mark.parametrize("victim", ["outer", "unshare", "inner"])
def test_kill_leaves_nothing(lab: Lab, victim: str) -> None:
    """A lab that is killed leaves a process, a tap or a mount on the machine."""
    assert len(lab.processes) == 3, "unshare, the inner process and its child"
    os.kill({"outer": lab.outer.pid, "unshare": lab.unshare, "inner": lab.inner}[victim], signal.SIGKILL)
    lab.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_in_order(lab: Lab, number: signal.Signals) -> None:
    """A signal to the outer process is lost, or kills the lab before it could put its things in order."""
    lab.outer.send_signal(number)
    assert lab.line() == "ended in order\n"
    lab.assert_nothing_left()
    assert lab.outer.returncode == 7, "the inner process's exit status is the outer one's"


def test_second_signal_kills(lab: Lab) -> None:
    """A lab that hangs at its end cannot be got rid of."""
    os.kill(lab.inner, signal.SIGSTOP)
    lab.outer.send_signal(signal.SIGINT)
    lab.outer.send_signal(signal.SIGTERM)
    lab.assert_nothing_left()
    assert lab.outer.returncode == 128 + signal.SIGKILL

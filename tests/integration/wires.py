"""A client's network namespace and the cable to ours. Tests run in a namespace of their own, so any name is free."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


def run(*command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run to the end; the caller looks at status and output."""
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def must(*command: str) -> str:
    """Run, and fail the test if the command does."""
    done = run(*command)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Wire:
    """`ours` is the interface here, `theirs` the one in namespace `namespace`."""

    ours: str
    theirs: str
    namespace: str

    def inside(self, *command: str) -> list[str]:
        """The command as the client runs it."""
        return ["ip", "netns", "exec", self.namespace, *command]


@contextlib.contextmanager
def wire(address: str = "10.77.0.1/24") -> Iterator[Wire]:
    """Make both ends; ours has the address."""
    made = Wire("wire-ours", "wire-theirs", "wire-client")
    must("ip", "netns", "add", made.namespace)
    try:
        must("ip", "link", "add", made.ours, "type", "veth", "peer", "name", made.theirs, "netns", made.namespace)
        must("ip", "addr", "add", address, "dev", made.ours)
        must("ip", "link", "set", made.ours, "up")
        must(*made.inside("ip", "link", "set", "lo", "up"))
        must(*made.inside("ip", "link", "set", made.theirs, "up"))
        yield made
    finally:
        run("ip", "link", "del", made.ours)
        run("ip", "netns", "del", made.namespace)

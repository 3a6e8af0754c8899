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


def lay(cable: Wire, address: str) -> None:
    """Make both ends and have them up; ours has the address."""
    must("ip", "link", "add", cable.ours, "type", "veth", "peer", "name", cable.theirs, "netns", cable.namespace)
    must("ip", "addr", "add", address, "dev", cable.ours)
    must("ip", "link", "set", cable.ours, "up")
    must(*cable.inside("ip", "link", "set", cable.theirs, "up"))


@contextlib.contextmanager
def wire(address: str = "10.77.0.1/24", name: str = "wire") -> Iterator[Wire]:
    """Lay a cable to a client; without an address there is only the client's namespace."""
    made = Wire(f"{name}-ours", f"{name}-theirs", f"{name}-client")
    must("ip", "netns", "add", made.namespace)
    try:
        must(*made.inside("ip", "link", "set", "lo", "up"))
        if address:
            lay(made, address)
        yield made
    finally:
        run("ip", "link", "del", made.ours)
        run("ip", "netns", "del", made.namespace)

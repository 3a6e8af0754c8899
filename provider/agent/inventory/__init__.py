"""
What the machine is made of, read from sysfs and SMBIOS without any tool.

Each reader stands alone and works on a folder that may also be a copy in a test. One that fails costs its own part and
leaves a sentence in `problems`: a report with a hole is worth more than none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from provider.agent.inventory import bmc, cpu, disks, memory, nics, system
from provider.domain.inventory import BmcPresence, Cpu, Inventory, System

T = TypeVar("T")


def gather(
    boot_mac: str, agent_version: str, earlier_problems: Sequence[str] = (), root: Path = Path("/")
) -> Inventory:
    """Read everything; never raises for anything that the hardware does."""
    problems = list(earlier_problems)
    sysfs, proc = root / "sys", root / "proc"

    def attempt(what: str, read: Callable[[], T], default: T) -> T:
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - hardware is endlessly inventive, and the report must go out.
            problems.append(f"{what} could not be read: {error or type(error).__name__}")
            return default

    return Inventory(
        system=attempt("the SMBIOS identity", lambda: system.read(sysfs), System()),
        firmware=system.firmware(sysfs),
        architecture=os.uname().machine,
        cpu=attempt("the processor", lambda: cpu.read(sysfs, proc), Cpu()),
        memory_bytes=attempt("the memory size", lambda: memory.read(sysfs, proc), 0),
        disks=attempt("the list of disks", lambda: disks.read(sysfs, problems.append), ()),
        nics=attempt("the list of network interfaces", lambda: nics.read(sysfs, boot_mac, problems.append), ()),
        bmc=attempt("the presence of a BMC", lambda: bmc.read(sysfs), BmcPresence()),
        agent_version=agent_version,
        problems=tuple(problems),
    )

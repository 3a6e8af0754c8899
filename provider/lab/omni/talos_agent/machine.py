"""What the agent runs on: a machine of a test, or the one that it was booted on."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

_ENDS = 1 << 20
"""Bytes at both ends of a disk that a fast wipe writes; tables and signatures are there."""

_PIECE = 1 << 20


class WipeState(StrEnum):
    """How far a wipe came."""

    BEGUN = "begun"
    DONE = "done"
    BROKEN = "broken"


@dataclass(eq=False)
class Wipe:
    """One call of WipeDisks that got as far as the disks."""

    zeroes: bool
    state: WipeState = WipeState.BEGUN


@dataclass
class Ipmi:
    """The machine's BMC, as it shows itself to the machine."""

    address: str
    port: int = 623
    users: dict[str, str] = field(default_factory=dict)
    """Password by name."""

    def has(self, name: str) -> bool:
        """Whether there is such an account."""
        return name in self.users

    def set(self, name: str, password: str) -> None:
        """Make an account, or give it another password."""
        self.users[name] = password


@dataclass(eq=False)
class Machine:
    """Outlives its agents; says what was done to it."""

    uuid: str
    ipmi: Ipmi | None = None
    """None: there is no /dev/ipmi0."""
    test_mode: bool = False
    """Tell of a power API instead."""
    disks: tuple[Path, ...] = ()
    really_reboots: bool = False
    wipes: list[Wipe] = field(default_factory=list)
    hellos: int = 0
    reboots: int = 0
    tunnels: int = 0
    """Opened so far."""

    def reboot(self) -> None:
        """Reboot, or only count it."""
        self.reboots += 1
        if self.really_reboots:
            os.sync()
            Path("/proc/sysrq-trigger").write_text("b", encoding="ascii")


def kernel_argument(name: str, line: str) -> str:
    """The value of `name=value` on a kernel command line, the last one; empty if there is none."""
    found = [word.partition("=")[2] for word in line.split() if word.startswith(f"{name}=")]
    return found[-1] if found else ""


def own_uuid() -> str:
    """The SMBIOS UUID of this computer."""
    return Path("/sys/class/dmi/id/product_uuid").read_text(encoding="ascii").strip().lower()


def own_disks() -> tuple[Path, ...]:
    """What a real agent would wipe: all disks of this computer that are neither read-only nor CD-ROMs."""
    kinds = ("sd", "vd", "nvme", "mmcblk", "xvd")
    blocks = sorted(Path("/sys/block").iterdir())
    return tuple(
        Path("/dev") / block.name
        for block in blocks
        if block.name.startswith(kinds) and (block / "ro").read_text(encoding="ascii").strip() == "0"
    )


async def erase(disk: Path, *, zeroes: bool) -> None:
    """Write zeroes over all of a disk, or over both its ends."""
    await asyncio.to_thread(_erase, disk, zeroes)


def _erase(disk: Path, zeroes: bool) -> None:
    with disk.open("r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        parts = [(0, size)] if zeroes else [(0, min(_ENDS, size)), (max(0, size - _ENDS), size)]
        for start, end in parts:
            file.seek(start)
            for at in range(start, end, _PIECE):
                file.write(bytes(min(_PIECE, end - at)))
        os.fsync(file.fileno())

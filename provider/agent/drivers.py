"""
Drivers: what udev would do, without udev.

Every device says in `modalias` which driver it wants. A driver brings new devices (a controller its disks, virtio_pci
its virtio devices), so this goes round until nothing new turns up. Network cards go first: while the rest is loaded,
the network can already talk.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

_DEVICES = "bus/*/devices/*/modalias"
_IGNORED = ("cpu:",)
_MOST_ROUNDS = 6
_TIMEOUT_SECONDS = 60.0
# A BMC that does not answer has been seen to hold the load of its driver for ever (Launchpad bug 1064527).


class Drivers:
    """Loads drivers; remembers what it tried."""

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        self._sysfs = sysfs
        self._tried: set[str] = set()
        self.problems: list[str] = []

    def load_network(self) -> None:
        """Load what leads to network cards: PCI class 02 and virtio."""
        for _ in range(2):
            self._load(alias for alias in self._waiting() if _is_network(alias))

    def load_all(self) -> None:
        """Load everything, in rounds, until no device asks for more."""
        for _ in range(_MOST_ROUNDS):
            if not self._load(self._waiting()):
                return

    def _waiting(self) -> list[str]:
        found = {_read(path) for path in self._sysfs.glob(_DEVICES)} - {""}
        return sorted(alias for alias in found - self._tried if not alias.startswith(_IGNORED))

    def _load(self, aliases: Iterable[str]) -> bool:
        """Try aliases for the first time; say whether there were any."""
        fresh = list(aliases)
        self._tried.update(fresh)
        if fresh:
            self._modprobe(fresh)
        return bool(fresh)

    def _modprobe(self, aliases: list[str]) -> None:
        # Unknown aliases are most of them, so the exit status says nothing.
        process = subprocess.Popen(["modprobe", "-qab", *aliases])
        try:
            process.wait(_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.problems.append(f"loading drivers did not end within {_TIMEOUT_SECONDS:.0f} s; it goes on without us")


def _is_network(alias: str) -> bool:
    """`pci:v00008086d000010D3sv...sd...bc02sc00i00`: base class 02; virtio's own bus comes in the second round."""
    return "bc02sc" in alias or alias.startswith("virtio:d00000001")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""

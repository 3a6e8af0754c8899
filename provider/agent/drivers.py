"""
Drivers: what udev would do, without udev.

Every device says in `modalias` which driver it wants. A driver brings new devices (a controller its disks, virtio_pci
its virtio devices), so this goes round until nothing new turns up. Network cards go first: while the rest is loaded,
the network can already talk.

When a driver is loaded, its disks are there: modprobe comes back only after the kernel's asynchronous probing, which
covers SATA, SAS, RAID controllers, NVMe and virtio. Only USB takes its time, so for USB we wait.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_IGNORED = ("cpu:",)
_TIMEOUT_SECONDS = 60.0
_USB_SECONDS = 8.0
_POLL_SECONDS = 0.1


def modprobe(aliases: Sequence[str]) -> bool:
    """
    Load the drivers for all aliases; unknown ones are passed over. False if that did not end in time.

    A BMC that does not answer has been seen to hold the load of its driver for ever (Launchpad bug 1064527).
    """
    process = subprocess.Popen(["modprobe", "-qab", *aliases])
    try:
        process.wait(_TIMEOUT_SECONDS)  # Most aliases have no driver, so the exit status says nothing.
    except subprocess.TimeoutExpired:
        return False
    return True


class Drivers:
    """Loads drivers; remembers what it tried, and in `problems` what went wrong."""

    def __init__(self, sysfs: Path = Path("/sys"), load: Callable[[Sequence[str]], bool] = modprobe) -> None:
        self._sysfs = sysfs
        self._load = load
        self._tried: set[str] = set()
        self.problems: list[str] = []

    def load_network(self) -> None:
        """Load what leads to network cards: PCI class 02 and, in the second round, virtio's own bus."""
        for _ in range(2):
            self._try([alias for alias in self._waiting() if _is_network(alias)])

    def load_all(self) -> None:
        """Load everything, in rounds, until no device asks for more and all USB disks are there."""
        deadline = time.monotonic() + _USB_SECONDS
        while True:
            while aliases := self._waiting():
                self._try(aliases)
            late = self._late_usb_disks()
            if late and time.monotonic() > deadline:
                self.problems.append(f"USB storage {', '.join(late)} shows no disk")
                return
            if not late:
                return
            time.sleep(_POLL_SECONDS)

    def _waiting(self) -> list[str]:
        """Give the aliases that were not tried yet."""
        found = set(_aliases(self._sysfs / "bus")) - self._tried
        return sorted(alias for alias in found if alias and not alias.startswith(_IGNORED))

    def _try(self, aliases: Sequence[str]) -> None:
        self._tried.update(aliases)
        if aliases and not self._load(aliases):
            self.problems.append(f"loading drivers did not end within {_TIMEOUT_SECONDS:.0f} s; it goes on without us")

    def _late_usb_disks(self) -> list[str]:
        """Give the USB mass storage interfaces that have not shown yet what they are."""
        interfaces = sorted(path.parent for path in self._sysfs.glob("bus/usb/devices/*/bInterfaceClass"))
        return [path.name for path in interfaces if _read(path / "bInterfaceClass") == "08" and not _has_settled(path)]


def _aliases(buses: Path) -> Iterator[str]:
    # Not with `glob`, which takes twice as long; this is done half a dozen times on the way to the inventory.
    for bus in buses.iterdir() if buses.exists() else ():
        for device in (bus / "devices").iterdir():
            yield _read(device / "modalias")


def _has_settled(interface: Path) -> bool:
    """Say whether all SCSI devices of the interface are known, and those that are disks (type 0) are block devices."""
    types = list(interface.glob("host*/target*/*:*/type"))
    return bool(types) and all(_read(path) != "0" or any(path.parent.glob("block/*")) for path in types)


def _is_network(alias: str) -> bool:
    """Look for base class 02 in `pci:v00008086d000010D3sv...sd...bc02sc00i00`, or a virtio network card."""
    return "bc02sc" in alias or alias.startswith("virtio:d00000001")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""

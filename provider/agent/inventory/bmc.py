"""Whether there is a BMC, seen from inside."""

from __future__ import annotations

from pathlib import Path

from provider.agent.inventory import smbios
from provider.domain.inventory import BmcPresence

_IPMI_DEVICE = 38
_INTERFACES = {1: "kcs", 2: "smic", 3: "bt", 4: "ssif"}
"""DSP0134 section 7.39.1."""


def read(sysfs: Path) -> BmcPresence:
    """Believe the driver that talks to a BMC, or else SMBIOS type 38, which also names the interface."""
    described = next((found for found in smbios.read(sysfs) if found.type == _IPMI_DEVICE), None)
    interface = _INTERFACES.get(described.unsigned(0x04, 1), "") if described else ""
    devices = sysfs / "class/ipmi"
    return BmcPresence(
        present=described is not None or (devices.is_dir() and any(devices.iterdir())), interface=interface
    )

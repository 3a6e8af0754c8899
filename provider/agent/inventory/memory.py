"""Memory as installed, not as left over by firmware and kernel."""

from __future__ import annotations

import re
from pathlib import Path

from provider.agent.inventory import smbios

_MEMORY_DEVICE = 17
_EXTENDED = 0x7FFF
_UNKNOWN = 0xFFFF


def read(sysfs: Path, proc: Path) -> int:
    """
    Give bytes: the sum of the modules that SMBIOS lists, else what the kernel can use.

    Raises:
        OSError: If not even /proc/meminfo can be read.
    """
    installed = sum(_module_bytes(found) for found in smbios.read(sysfs) if found.type == _MEMORY_DEVICE)
    return installed or _usable_bytes((proc / "meminfo").read_text(encoding="ascii"))


def _module_bytes(module: smbios.Structure) -> int:
    """Size of one memory device (DSP0134 section 7.18): MiB, or KiB if bit 15 is set, or in the extended field."""
    size = module.unsigned(0x0C, 2)
    if size == _UNKNOWN:
        return 0
    if size == _EXTENDED:
        return (module.unsigned(0x1C, 4) & 0x7FFFFFFF) << 20
    return (size & 0x7FFF) << 10 if size & 0x8000 else size << 20


def _usable_bytes(meminfo: str) -> int:
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(match[1]) << 10 if match else 0

"""Processors: how many of what."""

from __future__ import annotations

import re
from pathlib import Path

from provider.agent.inventory import sysfs as values
from provider.domain.inventory import Cpu


def read(sysfs: Path, proc: Path) -> Cpu:
    """
    Count sockets, cores and threads; processors that are switched off are not counted.

    Raises:
        OSError: If /proc/cpuinfo cannot be read.
    """
    model = _model((proc / "cpuinfo").read_text(encoding="utf-8", errors="replace"))
    topologies = [path / "topology" for path in (sysfs / "devices/system/cpu").glob("cpu[0-9]*")]
    places = [
        (values.number(topology / "physical_package_id"), values.number(topology / "core_id"))
        for topology in topologies
        if topology.exists()
    ]
    return Cpu(
        model=model,
        sockets=len({package for package, _ in places}),
        cores=len(set(places)),
        threads=len(places),
        mhz=_rated_mhz(sysfs, model),
    )


def _model(cpuinfo: str) -> str:
    match = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def _rated_mhz(sysfs: Path, model: str) -> int:
    """Give the rated maximum. The `cpu MHz` of /proc/cpuinfo is the speed of this moment and is of no use."""
    kilohertz = values.number(sysfs / "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    if kilohertz:
        return kilohertz // 1000
    match = re.search(r"@\s*([0-9.]+)\s*GHz", model)
    return round(float(match[1]) * 1000) if match else 0

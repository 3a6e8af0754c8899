"""
The whole story as somebody runs it: one command, one BIOS and one UEFI machine, from power-on to released.

It is told once with our own leases, once beside somebody else's DHCP server, and once with Omni and a stand-in for Talos.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STORY_SECONDS = 900


@pytest.mark.timeout(STORY_SECONDS + 60)
@pytest.mark.parametrize("dhcp", ["server", "proxy"])
def test_whole_story(assets: Path, folder: Path, dhcp: str) -> None:
    """Real firmware, a real agent, real disks, a real BMC or a foreign DHCP server do not get on with the provider."""
    summary = _told(assets, folder, "--dhcp", dhcp)
    for machine in summary["machines"]:
        assert machine["final_phase"] == "ready"
        assert 0 < machine["power_on_to_inventory_s"] < machine["power_on_to_ready_s"] < summary["duration_s"]
        assert len(machine["disks"]) == 2
        assert all(disk["verified"] for disk in machine["disks"])
        assert ("DHCPACK" in machine["stages_s"]) is (dhcp == "server")
    assert _processes_of(folder) == [], "the lab has ended and left a process"


@pytest.mark.timeout(STORY_SECONDS + 60)
def test_whole_story_with_omni(assets: Path, folder: Path) -> None:
    """
    On the way from a machine that Omni does not know to one that it has forgotten, Talos' agent, its disk or its BMC is not where
    Omni, the factory, the firmware and we think it is.
    """
    summary = _told(assets, folder, "--manager", "omni")
    installed, other = summary["machines"]
    for machine in (installed, other):
        assert machine["final_phase"] == "gone"
        stages = [machine["stages_s"][stage] for stage in ("kernel", "joined", "accepted", "wiped", "ready", "removed")]
        assert stages == sorted(stages)
        assert len(machine["disks"]) == 2
    assert other["stages_s"]["ready"] < installed["stages_s"]["installed"] < installed["stages_s"]["released"]
    said = (folder / "run" / "LAB-01" / "console.log").read_text(errors="replace")
    # The provider takes BMCs from the agent alone here.
    assert said.count("agent: SetPowerManagement") == 1
    assert said.count("agent: wipe done") == 2
    assert _processes_of(folder) == [], "the lab has ended and left a process"


def _told(assets: Path, folder: Path, *arguments: str) -> Any:
    """Run the lab; gives what it says of itself."""
    command = [sys.executable, "-m", "provider", "lab", "--once", "--json", *arguments]
    command += ["--state-dir", str(folder), "--assets-dir", str(assets)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=STORY_SECONDS, check=False)
    assert result.stdout, "it ended before its story, and said why on standard error"
    summary = json.loads(result.stdout)
    assert result.returncode == 0, summary
    assert summary["ok"] is True
    assert [machine["firmware"] for machine in summary["machines"]] == ["bios", "uefi"]
    return summary


def _processes_of(folder: Path) -> list[str]:
    """Command lines that name the lab's folder, as all of its processes do."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found

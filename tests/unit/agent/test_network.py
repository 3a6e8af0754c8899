"""Finding the interface that the machine booted from."""

from __future__ import annotations

from pathlib import Path

from provider.agent import network
from tests.unit.agent import sysfs_tree


def test_interface_with_the_boot_address(tmp_path: Path) -> None:
    """Breaks if the machine talks on another port than it booted from, or on a bridge that copied the address."""
    mac = "52:54:00:00:00:02"
    root = sysfs_tree.make(
        tmp_path,
        {
            "eth0/device": None,
            "eth0/address": "52:54:00:00:00:01",
            "eth1/device": None,
            "eth1/address": mac,
            "br0/address": mac,
        },
    )
    assert network.find_interface(mac, root) == "eth1"
    assert network.find_interface("52:54:00:00:00:99", root) is None
    assert network.physical_interfaces(root) == ["eth0", "eth1"]

"""Whose address it is, as the kernel knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from provider.netboot import sockets

ARP = """IP address       HW type     Flags       HW address            Mask     Device
10.77.0.9        0x1         0x2         52:54:00:AA:bb:cc     *        eth1
10.77.0.99       0x1         0x0         00:00:00:00:00:00     *        eth1
"""


@pytest.mark.parametrize(
    ("address", "mac"),
    [("10.77.0.9", "52:54:00:aa:bb:cc"), ("10.77.0.99", None), ("10.77.0.1", None), ("10.77.0.90", None)],
)
def test_neighbour(tmp_path: Path, address: str, mac: str | None) -> None:
    """A machine with an address of another DHCP server is not recognised when it fetches its boot program (edge case 30)."""
    table = tmp_path / "arp"
    table.write_text(ARP)
    assert sockets.neighbour(address, table) == mac
    assert sockets.neighbour(address, tmp_path / "none") is None

"""How `bootwright status` shows interfaces."""

from __future__ import annotations

from provider.cli.status import interface_rows

SERVED = {"name": "eth1", "dhcp": "server", "address": "10.0.0.1", "serves": ["DHCP", "TFTP"], "waits_for": []}


def test_interface_rows() -> None:
    """What an interface waits for is not shown, or only the first of it."""
    assert interface_rows(SERVED) == [("eth1", "server", "10.0.0.1", "DHCP, TFTP", "")]
    waits = [{"reason": "it is down", "hint": "ip link set eth1 up"}, {"reason": "port taken", "hint": "ss"}]
    first, second = interface_rows({**SERVED, "waits_for": waits})
    assert first[-1] == "it is down (ip link set eth1 up)"
    assert second == ("", "", "", "", "port taken (ss)")

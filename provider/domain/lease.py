"""A DHCP lease: who may use which address until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from provider.domain.mac import MacAddress


@dataclass(frozen=True)
class Lease:
    """
    One address promised to one MAC address on one interface.

    `declined` marks an address that a client found in use (DHCPDECLINE): nobody gets it before `expires_at`.
    """

    address: str
    mac: MacAddress
    interface: str
    expires_at: datetime
    """Aware, UTC."""
    declined: bool = False

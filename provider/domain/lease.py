"""DHCP leases and reservations: who may use which address, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address

from provider.domain import smbios
from provider.domain.mac import MacAddress


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who wants an address: its MAC address, and the other things that a reservation may name it by, or empty."""

    mac: MacAddress
    uuid: str = ""
    """SMBIOS UUID, which only firmware and iPXE tell."""
    circuit_id: str = ""
    """The switch port that a relay saw it on (option 82), as `wire.dhcp.relay_text` spells it."""
    remote_id: str = ""
    """The relay's name for itself, likewise."""

    @property
    def port(self) -> tuple[str, str]:
        """Where it is plugged in, as far as a relay told."""
        return self.circuit_id, self.remote_id


@dataclass(frozen=True, slots=True)
class Lease:
    """
    One address promised to one claimant.

    `declined` marks an address that somebody uses without asking us (DHCPDECLINE, or seen by ARP): nobody gets it before
    `expires_at`.
    """

    address: IPv4Address
    claimant: Claimant
    expires_at: datetime
    """Aware, UTC."""
    declined: bool = False


class ReservedBy(StrEnum):
    """What a reservation knows its client by."""

    MAC = "mac"
    UUID = "uuid"
    CIRCUIT_ID = "circuit_id"


@dataclass(frozen=True, slots=True)
class Reservation:
    """An address that is kept for one client, inside a pool or beside it."""

    address: IPv4Address
    by: ReservedBy
    value: str
    """The MAC address, the UUID in lower case and any byte order, or the circuit-id as `wire.dhcp.relay_text` spells it."""
    remote_id: str = ""
    """With a circuit-id: of this relay only, likewise. Empty: of any."""

    def is_for(self, claimant: Claimant) -> bool:
        """Whether it is this client's."""
        match self.by:
            case ReservedBy.MAC:
                return self.value == claimant.mac
            case ReservedBy.UUID:
                return bool(claimant.uuid) and self.value in (claimant.uuid, smbios.byte_swapped(claimant.uuid))
            case ReservedBy.CIRCUIT_ID:
                return self.value == claimant.circuit_id and self.remote_id in ("", claimant.remote_id)

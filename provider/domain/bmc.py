"""The baseboard management controller: where it is, who may use it, and what it said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from provider.domain.secret import Secret


class PowerState(StrEnum):
    """Chassis power (IPMI 2.0 table 28-3)."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class PowerAction(StrEnum):
    """What a BMC can be told to do to the chassis (IPMI 2.0 table 28-4)."""

    ON = "on"
    OFF = "off"
    CYCLE = "cycle"
    RESET = "reset"
    SOFT_OFF = "soft_off"


class NextBoot(StrEnum):
    """One-time boot override (IPMI 2.0 table 28-14)."""

    NETWORK = "network"
    DISK = "disk"
    DEFAULT = "default"


IPMI_PORT = 623
"""RMCP+ over UDP."""

EITHER = "either"
"""Kind of a BMC that somebody told us of as IPMI, and that may speak Redfish too; `port` is that of IPMI."""


class RedfishUse(StrEnum):
    """Whether BMCs that we were told of as IPMI are spoken to by Redfish."""

    NEVER = "never"
    AVAILABLE = "available"
    ALWAYS = "always"


@dataclass(frozen=True)
class Bmc:
    """How to reach one BMC; `str()` and `repr()` are safe to log."""

    address: str
    user: str
    password: Secret
    port: int = IPMI_PORT
    kind: str = "ipmi"
    system: str = ""
    """Which of its systems, by Redfish id or path; empty where the BMC has one."""

    @property
    def name(self) -> str:
        """Address and port, as it stands in logs; with the system, where several are behind one address."""
        return f"{self.address}:{self.port}" + (f"#{self.system}" if self.system else "")


@dataclass(frozen=True)
class PowerReading:
    """A power state, its time, and who said so (`bmc`, `agent`, `none`)."""

    state: PowerState = PowerState.UNKNOWN
    at: datetime | None = None
    source: str = "none"

"""
The service of the Talos metal agent, `management.AgentService`, which is called through the tunnel (`wire/tunnel.py`).

Message by message it is `api/agent/agent.proto` of siderolabs/talos-metal-agent. In a machine the agent fills in `ipmi`
alone; in its test mode, `api` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from provider.wire.protobuf import Empty, Method, proto

MAX_PASSWORD_BYTES = 16
"""IPMI 1.5 stores no longer ones, and the agent writes those."""


@dataclass(frozen=True, slots=True)
class IpmiQuestion:
    """Asks for the BMC, and whether it has a user of this name."""

    check_username: str = proto(1, "")


@dataclass(frozen=True, slots=True)
class GetPowerManagementRequest:
    """What is to be found out."""

    ipmi: IpmiQuestion | None = proto(1, None)
    api: Empty | None = proto(2, None)


@dataclass(frozen=True, slots=True)
class Ipmi:
    """Where the BMC is."""

    address: str = proto(1, "")
    port: int = proto(2, 0, wire="uint32")
    user_exists: bool = proto(3, False)


@dataclass(frozen=True, slots=True)
class GetPowerManagementResponse:
    """What the machine's power can be controlled by."""

    ipmi: Ipmi | None = proto(1, None)
    api: Empty | None = proto(2, None)


@dataclass(frozen=True, slots=True)
class IpmiUser:
    """A user that the BMC is to have."""

    username: str = proto(1, "")
    password: str = proto(2, "", secret=True)


@dataclass(frozen=True, slots=True)
class SetPowerManagementRequest:
    """Makes the user an administrator of the BMC."""

    ipmi: IpmiUser | None = proto(1, None)
    api: Empty | None = proto(2, None)


@dataclass(frozen=True, slots=True)
class WipeDisksRequest:
    """Wipes all disks, by writing zeroes everywhere or the fast way. The answer comes when that is done."""

    zeroes: bool = proto(1, False)


HELLO = Method("/management.AgentService/Hello", Empty, Empty)
GET_POWER_MANAGEMENT = Method(
    "/management.AgentService/GetPowerManagement", GetPowerManagementRequest, GetPowerManagementResponse
)
SET_POWER_MANAGEMENT = Method("/management.AgentService/SetPowerManagement", SetPowerManagementRequest, Empty)
REBOOT = Method("/management.AgentService/Reboot", Empty, Empty)
WIPE_DISKS = Method("/management.AgentService/WipeDisks", WipeDisksRequest, Empty)

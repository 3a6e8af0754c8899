"""Operations: something long with progress on one machine, performed by the agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class OperationKind(StrEnum):
    """What the agent can be told to do."""

    WIPE = "wipe"
    REBOOT = "reboot"
    POWER_OFF = "power_off"
    SET_UP_BMC = "set_up_bmc"
    """Find out where the BMC is, and make an account for us on it. Only the Talos agent can."""


class OperationState(StrEnum):
    """Where an operation stands. Everything but PLANNED and RUNNING is final."""

    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class WipeMethod(StrEnum):
    """How a disk is erased."""

    DISCARD_AND_ZERO = "discard+zero"
    """Discard all blocks, then write zeroes (offloaded where the device can): SSD, NVMe, thin virtual disks."""
    ZERO = "zero"
    """Write zeroes over all blocks."""


@dataclass(frozen=True)
class DiskWipe:
    """One disk of a wipe plan. `serial` or `wwn` names it; the agent finds the path again and compares the size."""

    serial: str
    wwn: str
    path: str
    size_bytes: int
    method: WipeMethod
    reason: str
    """Why this method, for people."""


@dataclass(frozen=True)
class RefusedDisk:
    """A disk that will not be touched, and why."""

    path: str
    serial: str
    reason: str
    blocks: bool = True
    """Whether the machine counts as not wiped because of it. A USB stick does not block; a disk without a name does."""


@dataclass(frozen=True)
class WipePlan:
    """Which disks of which machine are erased how, for which wipe id: the only thing that opens the door."""

    machine_id: str
    wipe_id: str
    disks: tuple[DiskWipe, ...]
    refused: tuple[RefusedDisk, ...] = ()
    everything: bool = False
    """All disks that are neither read-only nor CD-ROMs, as the Talos agent finds them; `disks` is empty then. Our own agent
    never gets such a plan."""
    zeroes: bool = False
    """With `everything`: zeroes over all blocks, instead of over those that tell what is on a disk."""


@dataclass(frozen=True)
class DiskWiped:
    """What became of one disk: `verified` only if it was read back and every byte looked at was zero."""

    serial: str
    wwn: str
    path: str
    size_bytes: int
    method: str
    verified: bool
    bytes_verified: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class WipeReport:
    """The agent's account of a whole wipe."""

    disks: tuple[DiskWiped, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One operation. `percent` is 0 to 100; `request_id` is the id that asked for it."""

    id: str
    machine_id: str
    kind: OperationKind
    request_id: str
    state: OperationState
    created_at: datetime
    wipe_plan: WipePlan | None = None
    percent: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    wipe_report: WipeReport | None = None
    error: str = ""
    attempt: int = 1
    install_event: int = 0
    """Of a wipe: as `Desired` had it when the wipe was planned, for the record of it."""
    manager_token: str = field(default="", repr=False)
    """Likewise."""

"""
What a machine is made of, as the agent found it.

Everything has a default, because real machines leave everything out: a missing serial is an empty string, never a
placeholder that firmware made up (`planning.identity` knows those).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FirmwareKind(StrEnum):
    """How the machine booted the agent."""

    BIOS = "bios"
    UEFI = "uefi"


class DiskKind(StrEnum):
    """The medium behind a block device."""

    HDD = "hdd"
    SSD = "ssd"
    NVME = "nvme"
    VIRTUAL = "virtual"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class System:
    """SMBIOS types 1, 2 and 3: who made the machine and how it calls itself."""

    uuid: str = ""
    manufacturer: str = ""
    product: str = ""
    serial: str = ""
    board_serial: str = ""
    chassis_serial: str = ""
    bios_version: str = ""


@dataclass(frozen=True)
class Cpu:
    """One line for all packages; `mhz` is the rated maximum where known, else 0."""

    model: str = ""
    sockets: int = 0
    cores: int = 0
    threads: int = 0
    mhz: int = 0


@dataclass(frozen=True)
class Disk:
    """
    One whole block device that holds data (no CD, floppy, RAM disk, or zero-size device).

    `path` is where it was seen this time (`/dev/vda`); only `serial` and `wwn` name it for good.
    """

    path: str
    size_bytes: int
    serial: str = ""
    wwn: str = ""
    model: str = ""
    kind: DiskKind = DiskKind.UNKNOWN
    transport: str = ""
    logical_block_bytes: int = 512
    rotational: bool = False
    removable: bool = False
    read_only: bool = False
    supports_discard: bool = False


@dataclass(frozen=True)
class Nic:
    """One network interface with hardware behind it; `mac` is the permanent address, not what a bond made of it."""

    name: str
    mac: str
    link: bool = False
    speed_mbps: int = 0
    driver: str = ""
    booted_from: bool = False


@dataclass(frozen=True)
class BmcPresence:
    """Whether the machine has a BMC that can be reached in-band, and how that was seen."""

    present: bool = False
    interface: str = ""
    """`kcs`, `ssif`, ... or empty."""


@dataclass(frozen=True)
class Inventory:
    """The agent's whole report."""

    system: System
    firmware: FirmwareKind
    architecture: str
    """As `uname -m`: `x86_64`, `aarch64`."""
    cpu: Cpu
    memory_bytes: int
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    bmc: BmcPresence = BmcPresence()
    agent_version: str = ""
    problems: tuple[str, ...] = ()
    """What could not be read, a sentence each: the report is sent all the same."""

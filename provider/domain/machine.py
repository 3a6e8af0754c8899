"""
A machine: who it is, what somebody wants of it, and what we know of it.

Desired state and facts are stored; phase, boot mode and the next step are computed from them (`planning.lifecycle`) and
never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from provider.domain.bmc import PowerReading
from provider.domain.inventory import FirmwareKind, Inventory
from provider.domain.mac import MacAddress
from provider.domain.operation import Operation


class Acceptance(StrEnum):
    """Somebody's word whether this machine is ours; only ACCEPTED allows us to wipe it."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class PreferredPower(StrEnum):
    """Where an idle machine rests."""

    OFF = "off"
    ON = "on"


class BootMode(StrEnum):
    """What a machine is told to boot next."""

    AGENT = "agent"
    INSTALL = "install"
    DISK = "disk"
    NOTHING = "nothing"


class AgentKind(StrEnum):
    """Which program waits in a machine's memory."""

    BOOTWRIGHT = "bootwright"
    """Ours: takes the inventory, and reads back what it wiped."""
    TALOS = "talos"
    """Talos with Sidero's metal agent: what Omni talks to, and what sets up BMCs."""


class HandOff(StrEnum):
    """How iPXE sends a machine to its next boot device; firmware hangs in one way or another (edge cases 47, 48)."""

    EXIT = "exit"
    """Leave iPXE: right for UEFI and most BIOSes."""
    SANBOOT = "sanboot"
    """Let iPXE start the first disk itself: for a BIOS that hangs, or starts over, when iPXE ends."""
    HTTP_404 = "http404"
    """End with a download that is not found: for firmware that goes on after a failed network boot only."""


class Phase(StrEnum):
    """One word for people: where the machine stands. Derived, never stored."""

    DISCOVERED = "discovered"
    PENDING = "pending"
    REJECTED = "rejected"
    CORDONED = "cordoned"
    PREPARING = "preparing"
    WIPING = "wiping"
    READY = "ready"
    INSTALLING = "installing"
    INSTALLED = "installed"
    FAILED = "failed"


@dataclass(frozen=True)
class Allocation:
    """What an allocated machine runs: a boot profile of the settings, by name, and what is added to it."""

    profile: str
    version: str = ""
    arguments: tuple[str, ...] = ()
    """Kernel arguments, appended to the profile's own."""
    configuration: str = ""
    extensions: tuple[str, ...] = ()
    """System extensions that are built into the image, where the profile's system has such."""


@dataclass(frozen=True)
class Desired:
    """
    What the manager (or the operator, when there is none) wants.

    The three ids act once each time they change to a value that was not answered before.
    """

    acceptance: Acceptance = Acceptance.PENDING
    cordoned: bool = False
    allocation: Allocation | None = None
    preferred_power: PreferredPower = PreferredPower.OFF
    wipe_id: str = ""
    """Empty is an id like any other: the wipe that comes with the first acceptance."""
    reboot_id: str = ""
    power_off_id: str = ""
    revision: int = 0
    """Counts up at the manager; an older one is ignored. 0: never set by a manager."""
    install_event: int = 0
    """Grows each time the manager sees the installed system boot (compare with >); 0 where a manager tells none."""
    manager_token: str = field(default="", repr=False)
    """What the manager wants back after the next wipe. Sealed by the link before it gets here: nobody else can read it."""
    agent_arguments: tuple[str, ...] = ()
    """Kernel arguments of this machine for an agent that runs in Talos."""


@dataclass(frozen=True)
class Evidence:
    """
    What a machine says of itself at one moment; firmware lies, so it is matched, not trusted (`planning.identity`).
    """

    macs: tuple[MacAddress, ...] = ()
    uuid: str = ""
    """Lower case with dashes, or empty."""
    serial: str = ""
    board_serial: str = ""
    chassis_serial: str = ""
    firmware: FirmwareKind | None = None


@dataclass(frozen=True)
class Identity:
    """What we hold a machine to be: the union of the evidence that we believed."""

    id: str
    uuid: str = ""
    serial: str = ""
    board_serial: str = ""
    chassis_serial: str = ""
    macs: tuple[MacAddress, ...] = ()


class RecordKind(StrEnum):
    """What was asked for and answered."""

    WIPE = "wipe"
    INSTALL = "install"
    REBOOT = "reboot"
    POWER_OFF = "power_off"
    SET_UP_BMC = "set_up_bmc"
    JOINED = "joined"
    """The machine began a life at a manager that has a resource for each; `request_id` says which (`planning.lives`)."""
    REMOVED = "removed"
    """The manager gave the machine up: should it come back, its first wipe is due again. With the same `request_id`."""


class Outcome(StrEnum):
    """How an answered request ended."""

    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Record:
    """One answered request; the newest of each kind and all request ids are facts."""

    kind: RecordKind
    request_id: str
    at: datetime
    outcome: Outcome = Outcome.DONE
    detail: str = ""
    install_event: int = 0
    """Of a wipe: what `Desired` said when it was planned. A higher one is of a system installed since."""
    manager_token: str = field(default="", repr=False)
    """Of a wipe: likewise; what lay on the disks that are empty now."""
    wipe_id: str = ""
    """Of a power-off request: the wipe id that held when it was written down. It ends with it."""


@dataclass(frozen=True)
class AgentPresence:
    """Whether an agent holds a connection, since when, and which."""

    connected: bool = False
    enrolled_at: datetime | None = None
    kind: AgentKind = AgentKind.BOOTWRIGHT


@dataclass(frozen=True, slots=True)
class Attachment:
    """Where DHCP saw a MAC address: on an interface of ours, or behind a relay, which may tell its own name and the port."""

    interface: str
    relay: str = ""
    """giaddr; empty: attached to us."""
    circuit_id: str = ""
    """Option 82 sub-option 1: the port that the client is on, as `wire.dhcp.relay_text` spells it."""
    remote_id: str = ""
    """Sub-option 2: the relay or switch itself, likewise."""


@dataclass(frozen=True)
class BmcFacts:
    """What we know of the way to the BMC; no credentials in here."""

    name: str
    failures: int = 0
    """Failed calls in a row."""
    last_error: str = ""
    retry_at: datetime | None = None


@dataclass(frozen=True)
class Facts:
    """All that was observed of one machine."""

    first_seen: datetime
    power: PowerReading = field(default_factory=PowerReading)
    agent: AgentPresence = field(default_factory=AgentPresence)
    firmware: FirmwareKind | None = None
    inventory: Inventory | None = None
    inventory_at: datetime | None = None
    bmc: BmcFacts | None = None
    operation: Operation | None = None
    """The newest operation, whatever its state."""
    records: tuple[Record, ...] = ()
    """Oldest first."""
    last_reboot_at: datetime | None = None
    """When we last made it reboot (power cycle, reset, reboot through the agent)."""
    last_power_on_at: datetime | None = None
    last_power_off_at: datetime | None = None
    last_script_at: datetime | None = None
    """When it last asked for a boot script."""
    last_script_mode: BootMode | None = None
    """What that script told it to boot."""
    hand_off: HandOff | None = None
    """How it is sent to its disk, if that was learned."""
    warnings: tuple[str, ...] = ()
    attachments: Mapping[MacAddress, Attachment] = field(default_factory=dict)
    """Of those interfaces that DHCP has seen."""


@dataclass(frozen=True)
class Machine:
    """Identity, desired state and facts at one moment."""

    identity: Identity
    desired: Desired
    facts: Facts

    @property
    def id(self) -> str:
        """The id that manager, operator and logs use."""
        return self.identity.id

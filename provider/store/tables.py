"""
The rows. Times are aware and UTC; JSON columns hold domain objects as pydantic writes them (`rows.py` converts).

SQLModel classes with `table=True` do not validate: only `rows.py` and the repositories make them, from domain objects.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, LargeBinary
from sqlmodel import Field, SQLModel


class UtcDateTime(sqlalchemy.types.TypeDecorator[datetime]):
    """An aware time, kept as UTC without zone, because SQLite knows none."""

    impl = sqlalchemy.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sqlalchemy.Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """To the database."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any | None, dialect: sqlalchemy.Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """From the database."""
        return None if value is None else value.replace(tzinfo=UTC)


def _time(*, nullable: bool = True, index: bool = False) -> Any:
    return Field(default=None, sa_column=Column(UtcDateTime, nullable=nullable, index=index))


def _json(*, nullable: bool = True) -> Any:
    return Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=nullable))


def _count() -> Any:
    """A number that a manager counts, up to 2^63."""
    return Field(default=0, sa_column=Column(BigInteger, nullable=False))


def _machine_key(*, nullable: bool = False, unique: bool = False) -> Any:
    key = ForeignKey("machine.id", ondelete="CASCADE")
    return Field(default=None, sa_column=Column(sqlalchemy.String, key, nullable=nullable, index=True, unique=unique))


class MachineRow(SQLModel, table=True):
    """One machine: identity, desired state, and the facts that are one value each."""

    __tablename__ = "machine"

    id: str = Field(primary_key=True)
    uuid: str = Field(default="", index=True)
    serial: str = Field(default="", index=True)
    board_serial: str = ""
    chassis_serial: str = ""
    first_seen: datetime = _time(nullable=False)

    acceptance: str = "pending"
    cordoned: bool = False
    allocation: dict[str, Any] | None = _json()
    preferred_power: str = "off"
    wipe_id: str = ""
    reboot_id: str = ""
    power_off_id: str = ""
    revision: int = 0
    install_event: int = _count()
    manager_token: str = ""
    """Sealed by the manager's link."""
    agent_arguments: list[str] | None = _json()

    firmware: str | None = None
    power_state: str = "unknown"
    power_at: datetime | None = _time()
    power_source: str = "none"
    agent_connected: bool = False
    agent_kind: str = "bootwright"
    agent_token_sha256: str | None = Field(default=None, index=True, unique=True)
    enrolled_at: datetime | None = _time()
    inventory: dict[str, Any] | None = _json()
    inventory_at: datetime | None = _time()
    last_reboot_at: datetime | None = _time()
    last_power_on_at: datetime | None = _time()
    last_power_off_at: datetime | None = _time()
    last_script_at: datetime | None = _time()
    last_script_mode: str | None = None
    hand_off: str | None = None
    warnings: list[str] | None = _json()

    announced_phase: str = ""
    """The phase in the last `phase.changed` event."""
    published_sha256: str = ""
    """Of the observed document that went to the outbox last."""


class MacRow(SQLModel, table=True):
    """Which machine has which MAC address, and where DHCP saw it; one address has one machine."""

    __tablename__ = "machine_mac"

    mac: str = Field(primary_key=True)
    machine_id: str = _machine_key()
    interface: str = ""
    relay: str = ""
    circuit_id: str = ""
    remote_id: str = ""


class BmcRow(SQLModel, table=True):
    """One BMC: how to reach it, whose it is, and how it behaves."""

    __tablename__ = "bmc"

    name: str = Field(primary_key=True)
    """`address:port`, and `#system` where several machines are behind one BMC."""
    address: str
    port: int
    kind: str
    system: str = ""
    user: str
    sealed_password: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    selects: str
    """`mac`, `uuid` or `serial`: what `selector` is compared with."""
    selector: str
    machine_id: str | None = Field(
        default=None,
        sa_column=Column(sqlalchemy.String, ForeignKey("machine.id", ondelete="SET NULL"), unique=True),
    )
    failures: int = 0
    last_error: str = ""
    retry_at: datetime | None = _time()
    origin: str = "settings"
    """Who told us of it: `settings`, `manager`, or `agent` where we made an account on it through the machine's agent."""


class RecordRow(SQLModel, table=True):
    """One answered request."""

    __tablename__ = "record"

    id: int | None = Field(default=None, primary_key=True)
    machine_id: str = _machine_key()
    kind: str
    request_id: str
    at: datetime = _time(nullable=False)
    outcome: str
    detail: str = ""
    install_event: int = _count()
    manager_token: str = ""
    wipe_id: str = ""


class OperationRow(SQLModel, table=True):
    """One operation; at most one of a machine is planned or running."""

    __tablename__ = "operation"
    __table_args__ = (Index("ix_operation_machine_created", "machine_id", "created_at"),)

    id: str = Field(primary_key=True)
    machine_id: str = _machine_key()
    kind: str
    request_id: str
    state: str
    attempt: int
    percent: int = 0
    wipe_plan: dict[str, Any] | None = _json()
    wipe_report: dict[str, Any] | None = _json()
    error: str = ""
    created_at: datetime = _time(nullable=False)
    started_at: datetime | None = _time()
    finished_at: datetime | None = _time()
    install_event: int = _count()
    manager_token: str = ""


class EventRow(SQLModel, table=True):
    """Something that happened."""

    __tablename__ = "event"
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(default=None, primary_key=True)
    machine_id: str = _machine_key()
    at: datetime = _time(nullable=False)
    name: str
    data: dict[str, Any] = _json(nullable=False)


class TicketRow(SQLModel, table=True):
    """A ticket of a boot script; only its hash is kept."""

    __tablename__ = "ticket"

    sha256: str = Field(primary_key=True)
    purpose: str
    """`agent` or `install`."""
    machine_id: str = _machine_key()
    expires_at: datetime = _time(nullable=False, index=True)
    nonce: str | None = None
    """Whoever used it; set once."""


class OutboxRow(SQLModel, table=True):
    """What the manager must still hear, in order."""

    __tablename__ = "outbox"

    sequence: int = Field(primary_key=True)
    kind: str
    machine_id: str
    """No foreign key: what happened is told even if the machine is gone."""
    document: dict[str, Any] = _json(nullable=False)
    at: datetime = _time(nullable=False)


class CounterRow(SQLModel, table=True):
    """A number that only grows, whatever is deleted."""

    __tablename__ = "counter"

    name: str = Field(primary_key=True)
    value: int = 0


class LeaseRow(SQLModel, table=True):
    """A DHCP lease, or an address in quarantine."""

    __tablename__ = "lease"

    address: str = Field(primary_key=True)
    mac: str = Field(index=True)
    uuid: str = ""
    circuit_id: str = ""
    remote_id: str = ""
    expires_at: datetime = _time(nullable=False)
    declined: bool = False


class ReservationRow(SQLModel, table=True):
    """An address that an operator keeps for one client."""

    __tablename__ = "reservation"

    address: str = Field(primary_key=True)
    by: str
    value: str
    remote_id: str = ""


class FirmwareRow(SQLModel, table=True):
    """What worked last with a firmware: its boot loader, and the style of ProxyDHCP."""

    __tablename__ = "firmware"

    mac: str = Field(primary_key=True)
    loader: str | None = None
    proxy_style: str | None = None


class KeepsakeRow(SQLModel, table=True):
    """A secret that is kept for the manager link."""

    __tablename__ = "keepsake"

    name: str = Field(primary_key=True)
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))

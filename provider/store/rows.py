"""Between rows and domain objects; the only place that knows both."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Any

from pydantic import TypeAdapter

from provider.domain.bmc import PowerReading, PowerState
from provider.domain.inventory import FirmwareKind, Inventory
from provider.domain.lease import Claimant, Lease, Reservation, ReservedBy
from provider.domain.mac import MacAddress
from provider.domain.machine import (
    Acceptance,
    AgentKind,
    AgentPresence,
    Allocation,
    Attachment,
    BmcFacts,
    BootMode,
    Desired,
    Facts,
    HandOff,
    Identity,
    Machine,
    Outcome,
    PreferredPower,
    Record,
    RecordKind,
)
from provider.domain.operation import Operation, OperationKind, OperationState, WipePlan, WipeReport
from provider.store.tables import BmcRow, LeaseRow, MachineRow, MacRow, OperationRow, RecordRow, ReservationRow

INVENTORY: TypeAdapter[Inventory] = TypeAdapter(Inventory)
ALLOCATION: TypeAdapter[Allocation] = TypeAdapter(Allocation)
WIPE_PLAN: TypeAdapter[WipePlan] = TypeAdapter(WipePlan)
WIPE_REPORT: TypeAdapter[WipeReport] = TypeAdapter(WipeReport)


def dump(adapter: TypeAdapter[Any], value: object) -> dict[str, Any] | None:
    """A domain object as JSON values for a JSON column."""
    return None if value is None else adapter.dump_python(value, mode="json")


def machine(
    row: MachineRow,
    macs: Sequence[MacRow],
    bmc: BmcRow | None,
    newest: OperationRow | None,
    records: list[RecordRow],
) -> Machine:
    """Put one machine together."""
    facts = _facts(row, macs, bmc, newest, records)
    return Machine(identity=identity(row, [each.mac for each in macs]), desired=desired(row), facts=facts)


def identity(row: MachineRow, macs: list[str]) -> Identity:
    """Who it is."""
    return Identity(
        id=row.id,
        uuid=row.uuid,
        serial=row.serial,
        board_serial=row.board_serial,
        chassis_serial=row.chassis_serial,
        macs=tuple(MacAddress(mac) for mac in sorted(macs)),
    )


def desired(row: MachineRow) -> Desired:
    """What is wanted of it."""
    return Desired(
        acceptance=Acceptance(row.acceptance),
        cordoned=row.cordoned,
        allocation=None if row.allocation is None else ALLOCATION.validate_python(row.allocation),
        preferred_power=PreferredPower(row.preferred_power),
        wipe_id=row.wipe_id,
        reboot_id=row.reboot_id,
        power_off_id=row.power_off_id,
        revision=row.revision,
        install_event=row.install_event,
        manager_token=row.manager_token,
        agent_arguments=tuple(row.agent_arguments or ()),
    )


def set_desired(row: MachineRow, wanted: Desired) -> None:
    """Write all of it."""
    row.acceptance = wanted.acceptance.value
    row.cordoned = wanted.cordoned
    row.allocation = dump(ALLOCATION, wanted.allocation)
    row.preferred_power = wanted.preferred_power.value
    row.wipe_id = wanted.wipe_id
    row.reboot_id = wanted.reboot_id
    row.power_off_id = wanted.power_off_id
    row.revision = wanted.revision
    row.install_event = wanted.install_event
    row.manager_token = wanted.manager_token
    row.agent_arguments = list(wanted.agent_arguments) or None


def operation(row: OperationRow) -> Operation:
    """One operation."""
    return Operation(
        id=row.id,
        machine_id=row.machine_id,
        kind=OperationKind(row.kind),
        request_id=row.request_id,
        state=OperationState(row.state),
        created_at=row.created_at,
        wipe_plan=None if row.wipe_plan is None else WIPE_PLAN.validate_python(row.wipe_plan),
        percent=row.percent,
        started_at=row.started_at,
        finished_at=row.finished_at,
        wipe_report=None if row.wipe_report is None else WIPE_REPORT.validate_python(row.wipe_report),
        error=row.error,
        attempt=row.attempt,
        install_event=row.install_event,
        manager_token=row.manager_token,
    )


def record(row: RecordRow) -> Record:
    """One answered request."""
    return Record(
        RecordKind(row.kind),
        row.request_id,
        row.at,
        Outcome(row.outcome),
        row.detail,
        install_event=row.install_event,
        manager_token=row.manager_token,
        wipe_id=row.wipe_id,
    )


def lease(row: LeaseRow) -> Lease:
    """One lease."""
    claimant = Claimant(MacAddress(row.mac), row.uuid, row.circuit_id, row.remote_id)
    return Lease(IPv4Address(row.address), claimant, row.expires_at, row.declined)


def lease_values(lease: Lease) -> tuple[str | bool, ...]:
    """The other way, as the columns stand in the table."""
    claimant = lease.claimant
    names = (claimant.mac, claimant.uuid, claimant.circuit_id, claimant.remote_id)
    return (str(lease.address), *names, _column(lease.expires_at), lease.declined)


@lru_cache(maxsize=64)
def _column(time: datetime) -> str:
    """A time as the columns have it. The leases of one turn of the loop end at one time."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def reservation(row: ReservationRow) -> Reservation:
    """One reservation."""
    return Reservation(IPv4Address(row.address), ReservedBy(row.by), row.value, row.remote_id)


def attachment(row: MacRow) -> Attachment:
    """Where DHCP saw it."""
    return Attachment(row.interface, row.relay, row.circuit_id, row.remote_id)


def _facts(
    row: MachineRow,
    macs: Sequence[MacRow],
    bmc: BmcRow | None,
    newest: OperationRow | None,
    records: list[RecordRow],
) -> Facts:
    return Facts(
        first_seen=row.first_seen,
        power=PowerReading(PowerState(row.power_state), row.power_at, row.power_source),
        agent=AgentPresence(row.agent_connected, row.enrolled_at, kind=AgentKind(row.agent_kind)),
        firmware=None if row.firmware is None else FirmwareKind(row.firmware),
        inventory=None if row.inventory is None else INVENTORY.validate_python(row.inventory),
        inventory_at=row.inventory_at,
        bmc=None if bmc is None else BmcFacts(bmc.name, bmc.failures, bmc.last_error, bmc.retry_at),
        operation=None if newest is None else operation(newest),
        records=tuple(record(item) for item in records),
        last_reboot_at=row.last_reboot_at,
        last_power_on_at=row.last_power_on_at,
        last_power_off_at=row.last_power_off_at,
        last_script_at=row.last_script_at,
        last_script_mode=None if row.last_script_mode is None else BootMode(row.last_script_mode),
        hand_off=None if row.hand_off is None else HandOff(row.hand_off),
        warnings=tuple(row.warnings or ()),
        attachments={MacAddress(each.mac): attachment(each) for each in macs if each.interface},
    )

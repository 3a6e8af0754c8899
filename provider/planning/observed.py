"""
The whole observed state of one machine, as the manager gets it (design.md section 6): JSON values only, no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from enum import Enum

from provider.domain.machine import Allocation, Machine, Record
from provider.domain.operation import Operation
from provider.planning.lifecycle import Plan


def document(machine: Machine, plan: Plan) -> dict[str, object]:
    """
    Describe the machine for the manager.

    Times that change without meaning (the age of a power reading, the last sign of life) are left out, so that the
    document changes only when something happened.
    """
    desired, facts, identity = machine.desired, machine.facts, machine.identity
    return {
        "phase": plan.phase.value,
        "rule": plan.rule,
        "because": plan.because,
        "boot_mode": plan.boot_mode.value,
        "acceptance": desired.acceptance.value,
        "cordoned": desired.cordoned,
        "allocation": None if desired.allocation is None else _allocation(desired.allocation),
        "desired_revision": desired.revision,
        "identity": plain(asdict(identity)),
        "firmware": None if facts.firmware is None else facts.firmware.value,
        "power": {"state": facts.power.state.value, "source": facts.power.source},
        "agent": {"connected": facts.agent.connected},
        "bmc": None if facts.bmc is None else {"name": facts.bmc.name, "last_error": facts.bmc.last_error},
        "inventory": None if facts.inventory is None else plain(asdict(facts.inventory)),
        "operation": None if facts.operation is None else _operation(facts.operation),
        "records": [_record(record) for record in facts.records],
        "warnings": list(facts.warnings),
        "attachments": [{"mac": mac, **asdict(attachment)} for mac, attachment in facts.attachments.items()],
    }


def plain(value: object) -> object:
    """Turn enums, tuples and times into JSON values."""
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return value


def _allocation(allocation: Allocation) -> dict[str, object]:
    """Extensions only where there are any: most managers know none."""
    fields = {name: plain(value) for name, value in asdict(allocation).items()}
    return fields if allocation.extensions else {name: fields[name] for name in fields if name != "extensions"}


def _record(record: Record) -> dict[str, object]:
    """Field by field: the manager's token is nobody's business."""
    return {
        "kind": record.kind.value,
        "request_id": record.request_id,
        "at": record.at.isoformat(),
        "outcome": record.outcome.value,
        "detail": record.detail,
    }


def _operation(operation: Operation) -> dict[str, object]:
    report = operation.wipe_report
    return {
        "id": operation.id,
        "kind": operation.kind.value,
        "request_id": operation.request_id,
        "state": operation.state.value,
        "percent": operation.percent,
        "error": operation.error,
        "disks": None if report is None else [plain(asdict(disk)) for disk in report.disks],
    }

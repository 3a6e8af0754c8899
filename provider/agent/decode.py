"""From the provider's JSON to the shared nouns; unknown fields are passed over, so that the provider may be newer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from provider.domain.errors import MalformedPacketError
from provider.domain.operation import DiskWipe, OperationKind, RefusedDisk, WipeMethod, WipePlan
from provider.wire import agent as wire

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def enrolled(document: object) -> wire.Enrolled:
    """
    Read the answer to an enrolment.

    Raises:
        MalformedPacketError: If it is none.
    """
    return _build(wire.Enrolled, document)


class UnknownWorkError(MalformedPacketError):
    """An operation that this agent cannot do or read; `operation_id` is there to be answered."""

    def __init__(self, message: str, operation_id: str) -> None:
        super().__init__(message, field="work", offset=0)
        self.operation_id = operation_id


def work(document: object) -> wire.Work:
    """
    Read an operation.

    Raises:
        UnknownWorkError: If it is of a kind that this agent does not know, or its details make no sense.
        MalformedPacketError: If it is no operation at all.
    """
    found = _build(wire.Work, document)
    if not isinstance(found.id, str):
        raise MalformedPacketError("an operation without an id", field="id", offset=0)
    try:
        plan = None if found.wipe_plan is None else _wipe_plan(found.wipe_plan)
        return wire.Work(found.id, found.machine_id, OperationKind(found.kind), plan)
    except (MalformedPacketError, ValueError) as error:
        raise UnknownWorkError(f"this agent cannot do that: {error}", found.id) from error


def _wipe_plan(document: object) -> WipePlan:
    plan = _build(WipePlan, document)
    if plan.everything:
        raise MalformedPacketError("this agent erases disks by name only", field="everything", offset=0)
    return WipePlan(
        machine_id=plan.machine_id,
        wipe_id=plan.wipe_id,
        disks=tuple(_disk_wipe(disk) for disk in _items(plan.disks)),
        refused=tuple(_build(RefusedDisk, disk) for disk in _items(plan.refused)),
    )


def _disk_wipe(document: object) -> DiskWipe:
    disk = _build(DiskWipe, document)
    return DiskWipe(disk.serial, disk.wwn, disk.path, disk.size_bytes, WipeMethod(disk.method), disk.reason)


def _items(value: object) -> Iterable[object]:
    if not isinstance(value, list | tuple):
        raise MalformedPacketError("a list was expected", field="disks", offset=0)
    return value


def _build(kind: type[T], document: object) -> T:
    if not isinstance(document, dict):
        raise MalformedPacketError("a JSON object was expected", field=kind.__name__, offset=0)
    known: dict[str, Any] = {f.name: document[f.name] for f in fields(kind) if f.name in document}
    try:
        return kind(**known)
    except TypeError as error:
        raise MalformedPacketError(str(error), field=kind.__name__, offset=0) from error

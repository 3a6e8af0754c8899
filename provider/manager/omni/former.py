"""
The memory that Sidero's provider has in Omni, in a namespace of its own: read, kept right, and cleared away.

It is there where that provider was at work before us, and then it is kept as that provider would keep it: so the machines may be
given back at any time. Where it never was, nothing is ever written. Read once, when a connection begins: nobody else writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from provider.domain.errors import MalformedPacketError, PermanentError
from provider.manager.omni.state import State, without
from provider.planning import omni as planning
from provider.planning.adoption import Left
from provider.wire import cosi, omni, protobuf
from provider.wire.cosi import Kind, Resource

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

UNREADABLE = "do not start Bootwright on these machines: what is not known to be wiped would be wiped"

_SPECS: Sequence[type[DataclassInstance]] = (
    omni.RebootStatus,  # It goes first: its controller holds on to two of the others.
    omni.WipeStatus,
    omni.PowerOperation,
    omni.BmcConfiguration,
    omni.MachineStatus,
)


class Former:
    """That memory, as of `load` and of what was written since; falsy if there is none."""

    def __init__(self, state: State, provider_id: str) -> None:
        self._state = state
        self._provider_id = provider_id
        self._found: dict[type[DataclassInstance], dict[str, Resource]] = {}

    def __bool__(self) -> bool:
        return any(self._found.values())

    async def load(self) -> None:
        """Read all of it."""
        for spec in _SPECS:
            self._found[spec] = {each.metadata.id: each for each in await self._state.list(self._kind(spec))}

    def left(self, uuid: str) -> Left:
        """
        What is there of a machine.

        Raises:
            PermanentError: If that cannot be read.
        """
        power, power_at = self._read(omni.PowerOperation, uuid)
        wipe, wipe_at = self._read(omni.WipeStatus, uuid)
        return Left(
            bmc=self._read(omni.BmcConfiguration, uuid)[0],
            status=self._read(omni.MachineStatus, uuid)[0],
            power=power,
            power_at=power_at,
            wipe=wipe,
            wipe_at=wipe_at,
            reboot=self._read(omni.RebootStatus, uuid)[0],
        )

    async def keep(self, uuid: str, left: Left) -> None:
        """Have it remember this of what was done to a machine."""
        for spec in (left.wipe, left.reboot, left.power):
            if spec is not None and spec != self._read(type(spec), uuid)[0]:
                await self._put(uuid, spec)

    async def forget(self, uuid: str) -> None:
        """Nothing of a machine stays."""
        for spec in _SPECS:
            resource = self._found[spec].get(uuid)
            if resource is not None:
                await self._state.change(self._kind(spec), uuid, self._let_go)
                await self._state.remove(self._kind(spec), uuid, resource.metadata.owner)
                del self._found[spec][uuid]

    def _kind(self, spec: type[S]) -> Kind[S]:
        return omni.private_kind(self._provider_id, spec)

    def _read(self, spec: type[S], uuid: str) -> tuple[S | None, datetime | None]:
        resource = self._found[spec].get(uuid)
        if resource is None:
            return None, None
        try:
            return self._kind(spec).read(resource), resource.metadata.updated
        except MalformedPacketError as error:
            raise PermanentError(
                f"{resource.metadata.type} of {uuid} cannot be read: {error}", hint=UNREADABLE
            ) from error

    async def _put(self, uuid: str, spec: Any) -> None:
        kind = self._kind(type(spec))
        owner = omni.owner(self._provider_id, f"{type(spec).__name__}Controller")  # Called as what they own.

        def remembered(before: Resource | None) -> Resource:
            return kind.new(uuid, spec) if before is None else replace(before, spec=cosi.Spec(protobuf.encode(spec)))

        known = self._found[type(spec)].get(uuid)
        self._found[type(spec)][uuid] = await self._state.put(kind, uuid, remembered, owner, known=known)

    def _let_go(self, resource: Resource) -> Resource | None:
        return without(resource, planning.inherited(self._provider_id, resource.metadata.finalizers))

"""
Reads out of Omni what Sidero's own provider left there, and hands it over machine by machine.

All of it is read before anything is written, and what cannot be read stops it: a wipe that we did not hear of would be done
again. Nothing that it left is changed at Omni, neither here nor later, so the former provider finds its memory as it left it.
Where another installation of ours was before, its place becomes ours in the end (`presence`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

from provider.domain.errors import BootwrightError, MalformedPacketError, PermanentError, RefusedError
from provider.manager.omni import machines, presence
from provider.manager.omni.presence import ALIVE, DuplicateError
from provider.manager.omni.state import State
from provider.planning.adoption import Left
from provider.planning.omni import Seen
from provider.reconcile.adoption import Adopted
from provider.wire import omni
from provider.wire.cosi import Kind, Resource

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


class Desk(Protocol):
    """Our side; `reconcile.adoption.AdoptionDesk` is one."""

    async def installation(self) -> str:
        """Our mark at Omni."""

    async def adopt(self, uuid: str, seen: Seen, left: Left) -> Adopted:
        """Take one machine over; it is on disk when this returns."""


async def adopt(
    state: State, provider_id: str, desk: Desk, clock: Callable[[], datetime], *, rehearses: bool = False
) -> list[Adopted]:
    """
    Take over all machines that Omni has given to this provider, in the order of their UUIDs; one that `rehearses` does so in a
    copy of the store, and stays what it was to Omni.

    Raises:
        RefusedError: If the former provider is still at work.
        PermanentError: If something that it left cannot be read; nothing was written then.
        BootwrightError: If Omni or the store fails; what was written stays, and the next run goes on from there.
    """
    await _refuse_while_alive(state, provider_id, desk, clock)
    found = await _read(state, provider_id)
    await _refuse_while_alive(state, provider_id, desk, clock)
    adopted = [await desk.adopt(uuid, seen, left) for uuid, (seen, left) in sorted(found.items())]
    if not rehearses:
        await presence.take_place(state, provider_id, await desk.installation())
    return adopted


async def _refuse_while_alive(state: State, provider_id: str, desk: Desk, clock: Callable[[], datetime]) -> None:
    beat = await state.get(omni.PROVIDER_HEALTH_STATUSES, provider_id)
    if beat is None:
        return
    try:
        presence.refuse_duplicate(beat, await desk.installation(), clock())
    except DuplicateError as error:
        seconds = round(ALIVE.total_seconds())
        hint = f"stop it, wait for {seconds} s, and try again: what it does meanwhile would be missed"
        raise RefusedError(str(error), hint=hint) from error


async def _read(state: State, provider_id: str) -> dict[str, tuple[Seen, Left]]:
    async def all_of(spec: type[S]) -> dict[str, tuple[S, datetime | None]]:
        kind = omni.private_kind(provider_id, spec)
        return {each.metadata.id: (_spec(kind, each), each.metadata.updated) for each in await state.list(kind)}

    bmcs, statuses = await all_of(omni.BmcConfiguration), await all_of(omni.MachineStatus)
    powers, wipes = await all_of(omni.PowerOperation), await all_of(omni.WipeStatus)
    reboots = await all_of(omni.RebootStatus)
    found: dict[str, tuple[Seen, Left]] = {}
    for resource in await state.list(omni.INFRA_MACHINES):
        uuid = resource.metadata.id
        power, power_at = _of(uuid, powers)
        wipe, wipe_at = _of(uuid, wipes)
        left = Left(
            bmc=_of(uuid, bmcs)[0],
            status=_of(uuid, statuses)[0],
            power=power,
            power_at=power_at,
            wipe=wipe,
            wipe_at=wipe_at,
            reboot=_of(uuid, reboots)[0],
        )
        try:
            found[uuid] = machines.read(resource), left
        except MalformedPacketError as error:
            raise _unreadable(resource, error) from error
    return found


def _of(uuid: str, found: Mapping[str, tuple[S, datetime | None]]) -> tuple[S | None, datetime | None]:
    return found.get(uuid, (None, None))


def _spec(kind: Kind[S], resource: Resource) -> S:
    try:
        return kind.read(resource)
    except MalformedPacketError as error:
        raise _unreadable(resource, error) from error


def _unreadable(resource: Resource, error: BootwrightError) -> PermanentError:
    metadata = resource.metadata
    return PermanentError(
        f"{metadata.type} of {metadata.id} cannot be read: {error}",
        hint="do not start Bootwright on these machines: what is not known to be wiped would be wiped",
    )

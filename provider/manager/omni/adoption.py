"""
Reads out of Omni what Sidero's own provider left there, and hands it over machine by machine.

All of it is read before anything is written, and what cannot be read stops it: a wipe that we did not hear of would be done
again. Nothing that it left is changed at Omni, neither here nor later, so the former provider finds its memory as it left it.
Where another installation of ours was before, its place becomes ours in the end (`presence`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from provider.domain.errors import MalformedPacketError, PermanentError, RefusedError
from provider.manager.omni import machines, presence
from provider.manager.omni.former import UNREADABLE, Former
from provider.manager.omni.presence import ALIVE, DuplicateError
from provider.manager.omni.state import State
from provider.planning.adoption import Left
from provider.planning.omni import Seen
from provider.reconcile.adoption import Adopted
from provider.wire import omni


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
    former = Former(state, provider_id)
    await former.load()
    found: dict[str, tuple[Seen, Left]] = {}
    for resource in await state.list(omni.INFRA_MACHINES):
        uuid = resource.metadata.id
        try:
            found[uuid] = machines.read(resource), former.left(uuid)
        except MalformedPacketError as error:
            raise PermanentError(
                f"{resource.metadata.type} of {uuid} cannot be read: {error}", hint=UNREADABLE
            ) from error
    return found

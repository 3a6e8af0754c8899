"""
Says that we are there, and that we are the only one: the provider's status, and its heartbeat.

Heartbeat and status bear the mark of this installation. A fresh heartbeat with another's mark means that a second provider runs
with our id: whoever comes later keeps away. A status with another's mark means that our store is not the one that knows what was
wiped, because its folder was lost or is elsewhere: we keep away then, too, however long the other one has been silent, until
somebody takes over on purpose (`adoption`). Sidero's provider beats into the same resource, and leaves annotations as they are:
so a heartbeat's mark tells of which beat it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from provider.domain.errors import MalformedPacketError, TemporaryError
from provider.manager.omni.credentials import Credentials, Expiry, due_warning
from provider.manager.omni.state import State
from provider.wire import cosi, omni, protobuf
from provider.wire.cosi import Resource

log = structlog.get_logger()

BEAT_SECONDS = 20.0
"""Omni takes us for connected for 31 s after each."""

ALIVE = timedelta(seconds=31)

MARK = "bootwright/installation"
"""The annotation that tells two providers with one id apart."""

MARKED = "bootwright/beat"
"""The time of the beat that the mark is of."""


class DuplicateError(TemporaryError):
    """Another provider with our id is at work."""


@dataclass(frozen=True)
class Provider:
    """Who we are to Omni. `installation` is made once and kept; `labels` are our site's."""

    id: str
    name: str
    version: str
    installation: str
    labels: Mapping[str, str]


class StrangerError(TemporaryError):
    """The provider with our id is another installation, wherever that is now."""


async def find_place(state: State, us: Provider, now: datetime) -> None:
    """
    See whether the place of the provider with our id is ours; nothing is written.

    Raises:
        DuplicateError: If somebody else is at work there.
        StrangerError: If it belongs to another installation of ours.
    """
    beat = await state.get(omni.PROVIDER_HEALTH_STATUSES, us.id)
    if beat is not None:
        refuse_duplicate(beat, us.installation, now)
    status = await state.get(omni.PROVIDER_STATUSES, us.id)
    if status is not None:
        refuse_stranger(status, us.installation)


async def introduce(state: State, us: Provider) -> None:
    """Write the provider's status: without it, and the label that makes us a static one, Omni gives us no machines."""
    spec = omni.InfraProviderStatus(name=us.name, description="Bare-metal machines, by Bootwright", version=us.version)
    labels, mark = {omni.LABEL_STATIC_PROVIDER: ""}, {MARK: us.installation}

    def status(before: Resource | None) -> Resource:
        metadata = (before or omni.PROVIDER_STATUSES.new(us.id, spec)).metadata
        labelled = {**metadata.labels, **labels}
        annotated = {**metadata.annotations, **mark}
        return Resource(replace(metadata, labels=labelled, annotations=annotated), cosi.Spec(protobuf.encode(spec)))

    await state.put(omni.PROVIDER_STATUSES, us.id, status, owner="")


class Heartbeat:
    """Beats on one connection; `problem` tells what ails us, empty if nothing does."""

    def __init__(
        self,
        state: State,
        us: Provider,
        credentials: Credentials,
        clock: Callable[[], datetime],
        problem: Callable[[], str],
    ) -> None:
        self._state = state
        self._us = us
        self._credentials = credentials
        self._clock = clock
        self._problem = problem
        self._warned: Expiry | None = None
        self._last: Resource | None = None
        """Our last beat: the next one is refused if somebody else has beaten since, and then that one is looked at."""

    async def first(self) -> None:
        """
        Take our place.

        Raises:
            DuplicateError: If somebody else has it.
        """
        await self._beat()

    async def run(self) -> None:
        """Beat for ever, as often however slowly Omni answers; ends with DuplicateError when somebody takes our place."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            due = max(due + BEAT_SECONDS, clock())
            await asyncio.sleep(due - clock())
            self._warn_of_expiry()
            await self._beat()

    async def _beat(self) -> None:
        last = None if self._last is None else omni.PROVIDER_HEALTH_STATUSES.read(self._last).last_heartbeat_timestamp

        def beat(before: Resource | None) -> Resource:
            now = self._clock()
            spec = protobuf.encode(omni.InfraProviderHealthStatus(now, self._problem()))
            marks = {MARK: self._us.installation, MARKED: now.isoformat()}
            if before is None:
                new = omni.PROVIDER_HEALTH_STATUSES.new(self._us.id, omni.InfraProviderHealthStatus())
                return Resource(replace(new.metadata, annotations=marks), cosi.Spec(spec))
            refuse_duplicate(before, self._us.installation, now, last)
            annotations = {**before.metadata.annotations, **marks}
            return Resource(replace(before.metadata, annotations=annotations), cosi.Spec(spec))

        owner = omni.owner(self._us.id, omni.HEALTH_CONTROLLER)
        self._last = await self._state.put(omni.PROVIDER_HEALTH_STATUSES, self._us.id, beat, owner, known=self._last)

    def _warn_of_expiry(self) -> None:
        warning = due_warning(self._credentials.expires_at, self._clock())
        if warning is not None and warning is not self._warned:
            log.warning(
                "omni.key_expires",
                at=str(self._credentials.expires_at),
                hint="make a new key in time: omnictl infraprovider renewkey, then put it into manager.key_file",
            )
        self._warned = warning


async def take_place(state: State, provider_id: str, installation: str) -> None:
    """Make the place of another installation ours; nothing if it is nobody's, or ours."""

    def ours(status: Resource) -> Resource | None:
        if status.metadata.annotations.get(MARK, installation) == installation:
            return None
        annotations = {**status.metadata.annotations, MARK: installation}
        return replace(status, metadata=replace(status.metadata, annotations=annotations))

    await state.change(omni.PROVIDER_STATUSES, provider_id, ours)


def refuse_stranger(status: Resource, installation: str) -> None:
    """
    Look at the mark on the provider's status.

    Raises:
        StrangerError: If it is another's.
    """
    if status.metadata.annotations.get(MARK, installation) == installation:
        return
    raise StrangerError(
        f"provider {status.metadata.id!r} is another installation of Bootwright, and what it has wiped is not known here",
        retry_after=ALIVE,
        hint="bring its state folder here (provider.state_dir); if that is lost, see what would be wiped with: "
        "bootwright omni adopt --dry-run",
    )


def refuse_duplicate(beat: Resource, installation: str, now: datetime, last: datetime | None = None) -> None:
    """
    Look at the heartbeat that is there; `last` is our own last one, once we have beaten on this connection.

    Raises:
        DuplicateError: If it is fresh, and of another installation; one without a mark is of Sidero's own provider.
    """
    try:
        at = omni.PROVIDER_HEALTH_STATUSES.read(beat).last_heartbeat_timestamp
    except MalformedPacketError:
        return
    if at is None or now - at >= ALIVE:
        return
    annotations = beat.metadata.annotations
    mark = annotations.get(MARK, "") if annotations.get(MARKED) == at.isoformat() else ""
    if mark == installation and (last is None or at <= last):
        return
    whose = "another Bootwright" if mark else "another program, such as Sidero's own provider,"
    whose = "another Bootwright with a copy of our store" if mark == installation else whose
    raise DuplicateError(
        f"{whose} is at work as provider {beat.metadata.id!r}: its last heartbeat is of {at:%H:%M:%S} UTC",
        retry_after=ALIVE,
        hint="stop the other one; two providers with one id would act on the same machines",
    )

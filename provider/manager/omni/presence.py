"""
Says that we are there, and that we are the only one: the provider's status, and its heartbeat.

The heartbeat bears the mark of this installation. A fresh one with another's mark means that a second provider runs with our
id: whoever comes later keeps away, and takes over once the first has been silent for as long as Omni takes it for connected.
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


async def introduce(state: State, us: Provider) -> None:
    """Write the provider's status: without it, and the label that makes us a static one, Omni gives us no machines."""
    spec = omni.InfraProviderStatus(name=us.name, description="Bare-metal machines, by Bootwright", version=us.version)
    labels = {omni.LABEL_STATIC_PROVIDER: ""}

    def status(before: Resource | None) -> Resource:
        if before is None:
            return omni.PROVIDER_STATUSES.new(us.id, spec, labels=labels)
        metadata = replace(before.metadata, labels={**before.metadata.labels, **labels})
        return Resource(metadata, cosi.Spec(protobuf.encode(spec)))

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
        """As we wrote it: if it is not there any more, somebody else has written."""

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
        spec = protobuf.encode(omni.InfraProviderHealthStatus(self._clock(), self._problem()))

        def beat(before: Resource | None) -> Resource:
            if before is None:
                new = omni.PROVIDER_HEALTH_STATUSES.new(self._us.id, omni.InfraProviderHealthStatus())
                return Resource(replace(new.metadata, annotations={MARK: self._us.installation}), cosi.Spec(spec))
            refuse_duplicate(before, self._us.installation, self._clock())
            annotations = {**before.metadata.annotations, MARK: self._us.installation}
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


def refuse_duplicate(beat: Resource, installation: str, now: datetime) -> None:
    """
    Look at the heartbeat that is there.

    Raises:
        DuplicateError: If it is fresh, and of another installation; one without a mark is of Sidero's own provider.
    """
    mark = beat.metadata.annotations.get(MARK, "")
    if mark == installation:
        return
    try:
        at = omni.PROVIDER_HEALTH_STATUSES.read(beat).last_heartbeat_timestamp
    except MalformedPacketError:
        return
    if at is None or now - at >= ALIVE:
        return
    whose = "another Bootwright" if mark else "another program, such as Sidero's own provider,"
    raise DuplicateError(
        f"{whose} is at work as provider {beat.metadata.id!r}: its last heartbeat is of {at:%H:%M:%S} UTC",
        retry_after=ALIVE,
        hint="stop the other one; two providers with one id would act on the same machines",
    )

"""
The link of the daemon to one Omni: dials, sees to all that runs on one connection, and dials again when that ends.

As with the native link, nothing else in the daemon waits for it. What Omni wants is in our store before anything follows from
it; what it should know is told again from the store with each connection. With Omni away for a day, a day's work goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from provider.domain.errors import BootwrightError, MalformedPacketError
from provider.domain.secret import Secret
from provider.kit import backoff
from provider.kit.jsontypes import JsonObject
from provider.manager.omni import presence, server_clock
from provider.manager.omni.credentials import Credentials
from provider.manager.omni.errands import Errands
from provider.manager.omni.errors import BookmarkError
from provider.manager.omni.machines import Desk, MachineErrands, Outbox
from provider.manager.omni.presence import DuplicateError, Heartbeat, Provider, StrangerError
from provider.manager.omni.state import Endpoint, State, open_channel
from provider.manager.omni.view import View, WatchBrokenError
from provider.wire import cosi, omni, siderolink
from provider.wire.cosi import EventType, Kind

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

log = structlog.get_logger()

FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=1)

RESTART_SECONDS = 1.0
"""Before a watch that the server gave up begins anew."""

RESUME_SECONDS = 10.0
"""
After a connection that long ago nothing is resumed, but everything read anew. A backup of Omni that was restored knows less than
our bookmarks: it would take them, and tell us nothing until as much has happened again.
"""

BMC_HANDS = 4


class OmniDesk(Desk, Protocol):
    """Our side of all of it; `reconcile.omni.OmniDesk` is one. What was taken is on disk when a method returns."""

    async def configure_bmc(self, uuid: str, access: omni.BmcAccess | None) -> None:
        """Use this access to the BMC, or what was found out by ourselves."""

    async def configured(self) -> Sequence[str]:
        """Whose BMC we use because Omni said so."""

    async def keep_join(self, join: omni.JoinConfig) -> None:
        """From now on machines join by this."""

    async def keep_factory(self, features: omni.FeaturesConfig) -> None:
        """Omni uses this Image Factory."""


class OmniLink:
    """The link of one daemon; `run` it for ever."""

    def __init__(
        self,
        *,
        url: str,
        credentials: Credentials,
        ca_file: Path | None,
        us: Provider,
        outbox: Outbox,
        desk: OmniDesk,
        clock: Callable[[], datetime],
        problem: Callable[[], str] = str,
        first_pause: timedelta = FIRST_PAUSE,
    ) -> None:
        self._url = url
        self._endpoint = Endpoint.parse(url)
        self._credentials = credentials
        self._ca_file = ca_file
        self._us = us
        self._outbox = outbox
        self._desk = desk
        self._clock = clock
        self._problem = problem
        self._first_pause = first_pause
        self._machines = View()
        self._bmcs = View()
        self._joins = View()
        self._parameters = View()
        self._features = View()
        # They outlive a connection: what a watch has told is not told again by the next one.
        self._bmc_errands = Errands(self._configure_bmc, BMC_HANDS, what="bmc")
        self._join_errands = Errands(self._keep_join, 1, what="join")
        self._parameter_errands = Errands(self._keep_parameters, 1, what="join parameters")
        self._feature_errands = Errands(self._keep_factory, 1, what="features")
        self._connected = False
        self._last_error = ""
        self._failures = 0
        self._resumable_until = 0.0

    def status(self) -> JsonObject:
        """For `bootwright status`."""
        expires_at = self._credentials.expires_at
        return {
            "url": self._url,
            "connected": self._connected,
            "last_error": self._last_error,
            "key_expires_at": None if expires_at is None else expires_at.isoformat(),
        }

    async def run(self) -> None:
        """Keep a link up; no failure of it ends the daemon."""
        while True:
            # In a task of its own: Python 3.11 leaves a cancellation behind in a task whose TaskGroup failed.
            async with asyncio.TaskGroup() as group:
                attempt = group.create_task(self._attempt(), name="omni connection")
            least = attempt.result()
            spread = random.random()  # noqa: S311 - jitter
            pause = max(backoff.delay(self._failures, self._first_pause, LONGEST_PAUSE, spread), least)
            await asyncio.sleep(pause.total_seconds())

    async def _attempt(self) -> timedelta:
        """One connection; however it ends, it is remembered and logged here. Gives the least pause before the next."""
        try:
            await self._once()
        except* BootwrightError as errors:
            error = _first(errors)
        except* Exception as errors:
            log.exception("omni.link_failed", error=str(errors))
            error = BootwrightError("an error of ours; see the log")
        if self._connected:
            self._resumable_until = self._monotonic() + RESUME_SECONDS
        self._failures = 1 if self._connected else self._failures + 1
        self._connected = False
        self._last_error = str(error)
        log.warning("omni.disconnected", url=self._url, error=str(error), hint=error.hint)
        return error.retry_after if isinstance(error, DuplicateError | StrangerError) else timedelta(0)

    async def _once(self) -> None:
        """One connection, from dialling to its end, which is always an error."""
        if self._monotonic() > self._resumable_until:
            for view in (self._machines, self._bmcs, self._joins, self._parameters):
                view.start_over()
        channel = open_channel(self._endpoint, self._ca_file)
        try:
            server_clock_now = partial(server_clock.ask, self._endpoint.page, self._ca_file)
            state = State(channel, self._credentials, self._clock, server_clock_now)
            heartbeat = Heartbeat(state, self._us, self._credentials, self._clock, self._problem)
            await presence.find_place(state, self._us, self._clock())
            await heartbeat.first()
            async with asyncio.TaskGroup() as group:
                group.create_task(heartbeat.run(), name="omni heartbeat")
                await presence.introduce(state, self._us)
                errands = MachineErrands(state, self._us.id, self._machines, self._desk, self._outbox)
                await errands.load()
                self._connected = True
                self._last_error = ""
                log.info("omni.connected", url=self._url, provider=self._us.id)
                group.create_task(errands.run(), name="omni errands")
                group.create_task(self._bmc_errands.run(), name="omni bmcs")
                group.create_task(self._join_errands.run(), name="omni joins")
                group.create_task(self._parameter_errands.run(), name="omni join parameters")
                group.create_task(self._feature_errands.run(), name="omni features")
                group.create_task(
                    _follow(state, omni.INFRA_MACHINES, self._machines, errands.call, errands.call_missing),
                    name="omni machines",
                )
                group.create_task(
                    _follow(state, omni.FEATURES_CONFIGS, self._features, self._feature_errands.call),
                    name="omni feature configs",
                )
                if await _has(state, omni.BMC_CONFIGS):
                    configured = await self._desk.configured()

                    def call_unconfigured() -> None:
                        self._bmc_errands.call(*(uuid for uuid in configured if uuid not in self._bmcs.resources))

                    following = _follow(state, omni.BMC_CONFIGS, self._bmcs, self._bmc_errands.call, call_unconfigured)
                    group.create_task(following, name="omni bmc configs")
                following = (
                    _follow(state, omni.PROVIDER_JOIN_CONFIGS, self._joins, self._join_errands.call)
                    if await _has(state, omni.PROVIDER_JOIN_CONFIGS)
                    else _follow(state, omni.CONNECTION_PARAMS, self._parameters, self._parameter_errands.call)
                )
                group.create_task(following, name="omni join configs")
        finally:
            await channel.close()

    @staticmethod
    def _monotonic() -> float:
        return asyncio.get_running_loop().time()

    async def _configure_bmc(self, uuid: str) -> None:
        config = self._bmcs.resources.get(uuid)
        if config is None:
            await self._desk.configure_bmc(uuid, None)
            return
        try:
            access = omni.BMC_CONFIGS.read(config).config
        except MalformedPacketError as error:
            log.error("omni.bmc_unreadable", machine=uuid, error=str(error))
            return
        await self._desk.configure_bmc(uuid, access)

    async def _keep_join(self, provider_id: str) -> None:
        config = self._joins.resources.get(provider_id)
        if config is None or provider_id != self._us.id:
            return  # What machines join with stays as it was: they are told to go elsewhere by a new one only.
        try:
            join = omni.PROVIDER_JOIN_CONFIGS.read(config).config
        except MalformedPacketError as error:
            log.error("omni.join_unreadable", error=str(error))
            return
        await self._desk.keep_join(join)

    async def _keep_factory(self, identity: str) -> None:
        resource = self._features.resources.get(identity)
        if resource is None or identity != omni.FEATURES_CONFIG_ID:
            return
        try:
            features = omni.FEATURES_CONFIGS.read(resource)
        except MalformedPacketError as error:
            log.error("omni.features_unreadable", error=str(error))
            return
        await self._desk.keep_factory(features)

    async def _keep_parameters(self, identity: str) -> None:
        """An older Omni tells what the documents are made of, and leaves the making to us."""
        resource = self._parameters.resources.get(identity)
        if resource is None or identity != omni.SIDEROLINK_CONFIG_ID:
            return
        try:
            told = omni.CONNECTION_PARAMS.read(resource)
        except MalformedPacketError as error:
            log.error("omni.join_unreadable", error=str(error))
            return
        parameters = siderolink.ConnectionParameters(
            told.api_endpoint,
            siderolink.join_token(Secret(told.join_token), self._us.id, "v1"),
            told.events_port,
            told.logs_port,
            told.use_grpc_tunnel,
        )
        arguments, documents = siderolink.join_arguments(parameters), siderolink.join_documents(parameters)
        await self._desk.keep_join(omni.JoinConfig(arguments, documents))


async def _has(state: State, kind: Kind[S]) -> bool:
    """Whether this Omni knows the kind: an older one refuses whoever watches what it never heard of."""
    return await state.get(cosi.RESOURCE_DEFINITIONS, kind.name.lower()) is not None


async def _follow(
    state: State, kind: Kind[S], view: View, call: Callable[..., None], when_whole: Callable[[], None] = lambda: None
) -> None:
    """Keep a view right for as long as the connection lives, and call what changes in it."""
    while True:
        try:
            async with aclosing(state.watch(kind, view.begin())) as responses:
                async for events in responses:
                    for event in events:
                        call(*view.take(event))
                        if event.event_type is EventType.BOOTSTRAPPED:
                            when_whole()
        except (BookmarkError, WatchBrokenError) as error:
            log.info("omni.watch_restarted", kind=kind.name, reason=str(error))
            view.start_over()
            await asyncio.sleep(RESTART_SECONDS)


def _first(errors: BaseExceptionGroup[BootwrightError]) -> BootwrightError:
    """The first cause; the other tasks of a connection often fail together with it."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, BootwrightError) else BootwrightError(str(found))

"""
What provider and manager say happened, written down as it is said.

Two tasks follow the two programs, over kills and restarts of either: the provider's events by their ids,
the manager's log of received changes by its rows. The story asks questions about it all and is answered as soon as the
answer is there; nobody ever sleeps for a while and hopes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog

from provider.domain.errors import PermanentError
from provider.domain.event import Event
from provider.kit.jsontypes import JsonObject
from provider.kit.signal import Signal
from provider.kit.unixhttp import UnixHttp, UnixHttpError
from provider.lab.managers import Manager

log = structlog.get_logger()

T = TypeVar("T")

LONG_POLL_SECONDS = 20
CALL_SECONDS = 30.0
"""Deadline of one call, long polls included."""
_RETRY_SECONDS = 0.2


class StageError(PermanentError):
    """Something of the story did not happen in time, or happened wrongly: `stage` says what."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage = stage


@dataclass(frozen=True)
class Report:
    """A machine's whole state at the manager, as it was when we first saw it there (`at`)."""

    machine_id: str
    at: datetime
    state: dict[str, Any]

    @property
    def phase(self) -> str:
        """Where the machine stands."""
        return str(self.state.get("phase", ""))

    @property
    def power(self) -> str:
        """`on`, `off` or `unknown`."""
        return str(self.state.get("power", {}).get("state", ""))

    @property
    def macs(self) -> list[str]:
        """What it is known by."""
        return list(self.state.get("identity", {}).get("macs", ()))

    @property
    def inventory(self) -> dict[str, Any] | None:
        """The agent's report, once there is one."""
        return self.state.get("inventory")

    @property
    def wiped_disks(self) -> list[dict[str, Any]]:
        """Serial, method and verification of each disk of the newest wipe."""
        operation = self.state.get("operation") or {}
        keys = ("serial", "method", "verified")
        return [{key: disk[key] for key in keys} for disk in operation.get("disks") or ()]


class Witness:
    """Everything that was said so far; `run` listens."""

    def __init__(self, operators: UnixHttp, manager: Manager) -> None:
        self.events: list[Event] = []
        """The provider's, in their order."""
        self.reports: list[Report] = []
        """The manager's states of machines, in the order in which they changed."""
        self.received: list[JsonObject] = []
        """The manager's log of what it took from the provider, in its order."""
        self._operators = operators
        self._manager = manager
        self._rang = Signal()

    async def run(self) -> None:
        """Listen for ever. A program that does not answer is being killed or restarted: it is asked again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_again(self._hear_provider), name="witness of the provider")
            tasks.create_task(_again(self._hear_manager), name="witness of the manager")

    async def until(self, answer: Callable[[], T | None], stage: str, patience: timedelta) -> T:
        """
        Wait until `answer` gives something, and give that; it is asked each time that something new was said.

        Raises:
            StageError: If that takes longer than `patience`.
        """
        try:
            async with asyncio.timeout(patience.total_seconds()):
                while (found := answer()) is None:
                    await self._rang.ticket().wait()
                return found
        except TimeoutError as error:
            raise StageError(stage, f"it did not happen within {patience}") from error

    def events_of(self, machine_id: str, name: str, since: datetime | None = None) -> Iterator[Event]:
        """Events of one machine and name, oldest first."""
        for event in self.events:
            if event.machine_id == machine_id and event.name == name and (since is None or event.at >= since):
                yield event

    def reported(self, machine_id: str) -> Report | None:
        """The machine's newest state at the manager."""
        return next((report for report in reversed(self.reports) if report.machine_id == machine_id), None)

    async def _hear_provider(self) -> None:
        after = self.events[-1].id if self.events else 0
        answer = await self._operators.get("/v1/events", after=after, limit=500, wait=LONG_POLL_SECONDS)
        fresh = [_event(document) for document in _objects(answer, "events")]
        self.events += [event for event in fresh if event.id > after]
        self._rang.ring()

    async def _hear_manager(self) -> None:
        after = int(str(self.received[-1]["id"])) if self.received else 0
        heard = await self._manager.hear(after)
        self.received += heard.received
        for machine, state in heard.states.items():
            self._take(machine, state)
        self._rang.ring()

    def _take(self, machine_id: str, state: Any) -> None:
        before = self.reported(machine_id)
        if before is None or before.state != state:
            self.reports.append(Report(machine_id, datetime.now(UTC), state))


async def _again(hear: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await hear()
        except (UnixHttpError, TimeoutError) as error:
            log.debug("witness.heard_nothing", error=repr(error))
            await asyncio.sleep(_RETRY_SECONDS)


def _event(document: dict[str, Any]) -> Event:
    return Event(
        id=document["id"],
        machine_id=document["machine"],
        at=datetime.fromisoformat(document["at"]),
        name=document["name"],
        data=document["data"],
    )


def _objects(answer: JsonObject, name: str) -> list[dict[str, Any]]:
    found = answer.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

"""
Follows the interfaces: opens and closes servers as interfaces and addresses come and go.

`planning.interfaces` decides, from the whole state as the kernel has it, each time anew. One task looks, after each burst of
changes, and opens and closes in one turn of the loop. What cannot be opened while we run, because another program has the
port, is an error in the log and is tried again with growing pauses; all the rest is open meanwhile, and DHCP names no boot files.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from provider.domain.errors import PermanentError
from provider.kit import backoff
from provider.kit.jsontypes import JsonObject
from provider.netboot.links import LinkWatch
from provider.planning import interfaces
from provider.planning.interfaces import Link, Opening, Problem, Service, Station

log = structlog.get_logger()

_FIRST_PAUSE = timedelta(seconds=1)
_LONGEST_PAUSE = timedelta(minutes=1)

Decide = Callable[[Mapping[str, Link]], Sequence[Station]]


class Opens(Protocol):
    """A server that is open where it is told to be."""

    def open(self, opening: Opening) -> None:
        """Serve there; raises PermanentError if it cannot, and has nothing open there then."""

    def close(self, opening: Opening) -> None:
        """Serve there no more."""


@dataclass(frozen=True)
class _Failure:
    """An opening that could not be had."""

    problem: Problem
    times: int
    again_at: float  # loop time


class Interfaces:
    """Call `start`, which opens what can be, then `run`."""

    def __init__(self, names: Sequence[str], decide: Decide, servers: Mapping[Service, Opens]) -> None:
        self._watch = LinkWatch(names)
        self._decide = decide
        self._servers = servers
        self._stations: Sequence[Station] = ()
        self._open: frozenset[Opening] = frozenset()
        self._failed: dict[Opening, _Failure] = {}
        self._unread = 0
        """How often in a row the kernel could not be read."""

    async def start(self) -> None:
        """
        Open all that can be; what is missing is a warning.

        Raises:
            PermanentError: If no interface can be served as the settings want it, or a port cannot be had.
        """
        self._watch.open()
        try:
            try:
                links = await self._watch.read()
            except OSError as error:
                raise PermanentError(f"the kernel does not tell us of interfaces: {error}") from error
            stations = self._decide(links)
            if all(station.problem for station in stations):
                raise _nothing_to_serve(stations)
            self._enter(stations)
            for opening in interfaces.difference(self._open, interfaces.openings(stations)).open:
                self._servers[opening.service].open(opening)
                self._open |= {opening}
        except PermanentError:
            self.close()
            raise

    async def run(self) -> None:
        """Follow for ever; ends the daemon if it fails."""
        try:
            while True:
                await self._something_to_do()
                await self._look()
        finally:
            self.close()

    def close(self) -> None:
        """Close all that is open."""
        self._watch.close()
        self._close(self._open)

    def problems(self) -> list[Problem]:
        """What machines cannot boot without, on any interface."""
        missing = [station.waits_for for station in self._stations]
        return [*filter(None, missing), *(failure.problem for failure in self._failed.values())]

    def status(self) -> list[JsonObject]:
        """Each interface: whether it is served, or what it waits for."""
        return [self._status(station) for station in self._stations]

    async def _something_to_do(self) -> None:
        """Wait for a change, or until it is time to try again."""
        again_at = min((failure.again_at for failure in self._failed.values()), default=None)
        if self._unread:
            again_at = asyncio.get_running_loop().time() + _pause(self._unread)
        try:
            async with asyncio.timeout_at(again_at):
                await self._watch.changed()
        except TimeoutError:
            return

    async def _look(self) -> None:
        try:
            links = await self._watch.read()
        except OSError as error:
            self._unread += 1
            log.warning("network.unread", error=str(error), attempt=self._unread)
            return
        self._unread = 0
        # No `await` beyond this point: nobody sees servers that are half closed.
        self._enter(self._decide(links))
        self._follow(wanted := interfaces.openings(self._stations, self._failed))
        if (now_wanted := interfaces.openings(self._stations, self._failed)) != wanted:
            self._follow(
                now_wanted
            )  # In the same turn: no packet was read since DHCP was opened as if all were served.

    def _follow(self, wanted: frozenset[Opening]) -> None:
        self._failed = {opening: failure for opening, failure in self._failed.items() if opening in wanted}
        difference = interfaces.difference(self._open, wanted)
        self._close(difference.close)
        now = asyncio.get_running_loop().time()
        for opening in difference.open:
            failure = self._failed.get(opening)
            if failure is None or failure.again_at <= now:
                self._try(opening, now, failure.times + 1 if failure is not None else 1)

    def _try(self, opening: Opening, now: float, times: int) -> None:
        try:
            self._servers[opening.service].open(opening)
        except (PermanentError, OSError) as error:  # The latter when we are out of descriptors.
            problem = Problem(str(error), error.hint if isinstance(error, PermanentError) else "")
            pause = _pause(times)
            self._failed[opening] = _Failure(problem, times, now + pause)
            log.error(
                "network.open_failed",
                interface=opening.scope.interface,
                error=problem.reason,
                hint=problem.hint,
                retry_after_s=round(pause, 1),
            )
        else:
            self._open |= {opening}
            if self._failed.pop(opening, None) is not None:
                log.info("network.opened", interface=opening.scope.interface, service=opening.service.value)

    def _close(self, openings: Sequence[Opening] | frozenset[Opening]) -> None:
        for opening in openings:
            self._servers[opening.service].close(opening)
        self._open -= frozenset(openings)

    def _enter(self, stations: Sequence[Station]) -> None:
        """Take over a new state, and tell what is new in it."""
        before = {station.name: station for station in self._stations}
        self._stations = stations
        for station in stations:
            _tell(station, before.get(station.name, Station(station.wanted)))

    def _status(self, station: Station) -> JsonObject:
        failures = [
            failure.problem for opening, failure in self._failed.items() if opening.scope.interface == station.name
        ]
        missing = [station.waits_for] if station.waits_for is not None else []
        failures += [
            Problem(f"no machine is told to boot there before {each.scope.missing} is open", "it is tried again")
            for each in self._open
            if each.scope.interface == station.name and each.scope.missing
        ]
        return {
            "name": station.name,
            "address": None if station.scope is None else str(station.scope.address),
            "serves": sorted(each.service.value for each in self._open if each.scope.interface == station.name),
            "waits_for": [{"reason": each.reason, "hint": each.hint} for each in (*missing, *failures)],
        }


def _pause(failures: int) -> float:
    pause = backoff.delay(failures, _FIRST_PAUSE, _LONGEST_PAUSE, random.random())  # noqa: S311 - no secret
    return pause.total_seconds()


def _nothing_to_serve(stations: Sequence[Station]) -> PermanentError:
    problems = [station.problem for station in stations if station.problem is not None]
    hints = dict.fromkeys(problem.hint for problem in problems)
    return PermanentError("\n".join(problem.reason for problem in problems), hint="; ".join(hints))


def _tell(station: Station, before: Station) -> None:
    problem = station.problem
    if problem is not None and problem != before.problem:
        said = {"interface": station.name, "reason": problem.reason, "hint": problem.hint}
        if station.scope is None:
            log.warning("network.interface_waiting", **said)
        else:
            log.error("network.dhcp_off", **said)
    if problem is None and station.scope is not None and (station.scope != before.scope or before.problem is not None):
        log.info(
            "network.interface_served",
            interface=station.name,
            address=str(station.scope.address),
            network=str(station.scope.network),
        )
    if station.link is not None and before.link is not None and station.link.up != before.link.up:
        log.info("network.link_up" if station.link.up else "network.link_down", interface=station.name)

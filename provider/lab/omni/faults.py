"""What goes wrong on demand in calls; `gate` has what goes wrong in connections."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import grpc

from provider.kit.signal import Signal
from provider.lab.omni import state as states
from provider.lab.omni.resources import CallError, Resource
from provider.lab.omni.state import State


@dataclass
class Refusals:
    """The next `left` calls of a method fail."""

    left: int
    code: grpc.StatusCode
    text: str


@dataclass
class Faults:
    """Faults in force; all off at first."""

    skew: timedelta = timedelta()
    """The server's clock is ahead by that much."""
    delay: float = 0.0
    """Seconds before each call is looked at."""
    refusals: dict[str, Refusals] = field(default_factory=dict)
    """By the method's last name, such as `Update`."""
    interferences: dict[tuple[str, str], int] = field(default_factory=dict)
    """How many of the next Updates of a type and id find that somebody else was faster."""
    streams_reset: Signal = field(default_factory=Signal)

    def now(self) -> datetime:
        """The server's clock."""
        return states.utc_clock() + self.skew

    def refuse(self, method: str, code: str, calls: int = 1, text: str = "refused on demand") -> None:
        """
        Let the next calls of a method fail with a code by its name, such as `UNAVAILABLE`.

        Raises:
            ValueError: If gRPC has no such code.
        """
        try:
            self.refusals[method] = Refusals(calls, grpc.StatusCode[code], text)
        except KeyError as error:
            raise ValueError(f"there is no gRPC code {code}") from error

    def interfere(self, kind: str, identity: str, times: int = 1) -> None:
        """Change a resource just before each of the next Updates of it that a caller sends."""
        self.interferences[kind, identity] = times

    def reset_streams(self) -> None:
        """End every watch that is open with UNAVAILABLE."""
        self.streams_reset.ring()

    async def before_call(self, method: str) -> None:
        """
        Wait, or refuse, as it is demanded.

        Raises:
            CallError: As demanded.
        """
        if self.delay:
            await asyncio.sleep(self.delay)
        refusals = self.refusals.get(method)
        if refusals is None or refusals.left < 1:
            return
        refusals.left -= 1
        raise CallError(refusals.code, refusals.text)

    def before_update(self, state: State, resource: Resource) -> None:
        """Be faster than the caller, if it is demanded: the stored resource gets another version."""
        key = (resource.type, resource.id)
        current = state.find(resource.namespace, resource.type, resource.id)
        if self.interferences.get(key, 0) < 1 or current is None:
            return
        self.interferences[key] -= 1
        state.update(replace(current, annotations=dict(current.annotations)), current.owner)

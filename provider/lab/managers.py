"""
The manager of a lab, whichever it is: what it knows, and what it decides. Here is the reference manager; `omni_manager` has Omni.

A machine is named as the manager names it. Whatever the manager refuses is a UnixHttpError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from provider.kit.jsontypes import JsonObject
from provider.reference_manager.client import Client

_WAIT_SECONDS = 20

PROFILE = "marker"
"""The boot profile of config/lab.yaml that the story allocates."""


@dataclass(frozen=True)
class Heard:
    """News: rows of the manager's log of what it took from the provider, and the states of machines, by their names there."""

    received: Sequence[JsonObject] = ()
    states: Mapping[str, Any] = field(default_factory=dict)
    """With `phase`, `power.state`, `identity.macs` and more: `witness.Report`."""


class Manager(Protocol):
    """What the lab wants of a manager."""

    async def hear(self, after: int, /) -> Heard:
        """Wait for news after a row of its log, or a while."""

    async def accept(self, machine: str) -> None:
        """The machine is ours."""

    async def allocate(self, machine: str) -> None:
        """Something is to be installed on it."""

    async def release(self, machine: str) -> None:
        """Nobody needs it any more."""


class ReferenceManager:
    """Ours."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def hear(self, after: int, /) -> Heard:
        """A long poll. The log tells that states changed, the list of machines what they are."""
        fresh = await self._client.watch(after, _WAIT_SECONDS)
        machines = await self._client.machines() if fresh else []
        return Heard(fresh, {str(machine["id"]): machine["state"] for machine in machines})

    async def accept(self, machine: str) -> None:
        """The machine is ours."""
        await self._client.want(machine, "accept")

    async def allocate(self, machine: str) -> None:
        """The lab's own boot profile."""
        await self._client.allocate(machine, PROFILE)

    async def release(self, machine: str) -> None:
        """Nobody needs it any more."""
        await self._client.want(machine, "release")

"""Omni as the lab's manager: decisions are made at the desk of the fake; what it knows is looked at again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from provider.kit.jsontypes import JsonObject
from provider.lab.managers import Heard
from provider.lab.omni.desk_client import DeskClient

PROVIDER = "lab"
"""The id of the lab's provider at Omni."""

_LOOK_SECONDS = 0.25

_GONE: Mapping[str, Any] = {"phase": "gone"}


class OmniManager:
    """Machines are named by their UUID."""

    def __init__(self, desk: DeskClient) -> None:
        self._desk = desk
        self._known: set[str] = set()

    async def create_provider(self) -> str:
        """As an administrator does; gives the key."""
        return str(await self._desk.do("create_provider", provider=PROVIDER))

    async def hear(self, _after: int, /) -> Heard:
        """What Omni knows now, and which machines it knows no more; its log is not followed."""
        await asyncio.sleep(_LOOK_SECONDS)
        states = {str(machine["id"]): state(machine) for machine in await self._desk.list("machines")}
        self._known |= states.keys()
        return Heard(states=states | dict.fromkeys(self._known - states.keys(), _GONE))

    async def accept(self, machine: str) -> None:
        """The machine is ours."""
        await self._desk.do("accept", machine=machine)

    async def allocate(self, machine: str) -> None:
        """Make it the control plane of a cluster."""
        await self._desk.do("allocate", machine=machine)

    async def release(self, machine: str) -> None:
        """Take it out of the cluster."""
        await self._desk.do("release", machine=machine)

    async def remove(self, machine: str) -> None:
        """Delete it from Omni."""
        await self._desk.do("remove", machine=machine)


def state(machine: JsonObject) -> dict[str, Any]:
    """A machine of the desk with the words of `witness.Report`; `infra` says which InfraMachine it is: it may come again."""
    infra, status = _part(machine, "infra"), _part(machine, "status")
    return {
        "phase": _phase(infra, status.get("spec", {})),
        "power": {"state": str(status.get("spec", {}).get("power_state", "")).lower()},
        "infra": infra,
        "status": status,
    }


def _part(machine: JsonObject, name: str) -> dict[str, Any]:
    found = machine.get(name)
    return dict(found) if isinstance(found, dict) else {}


def _phase(infra: dict[str, Any], status: dict[str, Any]) -> str:
    """Where it stands, as Omni sees it."""
    wanted = infra.get("spec", {})
    if not wanted or infra["phase"] != "running":
        return "removed"
    if wanted["acceptance_status"] != "ACCEPTED":
        return str(wanted["acceptance_status"]).lower()
    if not status.get("ready_to_use"):
        return "preparing"
    if not wanted["cluster_talos_version"]:
        return "ready"
    return "installed" if status.get("installed") else "installing"

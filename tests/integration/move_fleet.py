"""
Machines of a site that moves from Sidero's provider to ours: as Omni knows them, their agents, and their power.

What may not happen to them is counted where it would happen: wipes by the agents, commands by the power APIs; and what Omni is
told of them is kept from a watch, so that no word goes unheard, however short it stood.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from provider.lab.omni import names
from tests.integration import real_talos_agent
from tests.integration.omni_client import COSI, SPECS
from tests.integration.real_omni import Member, PowerApi, RealOmni

POWER_PORT = 18083


class Agent(Protocol):
    """An agent on a machine, which runs between `start` and `stop`, as often as it is started."""

    async def start(self, address: str) -> None:
        """From now on it calls that address."""

    async def stop(self) -> None:
        """No longer."""

    def wipes(self) -> int:
        """How often it wiped the disks."""


class FakeAgent:
    """The fake one, as a process."""

    def __init__(self, uuid: str, log: Path) -> None:
        self._command = (
            sys.executable,
            "-m",
            "provider.lab.omni.talos_agent",
            "--uuid",
            uuid,
            "--restarts-after",
            "0.5",
        )
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, address: str) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*self._command, "--address", address, stdout=log)

    async def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    def wipes(self) -> int:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [json.loads(line)["event"] for line in lines].count("wipe begun")


class RealAgent:
    """The real one, in a Talos that is played."""

    def __init__(self, uuid: str) -> None:
        self._machined = real_talos_agent.Machined(uuid)
        self._running = contextlib.AsyncExitStack()

    async def start(self, address: str) -> None:
        arguments = f"talos.platform=metal metal.provider.address={address}"
        await self._running.enter_async_context(real_talos_agent.running(self._machined, arguments))

    async def stop(self) -> None:
        await self._running.aclose()

    def wipes(self) -> int:
        return len(self._machined.wiped)


def agent(uuid: str, log: Path) -> Agent:
    """The real one, if there is one and we may run it."""
    is_there = real_talos_agent.VARIABLE in os.environ and os.geteuid() == 0
    return RealAgent(uuid) if is_there else FakeAgent(uuid, log)


class Box:
    """A machine: its agent, its power, and Talos as far as Omni sees it."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.uuid = f"4c4c4544-0042-3510-8051-b4c04f4d00{number:02}"
        self.mac = f"52:54:00:00:01:{number:02}"
        self.cluster = f"tales-{number}"
        """The one that it is for, alone."""
        self.power = PowerApi()
        self.power_api = f"127.0.3.{number}:{POWER_PORT}"
        self.agent = agent(self.uuid, folder / f"agent-{number}")
        self.member: Member | None = None

    async def join(self, omni: RealOmni, configuration: str) -> None:
        """Join Omni, with the configuration that the provider gives."""
        self.member = Member(self.uuid, configuration)
        await self.member.join()
        await until(lambda: omni.infra_machine(self.uuid))

    @property
    def wipes(self) -> int:
        """How many it has seen."""
        return self.agent.wipes()

    @property
    def reboots(self) -> int:
        """How many it was told."""
        return self.power.told.count("reboot")


@dataclass
class Fleet:
    """All of them."""

    boxes: tuple[Box, ...]

    def done_to_them(self) -> list[tuple[int, list[str]]]:
        """Wipes, and commands to their power, of each."""
        return [(box.wipes, list(box.power.told)) for box in self.boxes]


@contextlib.asynccontextmanager
async def fleet(folder: Path, count: int) -> AsyncIterator[Fleet]:
    """So many machines, with their power APIs."""
    boxes = tuple(Box(number, folder) for number in range(1, count + 1))
    async with contextlib.AsyncExitStack() as stack:
        for box in boxes:
            await stack.enter_async_context(_power_api(box))
            stack.push_async_callback(box.agent.stop)
        yield Fleet(boxes)


@contextlib.asynccontextmanager
async def _power_api(box: Box) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{verb:status|reboot|poweron|poweroff|pxeboot}", box.power.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        host, _, port = box.power_api.partition(":")
        await web.TCPSite(runner, host, int(port)).start()
        yield
    finally:
        await runner.cleanup()


async def until(holds: Any, said: str = "", patience: float = 60.0) -> None:
    """Wait until it holds."""
    try:
        async with asyncio.timeout(patience):
            while not await holds():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(said or "it never came to be") from None


# --- what Omni was told ----------------------------------------------------------------------------------------------


@dataclass
class Words:
    """Each InfraMachineStatus that Omni was told, in order, as an administrator's watch shows it; None where it was removed."""

    said: list[tuple[str, Any]] = field(default_factory=list)

    def taken_back(self, since: int = 0) -> list[str]:
        """Of which machines a status said less than the one before: not ready any more, or not installed."""
        return list(self._taken_back(since))

    def _taken_back(self, since: int) -> Iterator[str]:
        before: dict[str, Any] = {}
        for number, (uuid, status) in enumerate(self.said):
            last, before[uuid] = before.get(uuid), status
            if number >= since and last is not None and _is_less(status, last):
                yield uuid

    def since(self, number: int) -> list[tuple[str, Any]]:
        """What was said from there on."""
        return self.said[number:]


def _is_less(status: Any, last: Any) -> bool:
    if status is None:
        return True
    return (last.ready_to_use and not status.ready_to_use) or (last.installed and not status.installed)


@contextlib.asynccontextmanager
async def listening(omni: RealOmni) -> AsyncIterator[Words]:
    """Hear all that Omni is told of machines."""
    words = Words()

    async def hear() -> None:
        watch = omni.admin.watch(names.INFRA, names.INFRA_MACHINE_STATUS, bootstrap_contents=True)
        while True:
            for event in (await watch.call.read()).event:
                if event.event_type in _OF_A_MACHINE and event.resource.metadata.id:
                    words.said.append((event.resource.metadata.id, _status(event)))

    async with asyncio.TaskGroup() as group:
        task = group.create_task(hear())
        yield words
        task.cancel()


_OF_A_MACHINE = (COSI.EventType.CREATED, COSI.EventType.UPDATED, COSI.EventType.DESTROYED)


def _status(event: Any) -> Any:
    if event.event_type == COSI.EventType.DESTROYED:
        return None
    return SPECS.InfraMachineStatusSpec.FromString(event.resource.spec.proto_spec)

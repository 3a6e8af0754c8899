"""
The same story while everything around it breaks: kill -9 in every phase, a link that goes dead, a manager that restarts.

One machine, one run, many mishaps. They happen when the witness sees their moment; the story knows nothing of them and
must end as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from provider.domain.event import Event
from provider.lab import lab as labs
from provider.lab import settings as lab_settings
from provider.lab import view
from provider.lab.firmware import Firmware
from provider.lab.lab import Lab
from provider.lab.settings import LabFile
from provider.lab.story import Story

PATIENCE = timedelta(minutes=10)


def _settings() -> LabFile:
    """A BIOS machine with disks so slow that a wipe can be met in the middle."""
    file = lab_settings.load()
    changes = {"machines": 1, "firmware": Firmware.BIOS, "disk_mib": 256, "disk_bytes_per_second": 32_000_000}
    return file.model_copy(update={"lab": file.lab.model_copy(update=changes)})


@pytest.mark.timeout(1500)
def test_mishaps_change_nothing(assets: Path, folder: Path) -> None:
    """What was promised is lost with the daemon, or needs somebody to mend it by hand."""
    asyncio.run(_tell_with_mishaps(assets, folder))


async def _tell_with_mishaps(assets: Path, folder: Path) -> None:
    accelerator = await labs.choose_accelerator(assets)
    async with labs.up(_settings(), folder / "run", assets, accelerator) as lab:
        story = Story(lab, view.for_console(Console(stderr=True)))
        mishaps = Mishaps(lab)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(mishaps.happen())
            await story.tell()
        assert mishaps.happened == list(Mishaps.ALL)
        await _manager_knows_everything(lab)
        _nothing_lost_doubled_or_swapped(lab)


class Mishaps:
    """Waits for each moment in turn and breaks something."""

    ALL = (
        "booting",
        "inventory",
        "wiping",
        "link dead",
        "manager restarted",
        "powering off",
        "installing",
        "installed",
    )

    def __init__(self, lab: Lab) -> None:
        self.happened: list[str] = []
        self._lab = lab
        self._seen = 0

    async def happen(self) -> None:
        """All of them."""
        await self._kill_provider("booting", lambda event: event.name == "boot.script_served")
        await self._kill_provider("inventory", lambda event: event.name == "agent.enrolled")
        await self._kill_provider("wiping", lambda event: _percent(event) >= 30)
        await self._let_link_go_dead("link dead", lambda event: _percent(event) >= 60)
        await self._restart_manager("manager restarted", lambda event: event.data.get("to") == "ready")
        await self._kill_provider("powering off", lambda event: event.data.get("action") == "off")
        await self._kill_provider("installing", lambda event: event.data.get("mode") == "install")
        await self._kill_provider("installed", lambda event: event.name == "install.reported")

    async def _kill_provider(self, moment: str, is_it: Callable[[Event], bool]) -> None:
        await self._moment(moment, is_it)
        await self._lab.provider.kill()
        await self._lab.provider.start()

    async def _let_link_go_dead(self, moment: str, is_it: Callable[[Event], bool]) -> None:
        """Nobody is told; the line comes back after the wipe, when the provider may or may not have given it up."""
        await self._moment(moment, is_it)
        self._lab.uplink.mute()
        await self._event(lambda event: event.name == "wipe.finished")
        await self._lab.uplink.mend()

    async def _restart_manager(self, moment: str, is_it: Callable[[Event], bool]) -> None:
        """Cut the line, kill the manager, and bring both back."""
        await self._moment(moment, is_it)
        await self._lab.uplink.cut()
        await self._lab.manager.kill()
        await self._lab.manager.start()
        await self._lab.uplink.mend()

    async def _moment(self, moment: str, is_it: Callable[[Event], bool]) -> None:
        await self._event(is_it)
        self.happened.append(moment)

    async def _event(self, is_it: Callable[[Event], bool]) -> None:
        """Wait for the next event that is it, and go on behind it."""

        def found() -> bool | None:
            events = self._lab.witness.events
            while self._seen < len(events):
                self._seen += 1
                if is_it(events[self._seen - 1]):
                    return True
            return None

        await self._lab.witness.until(found, f"mishap after {self.happened}", PATIENCE)


def _percent(event: Event) -> int:
    return int(str(event.data.get("percent", 0))) if event.name == "wipe.progressed" else 0


async def _manager_knows_everything(lab: Lab) -> None:
    """Wait until the newest of the provider's events that go to the manager is there."""
    names = {str(row["name"]) for row in lab.witness.received if row["kind"] == "event"}

    def newest_is_there() -> bool | None:
        told = [event.name for event in lab.witness.events if event.name in names]
        heard = [row["name"] for row in lab.witness.received if row["kind"] == "event"]
        return True if len(heard) >= len(told) else None

    await lab.witness.until(newest_is_there, "everything at the manager", timedelta(minutes=1))


def _nothing_lost_doubled_or_swapped(lab: Lab) -> None:
    """The manager's log of what it took, against the provider's own list of events."""
    received = lab.witness.received
    assert [row["sequence"] for row in received] == list(range(1, len(received) + 1)), "numbers without a gap, in order"
    heard = [(row["name"], row["data"]) for row in received if row["kind"] == "event"]
    names = {name for name, _ in heard}
    told = [(event.name, dict(event.data)) for event in lab.witness.events if event.name in names]
    assert heard == told, "each event once, in the order in which it happened"

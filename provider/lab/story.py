"""
The whole story, from the power button to a machine that was installed, released and wiped again.

It reads as a script: press, wait for the witness, look at the disks from outside. Each wait has a name and a deadline;
when the deadline passes, the name is the stage that failed. Machines go through the story side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from provider.domain.event import Event
from provider.kit.unixhttp import UnixHttpError
from provider.lab import disks, installer, lab_installer, summary
from provider.lab.firmware import Firmware
from provider.lab.lab import Lab, first_cause
from provider.lab.machines import LabMachine
from provider.lab.summary import Row
from provider.lab.view import View
from provider.lab.witness import Report, StageError

T = TypeVar("T")


class Actor:
    """One machine's part in the story."""

    stages: Sequence[str] = summary.STAGES
    kernel = "vmlinuz"
    """In the name of the first kernel that the machine loads."""

    def __init__(self, lab: Lab, machine: LabMachine, view: View) -> None:
        self.machine = machine
        self.row = Row(machine.name, machine.hardware.firmware.value, stages=self.stages)
        self.id = ""
        self._lab = lab
        self._view = view
        self._patience = lab.settings.patience
        self._since = datetime.now(UTC)
        """When the manager last changed its mind about the machine."""
        self._untouched = {disk.serial: disks.digest(disk.path) for disk in machine.hardware.disks}

    @property
    def known_as(self) -> str:
        """What the manager calls it."""
        return self.id

    # --- the stages, in order ---

    async def power_on(self) -> None:
        """Press the power button."""
        await self._within(self.machine.press_power_button(), "power-on", self._patience.power)
        self._says("switched on")

    async def be_discovered(self) -> None:
        """Boot the agent, and appear at the manager with an inventory, pending, every disk as it was."""
        report = await self._witnessed("inventory", self._discovery, self._patience.boot)
        self.id = self.row.id = report.machine_id
        self._note("inventory", report.at)
        self._says(f"at the manager as {self.id}, {report.phase}")
        if report.phase != "pending":
            raise StageError("pending", f"{self.machine.name} is {report.phase} at the manager, not pending")
        self.prove_untouched()

    async def be_accepted(self) -> None:
        """The manager accepts."""
        self._since = datetime.now(UTC)
        await self._ask_manager(self._lab.client.accept(self.known_as))
        self._note("accepted", datetime.now(UTC))
        self._says("accepted")

    async def become_ready(self, stage: str = "ready") -> None:
        """Be wiped, switched off, and ready at the manager; nothing is left on any disk."""
        wiped = await self._witnessed(
            "wiped", lambda: self._event("wipe.finished"), self._patience.boot + self._patience.wipe
        )
        if stage == "ready":
            self._note("wiped", wiped.at)
        self._says("wiped, says the agent")
        report = await self._witnessed(stage, lambda: self._at_manager("ready", "off"), self._patience.power)
        self._note(stage, report.at)
        await self._within(self.machine.wait_for_power(on=False), "power-off", self._patience.power)
        self.prove_erased()
        self.row.disks = self._wiped_disks(report)
        self._says("ready and off; not a byte is left on its disks")

    async def be_installed(self) -> None:
        """Be allocated, boot the installer, and be handed over to the disk by the boot after that."""
        self._since = datetime.now(UTC)
        await self._ask_manager(self._lab.client.allocate(self.known_as))
        self._says("allocated")
        await self._within(self.machine.wait_for_power(on=True), "power-on for the installer", self._patience.power)
        self._note("installed", await self._witnessed("installed", self._installation, self._patience.boot))
        self._says("installed")
        if not installer.was_installed(self.machine.hardware.disks[0].path):
            raise StageError("installed", f"the installer's mark is not on the disk of {self.machine.name}")
        await self._witnessed("disk boot", lambda: self._event("boot.script_served", mode="disk"), self._patience.boot)
        if self.machine.hardware.firmware is Firmware.BIOS:
            greeting = self.machine.console_says(lab_installer.GREETING)
            await self._within(greeting, "hand-over to the disk", self._patience.boot)
        await self._witnessed(
            "installed at the manager", lambda: self._at_manager("installed", "on"), self._patience.report
        )
        self._says("boots from its disk now")

    async def be_released(self) -> None:
        """Be released: wiped, off and ready once more."""
        self._since = datetime.now(UTC)
        await self._ask_manager(self._lab.client.release(self.known_as))
        self._says("released")
        await self.become_ready("released")

    async def end(self) -> None:
        """It stays as it is."""

    # --- proofs from outside ---

    def prove_untouched(self) -> None:
        """Compare every disk with what it was before power-on."""
        for disk in self.machine.hardware.disks:
            if disks.digest(disk.path) != self._untouched[disk.serial]:
                raise StageError("untouched disks", f"{disk.serial} was written to before anybody accepted the machine")

    def prove_erased(self) -> None:
        """Look for any byte that is not zero."""
        for disk in self.machine.hardware.disks:
            if left := disks.remains(disk.path):
                raise StageError("erased disks", f"{disk.serial} still has data at {left[:5]} (bytes)")

    # --- questions to the witness ---

    def _discovery(self) -> Report | None:
        """The first report at the manager that has an inventory with our network card in it."""
        mac = self.machine.hardware.mac
        return next((r for r in self._lab.witness.reports if mac in r.macs and r.inventory is not None), None)

    def _installation(self) -> datetime | None:
        """When the installer said that it is done."""
        event = self._event("install.reported")
        return None if event is None else event.at

    def _wiped_disks(self, report: Report) -> list[dict[str, Any]]:
        """Serial, method and verification of each, for the summary."""
        return report.wiped_disks

    def _event(self, name: str, **data: str) -> Event | None:
        """The first event of this name, with this data, since the manager last changed its mind."""
        found = self._lab.witness.events_of(self.id, name, self._since)
        return next((event for event in found if data.items() <= event.data.items()), None)

    def _at_manager(self, phase: str, power: str) -> Report | None:
        report = self._lab.witness.reported(self.known_as)
        return report if report is not None and (report.phase, report.power) == (phase, power) else None

    # --- waiting and telling ---

    async def _witnessed(self, stage: str, answer: Callable[[], T | None], patience: timedelta) -> T:
        self.row.doing = f"waiting: {stage}"
        found = await self._lab.witness.until(answer, f"{stage} of {self.machine.name}", patience)
        self.row.doing = ""
        self._note_boot()
        report = self._lab.witness.reported(self.known_as)
        self.row.phase = report.phase if report is not None else ""
        return found

    async def _within(self, work: Coroutine[Any, Any, None], stage: str, patience: timedelta) -> None:
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await work
        except TimeoutError as error:
            raise StageError(f"{stage} of {self.machine.name}", f"it did not happen within {patience}") from error

    async def _ask_manager(self, request: Awaitable[object]) -> None:
        try:
            await request
        except UnixHttpError as error:
            raise StageError(f"manager's decision on {self.machine.name}", str(error)) from error

    def _says(self, words: str) -> None:
        self._view.say(f"{self.machine.name}  {words}")

    def _note(self, stage: str, at: datetime) -> None:
        self.row.note(stage, at.timestamp() - self.machine.powered_on_at[0])

    def _note_boot(self) -> None:
        """Take the times of the first boot from the provider's events."""
        for stage, names in _BOOT_STAGES:
            file = self.kernel if stage == "kernel" else ""
            events = [event for name in names for event in self._lab.witness.events_of(self.id, name)]
            times = [event.at for event in events if file in str(event.data.get("file", ""))]
            if times:
                self._note(stage, min(times))


_BOOT_STAGES = (
    ("DHCPACK", ("dhcp.acknowledged",)),
    ("NBP", ("tftp.sent",)),
    ("script", ("boot.script_served",)),
    ("kernel", ("boot.file_served", "tftp.sent")),
    ("agent", ("agent.enrolled",)),
)
"""Stage, and events that are it."""


class Story:
    """All machines' parts, side by side; `rows` is what the summary shows, also while it goes on."""

    def __init__(self, lab: Lab, view: View, actor: type[Actor] = Actor) -> None:
        self.actors = [actor(lab, machine, view) for machine in lab.machines]
        self.rows: Sequence[Row] = [actor.row for actor in self.actors]

    async def discover(self) -> None:
        """Steps 1 to 4: all machines on, and pending at the manager."""
        await _together(actor.power_on() for actor in self.actors)
        await _together(actor.be_discovered() for actor in self.actors)

    async def wipe(self) -> None:
        """Step 5: all accepted, wiped, off and ready."""
        await _together(actor.be_accepted() for actor in self.actors)
        await _together(actor.become_ready() for actor in self.actors)

    async def install(self) -> None:
        """Step 6: the first one installed, and released again."""
        await self.actors[0].be_installed()
        await self.actors[0].be_released()

    async def finish(self) -> None:
        """Step 7: what becomes of all of them in the end; nothing, with our own manager."""
        await _together(actor.end() for actor in self.actors)

    async def tell(self) -> None:
        """
        Everything.

        Raises:
            StageError: Names the stage that failed.
        """
        try:
            await self.discover()
            await self.wipe()
            await self.install()
            await self.finish()
        except BaseExceptionGroup as failures:
            raise first_cause(failures) from failures


async def _together(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for part in parts:
            tasks.create_task(part)

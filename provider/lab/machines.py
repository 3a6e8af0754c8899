"""
A lab machine: hardware, BMC and power switch in one case.

One task per machine obeys the switch, one command after the other, so that commands that come twice or cross each other
end in the state that was asked for last. A machine that dies or switches itself off is off, and its BMC says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass, field

import structlog

from provider.domain.errors import PermanentError
from provider.lab.bmc import VirtualBmc
from provider.lab.processes import tail
from provider.lab.qemu import Accelerator, Files, Hardware, Qemu

log = structlog.get_logger()


@dataclass
class LabMachine:
    """
    One machine. `open`, then `run` in a task of its own; `run` returns never and is cancelled at the end.

    `powered_on_at` holds the wall-clock time of each power-on.
    """

    hardware: Hardware
    files: Files
    bmc: VirtualBmc
    accelerator: Accelerator
    powered_on_at: list[float] = field(default_factory=list)
    _qemu: Qemu | None = None
    _boot_override: str = "none"
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def name(self) -> str:
        """What people call it: its serial number."""
        return self.hardware.serial

    @property
    def is_on(self) -> bool:
        """Whether there is power."""
        return self._qemu is not None

    async def open(self) -> None:
        """Fill the disks and start the BMC; the machine itself stays off."""
        self.files.folder.mkdir(parents=True)
        for disk in self.hardware.disks:
            await asyncio.to_thread(disk.prefill)
        await self.bmc.open()

    async def run(self) -> None:
        """Obey the BMC for ever."""
        async with asyncio.TaskGroup() as tasks:
            async for name, value in self.bmc.switch.commands():
                log.debug("lab.switch_used", machine=self.name, switch=name, value=value)
                await self._obey(name, value, tasks)

    async def press_power_button(self) -> None:
        """What a person in front of the machine does: the switch gets the command that a BMC gives as well."""
        self.bmc.switch.press("power", "1")
        await self.wait_for_power(on=True)

    async def wait_for_power(self, *, on: bool) -> None:
        """Wait until it is on, or off."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.is_on is on)

    async def die(self) -> None:
        """Break down, as hardware does: nobody asked for it, and the BMC finds out by itself."""
        if self._qemu is not None:
            await self._qemu.pull_plug()

    async def console_says(self, words: str, times: int = 1) -> None:
        """Wait until the words have come over the serial port so often since it was first used; needs power."""
        reader, writer = await asyncio.open_unix_connection(self.files.console_socket)
        with contextlib.closing(writer):
            # Whatever comes is in the log before it is here.
            while self.files.console_log.read_bytes().count(words.encode()) < times:
                if not await reader.read(4096):
                    raise PermanentError(f"{self.name} went off before its console said {words!r}")

    async def close(self) -> None:
        """Pull the plug and end the BMC."""
        if self._qemu is not None:
            await self._qemu.pull_plug()
        await self.bmc.close()

    async def _obey(self, name: str, value: str, tasks: asyncio.TaskGroup) -> None:
        match name, value:
            case "power", "1":
                await self._power_on(tasks)
            case "power", _:
                await self._power_off()
            case "boot", _:
                self._boot_override = value
                self.bmc.switch.show("boot", value)
            case ("reset", _) if self._qemu is not None:
                await self._qemu.reset()
            case ("shutdown", _) if self._qemu is not None:
                await self._qemu.press_power_button()

    async def _power_on(self, tasks: asyncio.TaskGroup) -> None:
        if self._qemu is not None:
            return
        # ipmi_sim calls the hard disk "default". An override is good for one boot.
        disk_first = self._boot_override == "default"
        self._boot_override = "none"
        self.bmc.switch.show("boot", "none")
        self.powered_on_at.append(time.time())
        qemu = await Qemu.start(self.hardware, self.files, self.accelerator, disk_first=disk_first)
        await self._show(qemu)
        tasks.create_task(self._until_off(qemu), name=f"power of {self.name}")

    async def _power_off(self) -> None:
        qemu = self._qemu
        if qemu is not None:
            await qemu.pull_plug()
            await self._show(None)

    async def _until_off(self, qemu: Qemu) -> None:
        status = await qemu.wait()
        if status in (0, -signal.SIGKILL):
            log.info("lab.machine_went_off", machine=self.name)
        else:
            log.error("lab.machine_died", machine=self.name, status=status, error=tail(self.files.log))
        if self._qemu is qemu:
            await self._show(None)

    async def _show(self, qemu: Qemu | None) -> None:
        async with self._changed:
            self._qemu = qemu
            self.bmc.switch.show("power", "0" if qemu is None else "1")
            self._changed.notify_all()

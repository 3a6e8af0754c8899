"""
One power-on of a QEMU machine: its command line, its process, its control socket (QMP).

The machine is a PC (q35) or an ARM server (virt) with a NIC that comes first in the boot order, as on machines in a
rack, and disks behind it.

The process ends when the machine switches itself off, and only then; a reset by the guest restarts it inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from provider.domain.errors import PermanentError
from provider.lab import firmware, processes
from provider.lab.disks import DiskImage
from provider.lab.firmware import Board, Firmware, Uefi

log = structlog.get_logger()

Accelerator = Literal["kvm", "tcg"]
KVM_PROBE_SECONDS = 5.0
QMP_SECONDS = 5.0
START_SECONDS = 20.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Hardware:
    """What one machine is built of. `number` counts from 1 and makes names, addresses and ports unique."""

    number: int
    firmware: Firmware
    uuid: str
    serial: str
    mac: str
    tap: str
    memory_mib: int
    disks: tuple[DiskImage, ...]
    kcs_port: int
    """TCP port on loopback where the BMC takes the machine's KCS interface."""
    disk_bytes_per_second: int
    """Limit of each disk; 0 for none."""


@dataclass(frozen=True)
class Files:
    """Where one machine keeps what it needs besides its disks."""

    folder: Path

    @property
    def console_log(self) -> Path:
        """All that the machine ever wrote to its serial port."""
        return self.folder / "console.log"

    @property
    def console_socket(self) -> Path:
        """The serial port itself, for somebody who wants to type."""
        return self.folder / "console.sock"

    @property
    def control_socket(self) -> Path:
        """QMP."""
        return self.folder / "qmp.sock"

    @property
    def uefi_variables(self) -> Path:
        """The machine's own copy of its firmware's variables."""
        return self.folder / "uefi-variables.fd"

    @property
    def log(self) -> Path:
        """QEMU's own messages."""
        return self.folder / "qemu.log"


def command_line(hardware: Hardware, files: Files, accelerator: Accelerator, *, disk_first: bool = False) -> list[str]:
    """Give QEMU's command line for one power-on; `disk_first` is a one-time boot override."""
    board, uefi = firmware.board(hardware.firmware), firmware.UEFI.get(hardware.firmware)
    line = [board.qemu, "-name", hardware.serial, "-nodefaults", "-no-user-config", "-display", "none"]
    machine = board.machine + (uefi.machine if uefi is not None else "")
    line += ["-machine", machine, *_processor(board, accelerator), "-m", str(hardware.memory_mib)]
    line += ["-uuid", hardware.uuid]
    line += ["-smbios", f"type=1,manufacturer=Bootwright,product=Lab machine,serial={hardware.serial}"]
    line += ["-smbios", f"type=2,manufacturer=Bootwright,product=Lab board,serial={hardware.serial}-BOARD"]
    line += ["-chardev", f"socket,id=console,path={files.console_socket},server=on,wait=off,logappend=on"]
    line[-1] += f",logfile={files.console_log}"
    line += ["-serial", "chardev:console"]
    if board.has_kcs:
        line += _kcs(hardware)
    line += _nic(hardware, boot_index=3 if disk_first else 0)
    for index, disk in enumerate(hardware.disks, start=1):
        line += _disk(disk, index, hardware.disk_bytes_per_second)
    if uefi is not None:
        line += _uefi(uefi, files)
    # The last one, because its socket tells that all others are there.
    line += ["-qmp", f"unix:{files.control_socket},server=on,wait=off"]
    return line


def _processor(board: Board, accelerator: Accelerator) -> list[str]:
    if accelerator == "kvm" and board.architecture == platform.machine():
        return ["-accel", "kvm", "-cpu", "host", "-smp", "1"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"]


def _kcs(hardware: Hardware) -> list[str]:
    kcs = f"socket,id=kcs,host=127.0.0.1,port={hardware.kcs_port},reconnect=1"
    return ["-chardev", kcs, "-device", "ipmi-bmc-extern,id=bmc,chardev=kcs", "-device", "isa-ipmi-kcs,bmc=bmc"]


def _nic(hardware: Hardware, boot_index: int) -> list[str]:
    uefi = firmware.UEFI.get(hardware.firmware)
    device = "virtio-net-pci" if uefi is None else uefi.nic
    device += f",netdev=boot,mac={hardware.mac},bootindex={boot_index}"
    if uefi is not None:
        device += ",romfile="
    return ["-netdev", f"tap,id=boot,ifname={hardware.tap},script=no,downscript=no", "-device", device]


def _disk(disk: DiskImage, index: int, bytes_per_second: int) -> list[str]:
    drive = f"file={disk.path},if=none,id=disk{index},format=raw,discard=unmap,detect-zeroes=off,cache=writeback"
    if bytes_per_second:
        drive += f",throttling.bps-total={bytes_per_second}"
    return ["-drive", drive, "-device", f"{disk.driver},drive=disk{index},serial={disk.serial},bootindex={index}"]


def _uefi(uefi: Uefi, files: Files) -> list[str]:
    found = firmware.find(uefi.code, uefi.package)
    if not uefi.variables:
        return ["-bios", str(found), *uefi.arguments]
    code = f"if=pflash,unit=0,format=raw,readonly=on,file={found}"
    variables = f"if=pflash,unit=1,format=raw,file={files.uefi_variables}"
    return ["-drive", code, "-drive", variables, *uefi.arguments]


class Qemu:
    """A running machine: between power-on and power-off."""

    def __init__(self, process: processes.Process, files: Files) -> None:
        self._process = process
        self._files = files

    @classmethod
    async def start(
        cls, hardware: Hardware, files: Files, accelerator: Accelerator, *, disk_first: bool = False
    ) -> Qemu:
        """
        Switch the machine on; UEFI variables are made when there are none yet.

        Raises:
            PermanentError: If QEMU does not start; says what it said.
        """
        uefi = firmware.UEFI.get(hardware.firmware)
        if uefi is not None and uefi.variables and not files.uefi_variables.exists():
            shutil.copyfile(firmware.find(uefi.variables, uefi.package), files.uefi_variables)
        line = command_line(hardware, files, accelerator, disk_first=disk_first)
        files.control_socket.unlink(missing_ok=True)
        qemu = cls(await processes.Process.start(line[0], line, files.log), files)
        await qemu._wait_until_it_answers()
        return qemu

    async def wait(self) -> int:
        """Wait until it is off, whoever did it; gives QEMU's exit status."""
        return await self._process.wait()

    async def pull_plug(self) -> None:
        """Off, at once."""
        await self._process.kill()

    async def reset(self) -> None:
        """Press the reset button; the power stays on."""
        await self._control("system_reset")

    async def press_power_button(self) -> None:
        """Ask the operating system to switch off, by ACPI; nothing happens when none listens."""
        await self._control("system_powerdown")

    async def _wait_until_it_answers(self) -> None:
        """The control socket is the last one that QEMU makes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while self._process.running:
                    if self._files.control_socket.exists():
                        return
                    await asyncio.sleep(_LOOK_SECONDS)
        raise PermanentError(f"QEMU does not start: {self._process.tail()}")

    async def _control(self, command: str) -> None:
        async with asyncio.timeout(QMP_SECONDS):
            reader, writer = await asyncio.open_unix_connection(self._files.control_socket)
            try:
                await reader.readline()  # The greeting.
                for execute in ("qmp_capabilities", command):
                    writer.write(json.dumps({"execute": execute}).encode() + b"\n")
                    await _answer(reader)
            finally:
                writer.close()


async def _answer(reader: asyncio.StreamReader) -> None:
    """Read until QMP answers; events may come in between."""
    while line := await reader.readline():
        message = json.loads(line)
        if "error" in message:
            raise PermanentError(f"QEMU refused: {message['error'].get('desc')}")
        if "return" in message:
            return
    raise PermanentError("QEMU closed its control socket")


def choose_accelerator(kernel: Path) -> Accelerator:
    """
    Give KVM if it really boots a kernel here, else TCG.

    A /dev/kvm that opens proves little: under some nested hypervisors SeaBIOS runs and then everything hangs in real
    mode. So the agent's kernel is started, and it has to say a word.
    """
    if not Path("/dev/kvm").exists():
        return "tcg"
    board = firmware.Q35
    probe = [processes.find_program(board.qemu), "-machine", "q35", *_processor(board, "kvm"), "-m", "256"]
    probe += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel)]
    probe += ["-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"]
    works = _says(probe, b"Linux version", KVM_PROBE_SECONDS)
    log.info("lab.kvm_probed", works=works)
    return "kvm" if works else "tcg"


def _says(command: Sequence[str], word: bytes, seconds: float) -> bool:
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return word in (error.stdout or b"")
    return word in result.stdout

"""Lab machines and their BMCs: real QEMU, real ipmi_sim, driven by ipmitool, which we did not write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from provider.domain.inventory import FirmwareKind
from provider.lab import network
from provider.lab.bmc import Account, VirtualBmc
from provider.lab.disks import MIB, DiskImage
from provider.lab.machines import LabMachine
from provider.lab.network import Network
from provider.lab.qemu import Files, Hardware

SECONDS = 30.0
ACCOUNT = Account("admin", "secret12")
UUID = "11111111-2222-4333-8444-555555555555"


def _machine(folder: Path) -> LabMachine:
    disks = (DiskImage(folder / "m" / "disk.img", "DISK", "virtio-blk-pci", 32 * MIB),)
    mac, kcs = "52:54:00:77:00:01", 9002
    hardware = Hardware(1, FirmwareKind.BIOS, UUID, "LAB-01", mac, network.tap_name(1), 128, disks, kcs, 0)
    bmc = VirtualBmc("LAB-01", folder / "m" / "bmc", network.bmc_address(1), kcs, UUID, ACCOUNT)
    return LabMachine(hardware, Files(folder / "m"), bmc, "tcg")


@contextlib.asynccontextmanager
async def _running(folder: Path) -> AsyncIterator[LabMachine]:
    machine = _machine(folder)
    net = Network(1)
    await net.open()
    try:
        await machine.open()
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(machine.run())
            yield machine
            running.cancel()
    finally:
        await machine.close()
        await net.close()


def _drive(folder: Path, script: Callable[[LabMachine], Awaitable[None]]) -> None:
    async def main() -> None:
        async with _running(folder) as machine:
            await script(machine)

    asyncio.run(main())


async def _ipmi(machine: LabMachine, *command: str) -> str:
    login = ["-I", "lanplus", "-C", "3", "-H", str(machine.bmc.address), "-U", ACCOUNT.user, "-P", ACCOUNT.password]
    process = await asyncio.create_subprocess_exec(
        "ipmitool", *login, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode().strip()


def test_bmc_holds_the_power_switch(tmp_path: Path) -> None:
    """What the BMC says of the power and what the machine does are two different things."""

    async def script(machine: LabMachine) -> None:
        assert await _ipmi(machine, "power", "status") == "Chassis Power is off"
        await _ipmi(machine, "power", "on")
        await machine.wait_for_power(on=True)
        assert await _ipmi(machine, "power", "status") == "Chassis Power is on"
        await _ipmi(machine, "power", "on")  # Once more changes nothing.
        await machine.console_says("SeaBIOS")
        await _ipmi(machine, "power", "off")
        await machine.wait_for_power(on=False)
        assert await _ipmi(machine, "power", "status") == "Chassis Power is off"
        assert len(machine.powered_on_at) == 1

    _drive(tmp_path, script)


def test_cycle_is_off_and_on(tmp_path: Path) -> None:
    """A power cycle leaves the machine as it is, or off."""

    async def script(machine: LabMachine) -> None:
        await machine.press_power_button()
        await _ipmi(machine, "power", "cycle")
        await machine.wait_for_power(on=False)
        await machine.wait_for_power(on=True)
        assert len(machine.powered_on_at) == 2

    _drive(tmp_path, script)


def test_reset_boots_again_without_a_power_cut(tmp_path: Path) -> None:
    """A reset ends QEMU, so that the BMC says off."""

    async def script(machine: LabMachine) -> None:
        await machine.press_power_button()
        await machine.console_says("SeaBIOS")
        await _ipmi(machine, "power", "reset")
        await machine.console_says("SeaBIOS (version", times=2)
        assert machine.is_on
        assert len(machine.powered_on_at) == 1

    _drive(tmp_path, script)


def test_machine_that_dies_is_off(tmp_path: Path) -> None:
    """The BMC of a machine that burnt down says that it is on."""

    async def script(machine: LabMachine) -> None:
        await machine.press_power_button()
        await machine.die()
        await machine.wait_for_power(on=False)
        assert await _ipmi(machine, "power", "status") == "Chassis Power is off"

    _drive(tmp_path, script)


def test_boot_override_is_good_for_one_boot(tmp_path: Path) -> None:
    """A machine that was told once to boot from its disk never boots from the network again."""

    async def script(machine: LabMachine) -> None:
        await _ipmi(machine, "chassis", "bootdev", "disk")
        await machine.press_power_button()
        await machine.console_says("Booting from Hard Disk")
        await _ipmi(machine, "power", "off")
        await machine.wait_for_power(on=False)
        machine.files.console_log.unlink()
        await machine.press_power_button()
        await machine.console_says("iPXE")
        assert b"Booting from Hard Disk" not in machine.files.console_log.read_bytes()

    _drive(tmp_path, script)


def test_wrong_password_is_refused(tmp_path: Path) -> None:
    """Anybody can switch machines off."""

    async def script(machine: LabMachine) -> None:
        with pytest.raises(AssertionError, match="Unable to establish"):
            await _ipmi(machine, "-P", "wrong", "power", "off")

    _drive(tmp_path, script)

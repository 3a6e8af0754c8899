"""
A lab that is up: machines, provider, manager, the wire between those two, and the witness who watches all of it.

`up` makes everything in the namespaces that it is called in and takes it down again. It is the same for the command line
and for tests; a test drives the same objects that the story drives.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from provider.domain.errors import PermanentError
from provider.kit.unixhttp import UnixHttp
from provider.lab import daemons, disks, firmware, installer, network, qemu, talos
from provider.lab.bmc import Account, VirtualBmc
from provider.lab.daemons import Daemon, Places
from provider.lab.foreign_dhcp import ForeignDhcp
from provider.lab.machines import LabMachine
from provider.lab.managers import Manager, ReferenceManager
from provider.lab.network import Network
from provider.lab.omni.desk_client import DeskClient
from provider.lab.omni_manager import OmniManager
from provider.lab.qemu import Accelerator, Files, Hardware
from provider.lab.settings import LabFile, LabSettings
from provider.lab.uplink import Uplink
from provider.lab.witness import Witness
from provider.reference_manager.client import Client

log = structlog.get_logger()

_ACCOUNT = Account("bootwright", "lab-secret-1")
_FIRST_KCS_PORT = 9001
_LONGEST_SOCKET_PATH = 107
"""Linux: sun_path has 108 bytes, the last of which is zero."""


@dataclass(frozen=True)
class Lab:
    """What is up."""

    settings: LabSettings
    places: Places
    machines: Sequence[LabMachine]
    provider: Daemon
    manager: Daemon
    uplink: Uplink
    client: Manager
    """What the manager is asked, and asked to decide."""
    operators: UnixHttp
    witness: Witness


@contextlib.asynccontextmanager
async def up(file: LabFile, folder: Path, assets: Path, accelerator: Accelerator) -> AsyncIterator[Lab]:
    """
    Bring a lab up in `folder`, which is emptied first, and take it down at the end.

    Raises:
        PermanentError: If it cannot be brought up, or if a daemon ends by itself while it is up.
    """
    places = _prepare(folder)
    settings = file.lab
    machines = [_machine(number, settings, places, accelerator) for number in range(1, settings.machines + 1)]
    async with contextlib.AsyncExitStack() as stack:
        net = Network(len(machines))
        await net.open()
        stack.push_async_callback(net.close)
        foreign_dhcp = _foreign_dhcp(places, settings, machines) if settings.dhcp == "proxy" else None
        if foreign_dhcp is not None:
            stack.push_async_callback(foreign_dhcp.close)
            await foreign_dhcp.open()
        for machine in machines:
            stack.push_async_callback(machine.close)
            await machine.open()
        start_manager = _omni if settings.manager == "omni" else _reference_manager
        manager, client, told = await start_manager(stack, places, settings, machines, assets)
        uplink = Uplink(daemons.UPLINK_PORT, daemons.MANAGER_PORT)
        await uplink.mend()
        stack.push_async_callback(uplink.cut)
        installer.build(places.folder / "installer.cpio")
        daemons.write_configuration(places, file.provider_settings(), assets, machines, told)
        provider = await _running(stack, daemons.make_provider(places, settings.patience.start))
        operators = await stack.enter_async_context(UnixHttp(places.operator_socket, "the provider"))
        witness = Witness(operators, client)
        runs = [machine.run() for machine in machines]
        if foreign_dhcp is not None:
            runs.append(foreign_dhcp.watch())
        async with _beside(witness.run(), provider.watch(), manager.watch(), *runs):
            yield Lab(settings, places, machines, provider, manager, uplink, client, operators, witness)


_Started = tuple[Daemon, Manager, Mapping[str, Any]]
"""A manager that runs, who speaks to it, and what the provider's configuration says of it."""


async def _reference_manager(
    stack: contextlib.AsyncExitStack, places: Places, settings: LabSettings, machines: Sequence[LabMachine], _: Path
) -> _Started:
    daemon = await _running(stack, daemons.make_manager(places, settings.patience.start))
    client = await stack.enter_async_context(Client(places.manager_socket))
    return daemon, ReferenceManager(client), daemons.of_reference_manager(places, machines)


async def _omni(
    stack: contextlib.AsyncExitStack,
    places: Places,
    settings: LabSettings,
    machines: Sequence[LabMachine],
    assets: Path,
) -> _Started:
    talos.require_libraries()
    bmcs = {machine.hardware.uuid: str(machine.bmc.address) for machine in machines}
    await asyncio.to_thread(talos.build_images, places.talos, assets, bmcs)
    daemon = await _running(stack, daemons.make_omni(places, settings.patience.start))
    desk = OmniManager(await stack.enter_async_context(DeskClient(places.desk_socket)))
    daemons.keep_omni_key(places, await desk.create_provider())
    return daemon, desk, daemons.of_omni(places)


def _foreign_dhcp(places: Places, settings: LabSettings, machines: Sequence[LabMachine]) -> ForeignDhcp:
    is_signed = any(machine.hardware.firmware in firmware.SIGNED_CHAIN for machine in machines)
    return ForeignDhcp(places.folder, settings.patience.start, network.PROVIDER_ADDRESS.ip if is_signed else None)


def _prepare(folder: Path) -> Places:
    """Empty the folder of the last run's files."""
    places = Places(folder.resolve())
    longest = Files(places.machine("LAB-00")).console_socket
    if len(str(longest)) > _LONGEST_SOCKET_PATH:
        raise PermanentError(
            f"{longest} is too long for a UNIX socket ({_LONGEST_SOCKET_PATH} bytes)",
            hint="choose a shorter folder: --state-dir",
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return places


def _machine(number: int, settings: LabSettings, places: Places, accelerator: Accelerator) -> LabMachine:
    serial = f"LAB-{number:02}"
    folder = places.machine(serial)
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"bootwright:lab:{number}"))
    size = settings.disk_mib * disks.MIB
    hardware = Hardware(
        number=number,
        firmware=settings.firmware_of(number),
        uuid=identity,
        serial=serial,
        mac=f"52:54:00:77:00:{number:02x}",
        tap=network.tap_name(number),
        memory_mib=settings.memory_mib,
        disks=(
            disks.DiskImage(folder / "virtio.img", f"{serial}-VIRTIO", "virtio-blk-pci", size),
            disks.DiskImage(folder / "nvme.img", f"{serial}-NVME", "nvme", size),
        ),
        kcs_port=_FIRST_KCS_PORT + number,
        disk_bytes_per_second=settings.disk_bytes_per_second,
    )
    address = network.bmc_address(number)
    bmc = VirtualBmc(serial, folder / "bmc", address, hardware.kcs_port, identity, _ACCOUNT)
    return LabMachine(hardware, Files(folder), bmc, accelerator)


async def _running(stack: contextlib.AsyncExitStack, daemon: Daemon) -> Daemon:
    stack.push_async_callback(daemon.stop)
    await daemon.start()
    return daemon


@contextlib.asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run things that never return beside the block; the first that fails ends the block with its error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as failures:
        raise first_cause(failures) from failures


def first_cause(failure: BaseException) -> BaseException:
    """The first error within groups of groups of them: what made the others end."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


async def choose_accelerator(assets: Path) -> Accelerator:
    """KVM if it works here; probed with the agent's own kernel."""
    return await asyncio.to_thread(qemu.choose_accelerator, assets / "x86_64" / "vmlinuz")

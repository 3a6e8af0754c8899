"""
The load of `./dev bench storm`: a share of the machines, from DHCPDISCOVER to the agent's inventory, all in one loop.

Each machine does in its order what firmware, iPXE and the agent do, and waits for work afterwards as an agent does, until the
program is told to end (end of standard input). `python -m bench.storm_load INTERFACE FIRST COUNT` prints a line of JSON
when all machines have handed in their inventories.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import resource
import sys
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import uvloop

from bench import firmware, web
from bench.firmware import DhcpClients, GaveUpError, Hardware, Patience
from provider.agent import kernel_line
from provider.agent.client import pinned_context
from provider.domain import mac as macs
from provider.domain.inventory import BmcPresence, Cpu, Disk, DiskKind, FirmwareKind, Inventory, Nic, System
from provider.wire import agent as wire
from provider.wire.agent import Enrolment, KernelArguments

PXE_WINDOW = {True: 4, False: 1}
"""Blocks in flight, UEFI (EDK2, PcdPxeTftpWindowSize) and BIOS."""

_SLOTS = 4


@dataclass
class Machine:
    """One machine; `run` is its life."""

    hardware: Hardware
    patience: Patience = field(default_factory=Patience)
    machine_id: str = ""
    began: float = 0.0
    """Wall-clock time, as everybody on this computer sees it."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds from `began` to the end of each stage."""
    reported: asyncio.Event = field(default_factory=asyncio.Event)

    def reached(self, stage: str) -> None:
        """Note the end of a stage."""
        self.stages[stage] = time.time() - self.began

    async def run(self, clients: DhcpClients) -> None:
        """
        Boot, report, and wait for work that never comes, because nobody accepts the machine.

        Raises:
            GaveUpError: If it cannot boot.
        """
        try:
            await self._live(clients)
        except (GaveUpError, TimeoutError, OSError, EOFError) as error:
            last = next(reversed(self.stages), "power-on")
            raise GaveUpError(f"machine {self.hardware.number}, after {last}: {error or 'out of time'}") from error

    async def _live(self, clients: DhcpClients) -> None:
        self.began = time.time()
        nbp = await clients.lease(self.hardware, firmware.rom(self.hardware), self.patience)
        self.reached("DHCPACK")
        source, file = str(nbp.yiaddr), nbp.file.rstrip(b"\0").decode()
        await firmware.fetch_nbp(source, str(nbp.siaddr), file, PXE_WINDOW[self.hardware.uefi], self.patience)
        self.reached("NBP")
        lease = await clients.lease(self.hardware, firmware.ipxe(self.hardware), self.patience)
        line = await self._load_kernel(str(lease.yiaddr), lease.file.rstrip(b"\0").decode())
        lease = await clients.lease(self.hardware, firmware.agent(), self.patience)
        await self._be_agent(str(lease.yiaddr), kernel_line.parse(line))

    async def _load_kernel(self, source: str, url: str) -> str:
        """What iPXE does; gives the kernel command line."""
        script = await self._get(source, url)
        (ask,) = {line.split()[3] for line in script.splitlines() if line.startswith("chain ") and "netX" in line}
        script = await self._get(source, firmware.expanded(ask, self._setting))
        self.reached("script")
        url, line = _command(script, "kernel").split(None, 1)
        await self._fetch(source, url)
        self.reached("kernel")
        await self._fetch(source, _command(script, "initrd").split()[-1])
        self.reached("initramfs")
        return line

    def _setting(self, name: str) -> str:
        """A setting of iPXE on this machine."""
        return {
            "netX/mac:hexhyp": self.hardware.mac.replace(":", "-"),
            "uuid": str(self.hardware.uuid),
            "serial:uristring": self.serial,
            "board-serial:uristring": f"B{self.serial}",
            "platform": "efi" if self.hardware.uefi else "pcbios",
            "buildarch": "x86_64" if self.hardware.uefi else "i386",
        }[name]

    async def _be_agent(self, source: str, told: KernelArguments) -> None:
        """What the agent does."""
        ca = await self._get(source, f"{told.boot_url}/ca.pem")
        url = urllib.parse.urlsplit(told.url)
        tls = pinned_context(ca.encode(), told.ca)
        async with web.Connection(source, url.hostname or "", url.port or 443, tls, wire.SERVER_NAME) as provider:
            enrolled = await provider.ask("POST", "/agent/v1/enrol", dataclasses.asdict(self._enrolment(told)))
            document = json.loads(enrolled.body)
            self.machine_id, token = document["machine_id"], document["token"]
            self.reached("agent")
            await provider.ask("PUT", "/agent/v1/inventory", dataclasses.asdict(self._inventory()), token)
            self.reached("inventory")
            self.reported.set()
            seconds = wire.LONG_POLL_SECONDS
            while True:
                await provider.ask("GET", f"/agent/v1/work?wait={seconds}", None, token, seconds + web.SECONDS)

    async def _get(self, source: str, url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        return await web.get(source, parts.hostname or "", parts.port or 80, _path(parts))

    async def _fetch(self, source: str, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        await web.fetch(source, parts.hostname or "", parts.port or 80, _path(parts))

    @property
    def serial(self) -> str:
        """Of the chassis."""
        return f"STORM{self.hardware.number:06}"

    def _enrolment(self, told: KernelArguments) -> Enrolment:
        return Enrolment(
            ticket=told.ticket,
            nonce=f"{self.hardware.number:032x}",
            uuid=str(self.hardware.uuid),
            serial=self.serial,
            board_serial=f"B{self.serial}",
            chassis_serial=self.serial,
            macs=tuple(nic.mac for nic in self._nics()),
            firmware=self._kind.value,
            agent_version="storm",
        )

    @property
    def _kind(self) -> FirmwareKind:
        return FirmwareKind.UEFI if self.hardware.uefi else FirmwareKind.BIOS

    def _nics(self) -> tuple[Nic, ...]:
        second = f"52:54:01{self.hardware.mac[8:]}"
        return (
            Nic("eth0", self.hardware.mac, link=True, speed_mbps=25000, driver="mlx5_core", booted_from=True),
            Nic("eth1", second, driver="mlx5_core"),
        )

    def _inventory(self) -> Inventory:
        """A server with two NVMe disks and four others."""
        serial = self.serial
        disks = tuple(
            Disk(
                f"/dev/nvme{slot}n1", 1_920_383_410_176, f"{serial}N{slot}", f"eui.{self.hardware.number:014x}{slot:02}",
                "SAMSUNG MZQL21T9HCJR-00A07", DiskKind.NVME, "nvme", supports_discard=True,
            )
            for slot in range(_SLOTS)
        )  # fmt: skip
        return Inventory(
            system=System(str(self.hardware.uuid), "Supermicro", "SYS-120U-TNR", serial, f"B{serial}", serial, "1.4b"),
            firmware=self._kind,
            architecture="x86_64",
            cpu=Cpu("Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz", 2, 56, 112, 3100),
            memory_bytes=512 << 30,
            disks=disks,
            nics=self._nics(),
            bmc=BmcPresence(present=True, interface="kcs"),
            agent_version="storm",
        )


def _command(script: str, name: str) -> str:
    """The arguments of a command, without what iPXE does if it fails."""
    line = next(line for line in script.splitlines() if line.startswith(f"{name} "))
    return line.removeprefix(f"{name} ").split(" || ")[0]


def _path(parts: urllib.parse.SplitResult) -> str:
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _machine(number: int) -> Machine:
    mac = macs.from_bytes(bytes.fromhex(f"525400{number:06x}"))
    return Machine(Hardware(number, mac, UUID(int=(0xB007 << 112) + number), uefi=number % 2 == 0))


async def _run(interface: str, first: int, count: int) -> None:
    clients = DhcpClients(interface)
    clients.listen()
    machines = [_machine(number) for number in range(first, first + count)]
    async with asyncio.TaskGroup() as group:
        lives = [group.create_task(machine.run(clients)) for machine in machines]
        for machine in machines:
            await machine.reported.wait()
        sys.stdout.write(json.dumps([_document(machine) for machine in machines]) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        for life in lives:
            life.cancel()


def _document(machine: Machine) -> Mapping[str, object]:
    return {
        "id": machine.machine_id,
        "began": machine.began,
        "stages": machine.stages,
        "again": machine.patience.again,
        "late": machine.patience.late,
    }


def main() -> None:
    """Run the machines; status 1 as soon as one cannot boot."""
    interface, first, count = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        uvloop.run(_run(interface, int(first), int(count)))
    except* GaveUpError as errors:
        sys.exit(f"{len(errors.exceptions)} machines gave up: {errors.exceptions[0]}")


if __name__ == "__main__":
    main()

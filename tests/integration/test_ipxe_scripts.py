"""
Our scripts in a real iPXE: the boot ROM of QEMU's network cards runs them, and the machine's screen tells what it did.

Nothing but a ROM, a disk of one sector and our own listener: QEMU's user network has a DHCP server, and the machine reaches us
through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from provider.domain.errors import PermanentError, TemporaryError, UnderWayError
from provider.domain.mac import MacAddress
from provider.domain.machine import AgentKind, BootMode, Evidence, HandOff
from provider.domain.secret import Secret
from provider.http import boot
from provider.http.listener import Listener
from provider.lab import firmware
from provider.lab.firmware import Firmware
from provider.planning.boot import BootDecision
from provider.planning.kernels import Caller, KernelBoot, Profile, Site
from provider.wire import ipxe
from tests.integration.wires import must, run

ADDRESS = "10.77.0.1"
PORT = 8080
MACS = (MacAddress("52:54:00:00:00:01"), MacAddress("52:54:00:00:00:02"))
PATIENCE = 120.0  # seconds

pytestmark = pytest.mark.timeout(400)

BOOT_SECTOR = (
    bytes.fromhex("31c0 8ed8 fc be167c baf803 ac 84c0 7403 ee ebf8 f4 ebfd") + b"this is the disk\r\n\0"
).ljust(510, b"\0") + b"\x55\xaa"
"""Writes to the serial port: xor ax,ax; mov ds,ax; cld; mov si,0x7c16; mov dx,0x3f8; lodsb, out dx,al until NUL; hlt."""


class Boots:
    """Decides as it is told to, if at all, and remembers who asked and what failed."""

    def __init__(self, decision: BootDecision | None) -> None:
        self.decision = decision
        self.asked: list[Evidence] = []
        self.failures: list[tuple[MacAddress, str, str]] = []
        self.waits: list[str] = []
        self.impossible: list[str] = []

    async def decide(self, evidence: Evidence, *, again: bool = False) -> BootDecision:
        self.asked.append(evidence)
        if self.decision is None:
            raise TemporaryError("the store does not answer", retry_after=timedelta(seconds=1))
        return self.decision

    def note_waiting(self, machine_id: str, reason: str) -> None:
        self.waits.append(reason)

    def note_impossible(self, machine_id: str, error: PermanentError) -> None:
        self.impossible.append(str(error))

    def note_failure(self, mac: MacAddress, stage: str, error: str) -> None:
        self.failures.append((mac, stage, error[:-2]))  # The rest is a line of iPXE's source, which differs.

    def note_file(self, machine_id: str, file: str, bytes_: int, seconds: float) -> None:
        raise AssertionError(f"no machine gets {file} here")


class Screen:
    """A machine's serial console."""

    def __init__(self, output: asyncio.StreamReader) -> None:
        self._output = output
        self.text = ""

    async def says(self, words: str) -> None:
        """Wait for words behind the ones before."""
        async with asyncio.timeout(PATIENCE):
            while words not in self.text:
                part = await self._output.read(4096)
                assert part, self.text
                self.text += part.decode("ascii", errors="replace")


@contextlib.asynccontextmanager
async def machine(folder: Path, networks: Sequence[str], *, uefi: bool) -> AsyncIterator[Screen]:
    """A machine with a card in each network; it boots from the first, and then from its disk."""
    disk = folder / "disk"
    disk.write_bytes(BOOT_SECTOR.ljust(1 << 20, b"\0"))
    line = ["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-nodefaults", "-nographic", "-serial", "stdio"]
    line += ["-drive", f"file={disk},if=none,id=disk,format=raw", "-device", "virtio-blk-pci,drive=disk,bootindex=2"]
    for number, (mac, network) in enumerate(zip(MACS, networks, strict=False)):
        card = f"virtio-net-pci,netdev=n{number},mac={mac}" + (",bootindex=1" if number == 0 else ",romfile=")
        line += ["-netdev", f"user,id=n{number},{network}", "-device", card]
    if uefi:
        made = firmware.UEFI[Firmware.UEFI]
        code, variables = (firmware.find(paths, made.package) for paths in (made.code, made.variables))
        shutil.copyfile(variables, folder / "variables")
        # Else it may look for a DHCPv6 server before it looks at the disk, for minutes.
        line += ["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]
        for unit, path in enumerate((f"{code},readonly=on", folder / "variables")):
            line += ["-drive", f"if=pflash,unit={unit},format=raw,file={path}"]
    process = await asyncio.create_subprocess_exec(
        *line, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield Screen(process.stdout)
    finally:
        process.kill()
        await process.wait()


def with_machine(
    folder: Path,
    decision: BootDecision | None,
    use: Callable[[Boots, Screen], Awaitable[None]],
    networks: Sequence[str] = (f"bootfile=http://{ADDRESS}:{PORT}/boot.ipxe",),
    *,
    uefi: bool = False,
    talos: Talos | None = None,
) -> None:
    """Switch a machine on that gets this decision."""
    boots = Boots(decision)
    site = Site(http_port=PORT, agent_port=8443, ca_sha256="", agent_images={}, profiles={"linux": Profile()})

    async def main() -> None:
        listener = Listener("boot HTTP server", boot.application(site, boot.Files(b""), boots, talos))  # type: ignore[arg-type]
        listener.bind_tcp(ADDRESS, PORT)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(listener.run())
            async with machine(folder, networks, uefi=uefi) as screen:
                await use(boots, screen)
            serving.cancel()

    must("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo")
    try:
        asyncio.run(main())
    finally:
        run("ip", "addr", "del", f"{ADDRESS}/32", "dev", "lo")


def to_disk(hand_off: HandOff) -> BootDecision:
    return BootDecision("m-1", BootMode.DISK, "installed", "it is installed", hand_off=hand_off)


@pytest.mark.parametrize("hand_off", list(HandOff))
def test_every_way_to_the_disk(tmp_path: Path, hand_off: HandOff) -> None:
    """A machine that shall boot its disk stays in iPXE (edge case 47)."""

    async def use(boots: Boots, screen: Screen) -> None:
        await screen.says("going on to the next boot device")
        await screen.says("this is the disk")
        assert [evidence.macs for evidence in boots.asked] == [(MACS[0],)]
        assert boots.failures == []

    with_machine(tmp_path, to_disk(hand_off), use)


@pytest.mark.parametrize("hand_off", [HandOff.SANBOOT, HandOff.HTTP_404])
def test_every_way_out_of_uefi(tmp_path: Path, hand_off: HandOff) -> None:
    """
    A way to the disk ends in the menu of the firmware, or hangs (edge case 48).

    There is no boot loader on this disk: that the firmware looks for one is what we wait for. `exit` is in the whole story.
    """

    async def use(boots: Boots, screen: Screen) -> None:
        await screen.says("going on to the next boot device")
        await screen.says('Boot0001 "UEFI Misc Device"')
        assert len(boots.asked) == 1

    with_machine(tmp_path, to_disk(hand_off), use, uefi=True)


def test_nothing_to_boot(tmp_path: Path) -> None:
    """A machine that is none of ours is kept from its disk (edge case 28)."""

    async def use(_boots: Boots, screen: Screen) -> None:
        await screen.says("rejected, nothing to boot from here")
        await screen.says("this is the disk")

    with_machine(tmp_path, BootDecision("m-1", BootMode.NOTHING, "rejected", "rejected"), use)


def test_kernel_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose kernel cannot be had tries once, hangs, or boots in circles, and nobody learns why (edge case 51)."""
    monkeypatch.setattr(ipxe, "PAUSES", (1, 2))
    decision = BootDecision("m-1", BootMode.INSTALL, "installing", "", ticket=Secret("t"), profile="linux")

    async def use(boots: Boots, screen: Screen) -> None:
        await screen.says("it cannot be loaded, going on to the next boot device")
        await screen.says("this is the disk")
        assert screen.text.count("/profiles/linux/kernel") == 3, "at once, and after each pause"
        assert boots.failures == [(MACS[0], "kernel", "https://ipxe.org/2d0c61")], "no such file, says the HTTP client"
        assert len(boots.asked) == 1

    with_machine(tmp_path, decision, use)


def test_no_decision_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that gets no script hangs, or nobody hears of it (edge cases 44, 51)."""
    monkeypatch.setattr(ipxe, "PAUSES", (1,))

    async def use(boots: Boots, screen: Screen) -> None:
        await screen.says("no answer, trying each interface")
        await screen.says("this is the disk")
        assert len(boots.asked) == 3, "at once, after a pause, and with a new address"
        assert boots.failures == [(MACS[0], "script", "https://ipxe.org/1d0c65")], (
            "a server error, says the HTTP client"
        )

    with_machine(tmp_path, None, use)


class Talos:
    """Fetches twice, and finds out then that there is nothing."""

    def __init__(self) -> None:
        self.asked = 0

    async def choose(self, decision: BootDecision, caller: Caller, uuid: str, *, is_uefi: bool) -> KernelBoot:
        self.asked += 1
        if self.asked < 3:
            raise UnderWayError(f"Talos is being fetched: {self.asked} MiB so far", retry_after=timedelta(seconds=1))
        raise PermanentError("the factory knows no such version")


def test_talos_that_is_being_fetched(tmp_path: Path) -> None:
    """A machine goes to its disk while its image is fetched, asks as another one, or fills its events."""
    decision = BootDecision("m-1", BootMode.AGENT, "pending", "", agent=AgentKind.TALOS)

    async def use(boots: Boots, screen: Screen) -> None:
        await screen.says("Talos is being fetched: 1 MiB so far, asking again in 2 s")
        await screen.says("Talos is being fetched: 2 MiB so far, asking again in 2 s")
        await screen.says("no script can be made: the factory knows no such version")
        await screen.says("this is the disk")
        assert [evidence.macs[0] for evidence in boots.asked] == [MACS[0]] * 3
        assert len({evidence.uuid for evidence in boots.asked}) == 1
        assert boots.waits == ["Talos is being fetched: 1 MiB so far"]
        assert boots.impossible == ["the factory knows no such version"]
        assert boots.failures == []

    with_machine(tmp_path, decision, use, talos=Talos())


def test_each_interface_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot reach us where it booted never reaches us by its other cable (edge case 44)."""
    monkeypatch.setattr(ipxe, "PAUSES", (1,))
    (tmp_path / "first").mkdir()
    (tmp_path / "first/boot.ipxe").write_text(ipxe.bootstrap_script(f"http://{ADDRESS}:{PORT}"))
    # Our address seems to be on this cable, and nobody has it there.
    first = f"net=10.77.0.0/24,host=10.77.0.2,dhcpstart=10.77.0.9,tftp={tmp_path / 'first'},bootfile=boot.ipxe"

    async def use(boots: Boots, screen: Screen) -> None:
        await screen.says("no answer, trying each interface")
        await screen.says("this is the disk")
        assert [evidence.macs for evidence in boots.asked] == [(MACS[1],)]

    with_machine(tmp_path, to_disk(HandOff.EXIT), use, (first, "net=10.2.0.0/24"))

"""
A virtual BMC: OpenIPMI's ipmi_sim, with its hand on the machine's power switch.

ipmi_sim speaks RMCP+ on an address of its own and KCS to the machine. For each chassis command it runs `chassis.sh`,
which reads state files (`power`, `boot`) and writes lines such as `power 1` to the FIFO `switch`. The lab holds the
other ends: `Switch.commands` gives the lines, `Switch.show` writes the states. Commands may come twice; who obeys must
not mind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from provider.domain.errors import PermanentError
from provider.lab.processes import Process, tail

log = structlog.get_logger()

PORT = 623
CHASSIS_PROGRAM = Path(__file__).with_name("chassis.sh")

_EMULATION = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
"""
"""One management controller with a SEL. Each byte needs its 0x: a line that does not parse silences the whole BMC."""

_CONFIGURATION = """\
name "{name}"
set_working_mc 0x20
  startlan 1
    addr {address} {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid {guid}
  endlan
  chassis_control "sh {program} {folder}"
  serial 15 127.0.0.1 {kcs_port} codec VM
  startnow false
  user 1 true "" "" user 5 none md2 md5 straight
  user 2 true "{user}" "{password}" admin 10 none md2 md5 straight
"""


_PRESENCE_PING = bytes.fromhex("0600ff06 000011be 80000000")
"""RMCP, class ASF, message type presence ping (ASF 2.0 section 3.2.4.2)."""

START_SECONDS = 10.0
_PONG_SECONDS = 0.1


@dataclass(frozen=True)
class Account:
    """Who may log in to the BMC. It guards a virtual machine on a network that nobody else sees."""

    user: str
    password: str


class Switch:
    """State files and FIFO between one BMC and its machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fifo = -1

    def open(self) -> None:
        """Make folder, states (`power 0`, `boot none`) and FIFO."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.show("power", "0")
        self.show("boot", "none")
        fifo = self.folder / "switch"
        os.mkfifo(fifo, 0o600)
        # For reading and writing: the first writer must not wait for us, nor the last one end the stream.
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the FIFO back; a BMC that writes from now on would wait for ever, so it has to be gone."""
        if self._fifo >= 0:
            os.close(self._fifo)
            self._fifo = -1

    def show(self, name: str, value: str) -> None:
        """Set what the BMC reads; it sees the old value or the new, never half of one."""
        fresh = self.folder / f"{name}.new"
        fresh.write_text(f"{value}\n")
        fresh.replace(self.folder / name)

    def press(self, name: str, value: str) -> None:
        """Give a command, as the BMC does."""
        os.write(self._fifo, f"{name} {value}\n".encode())

    async def commands(self) -> AsyncIterator[tuple[str, str]]:
        """Give each command as (name, value), such as ("power", "1"), for as long as the caller asks."""
        reader = asyncio.StreamReader()
        with os.fdopen(os.dup(self._fifo), "rb", buffering=0) as pipe:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
            with contextlib.closing(transport):
                while line := await reader.readline():
                    name, _, value = line.decode(errors="replace").strip().partition(" ")
                    yield name, value.strip('"')


class VirtualBmc:
    """One ipmi_sim process."""

    def __init__(
        self, name: str, folder: Path, address: IPv4Address, kcs_port: int, guid: str, account: Account
    ) -> None:
        self.name = name
        self.address = address
        self.account = account
        self.switch = Switch(folder / "chassis")
        self._folder = folder
        self._kcs_port = kcs_port
        self._guid = guid
        self._process: Process | None = None

    async def open(self) -> None:
        """Write the configuration, start ipmi_sim and wait until it listens."""
        self.switch.open()
        state = self._folder / "state"
        state.mkdir()
        configuration = self._folder / "lan.conf"
        configuration.write_text(self._configuration())
        emulation = self._folder / "sim.emu"
        emulation.write_text(_EMULATION)
        command: list[str | Path] = ["ipmi_sim", "-c", configuration, "-f", emulation, "-s", state, "-n"]
        self._process = await Process.start(f"bmc of {self.name}", command, self._folder / "ipmi_sim.log")
        await self._wait_until_it_answers()

    async def close(self) -> None:
        """End it; the machine does not notice, as with a real one."""
        if self._process is not None:
            await self._process.kill()
        self.switch.close()

    async def _wait_until_it_answers(self) -> None:
        """
        Ping by ASF until the pong comes.

        Raises:
            PermanentError: If it does not come within `START_SECONDS`; says what ipmi_sim said.
        """
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect((str(self.address), PORT))
            try:
                async with asyncio.timeout(START_SECONDS):
                    while not await _answers(loop, client):
                        pass
            except TimeoutError as error:
                log_file = self._folder / "ipmi_sim.log"
                raise PermanentError(f"the BMC of {self.name} does not answer; it said: {tail(log_file)}") from error

    def _configuration(self) -> str:
        return _CONFIGURATION.format(
            name=self.name,
            address=self.address,
            port=PORT,
            guid=self._guid.replace("-", ""),
            program=CHASSIS_PROGRAM,
            folder=self.switch.folder,
            kcs_port=self._kcs_port,
            user=self.account.user,
            password=self.account.password,
        )


async def _answers(loop: asyncio.AbstractEventLoop, client: socket.socket) -> bool:
    """Send one ping and wait a moment for anything to come back."""
    try:
        async with asyncio.timeout(_PONG_SECONDS):
            await loop.sock_sendall(client, _PRESENCE_PING)
            return bool(await loop.sock_recv(client, 512))
    except ConnectionRefusedError:
        await asyncio.sleep(_PONG_SECONDS)
        return False
    except TimeoutError:
        return False

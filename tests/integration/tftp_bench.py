"""A TFTP server at our end of a cable, and clients that others wrote (curl, atftp, tftp-hpa) at the other."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from provider.domain.mac import MacAddress
from provider.netboot.tftp_server import TftpServer
from provider.planning.interfaces import Opening, Service
from provider.planning.loader import Loader
from provider.planning.reply import Scope
from provider.wire.tftp_transfer import Limits
from tests.integration.wires import Wire, must, wire

SERVER = "10.77.0.1"
MAC = MacAddress("52:54:00:12:34:56")
PATIENCE = 100.0  # seconds
SIZES = {"empty": 0, "one": 1, "block": 512, "blocks": 3 * 1468, "nbp": 229_376, "large": 3_000_001}
ROLLS_OVER = ("tiny-blocks", 8 * 65_536 + 8 * 100 + 3)
"""More than 65,535 blocks of eight bytes, which is the smallest that may be asked for."""


class Notebook:
    """What the server noted of the machine; `heard` waits for one of the names."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, dict[str, object]]] = []

    def may_netboot(self, mac: MacAddress) -> bool:
        return True

    def loader(self, mac: MacAddress, *, begins: bool) -> Loader:
        return Loader.IPXE

    def note(self, mac: MacAddress, name: str, **data: str | int | float | bool | None) -> None:
        assert mac == MAC
        self.noted.append((name, dict(data)))

    async def heard(self, name: str) -> dict[str, object]:
        async with asyncio.timeout(PATIENCE):
            while True:
                for noted, data in self.noted:
                    if noted == name:
                        return data
                await asyncio.sleep(0.02)


class Bench:
    """A server on our end of a cable, and a client's namespace at the other."""

    server: TftpServer

    def __init__(self, cable: Wire, folder: Path) -> None:
        self.cable = cable
        self.notebook = Notebook()
        self._files = folder / "served"
        self._got = folder / "got"

    def make_files(self) -> None:
        self._files.mkdir()
        self._got.mkdir()
        (self._files / "boot").mkdir()
        for name, size in (*SIZES.items(), ROLLS_OVER):
            (self._files / name).write_bytes(random.Random(name).randbytes(size))
        (self._files / "boot/snponly.efi").write_bytes(b"nbp")
        (self._files.parent / "secret").write_text("secret")

    def find(self, name: str) -> Path | None:
        path = self._files / name
        return path if path.exists() and not path.is_dir() else None

    async def run(self, *command: str) -> tuple[int, str]:
        """Run as the client: status, and all that it said."""
        process = await asyncio.create_subprocess_exec(
            *self.cable.inside(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace")

    async def fetches(self, name: str, command: Callable[[str, str], list[str]], copy: str = "") -> None:
        """Fetch with a client's command for a name and a local file; every byte must be there."""
        got = self._got / f"{name}{copy}"
        status, said = await self.run(*command(name, str(got)))
        assert status == 0, said
        assert got.read_bytes() == (self._files / name).read_bytes()
        got.unlink()


def curl(*options: str) -> Callable[[str, str], list[str]]:
    return lambda name, got: ["curl", "-sSf", *options, "-o", got, f"tftp://{SERVER}/{name}"]


def atftp(*options: str) -> Callable[[str, str], list[str]]:
    given = [word for option in options for word in ("--option", option)]
    return lambda name, got: ["atftp", "--get", *given, "--remote-file", name, "--local-file", got, SERVER, "69"]


def hpa(name: str, got: str) -> list[str]:
    return ["tftp", "-m", "octet", SERVER, "-c", "get", name, got]


async def no_script(name: str, address: str) -> bytes | None:
    return b"made for " + address.encode() if name == "made" else None


def on(cable: Wire) -> Opening:
    """Our end of the cable."""
    network = IPv4Network("10.77.0.0/24")
    scope = Scope(cable.ours, IPv4Address(SERVER), network, proxy=False, http_port=8080, boot_files=frozenset())
    return Opening(Service.TFTP, scope, index=1)


@contextlib.asynccontextmanager
async def bench(cable: Wire, folder: Path, limits: Limits, *, single_port: bool) -> AsyncIterator[Bench]:
    made = Bench(cable, folder)
    made.make_files()
    must(*cable.inside("ip", "addr", "add", "10.77.0.9/24", "dev", cable.theirs))
    server = made.server = TftpServer(
        69,
        single_port=single_port,
        files=made.find,
        scripts=no_script,
        limits=limits,
        watch=made.notebook,
        mac_of=lambda _: MAC,
    )
    server.open(on(cable))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run())
        yield made
        task.cancel()


def with_bench(
    folder: Path,
    use: Callable[[Bench], Awaitable[None]],
    limits: Limits | None = None,
    *,
    single_port: bool = False,
) -> None:
    async def main(cable: Wire) -> None:
        async with bench(cable, folder, limits or Limits(), single_port=single_port) as made:
            await use(made)

    with wire(f"{SERVER}/24") as cable:
        asyncio.run(main(cable))


PROBE = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.sendto(b"\\0\\1large\\0octet\\0" + bytes.fromhex(sys.argv[2]), (sys.argv[1], 69))
answer, server = sock.recvfrom(2048)
print(answer.hex())
for further in sys.argv[3:]:
    sock.sendto(bytes.fromhex(further), server)
"""
"""A client that sends a request with options, prints the first answer, sends what it is told to, and is gone."""

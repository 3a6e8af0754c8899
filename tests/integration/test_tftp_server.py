"""The TFTP server against clients that others wrote (curl, atftp, tftp-hpa), on good networks and on bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import structlog
from tftpy.TftpPacketFactory import TftpPacketFactory
from tftpy.TftpPacketTypes import TftpPacketDAT, TftpPacketERR, TftpPacketWRQ

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

LOSS = {0: "", 10: "5: drop", 30: "2: drop, 5: drop, 8: drop"}
"""Which of ten packets are lost, by per cent. Counted out, not drawn: a test that fails once in a while proves nothing."""


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


CAN_FETCH_NOTHING = (curl("--tftp-no-options"), atftp())
"""tftp-hpa does not count an empty file as fetched, and curl takes a size of 0 for an error."""

CLIENTS = [
    pytest.param(CAN_FETCH_NOTHING[0], id="curl as in RFC 1350"),
    pytest.param(curl(), id="curl"),
    pytest.param(curl("--tftp-blksize", "1024"), id="curl, blocks of 1,024"),
    pytest.param(curl("--tftp-blksize", "65464"), id="curl, larger blocks than it gets"),
    pytest.param(CAN_FETCH_NOTHING[1], id="atftp"),
    pytest.param(atftp("blksize 1468", "tsize 0", "timeout 2"), id="atftp, all options"),
    pytest.param(atftp("blksize 1468", "windowsize 4"), id="atftp, windows of 4"),
    pytest.param(atftp("blksize 1468", "windowsize 64"), id="atftp, windows of 64"),
    pytest.param(hpa, id="tftp-hpa"),
]


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


@pytest.mark.parametrize("single_port", [False, True])
@pytest.mark.parametrize("command", CLIENTS)
def test_files_of_all_sizes_arrive(tmp_path: Path, command: Callable[[str, str], list[str]], single_port: bool) -> None:
    """Some client gets a file that is cut off, too long, or not at all."""

    async def use(made: Bench) -> None:
        for name in SIZES:
            if name != "empty" or command in CAN_FETCH_NOTHING:
                await made.fetches(name, command)

    with_bench(tmp_path, use, single_port=single_port)


def test_one_port_through_a_firewall(tmp_path: Path) -> None:
    """Behind a firewall that knows port 69 only, no data arrives (edge case 36)."""

    async def use(made: Bench) -> None:
        inside = made.cable.inside()
        must(*inside, "nft", "add table inet firewall")
        must(*inside, "nft", "add chain inet firewall input { type filter hook input priority 0; }")
        must(*inside, "nft", "add rule inet firewall input udp sport != 69 drop")
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(made.fetches("large", curl(), f"-{number}"))
        with _losing(10, made.cable):
            await made.fetches("blocks", atftp("blksize 1468", "windowsize 8"))

    with_bench(tmp_path, use, Limits(retry_after=0.1, retries=12), single_port=True)


def test_blocks_fit_the_path(tmp_path: Path) -> None:
    """Blocks come in fragments, which firmware does not put together (edge case 34)."""

    async def use(made: Bench) -> None:
        must("ip", "link", "set", made.cable.ours, "mtu", "1300")
        status, said = await made.run("python3", "-c", PROBE, SERVER, b"blksize\x001468\0".hex())
        assert status == 0, said
        assert b"blksize\x001268\0" in bytes.fromhex(said)
        await made.fetches("nbp", curl("--tftp-blksize", "1468"))

    with_bench(tmp_path, use)


WINDOW = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(20)
sock.sendto(b"\\0\\1large\\0octet\\0blksize\\x001468\\0windowsize\\x004\\0", (sys.argv[1], 69))
_, server = sock.recvfrom(2048)
print("agreed", flush=True)
sys.stdin.readline()
sock.sendto(b"\\0\\4\\0\\0", server)
print([len(sock.recv(2048)) for _ in range(4)])
"""
"""A client that agrees to options, waits for a line, and prints the sizes of the first window."""


def test_path_that_narrows(tmp_path: Path) -> None:
    """A window goes out in one piece, and never again once the path takes only smaller ones."""

    async def use(made: Bench) -> None:
        command = made.cable.inside("python3", "-c", WINDOW, SERVER)
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"agreed\n"
            must("ip", "link", "set", made.cable.ours, "mtu", "1000")
            said, _ = await process.communicate(b"go\n")
        assert said == b"[1472, 1472, 1472, 1472]\n", "in fragments, but there"

    with_bench(tmp_path, use)


@pytest.mark.parametrize("percent", [10, 30])
@pytest.mark.parametrize(
    "command",
    [
        # With its options it asks for six seconds of patience, and gets them.
        pytest.param(curl("--tftp-no-options"), id="curl"),
        pytest.param(atftp("blksize 1468", "windowsize 8"), id="atftp, windows of 8"),
        pytest.param(hpa, id="tftp-hpa"),
    ],
)
def test_a_bad_cable_only_takes_longer(tmp_path: Path, command: Callable[[str, str], list[str]], percent: int) -> None:
    """A lost packet ends a transfer, or what arrives is not what was sent."""

    async def use(made: Bench) -> None:
        with _losing(percent, made.cable):
            await made.fetches("blocks", command)
            assert "packets 0" not in must("nft", "list", "table", "inet", "loss")

    with_bench(tmp_path, use, Limits(retry_after=0.1, retries=12))


@contextlib.contextmanager
def _losing(percent: int, cable: Wire) -> Iterator[None]:
    """Lose packets in both directions, each where it comes in."""
    rule = f"meta l4proto udp counter numgen inc mod 10 vmap {{ {LOSS[percent]} }}"
    for where, interface in (([], cable.ours), (cable.inside(), cable.theirs)):
        must(*where, "nft", "add table inet loss")
        must(*where, "nft", "add chain inet loss input { type filter hook input priority 0; }")
        must(*where, "nft", f"add rule inet loss input iifname {interface} {rule}")
    try:
        yield
    finally:
        must("nft", "delete table inet loss")


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(curl("--tftp-blksize", "8"), id="curl"),
        pytest.param(atftp("blksize 8", "windowsize 16"), id="atftp, windows of 16"),
    ],
)
def test_block_numbers_roll_over(tmp_path: Path, command: Callable[[str, str], list[str]]) -> None:
    """A file of more than 65,535 blocks stops there."""
    with_bench(tmp_path, lambda made: made.fetches(ROLLS_OVER[0], command))


def test_forty_clients_at_once(tmp_path: Path) -> None:
    """Clients get each other's blocks, or wait for each other."""

    async def use(made: Bench) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(made.fetches("nbp", curl("--tftp-blksize", "1468"), f"-{number}"))

    with_bench(tmp_path, use)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["curl", "-sS", "-T", "/etc/hostname", f"tftp://{SERVER}/nbp"], "can only be read"),
        (["tftp", "-m", "netascii", SERVER, "-c", "get", "nbp", "/dev/null"], "use octet"),
        (["tftp", "-m", "octet", SERVER, "-c", "get", "pxelinux.cfg/default", "/dev/null"], "no such boot file"),
        (["tftp", "-m", "octet", SERVER, "-c", "get", "n" * 90, "/dev/null"], "no such boot file"),
        (["tftp", "-m", "octet", SERVER, "-c", "get", "a\x1b[2J", "/dev/null"], "not a file name"),
        (["tftp", "-m", "octet", SERVER, "-c", "get", "nothing", "/dev/null"], "no such boot file"),
        (["tftp", "-m", "octet", SERVER, "-c", "get", "../secret", "/dev/null"], "no file outside"),
        (["tftp", "-m", "octet", SERVER, "-c", "get", "boot/../../secret", "/dev/null"], "no file outside"),
        (["tftp", "-m", "octet", SERVER, "-c", "get", "..\\secret", "/dev/null"], "no file outside"),
        (["tftp", "-m", "octet", SERVER, "-c", "get", "/etc/passwd", "/dev/null"], "no such boot file"),
    ],
)
def test_refusals_say_why(tmp_path: Path, command: list[str], reason: str) -> None:
    """
    Something is written, leaves the folder, or a client waits for an answer that never comes (edge case 33: PXELINUX tries one
    configuration after the other as long as it hears that there is none).
    """

    async def use(made: Bench) -> None:
        _, said = await made.run(*command)
        if command[0] == "tftp":  # curl keeps the words to itself.
            assert reason in said
        assert made.find("nbp") is not None
        await made.fetches("nbp", curl())

    with_bench(tmp_path, use)


@pytest.mark.parametrize(
    "name", ["boot\\snponly.efi", "/boot/snponly.efi", "\\boot\\\\snponly.efi", "./boot//snponly.efi"]
)
def test_names_as_firmware_writes_them(tmp_path: Path, name: str) -> None:
    """A ROM that writes Windows separators, or a slash in front, finds nothing (edge case 32)."""

    async def use(made: Bench) -> None:
        got = tmp_path / "got/firmware"
        status, said = await made.run(*hpa(name, str(got)))
        assert status == 0, said
        assert got.read_bytes() == b"nbp"

    with_bench(tmp_path, use)


def test_what_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    """A script that is made for each machine does not go out, or with the wrong address of ours in it."""

    async def use(made: Bench) -> None:
        got = tmp_path / "got/made"
        status, said = await made.run(*curl()("made", str(got)))
        assert status == 0, said
        assert got.read_text() == f"made for {SERVER}"

    with_bench(tmp_path, use)


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


def test_firmware_that_only_asks_for_the_size(tmp_path: Path) -> None:
    """OVMF asks for the size (edge case 35), says ERROR 8, and its probe stays for seven seconds or looks like a failure."""

    async def use(made: Bench) -> None:
        error = b"\0\x05\0\x08User aborted the transfer\0".hex()
        status, said = await made.run("python3", "-c", PROBE, SERVER, b"tsize\x000\0".hex(), error)
        assert status == 0, said
        assert b"tsize\x003000001\0" in bytes.fromhex(said)
        await made.fetches("one", curl())
        assert [name for name, _ in made.notebook.noted] == ["tftp.sent"]

    with_bench(tmp_path, use)


def test_a_client_that_vanishes_is_given_up(tmp_path: Path) -> None:
    """A machine that lost power keeps its transfer, and nobody is told."""

    async def use(made: Bench) -> None:
        # Nobody answers for its port any more: without the drop, ICMP would tell.
        for rule in (
            "table inet gone",
            "chain inet gone out { type filter hook output priority 0; }",
            "rule inet gone out ip protocol icmp drop",
        ):
            must(*made.cable.inside("nft", f"add {rule}"))
        status, said = await made.run("python3", "-c", PROBE, SERVER, "")
        assert status == 0, said
        failed = await made.notebook.heard("tftp.failed")
        assert failed["reason"] == "no answer to block 1 of 5860 after 4 tries"

    with_bench(tmp_path, use, Limits(retry_after=0.05, retries=3))


def test_late_and_double_acknowledgements(tmp_path: Path) -> None:
    """Each duplicate ACK doubles all blocks that follow (Sorcerer's Apprentice, RFC 1123 section 4.2.3.1)."""

    async def use(made: Bench) -> None:
        ack = b"\0\4\0\1".hex()
        status, said = await made.run("python3", "-c", APPRENTICE, SERVER, ack)
        assert status == 0, said
        assert said.split() == ["1", "2", "quiet"]

    with_bench(tmp_path, use, Limits(retry_after=5.0))


APPRENTICE = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.sendto(b"\\0\\1large\\0octet\\0", (sys.argv[1], 69))
block, server = sock.recvfrom(2048)
print(block[3])
for _ in range(5):
    sock.sendto(bytes.fromhex(sys.argv[2]), server)
print(sock.recvfrom(2048)[0][3])
sock.settimeout(1)
try:
    print("again", sock.recvfrom(2048)[0][3])
except TimeoutError:
    print("quiet")
"""
"""Fetch block 1, acknowledge it five times, and list the blocks that come."""


def test_rubbish_is_no_trouble(tmp_path: Path) -> None:
    """A packet that is not TFTP, or out of order, takes the server down or gets an answer that it should not get."""
    rubbish = [
        b"", b"\0", b"\0\1", b"\0\1x", b"\0\1x\0", b"\0\1\0octet\0", b"\0\1x\0octet\0blksize", b"\0\1" + b"x" * 1900,
        b"\0\3\0\1data", b"\0\4\0\1", b"\0\5\0\1gone\0", b"\0\6blksize\x001468\0", b"\xff" * 600, b"\0\x09",
        b"\0\1one\0octet\0blksize\x00-1\0tsize\x00x\0windowsize\x0099999999999999999999\0",
    ]  # fmt: skip

    async def use(made: Bench) -> None:
        script = (
            "import socket, sys\n"
            "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "for packet in sys.argv[2:]: sock.sendto(bytes.fromhex(packet), (sys.argv[1], 69))\n"
        )
        status, said = await made.run("python3", "-c", script, SERVER, *(packet.hex() for packet in rubbish))
        assert status == 0, said
        await made.fetches("nbp", curl())

    with_bench(tmp_path, use)


def test_another_library_reads_our_packets(tmp_path: Path) -> None:
    """What we send is TFTP for nobody but the clients above."""

    async def use(made: Bench) -> None:
        status, said = await made.run("python3", "-c", PROBE, SERVER, "")
        assert status == 0, said
        data = TftpPacketFactory().parse(bytes.fromhex(said))
        assert isinstance(data, TftpPacketDAT)
        assert (data.blocknumber, len(data.data)) == (1, 512)
        request = TftpPacketWRQ()
        request.filename, request.mode, request.options = b"new", b"octet", {}
        packet = bytes(request.encode().buffer).hex()
        script = PROBE.replace('b"\\0\\1large\\0octet\\0" + bytes', "bytes")
        _, said = await made.run("python3", "-c", script, SERVER, packet)
        error = TftpPacketFactory().parse(bytes.fromhex(said))
        assert isinstance(error, TftpPacketERR)
        assert error.errorcode == 2  # Access violation.

    with_bench(tmp_path, use)


def test_a_full_house_keeps_its_manners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One address takes all transfers, or its further requests are answered with something worse than silence."""
    monkeypatch.setattr("provider.netboot.tftp_server.TRANSFERS_PER_ADDRESS", 3)

    async def use(made: Bench) -> None:
        must(*made.cable.inside("ip", "addr", "add", "10.77.0.10/24", "dev", made.cable.theirs))
        status, said = await made.run("python3", "-c", HOLD, SERVER, "5")
        assert (status, said.split()) == (0, ["silence", "silence", "3"])
        fetching = ["curl", "-sSf", "--interface", "10.77.0.10", "-o", str(tmp_path / "got/one")]
        status, said = await made.run(*fetching, f"tftp://{SERVER}/one")
        assert status == 0, said
        await made.fetches("one", curl())  # Once the held ones were given up.

    with_bench(tmp_path, use, Limits(retry_after=1.0, retries=2))


def test_no_more_transfers_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood from many addresses takes all memory and descriptors, or nobody is ever served again."""
    monkeypatch.setattr("provider.netboot.tftp_server.TRANSFERS", 4)

    async def use(made: Bench) -> None:
        status, said = await made.run("python3", "-c", HOLD, SERVER, "6")
        assert (status, said.split()) == (0, ["silence", "silence", "4"])
        await made.fetches("one", curl())  # It asks again until there is room.

    with_bench(tmp_path, use, Limits(retry_after=1.0, retries=2))


@pytest.mark.parametrize("single_port", [False, True])
def test_addresses_that_cannot_be_answered(tmp_path: Path, single_port: bool) -> None:
    """A request from a broadcast address ends in a traceback (invariant 7)."""

    async def use(made: Bench) -> None:
        link = (await made.run("ip", "-o", "link", "show", made.cable.theirs))[1].split()
        ours = must("ip", "-o", "link", "show", made.cable.ours).split()
        hardware = [words[words.index("link/ether") + 1] for words in (ours, link)]
        sources = ["10.77.0.255", "10.77.0.0", "0.0.0.0", "1.2.3.4", SERVER]
        with structlog.testing.capture_logs() as logs:
            status, said = await made.run("python3", "-c", FORGE, made.cable.theirs, *hardware, SERVER, *sources)
            assert status == 0, said
            await made.fetches("nbp", curl())
        assert not [entry for entry in logs if entry["event"] == "tftp.crashed"], logs
        dropped = [entry["source"] for entry in logs if entry["event"] == "tftp.dropped"]
        assert dropped == ["10.77.0.255"]

    with_bench(tmp_path, use, Limits(retry_after=0.1, retries=1), single_port=single_port)


FORGE = """
import socket, struct, sys
interface, to, ours, server, *sources = sys.argv[1:]
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind((interface, 0))
request = b"\\0\\1large\\0octet\\0"
for source in sources:
    udp = struct.pack("!HHHH", 2000, 69, 8 + len(request), 0) + request
    head = [0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(server)]
    words = struct.unpack("!10H", struct.pack("!BBHHHBBH4s4s", *head))
    total = sum(words)
    head[7] = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    ethernet = bytes.fromhex(to.replace(":", "")) + bytes.fromhex(ours.replace(":", "")) + b"\\x08\\0"
    sock.send(ethernet + struct.pack("!BBHHHBBH4s4s", *head) + udp)
"""
"""Send requests from addresses that are not ours."""


def test_no_file_but_a_pipe(tmp_path: Path) -> None:
    """Somebody put a FIFO where a boot file was, and everybody waits for the first who asked for it."""

    async def use(made: Bench) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "served/one").unlink()
        (tmp_path / "served/one").symlink_to(tmp_path / "pipe")
        _, said = await made.run(*hpa("one", "/dev/null"))
        assert "cannot be read" in said
        await made.fetches("nbp", curl())

    with_bench(tmp_path, use)


HOLD = """
import socket, sys
held = []
for _ in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(0.3)
    sock.bind(("10.77.0.9", 0))
    sock.sendto(b"\\0\\1large\\0octet\\0", (sys.argv[1], 69))
    try:
        held.append(sock.recvfrom(2048))
    except TimeoutError:
        print("silence")
print(len(held))
"""
"""Begin so many downloads from one address and acknowledge nothing."""


READS_SLOWLY = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 2000))
sock.settimeout(20)
for name in sys.argv[1:]:
    request = b"\\0\\1" + name.encode() + b"\\0octet\\0blksize\\0" + b"1468\\0"
    sock.sendto(request, ("10.77.0.1", 69))
    raw, peer = sock.recvfrom(2048)
    assert raw[:2] == b"\\0\\6", raw[:40]
    print("begun", flush=True)
    sys.stdin.readline()
    number = 0
    while raw[:2] == b"\\0\\6" or len(raw) == 1472:
        sock.sendto(b"\\0\\4" + number.to_bytes(2, "big"), peer)
        raw, peer = sock.recvfrom(2048)
        number += 1
        assert raw[:4] == b"\\0\\3" + number.to_bytes(2, "big"), raw[:40]
    print("done", flush=True)
sock.sendto(request, ("10.77.0.1", 69))
print(sock.recv(2048)[:2].hex())
print("begun", flush=True)
sys.stdin.readline()
sock.sendto(request, ("10.77.0.1", 69))
print(sock.recv(2048)[:2].hex())
"""
"""Download by the steps that standard input gives, always from one port, as some ROMs do; in the end ask twice."""


def test_port_is_opened_again(tmp_path: Path) -> None:
    """A download ends when the interface is configured anew, or the next one from the same client's port is not begun."""

    async def use(made: Bench) -> None:
        server = made.server
        client = await asyncio.create_subprocess_exec(
            *made.cable.inside("python3", "-c", READS_SLOWLY, "nbp"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdin is not None
        assert client.stdout is not None
        async with asyncio.timeout(PATIENCE):
            for _ in range(2):
                while await client.stdout.readline() != b"begun\n":
                    pass
                server.close(on(made.cable))
                server.open(on(made.cable))
                client.stdin.write(b"\n")
            assert await client.stdout.read() == b"0006\n", "answered by the port that is open now"
            assert await client.wait() == 0
        assert await made.notebook.heard("tftp.sent")

    with_bench(tmp_path, use)


def test_taken_port(tmp_path: Path) -> None:
    """Two TFTP servers share a port, and machines get files of either."""
    with wire(f"{SERVER}/24") as cable, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 69))
        server = TftpServer(
            69,
            single_port=False,
            files=lambda _: None,
            scripts=no_script,
            limits=Limits(),
            watch=Notebook(),
            mac_of=lambda _: None,
        )
        with pytest.raises(Exception, match="UDP port 69 on wire-ours is taken"):
            server.open(on(cable))

"""What the TFTP server does not do: for whom, for what, and when it is full."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import structlog

from provider.netboot.tftp_server import TftpServer
from provider.wire.tftp_transfer import Limits
from tests.integration.tftp_bench import SERVER, Bench, Notebook, curl, hpa, no_script, on, with_bench
from tests.integration.wires import must, wire


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

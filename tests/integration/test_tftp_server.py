"""Files of the TFTP server at clients that others wrote, with the names and options that they use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tftpy.TftpPacketFactory import TftpPacketFactory
from tftpy.TftpPacketTypes import TftpPacketDAT, TftpPacketERR, TftpPacketWRQ

from tests.integration.tftp_bench import PROBE, ROLLS_OVER, SERVER, SIZES, Bench, atftp, curl, hpa, with_bench

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


@pytest.mark.parametrize("single_port", [False, True])
@pytest.mark.parametrize("command", CLIENTS)
def test_files_of_all_sizes_arrive(tmp_path: Path, command: Callable[[str, str], list[str]], single_port: bool) -> None:
    """Some client gets a file that is cut off, too long, or not at all."""

    async def use(made: Bench) -> None:
        for name in SIZES:
            if name != "empty" or command in CAN_FETCH_NOTHING:
                await made.fetches(name, command)

    with_bench(tmp_path, use, single_port=single_port)


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

"""Leases of the whole daemon when it is killed, and when its disk is full (invariants 4, 5 and 9)."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.integration.test_serve import PATIENCE, configuration, serve, serving
from tests.integration.wires import Wire, must, run, wire

CLIENTS = "10.77.0.9"
INTERFACE = {"name": "wire-ours", "dhcp": "server", "pool": {"first": "10.77.1.0", "last": "10.77.9.255"}}
ALICE, BOB = "52:54:00:00:00:01", "52:54:00:00:00:02"
NETWORK = {"interfaces": [INTERFACE]}
Leases = dict[str, tuple[str, int]]
"""Address and seconds, by MAC address."""


@contextlib.contextmanager
def crowd(
    cable: Wire, machines: int, relay: str = CLIENTS, server: str = "10.77.0.1"
) -> Iterator[subprocess.Popen[str]]:
    """Run the clients; their leases come out line by line."""
    program = ("-m", "tests.integration.dhcp_crowd", relay, server, str(machines))
    command = cable.inside("env", f"PYTHONPATH={Path(__file__).parents[2]}", sys.executable, *program)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as clients:
        try:
            yield clients
        finally:
            clients.kill()


@contextlib.contextmanager
def doomed(config: Path, said: int | BinaryIO = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon, and kill it at the end at the latest."""
    with subprocess.Popen(serve(config), stderr=said) as daemon:
        try:
            yield daemon
        finally:
            daemon.kill()


def read(line: str, into: Leases) -> None:
    mac, address, seconds = line.split()
    into[mac] = address, int(seconds)


def leases_of(cable: Wire, machines: int, **where: str) -> Leases:
    """What all of them have in the end."""
    found: Leases = {}
    with crowd(cable, machines, **where) as clients:
        assert clients.stdout is not None
        for line in clients.stdout:
            read(line, found)
        assert clients.wait(PATIENCE) == 0
    return found


def on_disk(state: Path) -> dict[str, tuple[str, datetime]]:
    """Address and end of each lease, by MAC address; read as the next start would."""
    with contextlib.closing(sqlite3.connect(state / "bootwright.db")) as database:
        rows = database.execute("SELECT mac, address, expires_at FROM lease WHERE NOT declined").fetchall()
    return {mac: (address, datetime.fromisoformat(ends).replace(tzinfo=UTC)) for mac, address, ends in rows}


@pytest.mark.parametrize("acknowledged", [1, 150, 700])
def test_killed_under_load(tmp_path: Path, assets: Path, acknowledged: int) -> None:
    """A DHCPACK left before its lease was on disk, and after `kill -9` the address is given to another machine."""
    config = configuration(tmp_path, assets, network=NETWORK)
    had: Leases = {}
    with wire("10.77.0.1/16") as cable:
        must(*cable.inside("ip", "addr", "add", f"{CLIENTS}/16", "dev", cable.theirs))
        with crowd(cable, 2000) as clients, doomed(config) as daemon:
            assert clients.stdout is not None
            while len(had) < acknowledged:
                read(clients.stdout.readline(), had)
            daemon.kill()
            daemon.wait()
            time.sleep(0.5)  # What was on the cable arrives.
            clients.kill()
            for line in clients.stdout:
                read(line, had)
        assert len({address for address, _seconds in had.values()}) == len(had)
        kept = on_disk(tmp_path / "state")
        for mac, (address, seconds) in had.items():
            assert kept[mac][0] == address
            assert kept[mac][1] > datetime.now(UTC) + timedelta(seconds=seconds - 60)
        with serving(config):
            again = leases_of(cable, 2000)
    assert {mac: again[mac][0] for mac in had} == {mac: address for mac, (address, _seconds) in had.items()}
    assert len({address for address, _seconds in again.values()}) == len(again) == 2000


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own; gives a file in it that takes all the room once it is written to."""
    folder.mkdir()
    must("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
    try:
        yield folder / "fill"
    finally:
        must("umount", str(folder))


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as whole, contextlib.suppress(OSError):
        while whole.write(bytes(4096)):
            pass


def lease(cable: Wire, mac: str) -> str | None:
    """What busybox gets as this client."""
    must(*cable.inside("ip", "link", "set", cable.theirs, "address", mac))
    arguments = ("-i", cable.theirs, "-q", "-n", "-f", "-t", "2", "-T", "1", "-s", "/bin/true")
    found = re.search(r"lease of ([0-9.]+) obtained", run(*cable.inside("busybox", "udhcpc", *arguments)).stderr)
    return found and found[1]


def test_full_disk(tmp_path: Path, assets: Path) -> None:
    """With a full disk leases are acknowledged that are kept nowhere, nobody is told why, or it takes a restart to recover."""
    config = configuration(tmp_path, assets, network=NETWORK, log={"format": "json"})
    said = tmp_path / "said"
    with wire("10.77.0.1/16") as cable, small_disk(tmp_path / "state") as file, said.open("wb") as out:
        with doomed(config, out) as daemon:
            _wait_for("daemon.started", said)
            first = lease(cable, ALICE)
            fill(file)
            assert lease(cable, BOB) is None
            text = said.read_text()
            assert "dhcp.leases_unsaved" in text
            assert "check free space" in text
            assert text.count("dhcp.acknowledged") == 1
            assert daemon.poll() is None
            file.unlink()
            second = lease(cable, BOB)
        kept = on_disk(tmp_path / "state")
        assert (kept[ALICE][0], kept[BOB][0]) == (first, second)
        assert first != second
    assert "Traceback" not in said.read_text()


def _wait_for(word: str, file: Path) -> None:
    end = time.monotonic() + PATIENCE
    while word not in file.read_text():
        assert time.monotonic() < end, file.read_text()
        time.sleep(0.05)

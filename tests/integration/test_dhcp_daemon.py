"""Leases and reservations of the whole daemon: on disk, over the operator API, and after `kill -9`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.integration.test_serve import configuration, refused, serve, serving
from tests.integration.wires import Wire, must, run, wire

UUID = "00112233-4455-6677-8899-aabbccddeeff"
OPTION_97 = "0x61:00" + bytes.fromhex("33221100554477668899aabbccddeeff").hex()


def lease(cable: Wire, mac: str, *more: str) -> str:
    """The address that busybox gets as a client with this MAC address."""
    must(*cable.inside("ip", "link", "set", cable.theirs, "address", mac))
    arguments = ("-i", cable.theirs, "-q", "-n", "-f", "-t", "5", "-T", "2", "-s", "/bin/true", *more)
    done = run(*cable.inside("busybox", "udhcpc", *arguments))
    found = re.search(r"lease of ([0-9.]+) obtained", done.stderr)
    assert found, done.stderr
    return found[1]


def operator(folder: Path, *arguments: str) -> dict[str, list[dict[str, str]]]:
    """`bootwright lease ...` on the daemon."""
    command = (sys.executable, "-m", "provider", "lease", *arguments, "--json")
    answer: dict[str, list[dict[str, str]]] = json.loads(must(*command, "--socket", str(folder / "operator.sock")))
    return answer


def test_address_survives_kill(tmp_path: Path, assets: Path) -> None:
    """After `kill -9` a client gets another address, or another client gets its (invariants 4, 5 and 9)."""
    config = configuration(tmp_path, assets)
    with wire() as cable:
        with subprocess.Popen(serve(config), stderr=subprocess.PIPE, text=True) as daemon:
            assert daemon.stderr is not None
            while "daemon.started" not in daemon.stderr.readline():
                pass
            first = lease(cable, "52:54:00:00:00:01")
            daemon.kill()
        with serving(config):
            assert lease(cable, "52:54:00:00:00:02", "-r", first) != first
            assert lease(cable, "52:54:00:00:00:01") == first
            leased = {each["address"]: each["mac"] for each in operator(tmp_path, "list")["leases"]}
            assert leased[first] == "52:54:00:00:00:01"


def test_reservations_of_settings_and_operator(tmp_path: Path, assets: Path) -> None:
    """A reserved address goes to somebody else, or a reservation is gone after a restart or against the settings."""
    interface = {
        "name": "wire-ours",
        "dhcp": "server",
        "pool": [{"first": "10.77.0.100", "last": "10.77.0.101"}, {"first": "10.77.0.110", "last": "10.77.0.119"}],
        "exclude": ["10.77.0.100", {"first": "10.77.0.111", "last": "10.77.0.119"}],
        "reservations": [{"address": "10.77.0.101", "mac": "52:54:00:00:00:01"}],
    }
    config = configuration(tmp_path, assets, network={"interfaces": [interface]})
    with wire() as cable:
        with serving(config):
            operator(tmp_path, "reserve", "10.77.0.55", "--uuid", UUID)
            assert lease(cable, "52:54:00:00:00:02", "-x", OPTION_97, "-V", "PXEClient:Arch:00000") == "10.77.0.55"
            assert lease(cable, "52:54:00:00:00:02") == "10.77.0.55", "the system tells no UUID"
            assert lease(cable, "52:54:00:00:00:03") == "10.77.0.110"
            assert lease(cable, "52:54:00:00:00:01") == "10.77.0.101"
        with serving(config):
            (reservation,) = operator(tmp_path, "list")["reservations"]
            assert reservation == {"address": "10.77.0.55", "by": "uuid", "value": UUID, "remote_id": ""}
            assert lease(cable, "52:54:00:00:00:02") == "10.77.0.55"
            operator(tmp_path, "unreserve", "10.77.0.55")
            assert operator(tmp_path, "list")["reservations"] == []


def test_reserving_an_address_in_use(tmp_path: Path, assets: Path) -> None:
    """A machine loses the address that it works with, or the one that it is reserved for never gets it."""
    alice, bob = "52:54:00:00:00:01", "52:54:00:00:00:02"
    with wire() as cable, serving(configuration(tmp_path, assets)):
        first = lease(cable, alice)
        command = (sys.executable, "-m", "provider", "lease", "reserve", first, "--mac", bob)
        said = must(*command, "--socket", str(tmp_path / "operator.sock"))
        assert f"{first} is reserved for mac {bob}" in said
        assert f"{alice} has it until 2" in said
        assert lease(cable, bob) != first, "while it is Alice's"
        assert lease(cable, alice, "-r", first) != first, "she leaves when she asks again"
        assert lease(cable, bob) == first
        assert operator(tmp_path, "reserve", first, "--mac", bob)["held_by"] is None


NONSENSE = [
    (("10.77.0.55",), "exactly one of mac, uuid, circuit_id"),
    (("10.77.0.55", "--mac", "52:54:00:00:00:01", "--uuid", UUID), "exactly one of mac, uuid, circuit_id"),
    (("10.77.0.55", "--mac", "nonsense"), "is not a MAC address"),
    (("10.77.0.55", "--uuid", "nonsense"), "is not a UUID"),
    (("10.77.0.55", "--uuid", "03000200-0400-0500-0006-000700080009"), "a placeholder"),
    (("10.77.0.55", "--circuit-id", "0x123"), "pairs of hex digits"),
    (("10.77.0.555", "--mac", "52:54:00:00:00:01"), "10.77.0.555"),
    (("fe80::1", "--mac", "52:54:00:00:00:01"), "fe80::1"),
    (("10.78.0.55", "--mac", "52:54:00:00:00:01"), "no network that we lease addresses of"),
    (("10.77.0.1", "--mac", "52:54:00:00:00:01"), "is no client's address there"),
    (("10.77.0.255", "--mac", "52:54:00:00:00:01"), "is no client's address there"),
    (("10.77.0.55", "--mac", "52:54:00:00:00:01", "--remote-id", "x"), "give it together with circuit_id"),
]


def test_nonsense_is_not_reserved(tmp_path: Path, assets: Path) -> None:
    """A reservation that can never be used is taken without a word, or takes our own address."""
    command = (sys.executable, "-m", "provider", "lease")
    place = ("--socket", str(tmp_path / "operator.sock"))
    with wire(), serving(configuration(tmp_path, assets)):
        for arguments, said in NONSENSE:
            done = run(*command, "reserve", *arguments, *place)
            assert (done.returncode, done.stdout) == (1, ""), arguments
            assert said in done.stderr
        for nothing, why in (("10.77.0.55", "is not reserved"), ("10.77.0.0/24", "not an IPv4"), ("..", "not an IPv4")):
            done = run(*command, "unreserve", nothing, *place)
            assert done.returncode == 1
            assert nothing in done.stderr
            assert why in done.stderr
        assert operator(tmp_path, "list")["reservations"] == []


def test_our_own_address_is_not_reserved(tmp_path: Path, assets: Path) -> None:
    """A slip of the pen in the settings gives our address to a machine, and the network breaks down."""
    ours = {"address": "10.77.0.1", "mac": "52:54:00:00:00:01"}
    interface = {"name": "wire-ours", "dhcp": "server", "reservations": [ours]}
    with wire():
        said = refused(configuration(tmp_path, assets, network={"interfaces": [interface]}))
    assert "10.77.0.1 is reserved for 52:54:00:00:00:01, and is ours on wire-ours" in said


def test_port_is_reserved_as_people_write_it(tmp_path: Path, assets: Path) -> None:
    """A reservation for a port with a blank in its name, or with hex digits in upper case, is never used."""
    with wire(), serving(configuration(tmp_path, assets)):
        operator(tmp_path, "reserve", "10.77.0.55", "--circuit-id", "Ethernet 1/1", "--remote-id", "0X00AB")
        (reservation,) = operator(tmp_path, "list")["reservations"]
    assert (reservation["value"], reservation["remote_id"]) == ("0x" + b"Ethernet 1/1".hex(), "0x00ab")

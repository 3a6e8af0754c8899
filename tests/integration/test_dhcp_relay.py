"""Clients behind relays that others wrote: ISC's dhcrelay and dnsmasq. The relay is a router in a namespace of its own."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_dhcp_conflicts import listening, probes
from tests.integration.test_serve import configuration, serving
from tests.integration.wires import must, run

PATIENCE = 30.0  # seconds
UPLINK, DOWNLINK = "10.77.0.2", "10.88.0.254"
MAC = "52:54:00:00:00:01"
UDHCPC = ("busybox", "udhcpc", "-f", "-t", "8", "-T", "1", "-i")
NEAR = {"name": "wire-ours", "dhcp": "server", "pool": {"first": "10.77.0.100", "last": "10.77.0.199"}}
FAR = {
    "network": "10.88.0.0/24",
    "pool": {"first": "10.88.0.10", "last": "10.88.0.19"},
    "router": DOWNLINK,
    "reservations": [{"address": "10.88.0.77", "circuit_id": "down2"}],
}


@dataclass(frozen=True)
class Hall:
    """We, a router with relay, and two of its ports (`down1`, `down2`) with a client's namespace at each."""

    folder: Path

    def router(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", "router", *command]

    def client(self, number: int, *command: str) -> list[str]:
        return ["ip", "netns", "exec", f"client{number}", *command]

    def udhcpc(self, number: int, *more: str) -> list[str]:
        return self.client(number, *UDHCPC, "eth0", *more)

    def lease(self, number: int) -> str:
        """The address that the client at this port gets."""
        done = run(*self.udhcpc(number, "-q", "-n", "-s", "/bin/true"))
        found = re.search(r"lease of ([0-9.]+) obtained from ([0-9.]+)", done.stderr)
        assert found, done.stderr
        assert found[2] == "10.77.0.1"
        return found[1]

    def operator(self, *arguments: str) -> Any:
        command = (sys.executable, "-m", "provider", *arguments, "--json")
        return json.loads(must(*command, "--socket", str(self.folder / "operator.sock")))


@contextlib.contextmanager
def in_a_hall(folder: Path, assets: Path) -> Iterator[Hall]:
    """All of it, with the daemon running."""
    made = Hall(folder)
    names = ("router", "client1", "client2")
    for name in names:
        must("ip", "netns", "add", name)
    try:
        _lay_cables(made)
        config = configuration(folder, assets, network={"interfaces": [NEAR], "subnets": [FAR]})
        with serving(config):
            yield made
    finally:
        for name in names:
            run("ip", "netns", "del", name)
        run("ip", "link", "del", "wire-ours")


@pytest.fixture
def hall(tmp_path: Path, assets: Path) -> Iterator[Hall]:
    """One for each test."""
    with in_a_hall(tmp_path, assets) as made:
        yield made


def _lay_cables(hall: Hall) -> None:
    must("ip", "link", "add", "wire-ours", "type", "veth", "peer", "name", "uplink", "netns", "router")
    must("ip", "addr", "add", "10.77.0.1/24", "dev", "wire-ours")
    must("ip", "link", "set", "wire-ours", "up")
    must("ip", "route", "add", "10.88.0.0/24", "via", UPLINK)
    must(*hall.router("ip", "addr", "add", f"{UPLINK}/24", "dev", "uplink"))
    must(*hall.router("ip", "link", "set", "uplink", "up"))
    must(*hall.router("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.proxy_arp=1"))
    for number in (1, 2):
        peer = ("peer", "name", "eth0", "netns", f"client{number}")
        must(*hall.router("ip", "link", "add", f"down{number}", "type", "veth", *peer))
        must(*hall.router("ip", "link", "set", f"down{number}", "up"))
        must(*hall.client(number, "ip", "link", "set", "eth0", "address", f"{MAC[:-1]}{number}", "up"))
    # One network on two ports of a router: the first has the address, the second borrows it.
    must(*hall.router("ip", "addr", "add", f"{DOWNLINK}/24", "dev", "down1"))
    must(*hall.router("ip", "addr", "add", f"{DOWNLINK}/32", "dev", "down2"))


@contextlib.contextmanager
def relaying(hall: Hall, *command: str) -> Iterator[None]:
    """A relay that runs until the end, and ended only then."""
    with subprocess.Popen(hall.router(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as relay:
        try:
            yield
            assert relay.poll() is None, "the relay gave up"
        finally:
            relay.terminate()


BOTH_PORTS = ("-id", "down1", "-id", "down2", "-iu", "uplink")


def dhcrelay(*ports: str) -> list[str]:
    return ["dhcrelay", "-4", "-d", "--no-pid", "-a", *ports, "10.77.0.1"]


DNSMASQ = (
    "dnsmasq",
    "--no-daemon",
    "--conf-file=/dev/null",
    "--port=0",
    "--user=root",
    f"--dhcp-relay={DOWNLINK},10.77.0.1",
)


def test_isc_relay(hall: Hall) -> None:
    """A client behind a relay gets no address, or one of the relay's own network; a reservation by port is not kept."""
    with relaying(hall, *dhcrelay(*BOTH_PORTS)):
        assert hall.lease(1) == "10.88.0.10"
        assert hall.lease(2) == "10.88.0.77", "reserved for the port down2"
        leases = {each["address"]: each for each in hall.operator("lease", "list")["leases"]}
        assert leases["10.88.0.10"]["circuit_id"] == "down1"
        assert leases["10.88.0.77"]["circuit_id"] == "down2"


def test_dnsmasq_as_relay(hall: Hall) -> None:
    """A relay that adds no option 82 is not served."""
    must(*hall.router("ip", "addr", "flush", "dev", "down2"))
    with relaying(hall, *DNSMASQ):
        assert hall.lease(1) == "10.88.0.10"


def test_link_selection(hall: Hall) -> None:
    """A relay whose own address is of another network than its clients' gets addresses of the wrong one (RFC 3527)."""
    with relaying(hall, *dhcrelay("-id", "down1", "-U", "uplink")):
        assert hall.lease(1) == "10.88.0.10"


def test_nobody_is_probed_behind_a_relay(hall: Hall) -> None:
    """ARP asks the wrong network, each client behind a relay waits for that, and an address is refused by its accident."""
    with relaying(hall, *dhcrelay(*BOTH_PORTS)), listening("wire-ours") as ears:
        assert hall.lease(1) == "10.88.0.10"
        assert probes(ears) == []
        must(*hall.router(*UDHCPC, "uplink", "-q", "-n", "-s", "/bin/true"))
        assert probes(ears) == ["10.77.0.100"], "the router itself is on our network"


def test_renewal_past_the_relay(hall: Hall) -> None:
    """A client behind a relay loses its address at T1, because it renews by unicast (RFC 2131 section 4.3.2)."""
    script = hall.folder / "script"
    script.write_text(
        f'#!/bin/sh\necho "$1" >>{hall.folder}/said\n[ "$1" = bound ] || exit 0\n'
        'ip addr add "$ip/24" dev eth0\nip route add default via "$router"\n'
    )
    script.chmod(0o755)
    said = hall.folder / "said"
    with (
        relaying(hall, *dhcrelay(*BOTH_PORTS)),
        subprocess.Popen(hall.udhcpc(1, "-s", str(script)), stderr=subprocess.DEVNULL) as client,
    ):
        try:
            _wait_for("bound", said)
            client.send_signal(signal.SIGUSR1)
            _wait_for("renew", said)
        finally:
            client.terminate()
    (lease,) = hall.operator("lease", "list")["leases"]
    assert (lease["address"], lease["circuit_id"]) == ("10.88.0.10", "down1"), "the port is remembered"


def _wait_for(word: str, file: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not file.exists() or word not in file.read_text():
        assert time.monotonic() < end, word
        time.sleep(0.05)


def test_port_is_a_fact_of_the_machine(hall: Hall) -> None:
    """Nobody can tell which switch port a machine is on, or that it was moved."""
    with relaying(hall, *dhcrelay(*BOTH_PORTS)):
        hall.lease(1)
        must(*hall.client(1, "ip", "addr", "add", "10.88.0.10/24", "dev", "eth0"))
        must(*hall.client(1, "ip", "route", "add", "default", "via", DOWNLINK))
        query = f"mac={MAC.replace(':', '-')}&platform=efi"
        must(*hall.client(1, "curl", "-sf", f"http://10.77.0.1:8080/machine.ipxe?{query}"))
        wanted = {"mac": MAC, "interface": "wire-ours", "relay": DOWNLINK, "circuit_id": "down1", "remote_id": ""}
        _wait_for_attachment(hall, wanted)
        # The same machine at the other port.
        must(*hall.client(1, "ip", "link", "set", "eth0", "address", "52:54:00:00:00:99"))
        must(*hall.client(2, "ip", "link", "set", "eth0", "address", MAC))
        hall.lease(2)
        _wait_for_attachment(hall, {**wanted, "circuit_id": "down2"})


def _wait_for_attachment(hall: Hall, wanted: dict[str, str]) -> None:
    end = time.monotonic() + PATIENCE
    while (found := hall.operator("machine", "show", MAC)["attachments"]) != [wanted]:
        assert time.monotonic() < end, found

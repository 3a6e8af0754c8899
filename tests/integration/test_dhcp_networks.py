"""One daemon on several networks, the smallest that there are, and whose address is whose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from provider.domain import mac as macs
from provider.wire import dhcp
from provider.wire.dhcp import MessageType, Option, Packet
from tests.integration.test_dhcp_durability import leases_of
from tests.integration.test_dhcp_server import UDHCPC, Notebook, udhcpc
from tests.integration.test_dhcp_server import serving as serving_alone
from tests.integration.test_serve import configuration, serving
from tests.integration.wires import Wire, must, run, wire

ALICE, BOB = "52:54:00:00:00:01", "52:54:00:00:00:02"


@contextlib.contextmanager
def another_wire(address: str) -> Iterator[Wire]:
    """A second cable with a client at its end."""
    made = Wire("other-ours", "other-theirs", "other-client")
    must("ip", "netns", "add", made.namespace)
    try:
        must("ip", "link", "add", made.ours, "type", "veth", "peer", "name", made.theirs, "netns", made.namespace)
        must("ip", "addr", "add", address, "dev", made.ours)
        must("ip", "link", "set", made.ours, "up")
        must(*made.inside("ip", "link", "set", made.theirs, "up"))
        yield made
    finally:
        run("ip", "link", "del", made.ours)
        run("ip", "netns", "del", made.namespace)


def lease(cable: Wire, mac: str, *more: str) -> tuple[str, str]:
    """The address that busybox gets, and from whom."""
    must(*cable.inside("ip", "link", "set", cable.theirs, "address", mac))
    arguments = ("-i", cable.theirs, "-q", "-n", "-f", "-t", "5", "-T", "1", "-s", "/bin/true", *more)
    done = run(*cable.inside("busybox", "udhcpc", *arguments))
    found = re.search(r"lease of ([0-9.]+) obtained from ([0-9.]+)", done.stderr)
    assert found, done.stderr
    return found[1], found[2]


def test_two_interfaces(tmp_path: Path, assets: Path) -> None:
    """An answer leaves by another interface than its request came in on (edge case 22), or with another network's address."""
    interfaces = [
        {"name": "wire-ours", "dhcp": "server", "pool": {"first": "10.77.0.100", "last": "10.77.0.109"}},
        {"name": "other-ours", "dhcp": "server", "pool": {"first": "10.78.0.100", "last": "10.78.0.109"}},
    ]
    config = configuration(tmp_path, assets, network={"interfaces": interfaces})
    with wire() as cable, another_wire("10.78.0.1/24") as other, serving(config):
        assert lease(cable, ALICE) == ("10.77.0.100", "10.77.0.1")
        assert lease(other, BOB) == ("10.78.0.100", "10.78.0.1")
        assert lease(other, ALICE, "-r", "10.77.0.100") == ("10.78.0.101", "10.78.0.1"), "it was carried over"
        command = (sys.executable, "-m", "provider", "lease", "list", "--json")
        listed = json.loads(must(*command, "--socket", str(tmp_path / "operator.sock")))["leases"]
        assert [each["address"] for each in listed] == ["10.77.0.100", "10.78.0.100", "10.78.0.101"]


RENEW = """
import socket, sys
source, server, raw = sys.argv[1:]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((source, 68))
sock.sendto(bytes.fromhex(raw), (server, 67))
"""

HEAR = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 68))
sock.settimeout(10)
print("ready", flush=True)
raw, source = sock.recvfrom(4096)
print(source[0], raw.hex())
"""


def test_renewal_that_comes_another_way(tmp_path: Path, assets: Path) -> None:
    """A renewal that reaches us by another interface is answered with that one's address, and there, where nobody is."""
    interfaces = [
        {"name": "wire-ours", "dhcp": "server", "pool": {"first": "10.77.0.100", "last": "10.77.0.109"}},
        {"name": "other-ours", "dhcp": "server", "pool": {"first": "10.78.0.100", "last": "10.78.0.109"}},
    ]
    config = configuration(tmp_path, assets, network={"interfaces": interfaces})
    with wire() as cable, another_wire("10.78.0.1/24") as other, serving(config):
        address, _server = lease(cable, ALICE)
        must(*cable.inside("ip", "addr", "add", f"{address}/24", "dev", cable.theirs))
        must(*other.inside("ip", "addr", "add", "10.78.0.200/24", "dev", other.theirs))
        must(*other.inside("ip", "route", "add", "10.77.0.0/24", "via", "10.78.0.1"))
        options = {Option.MESSAGE_TYPE: bytes((MessageType.REQUEST,))}
        raw = dhcp.encode(Packet(op=1, xid=7, chaddr=macs.parse(ALICE), ciaddr=IPv4Address(address), options=options))
        hearing = subprocess.Popen(
            cable.inside(sys.executable, "-c", HEAR), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        with hearing as listener:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
            must(*other.inside(sys.executable, "-c", RENEW, "10.78.0.200", "10.77.0.1", raw.hex()))
            source, answer = listener.stdout.readline().split()
        renewed = dhcp.decode(bytes.fromhex(answer))
        assert (source, renewed.message_type, str(renewed.yiaddr)) == ("10.77.0.1", MessageType.ACK, address)
        assert renewed.options[Option.SERVER_ID] == IPv4Address("10.77.0.1").packed


def test_link_between_two(tmp_path: Path, assets: Path) -> None:
    """On a /31 (RFC 3021) the daemon does not start, or the one other address is not leased."""
    interface = {"name": "wire-ours", "dhcp": "server", "pool": {"first": "10.77.0.0", "last": "10.77.0.1"}}
    config = configuration(tmp_path, assets, network={"interfaces": [interface]})
    with wire("10.77.0.0/31") as cable, serving(config):
        assert lease(cable, ALICE) == ("10.77.0.1", "10.77.0.0")


def test_relays_only(tmp_path: Path, assets: Path) -> None:
    """Where all machines are behind relays, a pool must be made up for our own network, which is a link to a router."""
    network = {
        "interfaces": [{"name": "wire-ours", "dhcp": "server"}],
        "subnets": [{"network": "10.88.0.0/24", "pool": {"first": "10.88.0.10", "last": "10.88.0.12"}}],
    }
    with wire("10.77.0.0/31") as cable, serving(configuration(tmp_path, assets, network=network)):
        must("ip", "route", "add", "10.88.0.0/24", "via", "10.77.0.1")
        must(*cable.inside("ip", "addr", "add", "10.77.0.1/31", "dev", cable.theirs))
        must(*cable.inside("ip", "addr", "add", "10.88.0.254/32", "dev", "lo"))
        found = leases_of(cable, 3, relay="10.88.0.254", server="10.77.0.0")
        assert {address for address, _seconds in found.values()} == {"10.88.0.10", "10.88.0.11", "10.88.0.12"}
        alone = run(*cable.inside("busybox", *UDHCPC, "-i", cable.theirs, "-t", "2"))
        assert alone.returncode != 0, "nothing is leased on the link itself"


def test_whose_address_it_is() -> None:
    """
    What TFTP sends is written down for nobody (edge case 30).

    Leases tell at once, before the machine ever sent an IP packet; ARP tells of those whose address is not ours.
    """

    async def main(cable: Wire) -> None:
        async with serving_alone(cable, Notebook()) as server:
            must(*cable.inside("ip", "link", "set", cable.theirs, "address", ALICE))
            found = re.search(r"lease of ([0-9.]+) obtained", await udhcpc(cable))
            assert found
            assert server.mac_of(found[1]) == ALICE
            must(*cable.inside("ip", "addr", "add", "10.77.0.9/24", "dev", cable.theirs))
            assert server.mac_of("10.77.0.9") is None
            must(*cable.inside("busybox", "ping", "-c", "1", "-W", "5", "10.77.0.1"))
            assert server.mac_of("10.77.0.9") == ALICE

    with wire() as cable:
        asyncio.run(main(cable))

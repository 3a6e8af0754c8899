"""The DHCP server against clients and servers that others wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from provider.domain.errors import PermanentError
from provider.domain.lease import Lease, Reservation
from provider.domain.mac import MacAddress
from provider.domain.machine import Attachment
from provider.kit.clock import utc_now
from provider.kit.signal import Signal
from provider.netboot import sockets
from provider.netboot.dhcp_server import DhcpServer
from provider.planning.interfaces import Opening, Service
from provider.planning.loader import Loader
from provider.planning.proxy_style import Attempt, Style
from provider.planning.reply import Scope
from provider.planning.subnets import Leasing, device_options, site_options
from tests.integration.wires import Wire, must, wire

NETWORK = IPv4Network("10.77.0.0/24")
LEASING = Leasing(((IPv4Address("10.77.0.100"), IPv4Address("10.77.0.199")),))


class Notebook:
    """Leases in memory, and what was noted."""

    def __init__(self) -> None:
        self.changed = Signal()
        self.leases: dict[IPv4Address, Lease] = {}
        self.noted: list[tuple[MacAddress, str, dict[str, object]]] = []
        self.attachments: dict[MacAddress, Attachment] = {}
        self.left_alone: set[MacAddress] = set()
        self.styles: dict[MacAddress, Style] = {}
        self.disk_is_quick = asyncio.Event()
        self.disk_is_quick.set()
        self.save_began = asyncio.Event()

    async def load(self) -> list[Lease]:
        return list(self.leases.values())

    async def save(self, leases: Sequence[Lease]) -> None:
        self.save_began.set()
        await self.disk_is_quick.wait()
        self.leases |= {lease.address: lease for lease in leases}

    def reservations(self) -> Sequence[Reservation]:
        return ()

    def may_netboot(self, mac: MacAddress) -> bool:
        return mac not in self.left_alone

    def loader(self, mac: MacAddress, *, begins: bool) -> Loader:
        return Loader.IPXE

    def style(self, mac: MacAddress, first: Style, attempt: Attempt) -> Style:
        return self.styles.get(mac, first)

    def note(self, mac: MacAddress, name: str, **data: str | int | float | bool | None) -> None:
        self.noted.append((mac, name, dict(data)))

    def attached(self, mac: MacAddress, attachment: Attachment) -> None:
        self.attachments[mac] = attachment


def scope(cable: Wire, *, proxy: bool = False) -> Scope:
    return Scope(
        interface=cable.ours,
        address=IPv4Address("10.77.0.1"),
        network=NETWORK,
        proxy=proxy,
        http_port=8080,
        boot_files=frozenset({"undionly.kpxe", "snponly.efi"}),
    )


@asynccontextmanager
async def serving(
    cable: Wire,
    notebook: Notebook,
    *,
    proxy: bool = False,
    leasing: Leasing = LEASING,
    address: str = "10.77.0.1",
    network: IPv4Network = NETWORK,
    ports: tuple[int, ...] = (67, 4011),
    clock: Callable[[], datetime] = utc_now,
) -> AsyncIterator[DhcpServer]:
    """Run the server as the daemon does."""
    here = replace(scope(cable, proxy=proxy), address=IPv4Address(address), network=network, ports=ports)
    server = DhcpServer({}, notebook, notebook, notebook, clock)
    await server.start()
    server.open(Opening(Service.DHCP, here, index=1, leasing=None if proxy else leasing))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        yield server
        running.cancel()


async def client(cable: Wire, *command: str, timeout: float = 30) -> tuple[int, str]:
    """Run a client's program in its namespace without stopping our loop; it does not outlive the call."""
    process = await asyncio.create_subprocess_exec(
        *cable.inside(*command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return process.returncode or 0, output.decode("utf-8", "replace")


UDHCPC = ("udhcpc", "-q", "-n", "-f", "-T", "1", "-s", "/bin/true")
"""busybox's client: one lease, or none after a while."""


async def udhcpc(cable: Wire, *more: str) -> str:
    """One lease by busybox; gives what it printed."""
    status, output = await client(cable, "busybox", *UDHCPC, "-i", cable.theirs, "-t", "5", *more)
    assert status == 0, output
    return output


def test_busybox_gets_and_keeps_its_address() -> None:
    """A client gets no address, or another one after `kill -9` of the daemon."""

    async def main(cable: Wire) -> None:
        notebook = Notebook()
        async with serving(cable, notebook):
            first = await udhcpc(cable)
        assert "10.77.0.1" in first
        async with serving(cable, notebook):
            await udhcpc(cable)
        assert len(notebook.leases) == 1
        names = [name for _mac, name, _data in notebook.noted]
        assert names.count("dhcp.acknowledged") == 2

    with wire() as cable:
        asyncio.run(main(cable))


FIELD = replace(
    LEASING,
    options=site_options(
        router=IPv4Address("10.77.0.254"),
        dns=[IPv4Address("10.77.0.2"), IPv4Address("10.77.0.3")],
        ntp=[IPv4Address("10.77.0.4")],
        domain="rack12.example.com",
        search=["example.com", "example.org"],
        routes=[(IPv4Network("10.0.0.0/8"), IPv4Address("10.77.0.253"))],
        mtu=1400,
    ),
    device_options=device_options(
        tftp_server_name="tftp.example.com", boot_file="phone.cfg", tftp_servers=[IPv4Address("10.77.0.5")]
    ),
)
"""Everything that an operator can tell clients."""

ASKS_FOR_ALL = """
option classless-routes code 121 = array of unsigned integer 8;
option tftp-servers code 150 = array of ip-address;
request subnet-mask, routers, domain-name-servers, domain-name, ntp-servers, interface-mtu, domain-search,
    classless-routes, tftp-server-name, bootfile-name, tftp-servers;
"""


def test_dhclient_gets_its_options(tmp_path: Path) -> None:
    """ISC's client does not understand what we say, or is not told something that it asks for."""

    async def main(cable: Wire) -> None:
        notebook = Notebook()
        leases, pid, config = tmp_path / "leases", tmp_path / "pid", tmp_path / "conf"
        config.write_text(ASKS_FOR_ALL)
        files = ("-cf", str(config), "-lf", str(leases), "-pf", str(pid))
        async with serving(cable, notebook, leasing=FIELD):
            status, output = await client(cable, "dhclient", "-4", "-1", "-v", "-sf", "/bin/true", *files, cable.theirs)
            assert status == 0, output
            said = leases.read_text()
            await client(cable, "dhclient", "-x", *files, cable.theirs)
        for option in (
            "subnet-mask 255.255.255.0",
            "dhcp-server-identifier 10.77.0.1",
            "dhcp-lease-time 3600",
            "routers 10.77.0.254",
            "domain-name-servers 10.77.0.2,10.77.0.3",
            "ntp-servers 10.77.0.4",
            'domain-name "rack12.example.com"',
            'domain-search "example.com.", "example.org."',
            "interface-mtu 1400",
            "classless-routes 8,10,10,77,0,253,0,10,77,0,254",
            'tftp-server-name "tftp.example.com"',
            'bootfile-name "phone.cfg"',
            "tftp-servers 10.77.0.5",
        ):
            assert f"option {option};" in said

    with wire() as cable:
        asyncio.run(main(cable))


def answers_to(output: str) -> list[Ether]:
    """What CAPTURE heard, by scapy."""
    return [Ether(bytes.fromhex(line)) for line in output.split()]


@pytest.mark.parametrize(("flags", "to"), [(0, "52:54:00:aa:bb:cc"), ("B", "ff:ff:ff:ff:ff:ff")])
def test_client_without_address_is_reached(flags: int | str, to: str) -> None:
    """
    An answer to one client wakes every machine on the network, or does not reach a client that has no address yet.

    A storm of a thousand machines that are all woken by each answer is a million packets (RFC 2131 section 4.1).
    """

    async def main(cable: Wire) -> None:
        must("ip", "addr", "add", "10.77.0.7/24", "dev", cable.ours)
        async with serving(cable, Notebook(), address="10.77.0.7"):
            frame = discover("52:54:00:aa:bb:cc", "PXEClient:Arch:00007:UNDI:003000", b"\0\7", flags).hex()
            _status, output = await client(cable, "python3", "-c", CAPTURE, cable.theirs, frame, "1")
        (answer,) = answers_to(output)
        assert answer.dst == to
        assert answer[IP].src == "10.77.0.7", "not the first address of the interface, but the one that is set"
        assert answer[IP].dst == ("255.255.255.255" if flags else answer[BOOTP].yiaddr)
        assert (answer[UDP].sport, answer[UDP].dport) == (67, 68)
        assert answer[BOOTP].siaddr == "10.77.0.7"

    with wire() as cable:
        asyncio.run(main(cable))


def test_acknowledged_only_when_on_disk() -> None:
    """A DHCPACK leaves before its lease is on disk (invariant 4), or one slow disk write stops everybody's offers."""

    async def main(cable: Wire) -> None:
        notebook = Notebook()
        notebook.disk_is_quick.clear()
        async with serving(cable, notebook), asyncio.TaskGroup() as group:
            leasing = group.create_task(udhcpc(cable))
            async with asyncio.timeout(20):
                await notebook.save_began.wait()
            frame = discover("52:54:00:aa:bb:cc", "PXEClient:Arch:00007:UNDI:003000", b"\0\7").hex()
            _status, output = await client(cable, "python3", "-c", CAPTURE, cable.theirs, frame, "0.5")
            assert len(output.split()) == 1, "another client is served meanwhile"
            assert [name for _mac, name, _data in notebook.noted] == ["dhcp.offered"], "nothing is acknowledged"
            notebook.disk_is_quick.set()
            await leasing

    with wire() as cable:
        asyncio.run(main(cable))


@pytest.mark.parametrize("step", [timedelta(hours=9), timedelta(hours=-9)])
def test_clock_that_is_set(step: timedelta) -> None:
    """NTP sets the clock, and addresses in use are given away, or leases last for hours longer, on disk too."""

    async def main(cable: Wire) -> None:
        notebook, offset = Notebook(), timedelta()
        one_address = replace(LEASING, ranges=((IPv4Address("10.77.0.100"), IPv4Address("10.77.0.100")),))
        async with serving(cable, notebook, leasing=one_address, clock=lambda: utc_now() + offset):
            await udhcpc(cable)
            offset = step
            must(*cable.inside("ip", "link", "set", cable.theirs, "address", "52:54:00:00:00:99"))
            _status, output = await client(cable, "busybox", *UDHCPC, "-i", cable.theirs, "-t", "2")
            assert "no lease" in output
        (lease,) = notebook.leases.values()
        left = lease.expires_at - (utc_now() + step)
        assert timedelta(minutes=59) < left <= timedelta(hours=1)

    with wire() as cable:
        asyncio.run(main(cable))


@pytest.mark.parametrize("raw", [b"", b"\1", b"\xff" * 2000, b"\1\1\6\0" + b"A" * 400])
def test_garbage_harms_nobody(raw: bytes) -> None:
    """A bad packet ends or stops the server (invariant 7)."""
    send = f"import socket; s = socket.socket(2, 2); s.setsockopt(1, 6, 1); s.sendto({raw!r}, ('10.77.0.1', 67))"

    async def main(cable: Wire) -> None:
        must(*cable.inside("ip", "addr", "add", "10.77.0.9/24", "dev", cable.theirs))
        async with serving(cable, Notebook()):
            status, output = await client(cable, "python3", "-c", send)
            assert status == 0, output
            await udhcpc(cable)

    with wire() as cable:
        asyncio.run(main(cable))


def test_taken_port_is_explained() -> None:
    """A second DHCP server on the host is a traceback."""

    async def main(cable: Wire) -> None:
        holder = sockets.bind_udp(cable.ours, 67)
        try:
            async with serving(cable, Notebook()):
                pass
        except PermanentError as error:
            assert "taken" in str(error)
            assert "ss -ulpn" in error.hint
        else:
            pytest.fail("it started")
        finally:
            holder.close()

    with wire() as cable:
        asyncio.run(main(cable))


def discover(mac: str, vendor: str, arch: bytes, flags: int | str = "B") -> bytes:
    """A PXE client's first packet, by scapy."""
    packet = (
        Ether(src=mac, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(op=1, xid=0x1234, chaddr=bytes.fromhex(mac.replace(":", "")), flags=flags)
        / DHCP(
            options=[
                ("message-type", "discover"),
                ("vendor_class_id", vendor.encode()),
                (93, arch),
                (97, b"\0" + bytes(range(16))),
                "end",
            ]
        )
    )
    return bytes(packet)


CAPTURE = """
import socket, sys, time
frame = bytes.fromhex(sys.argv[2])
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind((sys.argv[1], 0))
raw.settimeout(0.2)
raw.send(frame)
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    try:
        heard = raw.recv(4096)
    except TimeoutError:
        continue
    if heard[12:14] == b"\\x08\\x00" and heard[23] == 17 and heard[36:38] == b"\\x00\\x44":
        print(heard.hex())
"""


def test_one_warning_for_each_machine() -> None:
    """Firmware of an unknown architecture fills the log with each of its packets, or nobody hears of it (edge case 19)."""

    async def main(cable: Wire) -> None:
        notebook = Notebook()
        async with serving(cable, notebook):
            for mac in ("52:54:00:aa:bb:cc", "52:54:00:aa:bb:cc", "52:54:00:aa:bb:cd"):
                frame = discover(mac, "PXEClient:Arch:30583:UNDI:003000", b"\x77\x77").hex()
                _status, output = await client(cable, "python3", "-c", CAPTURE, cable.theirs, frame, "0.5")
                (answer,) = answers_to(output)
                assert answer[BOOTP].file.rstrip(b"\0") == b"snponly.efi"
        warned = [mac for mac, name, _data in notebook.noted if name == "dhcp.guessed"]
        assert warned == ["52:54:00:aa:bb:cc", "52:54:00:aa:bb:cd"]

    with wire() as cable:
        asyncio.run(main(cable))

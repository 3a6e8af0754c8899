"""Interfaces that appear, vanish, and change their addresses under the running daemon, in ways that real ones do."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provider.netboot import sockets
from tests.integration.provider_process import ProviderProcess
from tests.integration.test_dhcp_daemon import lease, operator
from tests.integration.test_serve import Daemon, configuration, refused, serving
from tests.integration.wires import Wire, lay, must, run, wire

PATIENCE = 30.0  # seconds
NEAR, FAR = "10.77.0.1", "10.78.0.1"
MAC = "52:54:00:00:00:01"
ALL = ["DHCP", "TFTP", "agent HTTPS", "boot HTTP", "router advertisements"]
ALL_ROUTERS = "ff020000000000000000000000000002"
FLAPS = 200


@dataclass(frozen=True)
class Site:
    """A daemon with a cable that is there when it starts, and another that may be there."""

    folder: Path
    assets: Path
    daemon: Daemon
    near: Wire
    far: Wire

    def status(self, name: str) -> dict[str, Any]:
        """What `bootwright status` says of an interface."""
        answer = ProviderProcess(self.folder, self.assets, self.near, self.daemon).operator("GET", "/v1/status")
        interfaces = {each["name"]: each for each in json.loads(answer.body)["interfaces"]}
        return dict(interfaces[name])

    def wait(self, name: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Until that is so."""
        end = time.monotonic() + PATIENCE
        while not until(status := self.status(name)):
            assert time.monotonic() < end, status
            time.sleep(0.02)
        return status

    def wait_served(self, cable: Wire, address: str) -> None:
        """Until everything is open on the interface."""
        self.wait(cable.ours, lambda each: each["address"] == address and each["serves"] == ALL)

    def wait_for_reason(self, cable: Wire, reason: str) -> dict[str, Any]:
        """Until it waits for that."""
        return self.wait(cable.ours, lambda each: any(reason in one["reason"] for one in each["waits_for"]))

    def log(self, event: str) -> list[dict[str, Any]]:
        """What it logged of this kind."""
        lines = (self.folder / "provider.log").read_text().splitlines()
        assert not [line for line in lines if "Traceback" in line or '"exception"' in line]
        return [each for each in map(json.loads, lines) if each["event"] == event]


@contextlib.contextmanager
def site(folder: Path, assets: Path, *, far: str = "") -> Iterator[Site]:
    """Start it; `far` is the second interface's address with its prefix, none if it is not there."""
    interfaces = [interface("near-ours", "10.77.0"), interface("far-ours", "10.78.0")]
    config = configuration(folder, assets, network={"interfaces": interfaces})
    with (
        wire(f"{NEAR}/24", "near") as near_cable,
        wire(far, "far") as far_cable,
        serving(config) as daemon,
    ):
        yield Site(folder, assets, daemon, near_cable, far_cable)


def interface(name: str, network: str) -> dict[str, object]:
    pool = {"first": f"{network}.100", "last": f"{network}.199"}
    return {"name": name, "dhcp": "server", "pool": pool}


def boots(cable: Wire, mac: str, address: str, provider: str) -> None:
    """A client gets this lease, its boot file by TFTP, and its script by HTTP."""
    assert lease(cable, mac) == address
    must(*cable.inside("ip", "addr", "replace", f"{address}/24", "dev", cable.theirs))
    must(*cable.inside("curl", "-sSf", "-m", "20", "-o", "/dev/null", f"tftp://{provider}/undionly.kpxe"))
    script = must(*cable.inside("curl", "-sSf", "-m", "20", f"http://{provider}:8080/boot.ipxe"))
    assert f"http://{provider}:8080/machine.ipxe" in script
    must(*cable.inside("curl", "-skS", "-m", "20", "-o", "/dev/null", f"https://{provider}:8443/"))


def test_down_and_up(tmp_path: Path, assets: Path) -> None:
    """After `ip link set down` and `up` somebody has to restart the daemon, or clients change their addresses."""
    with site(tmp_path, assets) as here:
        first = lease(here.near, MAC)
        boots(here.near, MAC, first, NEAR)
        must("ip", "link", "set", here.near.ours, "down")
        assert here.wait_for_reason(here.near, "interface near-ours is down")["serves"] == ALL
        must("ip", "link", "set", here.near.ours, "up")
        here.wait(here.near.ours, lambda each: not each["waits_for"])
        boots(here.near, MAC, first, NEAR)
        groups = [line.split() for line in Path("/proc/self/net/igmp6").read_text().splitlines()]
        assert [here.near.ours, ALL_ROUTERS] in [each[1:3] for each in groups], "router solicitations are heard again"
        assert not here.log("network.receive_failed")


def test_made_again_under_its_name(tmp_path: Path, assets: Path) -> None:
    """An interface with another index is not heard any more; its leases are lost; nothing can be reserved meanwhile."""
    with site(tmp_path, assets) as here:
        first = lease(here.near, MAC)
        old = socket.if_nametoindex(here.near.ours)
        must("ip", "link", "del", here.near.ours)
        status = here.wait_for_reason(here.near, "there is no interface near-ours")
        assert (status["address"], status["serves"]) == (None, [])
        operator(tmp_path, "reserve", "10.77.0.55", "--mac", "52:54:00:00:00:02")
        lay(here.near, f"{NEAR}/24")
        assert socket.if_nametoindex(here.near.ours) != old
        here.wait_served(here.near, NEAR)
        boots(here.near, MAC, first, NEAR)
        must(*here.near.inside("ip", "addr", "flush", "dev", here.near.theirs))
        boots(here.near, "52:54:00:00:00:02", "10.77.0.55", NEAR)


def test_made_again_between_two_looks(tmp_path: Path, assets: Path) -> None:
    """When it is gone and back before anybody looks, sockets stay on the index that is gone."""
    with site(tmp_path, assets) as here:
        first = lease(here.near, MAC)
        must("ip", "link", "del", here.near.ours)
        lay(here.near, f"{NEAR}/24")
        boots(here.near, MAC, first, NEAR)


def test_other_address_in_the_network(tmp_path: Path, assets: Path) -> None:
    """Machines are told of the address that we had, or get the one that we have now."""
    with site(tmp_path, assets) as here:
        first = lease(here.near, MAC)
        must("ip", "addr", "flush", "dev", here.near.ours)
        must("ip", "addr", "add", "10.77.0.101/24", "dev", here.near.ours)
        here.wait_served(here.near, "10.77.0.101")
        boots(here.near, MAC, first, "10.77.0.101")
        must(*here.near.inside("ip", "addr", "flush", "dev", here.near.theirs))
        others = [lease(here.near, f"52:54:00:00:01:{number:02x}") for number in range(3)]
        assert len({first, "10.77.0.101", *others}) == 5


def test_address_of_another_network(tmp_path: Path, assets: Path) -> None:
    """Addresses are leased that do not work, everything stops, or it does not heal by itself."""
    with site(tmp_path, assets) as here:
        first = lease(here.near, MAC)
        must("ip", "addr", "flush", "dev", here.near.ours)
        assert here.wait_for_reason(here.near, "has no IPv4 address")["serves"] == []
        must("ip", "addr", "add", "10.99.0.1/24", "dev", here.near.ours)
        said = "10.77.0.100 cannot be leased on near-ours, whose network is 10.99.0.0/24"
        status = here.wait_for_reason(here.near, said)
        assert status["address"] == "10.99.0.1"
        assert status["serves"] == ["TFTP", "agent HTTPS", "boot HTTP"]
        (error,) = here.log("network.dhcp_off")
        assert (error["level"], error["reason"]) == ("error", said)
        assert "network.interfaces" in error["hint"]
        must(*here.near.inside("ip", "addr", "add", "10.99.0.9/24", "dev", here.near.theirs))
        must(*here.near.inside("curl", "-sSf", "http://10.99.0.1:8080/boot.ipxe"))
        silent = ("udhcpc", "-i", here.near.theirs, "-q", "-n", "-f", "-t", "2", "-T", "1", "-s", "/bin/true")
        assert run(*here.near.inside("busybox", *silent)).returncode != 0
        must(*here.near.inside("ip", "addr", "flush", "dev", here.near.theirs))
        must("ip", "addr", "replace", f"{NEAR}/24", "dev", here.near.ours)
        must("ip", "addr", "del", "10.99.0.1/24", "dev", here.near.ours)
        here.wait_served(here.near, NEAR)
        boots(here.near, MAC, first, NEAR)


def test_appears_after_the_start(tmp_path: Path, assets: Path) -> None:
    """An interface that is late is never served, or nobody is told that it is missing."""
    with site(tmp_path, assets) as here:
        (warning,) = here.log("network.interface_waiting")
        assert (warning["level"], warning["interface"]) == ("warning", "far-ours")
        assert "there is no interface far-ours" in warning["reason"]
        assert here.status("far-ours")["waits_for"][0]["hint"]
        boots(here.near, MAC, lease(here.near, MAC), NEAR)
        lay(here.far, f"{FAR}/24")
        here.wait_served(here.far, FAR)
        boots(here.far, MAC, lease(here.far, MAC), FAR)


def test_leases_of_a_network_that_comes_late(tmp_path: Path, assets: Path) -> None:
    """What is on disk of a network is not known when its interface is missing at the start (invariant 5)."""
    with site(tmp_path, assets, far=f"{FAR}/24") as here:
        first = lease(here.far, MAC)
    with site(tmp_path, assets) as here:
        lay(here.far, f"{FAR}/24")
        here.wait_served(here.far, FAR)
        assert lease(here.far, "52:54:00:00:00:02") != first
        assert lease(here.far, MAC) == first


def test_nothing_to_serve_is_refused(tmp_path: Path, assets: Path) -> None:
    """Somebody who mistyped all names has a daemon that waits for ever."""
    config = configuration(tmp_path, assets, network={"interfaces": [interface("wire-ours", "10.78.0")]})
    assert "there is no interface wire-ours" in refused(config)
    with wire() as cable:
        assert "10.78.0.100 cannot be leased on wire-ours, whose network is 10.77.0.0/24" in refused(config)
        must("ip", "addr", "flush", "dev", cable.ours)
        assert "interface wire-ours has no IPv4 address" in refused(config)


def test_port_that_is_taken_meanwhile(tmp_path: Path, assets: Path) -> None:
    """A port that another program has when the interface comes ends the daemon, or is never had again."""
    with site(tmp_path, assets) as here:
        lay(here.far, "10.78.1.1/24")
        with contextlib.closing(sockets.bind_udp(here.far.ours, 69)):
            must("ip", "addr", "replace", f"{FAR}/24", "dev", here.far.ours)
            must("ip", "addr", "del", "10.78.1.1/24", "dev", here.far.ours)
            status = here.wait_for_reason(here.far, "UDP port 69 on far-ours is taken by another program")
            assert status["serves"] == [each for each in ALL if each != "TFTP"]
            assert "no machine is told to boot there before TFTP is open" in str(status["waits_for"])
            assert lease(here.far, MAC)
            assert not offers_boot_file(here.far), "nobody serves it (invariant 10)"
            assert offers_boot_file(here.near)
            boots(here.near, MAC, lease(here.near, MAC), NEAR)
        assert here.log("network.open_failed")[0]["level"] == "error"
        here.wait_served(here.far, FAR)
        here.wait(here.far.ours, lambda each: not each["waits_for"])
        assert offers_boot_file(here.far)
        boots(here.far, MAC, lease(here.far, MAC), FAR)


def offers_boot_file(cable: Wire) -> bool:
    """Whether PXE firmware there gets an offer."""
    arguments = ("-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000", "-t", "2", "-T", "1")
    done = run(*cable.inside("busybox", "udhcpc", "-i", cable.theirs, "-q", "-n", "-f", "-s", "/bin/true", *arguments))
    return done.returncode == 0


SLOW_TFTP = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(20)
sock.sendto(b"\\0\\1undionly.kpxe\\0octet\\0", (sys.argv[1], 69))
content, number = b"", 1
while True:
    data, peer = sock.recvfrom(2048)
    assert data[:4] == b"\\0\\3" + number.to_bytes(2, "big"), data[:40]
    content += data[4:]
    print("block", number, flush=True)
    time.sleep(0.02)
    sock.sendto(b"\\0\\4" + number.to_bytes(2, "big"), peer)
    number += 1
    if len(data) < 516:
        break
open(sys.argv[2], "wb").write(content)
"""


@contextlib.contextmanager
def slow_downloads(here: Site) -> Iterator[None]:
    """Begin both on the near cable before what is done meanwhile, and have every byte after it."""
    must(*here.near.inside("ip", "addr", "add", "10.77.0.9/24", "dev", here.near.theirs))
    kernel = here.assets / json.loads((here.assets / "manifest.json").read_text())["images"]["x86_64"]["kernel"]
    tftp, http = here.folder / "tftp", here.folder / "http"
    url = f"http://{NEAR}:8080/assets/{kernel.relative_to(here.assets)}"
    by_tftp = ["python3", "-c", SLOW_TFTP, NEAR, str(tftp)]
    by_http = ["curl", "-sSf", "--limit-rate", str(kernel.stat().st_size // 5), "-o", str(http), url]
    with (
        subprocess.Popen(here.near.inside(*by_tftp), stdout=subprocess.PIPE) as one,
        subprocess.Popen(here.near.inside(*by_http)) as other,
    ):
        assert one.stdout is not None
        assert one.stdout.readline() == b"block 1\n"
        yield
        assert one.poll() is None or other.poll() is None, "they were over before anything was done"
        one.stdout.read()
        assert (one.wait(PATIENCE), other.wait(PATIENCE)) == (0, 0)
    assert tftp.read_bytes() == (here.assets / "boot/undionly.kpxe").read_bytes()
    assert http.read_bytes() == kernel.read_bytes()


def test_others_are_not_disturbed(tmp_path: Path, assets: Path) -> None:
    """A transfer ends, or hangs, because something happens on another interface (invariant 6)."""
    with site(tmp_path, assets) as here, slow_downloads(here):
        for _ in range(2):
            lay(here.far, f"{FAR}/24")
            here.wait_served(here.far, FAR)
            must("ip", "addr", "replace", "10.99.0.1/24", "dev", here.far.ours)
            must("ip", "addr", "del", f"{FAR}/24", "dev", here.far.ours)
            here.wait_for_reason(here.far, "cannot be leased")
            must("ip", "link", "del", here.far.ours)
            here.wait_for_reason(here.far, "there is no interface")


def descriptors(here: Site) -> int:
    return len(list(Path(f"/proc/{here.daemon.process.pid}/fd").iterdir()))


def flap(here: Site, turn: int) -> None:
    """Something that happens to interfaces; after five of them everything is as before."""
    ours = here.far.ours
    match turn % 5:
        case 0:
            must("ip", "link", "del", ours)
        case 1:
            lay(here.far, f"{FAR}/24")
        case 2:
            must("ip", "link", "set", ours, "down")
        case 3:
            must("ip", "link", "set", ours, "up")
            must("ip", "addr", "replace", "10.99.0.1/24", "dev", ours)
            must("ip", "addr", "del", f"{FAR}/24", "dev", ours)
        case 4:
            must("ip", "addr", "replace", f"{FAR}/24", "dev", ours)
            must("ip", "addr", "del", "10.99.0.1/24", "dev", ours)


def test_many_flaps(tmp_path: Path, assets: Path) -> None:
    """After a loose cable the daemon is in a state that the kernel is not in, or loses a descriptor each time."""
    with site(tmp_path, assets, far=f"{FAR}/24") as here:
        first = lease(here.far, MAC)
        boots(here.near, MAC, lease(here.near, MAC), NEAR)
        before = descriptors(here)
        for turn in range(FLAPS):
            flap(here, turn)
            if turn % 11 == 3:
                time.sleep(0.25)  # Some of each kind are seen alone, most of them in bursts.
        here.wait_served(here.far, FAR)
        boots(here.far, MAC, first, FAR)
        here.wait(here.near.ours, lambda _: descriptors(here) <= before)
        assert here.status(here.near.ours)["serves"] == ALL
        seen = [*here.log("network.interface_waiting"), *here.log("network.dhcp_off")]
        assert len(seen) > 2, "they were not seen at all"
        assert len(seen) < FLAPS / 2, "they were looked at one by one"
        assert not here.log("network.receive_failed")

"""ProxyDHCP beside DHCP servers that others wrote, on other hosts and on ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from provider.domain.mac import MacAddress
from provider.planning.proxy_style import Style
from tests.integration import test_serve as serve
from tests.integration.test_dhcp_server import Notebook, client, serving, udhcpc
from tests.integration.wires import Wire, must, run, wire

PATIENCE = 30.0  # seconds
MAC = MacAddress("52:54:00:aa:bb:cc")
BIOS, UEFI = 0x00, 0x07
ROOT = Path(__file__).parents[2]

Command = Callable[[Path, str, bool], list[str]]
"""
A foreign server's, from its folder and interface, and whether it points to us, as the README tells for one on our host.

It leases 10.77.0.20 to 10.77.0.99.
"""


def dnsmasq(folder: Path, interface: str, points: bool) -> list[str]:
    files = ("--conf-file=/dev/null", f"--dhcp-leasefile={folder / 'leases'}")
    how = ("--no-daemon", "--port=0", "--user=root", "--no-ping", f"--interface={interface}", "--bind-interfaces")
    pointing = ("--dhcp-match=set:pxe,option:client-arch", "--dhcp-option-force=tag:pxe,60,PXEClient")
    ranges = "--dhcp-range=10.77.0.20,10.77.0.99,255.255.255.0,10m"
    return ["dnsmasq", *how, *files, ranges, *(pointing if points else ())]


PXE_OF_DHCPD = """
if substring(option vendor-class-identifier, 0, 9) = "PXEClient" { option vendor-class-identifier "PXEClient"; }
"""


def dhcpd(folder: Path, interface: str, points: bool) -> list[str]:
    (folder / "dhcpd.leases").touch()
    (folder / "dhcpd.conf").write_text(
        "authoritative; default-lease-time 600; ping-check false;\n"
        "subnet 10.77.0.0 netmask 255.255.255.0 { range 10.77.0.20 10.77.0.99; }\n" + (PXE_OF_DHCPD if points else "")
    )
    files = ("-cf", str(folder / "dhcpd.conf"), "-lf", str(folder / "dhcpd.leases"))
    return ["dhcpd", "-4", "-f", "--no-pid", *files, interface]


PXE_OF_KEA = {
    "name": "pxe",
    "test": "substring(option[60].hex, 0, 9) == 'PXEClient'",
    "option-data": [{"name": "vendor-class-identifier", "data": "PXEClient", "always-send": True}],
}


def kea(folder: Path, interface: str, points: bool) -> list[str]:
    subnet = {"subnet": "10.77.0.0/24", "pools": [{"pool": "10.77.0.20-10.77.0.99"}]}
    settings = {
        "interfaces-config": {"interfaces": [interface]},
        "lease-database": {"type": "memfile", "persist": False},
        "subnet4": [subnet],
        **({"client-classes": [PXE_OF_KEA]} if points else {}),
    }
    (folder / "kea.json").write_text(json.dumps({"Dhcp4": settings}))
    places = (f"KEA_PIDFILE_DIR={folder}", f"KEA_LOCKFILE_DIR={folder}")
    return ["env", *places, "kea-dhcp4", "-c", str(folder / "kea.json")]


@contextlib.contextmanager
def serving_foreign(command: Sequence[str], *inside: str) -> Iterator[None]:
    """Run a foreign server, here or behind the words of `inside`, from when it has port 67 until the end."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*inside, *command], **quiet) as server:
        try:
            end = time.monotonic() + PATIENCE
            while not run(*inside, "ss", "-Hlun", "sport = :67").stdout:
                assert server.poll() is None, f"{command[0]} ended with status {server.returncode}"
                assert time.monotonic() < end, f"{command[0]} does not start"
                time.sleep(0.05)
            yield
            assert server.poll() is None, f"{command[0]} gave up"
        finally:
            server.terminate()
            server.wait(PATIENCE)


@contextlib.contextmanager
def foreign_host(cable: Wire) -> Iterator[tuple[str, ...]]:
    """A namespace with 10.77.0.2 on `foreign1`, on the same network as client and we; gives the words that lead into it."""
    must("ip", "netns", "add", "foreign")
    try:
        _bridge(cable)
        yield "ip", "netns", "exec", "foreign"
    finally:
        for name in ("foreign0", "port0", "bridge0"):  # A namespace takes its cables along, but only in its own time.
            run("ip", "link", "del", name)
        must("ip", "netns", "del", "foreign")


def _bridge(cable: Wire) -> None:
    """Client, foreign server and we on one network: our end of the cable becomes a port, and a bridge takes its address."""
    must("ip", "link", "add", "bridge0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    must("ip", "link", "add", "foreign0", "type", "veth", "peer", "name", "foreign1", "netns", "foreign")
    must("ip", "addr", "flush", "dev", cable.ours)
    must("ip", "link", "set", cable.ours, "name", "port0")
    must("ip", "link", "set", "port0", "up")
    must("ip", "link", "set", "bridge0", "name", cable.ours)
    for port in ("port0", "foreign0"):
        must("ip", "link", "set", port, "master", cable.ours, "up")
    must("ip", "addr", "add", "10.77.0.1/24", "dev", cable.ours)
    must("ip", "link", "set", cable.ours, "up")
    must("ip", "netns", "exec", "foreign", "ip", "addr", "add", "10.77.0.2/24", "dev", "foreign1")
    must("ip", "netns", "exec", "foreign", "ip", "link", "set", "foreign1", "up")


async def firmware(cable: Wire, arch: int, *styles: Style) -> dict[str, str]:
    """What PXE firmware gets that knows these styles, or all."""
    program = ("-m", "tests.integration.pxe_client", cable.theirs, MAC, str(arch), *styles)
    status, output = await client(cable, "env", f"PYTHONPATH={ROOT}", sys.executable, *program, timeout=PATIENCE)
    assert status == 0, output
    found: dict[str, str] = json.loads(output)
    return found


async def dhclient(cable: Wire, folder: Path) -> str:
    """The lease that ISC's client gets."""
    files = ("-cf", "/dev/null", "-lf", str(folder / "client.leases"), "-pf", str(folder / "client.pid"))
    status, output = await client(cable, "dhclient", "-4", "-1", "-v", "-sf", "/bin/true", *files, cable.theirs)
    assert status == 0, output
    await client(cable, "dhclient", "-x", *files, cable.theirs)
    return output


@pytest.mark.parametrize("foreign", [dnsmasq, dhcpd, kea])
def test_proxy_beside_a_foreign_server(tmp_path: Path, foreign: Command) -> None:
    """In proxy mode we disturb the server that is there, or firmware gets no boot file beside it, in one style or another."""

    async def main(cable: Wire) -> None:
        notebook = Notebook()
        async with serving(cable, notebook, proxy=True):
            assert "10.77.0.2" in await udhcpc(cable)  # The lease is of the foreign server.
            assert "from 10.77.0.2" in await dhclient(cable, tmp_path)
            assert notebook.noted == []
            for arch, style, file, events in (
                (BIOS, None, "undionly.kpxe", ["dhcp.offered"]),
                (UEFI, None, "snponly.efi", ["dhcp.offered", "pxe.acknowledged"]),
                (BIOS, Style.TWO_STEP, "undionly.kpxe", ["dhcp.offered", "pxe.acknowledged"]),
                (UEFI, Style.COMPLETE, "snponly.efi", ["dhcp.offered"]),
                (BIOS, Style.MENU, "undionly.kpxe", ["dhcp.offered", "pxe.acknowledged"]),
            ):
                notebook.styles = {} if style is None else {MAC: style}
                found = await firmware(cable, arch)
                assert (found["server"], found["boot_server"], found["file"]) == ("10.77.0.2", "10.77.0.1", file)
                assert style in (None, found["style"])
                assert [name for _mac, name, _data in notebook.noted] == events
                notebook.noted.clear()

    with wire() as cable, foreign_host(cable) as inside, serving_foreign(foreign(tmp_path, "foreign1", False), *inside):
        asyncio.run(main(cable))


@pytest.mark.parametrize("foreign", [dnsmasq, dhcpd, kea])
def test_proxy_on_the_host_of_a_foreign_server(tmp_path: Path, foreign: Command) -> None:
    """Beside a DHCP server on our own host we cannot start, or firmware is not sent to us (edge case 11)."""

    async def main(cable: Wire) -> None:
        notebook = Notebook()
        async with serving(cable, notebook, proxy=True, ports=(4011,)):
            assert "10.77.0.1" in await udhcpc(cable)
            for arch, file in ((BIOS, "undionly.kpxe"), (UEFI, "snponly.efi")):
                found = await firmware(cable, arch)
                assert (found["server"], found["boot_server"], found["file"]) == ("10.77.0.1", "10.77.0.1", file)
                assert notebook.noted.pop() == (MAC, "pxe.acknowledged", {"file": file})
        assert notebook.noted == []

    with wire() as cable, serving_foreign(foreign(tmp_path, cable.ours, True)):
        asyncio.run(main(cable))


def test_daemon_leaves_the_port_to_the_other_server(tmp_path: Path, assets: Path) -> None:
    """`dhcp: proxy-4011` takes port 67, and the DHCP server that was there does not start after the next reboot."""
    config = serve.configuration(
        tmp_path, assets, network={"interfaces": [{"name": "wire-ours", "dhcp": "proxy-4011"}]}
    )
    with wire() as cable, serve.serving(config), serving_foreign(dnsmasq(tmp_path, cable.ours, True)):
        found = asyncio.run(firmware(cable, UEFI))
    assert (found["boot_server"], found["file"]) == ("10.77.0.1", "snponly.efi")


def test_style_is_learned(tmp_path: Path, assets: Path) -> None:
    """
    Firmware that knows no style but one never boots, or has to find it anew after a restart of ours.

    Each boot is a new one to us, though it comes within seconds: it has another xid.
    """
    config = serve.configuration(tmp_path, assets, network={"interfaces": [{"name": "wire-ours", "dhcp": "proxy"}]})
    with wire() as cable, foreign_host(cable) as inside, serving_foreign(dnsmasq(tmp_path, "foreign1", False), *inside):
        must(*cable.inside("ip", "link", "set", cable.theirs, "address", MAC))  # TFTP comes from there.
        with serve.serving(config):
            for style in (Style.COMPLETE, Style.MENU, Style.TWO_STEP):
                found = asyncio.run(firmware(cable, BIOS, Style.TWO_STEP))
                assert (found["style"], bool(found["file"])) == (style, style is Style.TWO_STEP)
            fetch(cable, found["file"])
            assert asyncio.run(firmware(cable, BIOS))["style"] == Style.TWO_STEP
            # That fetched nothing: a power cut, so it is no matter.
            assert asyncio.run(firmware(cable, BIOS))["style"] == Style.TWO_STEP
            fetch(cable, found["file"])
        with serve.serving(config):
            assert asyncio.run(firmware(cable, BIOS))["style"] == Style.TWO_STEP


def fetch(cable: Wire, file: str) -> None:
    """Fetch the boot program, from the address that the firmware has."""
    must(*cable.inside("curl", "--silent", "--show-error", "--output", "/dev/null", f"tftp://10.77.0.1/{file}"))

"""
Make a capture: `./dev capture NAME...`, NAME being one of `CONVERSATIONS`; or `./dev capture NAME --raw FILE`.

The first boots the machine in a lab, or runs the client, with tshark at its cable, trims what that wrote, and says what was
seen. It must run in namespaces of its own, as the tests do. The second trims a capture that somebody made elsewhere:
on real hardware, say. Both write NAME.pcap here; the golden text beside it is then written by the unit test.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from provider.domain.event import Event
from provider.kit import logs
from provider.lab import lab as labs
from provider.lab import settings as lab_settings
from provider.lab.network import BOOT_BRIDGE, tap_name
from provider.lab.settings import LabFile
from provider.lab.witness import StageError
from tests.captures import frames
from tests.captures.conversations import CONVERSATIONS, Client, Machine
from tests.captures.text import text
from tests.captures.trim import trim
from tests.integration.test_dhcp_relay import BOTH_PORTS, dhcrelay, in_a_hall, relaying
from tests.integration.test_serve import configuration, serving
from tests.integration.wires import must, wire

FOLDER = Path(__file__).parent
PATIENCE = timedelta(minutes=3)
"""Until a machine has its last file; a conversation that does not get there is worth keeping as well."""
PROVIDER_MAC, CLIENT_MAC = "52:54:00:77:00:fe", "52:54:00:77:00:01"
"""Else each run has others. The client's is that of the lab's first machine."""
LAST_FILE = "initramfs.zst"

_START_SECONDS = 10.0
_LOOK_SECONDS = 0.05


@contextlib.contextmanager
def sniffing(interface: str, file: Path) -> Iterator[None]:
    """Write down what passes the interface within this block."""
    command = ("tshark", "-i", interface, "-f", "udp or tcp", "-F", "pcap", "-w", str(file), "-B", "64")
    said = file.with_suffix(".log")
    with said.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as tshark:
        end = time.monotonic() + _START_SECONDS
        while "Capture started" not in said.read_text():
            assert tshark.poll() is None, said.read_text()
            assert time.monotonic() < end, said.read_text()
            time.sleep(_LOOK_SECONDS)
        try:
            yield
            time.sleep(1)  # What is still in its buffers.
        finally:
            tshark.terminate()


def record_machine(machine: Machine, folder: Path, raw: Path) -> None:
    """From power-on until the last file was sent to it."""
    assets = _assets()

    async def main() -> None:
        accelerator = await labs.choose_accelerator(assets)
        async with labs.up(_settings(machine), folder / "run", assets, accelerator) as lab:
            must("ip", "link", "set", BOOT_BRIDGE, "address", PROVIDER_MAC)
            with sniffing(tap_name(1), raw):
                await lab.machines[0].press_power_button()
                try:
                    await lab.witness.until(lambda: _last(lab.witness.events), LAST_FILE, PATIENCE)
                except StageError as error:
                    print(error, file=sys.stderr)

    asyncio.run(main())


def _assets() -> Path:
    return Path(os.environ.get("BOOTWRIGHT_ASSETS_DIR", ".bootwright/assets")).resolve()


def _last(events: Sequence[Event]) -> Event | None:
    return next((each for each in events if LAST_FILE in str(each.data.get("file"))), None)


def _settings(machine: Machine) -> LabFile:
    file = lab_settings.load()
    lab = file.lab.model_copy(update={"machines": 1, "firmware": machine.firmware, "dhcp": machine.dhcp})
    return file.model_copy(update={"lab": lab})


def record_client(client: Client, folder: Path, raw: Path) -> None:
    """Until it ends."""
    assets = _assets()
    if client.relayed:
        with in_a_hall(folder, assets) as hall, relaying(hall, *dhcrelay(*BOTH_PORTS)):
            must("ip", "link", "set", "wire-ours", "address", PROVIDER_MAC)
            must(*hall.client(1, "ip", "link", "set", "eth0", "address", CLIENT_MAC))
            with sniffing("wire-ours", raw):
                must(*hall.client(1, *_shell(client, "eth0", folder)))
        return
    with wire() as cable, serving(configuration(folder, assets)):
        must("ip", "link", "set", cable.ours, "address", PROVIDER_MAC)
        must(*cable.inside("ip", "link", "set", cable.theirs, "address", CLIENT_MAC))
        with sniffing(cable.ours, raw):
            must(*cable.inside(*_shell(client, cable.theirs, folder)))


def _shell(client: Client, interface: str, folder: Path) -> list[str]:
    return ["env", f"interface={interface}", f"folder={folder}", "sh", "-euc", client.script]


def record(name: str) -> None:
    """Make one of `CONVERSATIONS` again."""
    folder = Path(tempfile.mkdtemp(prefix="capture-"))  # It is kept: if something is odd, its logs tell why.
    raw = folder / "raw.pcap"
    print(f"{name}: logs and the whole capture are in {folder}", file=sys.stderr)
    match CONVERSATIONS[name]:
        case Machine() as machine:
            record_machine(machine, folder, raw)
        case Client() as client:
            record_client(client, folder, raw)
    keep(name, raw)


def keep(name: str, raw: Path) -> None:
    """Trim a capture and put it here."""
    file = FOLDER / f"{name}.pcap"
    frames.write(file, trim(frames.read(raw)))
    print(text(frames.read(file)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="./dev capture", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="name of the capture")
    parser.add_argument("--raw", type=Path, help="a pcap file to be trimmed, instead of a lab")
    asked = parser.parse_args()
    logs.configure("warning", "auto")
    for name in asked.names:
        if asked.raw is not None:
            keep(name, asked.raw)
        elif name in CONVERSATIONS:
            record(name)
        else:
            parser.error(f"there is no {name}: {', '.join(CONVERSATIONS)}")


if __name__ == "__main__":
    main()

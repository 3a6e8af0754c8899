"""
The fake Talos agent as a program: `python -m provider.lab.omni.talos_agent --address HOST:PORT --uuid UUID`.

Without them, it takes address and UUID from the computer that it runs on, as the real one does. What happens is a line of JSON on
standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from uuid import UUID

from provider.lab.omni.talos_agent import machine as machines
from provider.lab.omni.talos_agent.agent import TalosAgent
from provider.lab.omni.talos_agent.faults import Faults
from provider.lab.omni.talos_agent.machine import Ipmi, Machine


def main() -> None:
    """Run until killed, or the machine reboots."""
    given = _parser().parse_args()
    line = Path("/proc/cmdline").read_text(encoding="ascii", errors="replace")
    address = given.address or machines.kernel_argument("metal.provider.address", line)
    if not address:
        sys.exit("give --address, or metal.provider.address on the kernel's command line")
    asyncio.run(_run(address, given))


async def _run(address: str, given: argparse.Namespace) -> None:
    first = UUID(given.uuid or machines.own_uuid())
    trust = ssl.create_default_context(cafile=given.ca)
    trust.set_alpn_protocols(["h2"])
    faults = Faults(
        wipe_seconds=given.wipe_seconds,
        wipe_error=given.wipe_error,
        dies_in_wipe=given.dies_in_wipe,
        answers_hello=not given.no_hello,
        floods=given.floods,
        negotiates=not given.revision_zero,
    )
    async with asyncio.TaskGroup() as group:
        for number in range(given.count):
            uuid = str(UUID(int=first.int + number))
            machine = Machine(
                uuid,
                ipmi=None if given.bmc is None else _ipmi(given.bmc),
                test_mode=given.test_mode,
                disks=machines.own_disks() if given.own_disks else tuple(given.disk),
                really_reboots=given.really_reboots,
            )
            source = str(ip_address(given.source) + number) if given.source else ""
            agent = TalosAgent(address, machine, faults, trust, source, given.restarts_after, _teller(uuid))
            group.create_task(agent.run(), name=f"agent {uuid}")


def _teller(uuid: str) -> Callable[[str], None]:
    def say(what: str) -> None:
        sys.stdout.write(json.dumps({"uuid": uuid, "event": what}) + "\n")
        sys.stdout.flush()

    return say


def _ipmi(text: str) -> Ipmi:
    host, _, port = text.partition(":")
    return Ipmi(host, int(port or 623))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m provider.lab.omni.talos_agent", description="A fake Talos agent.")
    parser.add_argument("--address", metavar="[https://]HOST:PORT", help="the provider")
    parser.add_argument("--uuid", help="the machine's")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="so many machines, with UUIDs from there on")
    parser.add_argument("--source", metavar="ADDRESS", help="to call from; each further machine from the next one")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificates to trust, instead of the system's")
    parser.add_argument("--restarts-after", type=float, default=5.0, metavar="SECONDS", help="when the agent has ended")
    parser.add_argument("--bmc", metavar="HOST[:PORT]", help="the machine's; without: it has none")
    parser.add_argument("--test-mode", action="store_true", help="tell of a power API, not of a BMC")
    parser.add_argument("--disk", type=Path, action="append", default=[], metavar="FILE", help="is really erased")
    parser.add_argument("--own-disks", action="store_true", help="erase all disks of this computer")
    parser.add_argument("--really-reboots", action="store_true", help="this computer, at once")
    parser.add_argument("--wipe-seconds", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--wipe-error", default="", metavar="TEXT", help="each wipe fails with it")
    parser.add_argument("--dies-in-wipe", action="store_true")
    parser.add_argument("--no-hello", action="store_true", help="never answer Hello")
    parser.add_argument("--floods", action="store_true")
    parser.add_argument("--revision-zero", action="store_true", help="an agent from before protocol revisions")
    return parser


if __name__ == "__main__":
    main()

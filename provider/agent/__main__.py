"""
From a bare kernel to a machine that waits for work.

Whatever goes wrong is said on the screen and tried again. A machine that cannot reach its provider for half an hour, or
is refused by it, restarts: then the network, the image or the ticket is to blame, and all three come anew with a boot.
An error of ours ends this process with a traceback on the console; init.sh starts it again.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from provider.agent import inventory, kernel_line, network, patience, power
from provider.agent.client import Provider, TokenRefusedError
from provider.agent.console import say
from provider.agent.drivers import Drivers
from provider.agent.work import Worker
from provider.domain.errors import PermanentError, TemporaryError
from provider.domain.inventory import Inventory
from provider.wire import agent as wire

_VERSION = Path("/usr/lib/bootwright/version")
_NONCE = Path("/run/bootwright-nonce")

_FIRST_LOOK_SECONDS = 2.0
_INTERFACE_SECONDS = 20.0
_LEASE_SECONDS = 30.0
_MOST_TRYING_SECONDS = 1800.0
_READING_SECONDS = 30.0
"""Time for a person to read why the machine restarts, and for a provider that refuses to be left in peace."""


def main() -> None:
    """Run until the machine goes down."""
    say(f"agent {_version()} starts")
    try:
        _run(kernel_line.parse(kernel_line.COMMAND_LINE.read_text(encoding="utf-8")))
    except TokenRefusedError:
        _give_up("the provider does not know this boot any more")
    except PermanentError as error:
        _give_up(f"{error} {error.hint}".strip())
    except patience.GaveUpError as error:
        _give_up(f"nothing worked for {_MOST_TRYING_SECONDS / 60:.0f} minutes: {error}")


def _run(arguments: wire.KernelArguments) -> None:
    drivers = Drivers()

    def gather() -> Inventory:
        return inventory.gather(arguments.mac, _version(), drivers.problems)

    loading = _start_network(arguments.mac, drivers)
    provider = Provider(arguments.url, arguments.boot_url, arguments.ca)
    patience.until_done(provider.trust, at_most_seconds=_MOST_TRYING_SECONDS)
    enrolment = _enrolment(arguments.ticket, gather())
    enrolled = patience.until_done(lambda: provider.enrol(enrolment), at_most_seconds=_MOST_TRYING_SECONDS)
    say(f"enrolled as machine {enrolled.machine_id}")
    loading.join()
    network.bring_all_up()
    found = gather()
    for problem in found.problems:
        say(f"inventory: {problem}")
    patience.until_done(lambda: provider.report(found))
    say(f"inventory reported (disks: {len(found.disks)}, network interfaces: {len(found.nics)}); waiting for work")
    Worker(provider, enrolled.machine_id, gather).run()


def _start_network(mac: str, drivers: Drivers) -> threading.Thread:
    """Get an address; give the thread that goes on loading drivers, for disks may take half a minute to appear."""
    drivers.load_network()
    interface = patience.until_done(lambda: _find_interface(mac, drivers), at_most_seconds=_MOST_TRYING_SECONDS)
    network.start_dhcp(interface)
    network.bring_all_up()
    loading = threading.Thread(target=drivers.load_all, name="drivers", daemon=True)
    loading.start()
    address = patience.until_done(lambda: network.wait_for_lease(_LEASE_SECONDS), at_most_seconds=_MOST_TRYING_SECONDS)
    say(f"network: {address}")
    return loading


def _find_interface(mac: str, drivers: Drivers) -> str:
    try:
        return network.wait_for_interface(mac, _FIRST_LOOK_SECONDS)
    except TemporaryError:
        drivers.load_all()  # A USB or platform device, perhaps.
        return network.wait_for_interface(mac, _INTERFACE_SECONDS)


def _enrolment(ticket: str, found: Inventory) -> wire.Enrolment:
    return wire.Enrolment(
        ticket=ticket,
        nonce=_nonce(),
        uuid=found.system.uuid,
        serial=found.system.serial,
        board_serial=found.system.board_serial,
        chassis_serial=found.system.chassis_serial,
        macs=tuple(nic.mac for nic in found.nics),
        firmware=found.firmware,
        agent_version=found.agent_version,
    )


def _nonce() -> str:
    """Give the nonce of this boot: an agent that was started again must show the same one with its ticket."""
    if not _NONCE.exists():
        # Not `secrets`, which takes 0.1 s to import on an emulated processor, for the same bytes.
        _NONCE.write_text(os.urandom(16).hex(), encoding="ascii")
    return _NONCE.read_text(encoding="ascii")


def _version() -> str:
    return _VERSION.read_text(encoding="ascii").strip() if _VERSION.exists() else "unpacked"


def _give_up(reason: str) -> None:
    say(f"{reason}; restarting in {_READING_SECONDS:.0f} seconds")
    time.sleep(_READING_SECONDS)
    power.restart("to begin again")


if __name__ == "__main__":
    main()

"""
The smallest installer that deserves the name: it runs in the machine, in the agent image, in place of the agent.

It writes a boot sector to the first disk, says so to the provider, and restarts the machine. The boot sector prints
`GREETING` on the serial port, which proves that a BIOS machine was really handed over to its disk. Only the standard
library and `provider.agent` are there.
"""

from __future__ import annotations

import os
from pathlib import Path

from provider.agent import inventory, kernel_line, network, power
from provider.agent.client import Provider
from provider.agent.console import say
from provider.agent.drivers import Drivers
from provider.wire import agent as wire

GREETING = "This disk was installed by the lab."

_CODE = bytes.fromhex(
    "fc"  # cld
    "31c0 8ed8"  # xor ax, ax; mov ds, ax
    "be167c"  # mov si, 0x7c16: the text behind this code
    "ac 84c0 7406"  # next: lodsb; test al, al; jz done
    "baf803 ee ebf5"  # mov dx, 0x3f8 (COM1); out dx, al; jmp next
    "f4 ebfd"  # done: hlt; jmp done
)


def boot_sector() -> bytes:
    """The 512 bytes that a BIOS loads to 0x7c00 and jumps to."""
    return (_CODE + f"{GREETING}\r\n\0".encode()).ljust(510, b"\0") + b"\x55\xaa"


def main() -> None:
    """Install and restart; a failure is tried again by init."""
    arguments = kernel_line.parse(kernel_line.COMMAND_LINE.read_text(encoding="ascii"))
    drivers = Drivers()
    drivers.load_network()
    network.start_dhcp(network.wait_for_interface(arguments.mac, 30))
    drivers.load_all()
    say(network.wait_for_lease(60))
    mark_first_disk(arguments.mac)
    provider = Provider(arguments.url, arguments.boot_url, arguments.ca)
    provider.trust()
    provider.installed(wire.Installed(ticket=arguments.ticket))
    power.restart("installed")


def mark_first_disk(mac: str) -> None:
    """Write the boot sector, durably."""
    first = min(Path(disk.path) for disk in inventory.gather(mac, "", []).disks if "vd" in disk.path)
    with first.open("r+b") as disk:
        disk.write(boot_sector())
        disk.flush()
        os.fsync(disk.fileno())
    say(f"{first} is marked")


if __name__ == "__main__":
    main()

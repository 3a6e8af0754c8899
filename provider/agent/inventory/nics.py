"""Network interfaces with hardware behind them."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from provider.agent.inventory import sysfs as values
from provider.domain import mac
from provider.domain.inventory import Nic

_SIOCETHTOOL = 0x8946
_ETHTOOL_GPERMADDR = 0x20
_ARPHRD_ETHER = 1


def permanent_mac(interface: str) -> str:
    """
    Ask the driver for the address in the card's own memory (ethtool -P).

    Raises:
        OSError: If the interface is gone or the driver does not know.
    """
    # struct ethtool_perm_addr: command, room for 32 bytes, the address. ifreq holds a pointer to it.
    request = array.array("B", struct.pack("=II32s", _ETHTOOL_GPERMADDR, 32, b""))
    pointer, _ = request.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("=16sQ16x", interface.encode(), pointer))
    (length,) = struct.unpack_from("=I", request, 4)
    octets = request.tobytes()[8 : 8 + length]
    if len(octets) != 6 or not any(octets):
        raise OSError(f"{interface} has no permanent Ethernet address")
    return mac.from_bytes(octets)


def read(
    sysfs: Path,
    boot_mac: str,
    note_problem: Callable[[str], None],
    ask_permanent: Callable[[str], str] = permanent_mac,
) -> tuple[Nic, ...]:
    """List Ethernet interfaces by name; one that cannot be read is left out and noted."""
    found = []
    for folder in sorted((sysfs / "class/net").iterdir()):
        if (folder / "device").exists() and values.number(folder / "type") == _ARPHRD_ETHER:
            try:
                found.append(_nic(folder, boot_mac, ask_permanent))
            except (OSError, ValueError) as error:
                note_problem(f"network interface {folder.name} could not be read: {error}")
    return tuple(found)


def _nic(folder: Path, boot_mac: str, ask_permanent: Callable[[str], str]) -> Nic:
    current = mac.parse(values.text(folder / "address"))
    try:
        permanent = ask_permanent(folder.name)
    except OSError:
        permanent = current  # Many virtual cards have none of their own.
    driver = folder / "device/driver"
    return Nic(
        name=folder.name,
        mac=permanent,
        link=values.flag(folder / "carrier"),
        speed_mbps=max(0, values.number(folder / "speed")),  # -1: unknown.
        driver=driver.resolve().name if driver.exists() else "",
        booted_from=boot_mac in (permanent, current),
    )

"""The captures that `./dev capture NAME` makes again, and what their replay has to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from provider.lab.firmware import Firmware


@dataclass(frozen=True)
class Machine:
    """A lab machine, from power-on until it has the agent's kernel and RAM disk."""

    firmware: Firmware
    dhcp: Literal["server", "proxy"] = "server"
    signed: bool = False
    """The provider's settings say that it boots by the signed chain."""


@dataclass(frozen=True)
class Client:
    """The DHCP client of a system, at the other end of a cable."""

    script: str
    """For the shell; `$interface` is its end of the cable, `$folder` a folder of its own."""
    relayed: bool = False
    """Through ISC's dhcrelay, which adds option 82."""


_UDHCPC = "busybox udhcpc -i $interface -f -q -n -s /bin/true"

# The second time it knows its lease: INIT-REBOOT.
_DHCLIENT = """
for time in first second; do
    dhclient -4 -1 -sf /bin/true -cf /dev/null -lf $folder/leases -pf $folder/pid $interface
    kill $(cat $folder/pid)
done
"""

# With a /sys that can be written to it waits for udev. Its identifier would be made of the host's, its name the host's.
_NETWORKD = """
mount -o remount,bind,ro /sys
mkdir -p /run/systemd/network
cat >/run/systemd/network/one.network <<END
[Match]
Name=$interface
[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
[DHCPv4]
DUIDType=link-layer
SendHostname=no
END
/lib/systemd/systemd-networkd &
until ip -4 -oneline address show dev $interface | grep -q 10.77.0.; do sleep 0.1; done
kill $!
"""

CONVERSATIONS: dict[str, Machine | Client] = {
    "seabios-ipxe": Machine(Firmware.BIOS),
    "seabios-ipxe-proxy": Machine(Firmware.BIOS, "proxy"),
    "ovmf-pxe": Machine(Firmware.UEFI),
    "ovmf-pxe-proxy": Machine(Firmware.UEFI, "proxy"),
    "ovmf-http": Machine(Firmware.UEFI_HTTP),
    "ovmf-http-proxy": Machine(Firmware.UEFI_HTTP, "proxy"),
    "ovmf-secure-boot": Machine(Firmware.SECURE_BOOT, signed=True),
    "ovmf-secure-boot-proxy": Machine(Firmware.SECURE_BOOT, "proxy", signed=True),
    "aavmf-pxe": Machine(Firmware.UEFI_ARM64),
    "aavmf-pxe-proxy": Machine(Firmware.UEFI_ARM64, "proxy"),
    "u-boot": Machine(Firmware.U_BOOT_ARM64),
    "u-boot-proxy": Machine(Firmware.U_BOOT_ARM64, "proxy"),
    "busybox-udhcpc": Client(_UDHCPC),
    "isc-dhclient": Client(_DHCLIENT),
    "systemd-networkd": Client(_NETWORKD),
    "isc-dhcrelay": Client(_UDHCPC, relayed=True),
}

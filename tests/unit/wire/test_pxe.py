"""Who asks for network boot: option 93 against IANA's registry, and MAC addresses."""

from __future__ import annotations

import pytest

from provider.domain import mac as macs
from provider.wire import pxe
from provider.wire.dhcp import Option, Packet
from provider.wire.pxe import Firmware

REGISTRY: dict[int, tuple[str, Firmware | None]] = {
    0x00: ("x86 BIOS", pxe.BIOS),
    0x02: ("Itanium", None),
    0x06: ("x86 UEFI", pxe.UEFI_IA32),
    0x07: ("x64 UEFI", pxe.UEFI_X64),
    0x09: ("EBC", pxe.UEFI_X64),
    0x0A: ("ARM 32-bit UEFI", None),
    0x0B: ("ARM 64-bit UEFI", pxe.UEFI_ARM64),
    0x0C: ("PowerPC Open Firmware", None),
    0x0D: ("PowerPC ePAPR", None),
    0x0E: ("POWER OPAL v3", None),
    0x0F: ("x86 UEFI, HTTP", pxe.HTTP_IA32),
    0x10: ("x64 UEFI, HTTP", pxe.HTTP_X64),
    0x11: ("EBC, HTTP", pxe.HTTP_X64),
    0x12: ("ARM 32-bit UEFI, HTTP", None),
    0x13: ("ARM 64-bit UEFI, HTTP", pxe.HTTP_ARM64),
    0x14: ("PC/AT BIOS, HTTP", pxe.HTTP_BIOS),
    0x15: ("ARM 32-bit U-Boot", None),
    0x16: ("ARM 64-bit U-Boot", pxe.UBOOT_ARM64),
    0x17: ("ARM 32-bit U-Boot, HTTP", None),
    0x18: ("ARM 64-bit U-Boot, HTTP", pxe.UBOOT_ARM64_HTTP),
    0x19: ("RISC-V 32-bit UEFI", None),
    0x1A: ("RISC-V 32-bit UEFI, HTTP", None),
    0x1B: ("RISC-V 64-bit UEFI", None),
    0x1C: ("RISC-V 64-bit UEFI, HTTP", None),
    0x1D: ("RISC-V 128-bit UEFI", None),
    0x1E: ("RISC-V 128-bit UEFI, HTTP", None),
    0x1F: ("s390 Basic", None),
    0x20: ("s390 Extended", None),
    0x21: ("MIPS 32-bit UEFI", None),
    0x22: ("MIPS 64-bit UEFI", None),
    0x23: ("Sunway 32-bit UEFI", None),
    0x24: ("Sunway 64-bit UEFI", None),
    0x25: ("LoongArch 32-bit UEFI", None),
    0x26: ("LoongArch 32-bit UEFI, HTTP", None),
    0x27: ("LoongArch 64-bit UEFI", None),
    0x28: ("LoongArch 64-bit UEFI, HTTP", None),
    0x29: ("ARM rpiboot", pxe.RASPBERRY_PI),
}
"""IANA's Processor Architecture Types (RFC 5970 section 3.3) without the deprecated ones; and what runs there."""


def announced(mac: str, *archs: int) -> pxe.Client:
    value = b"".join(arch.to_bytes(2, "big") for arch in archs)
    options = {Option.VENDOR_CLASS: b"PXEClient", Option.CLIENT_ARCH: value}
    return pxe.client(Packet(op=1, xid=1, chaddr=macs.parse(mac), options=options))


@pytest.mark.parametrize(("arch", "firmware"), [(arch, firmware) for arch, (_title, firmware) in REGISTRY.items()])
def test_registered_architecture(arch: int, firmware: Firmware | None) -> None:
    """Firmware gets a program for another processor, because a code stands in the wrong row (edge cases 13, 20)."""
    client = announced("52:54:00:00:00:01", arch)
    assert client.firmware is firmware
    assert bool(client.unknown) == (firmware is None)


def test_every_row_is_registered() -> None:
    """A row of ours is for a code that means another machine, or has been forgotten here."""
    rows = {arch: firmware for firmware in pxe.FIRMWARES for arch in firmware.archs}
    assert rows == {arch: firmware for arch, (_title, firmware) in REGISTRY.items() if firmware is not None}


@pytest.mark.parametrize(
    ("archs", "firmware"),
    [
        ((0x7777, 0x0B), pxe.UEFI_ARM64),
        ((0x27, 0x07), pxe.UEFI_X64),
        ((0x07, 0x00), pxe.UEFI_X64),
        ((0x00, 0x07), pxe.BIOS),
        ((0x7777, 0x1B), None),
    ],
)
def test_list_of_architectures(archs: tuple[int, ...], firmware: Firmware | None) -> None:
    """The first code of the list decides although we do not know it (edge case 2)."""
    assert announced("52:54:00:00:00:01", *archs).firmware is firmware


@pytest.mark.parametrize("prefix", ["28:cd:c1", "2c:cf:67", "88:a2:9e", "b8:27:eb", "d8:3a:dd", "dc:a6:32", "e4:5f:01"])
def test_raspberry_pis(prefix: str) -> None:
    """A newer Raspberry Pi is taken for a PC (edge case 3), or one with UEFI firmware for one without."""
    assert announced(f"{prefix}:00:00:01", 0x00).firmware is pxe.RASPBERRY_PI
    assert announced(f"{prefix}:00:00:01", 0x0B).firmware is pxe.UEFI_ARM64

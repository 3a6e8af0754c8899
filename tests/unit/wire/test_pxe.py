"""Who asks for network boot: option 93 against IANA's registry, MAC addresses, and any bytes at all."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain import mac as macs
from provider.wire import pxe
from provider.wire.dhcp import Option, Packet
from provider.wire.pxe import Firmware
from tests.unit.wire.dhcp_packets import packets

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


boot_options = st.fixed_dictionaries(
    {},
    optional={
        Option.VENDOR_CLASS: st.sampled_from([b"PXEClient", b"HTTPClient", b"U-Boot"]).flatmap(
            lambda who: st.binary(max_size=24).map(lambda more: who + b":Arch:" + more)
        ),
        Option.USER_CLASS: st.sampled_from([b"iPXE", b"\x04iPXE"]) | st.binary(max_size=9),
        Option.CLIENT_ARCH: st.binary(max_size=9),
        Option.CLIENT_UUID: st.binary(min_size=16, max_size=18),
        Option.IPXE: st.binary(max_size=30),
        Option.RELAY_AGENT: st.binary(max_size=30),
        Option.MESSAGE_TYPE: st.binary(max_size=2),
        Option.MAXIMUM_SIZE: st.binary(max_size=3),
    },
)


@given(packets, boot_options)
def test_any_options_give_a_client(packet: Packet, options: dict[int, bytes]) -> None:
    """An option that nobody expected is a traceback (invariant 7), or the client is two contrary things."""
    asks = replace(packet, options=options)
    client = pxe.client(asks)
    assert client.uuid == "" or str(UUID(client.uuid)) == client.uuid
    assert client.is_ipxe or not client.knows_http
    assert not (client.is_pxe and client.is_http)
    assert client.firmware is None or client.firmware in pxe.FIRMWARES
    assert not client.boots or client.firmware is not None or client.unknown


@given(packets, boot_options)
def test_any_options_can_be_read(packet: Packet, options: dict[int, bytes]) -> None:
    """The same for what else is read from options: type, size, and the port of the relay."""
    asks = replace(packet, options=options)
    assert asks.message_type is None or bytes((asks.message_type,)) == options[Option.MESSAGE_TYPE]
    relayed = 0 if Option.RELAY_AGENT not in options else 2 + len(options[Option.RELAY_AGENT])
    assert 548 <= asks.largest_answer - relayed <= 1472
    assert all(each.isascii() and (each.isprintable() or not each) for each in asks.relay_port)
    for code in range(256):
        assert asks.text(code).isascii() or "�" in asks.text(code)
        found = asks.address(code)
        assert found is None or found.packed == options[code]

"""
PXE on top of DHCP: who asks (firmware, iPXE), and which NBP that one needs.

Sources: RFC 4578 (options 93, 94, 97), PXE specification 2.1 sections 2.2 and 2.4 (option 43), iPXE's option 175.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from uuid import UUID

from provider.wire import dhcp
from provider.wire.dhcp import Option, Packet

PXE_CLIENT = b"PXEClient"
HTTP_CLIENT = b"HTTPClient"
SERVER_PORT = 4011

LONGEST_NAME = 127
"""Characters of a boot file's name: the `file` field of BOOTP less its NUL (RFC 2131 section 2)."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """One row of the table of who gets what; the README has the same table."""

    title: str
    archs: tuple[int, ...]
    """What it announces: option 93 (RFC 4578 section 2.1, and IANA's registry of processor architecture types)."""
    programs: tuple[str, ...]
    """Its network bootstrap program: the first of these that we have."""
    signed: str = ""
    """The one for Secure Boot, and where there is no other; it starts a GRUB that knows no HTTP."""
    by_http: bool = False
    """It loads by HTTP: what it gets is a URL."""


BIOS = Firmware("BIOS", (0x00,), ("undionly.kpxe",))
HTTP_BIOS = Firmware("BIOS by HTTP", (0x14,), BIOS.programs, by_http=True)
UEFI_X64 = Firmware("UEFI x64", (0x07, 0x09), ("snponly.efi",), "shimx64.efi")  # Either code (edge case 20).
UEFI_IA32 = Firmware("UEFI IA32", (0x06,), ("ipxe-i386.efi",))
UEFI_ARM64 = Firmware("UEFI arm64", (0x0B,), ("snponly-arm64.efi",), "shimaa64.efi")
HTTP_X64 = Firmware("UEFI HTTP boot x64", (0x10, 0x11), UEFI_X64.programs, by_http=True)
HTTP_IA32 = Firmware("UEFI HTTP boot IA32", (0x0F,), UEFI_IA32.programs, by_http=True)
HTTP_ARM64 = Firmware("UEFI HTTP boot arm64", (0x13,), UEFI_ARM64.programs, by_http=True)
UBOOT_ARM64 = Firmware("U-Boot arm64", (0x16,), UEFI_ARM64.programs, "grubaa64.efi")
"""It runs UEFI programs, but offers them no TFTP, by which a shim would load its GRUB (capture u-boot)."""
UBOOT_ARM64_HTTP = Firmware("U-Boot arm64 by HTTP", (0x18,), UEFI_ARM64.programs, by_http=True)
RASPBERRY_PI = Firmware("Raspberry Pi", (0x29,), ("start4.elf", "bootcode.bin", "config.txt"))
"""Its ROM asks for files by names of its own; one that we have shows that an operator put them there."""

FIRMWARES = (
    *(BIOS, UEFI_X64, UEFI_IA32, UEFI_ARM64, HTTP_BIOS),
    *(HTTP_X64, HTTP_IA32, HTTP_ARM64, UBOOT_ARM64, UBOOT_ARM64_HTTP, RASPBERRY_PI),
)
"""Who gets what; nothing else names boot programs."""

BOOT_LOADERS = frozenset(name for each in FIRMWARES for name in (*each.programs, each.signed) if name)

_BY_ARCH = {arch: each for each in FIRMWARES for arch in each.archs}

_OTHER_PROCESSORS = frozenset({0x02, 0x03, 0x08, 0x0A, 0x0C, 0x0D, 0x0E, 0x12, 0x15, 0x17, *range(0x19, 0x29)})
"""Itanium, Alpha, XScale, ARM 32, PowerPC, RISC-V, s390, MIPS, Sunway, LoongArch: none of the programs runs there."""

NOT_MISSED = frozenset(
    {
        *("revocations.efi", "revocations_sku.efi", "revocations_sbat.efi"),
        *("shim_certificate.efi", "shim_certificate_0.efi"),
        *("boot.scr.uimg", "dtb"),
    }
)
"""What a shim and U-Boot's scripts ask for, and go on without."""

_RASPBERRY_PIS = ("28:cd:c1:", "2c:cf:67:", "88:a2:9e:", "b8:27:eb:", "d8:3a:dd:", "dc:a6:32:", "e4:5f:01:")
"""Prefixes of their MAC addresses: they announce that they were PCs with a BIOS (edge case 3)."""


def bootstrap_programs(firmware: Firmware, *, signed: bool) -> list[str]:
    """What firmware can boot with, the best first; only what is signed if it has to be and there is such a thing."""
    if signed and firmware.signed:
        return [firmware.signed]
    return [*firmware.programs, *filter(None, [firmware.signed])]


_IPXE_FEATURE_HTTP = 0x13
_IPXE_FEATURE_BZIMAGE = 0x18
_IPXE_FEATURE_EFI = 0x24
_IPXE_NO_PXEDHCP = 0xB0


_IPXE_FEATURES = range(0x10, 0x30)


@dataclass(frozen=True, slots=True)
class Client:
    """What a boot client says of itself."""

    is_pxe: bool
    is_http: bool
    is_ipxe: bool
    knows_http: bool
    """It is iPXE, and can fetch a script by HTTP."""
    firmware: Firmware | None
    """None: no boot program runs on its processor."""
    uuid: str
    """Lower case with dashes, or empty."""
    valid: bool = True
    """False if option 97 is there and malformed: such a packet is not from firmware (edge case 1)."""
    unknown: str = ""
    """The architectures that it announces, if all of them are unknown: then `firmware` is a guess."""

    @property
    def boots(self) -> bool:
        """Whether it asks for network boot at all."""
        return self.is_pxe or self.is_http or self.is_ipxe


def client(packet: Packet) -> Client:
    """Read the boot options of a request."""
    options = packet.options
    vendor = options.get(Option.VENDOR_CLASS, b"")
    raw_uuid = options.get(Option.CLIENT_UUID, b"")
    if not (raw_uuid or Option.USER_CLASS in options or Option.IPXE in options or vendor.startswith(_BOOT_CLIENTS)):
        return _SYSTEM
    firmware, unknown = _firmware(packet, vendor)
    is_ipxe, knows_http = _ipxe(packet)
    is_uboot = vendor.startswith(_UBOOT) and Option.CLIENT_ARCH in options
    is_http = vendor.startswith(HTTP_CLIENT) or (is_uboot and firmware is not None and firmware.by_http)
    return Client(
        is_pxe=vendor.startswith(PXE_CLIENT) or (is_uboot and not is_http),
        is_http=is_http,
        is_ipxe=is_ipxe,
        knows_http=knows_http,
        firmware=firmware,
        uuid=_uuid(raw_uuid),
        valid=len(raw_uuid) in (0, 17) and raw_uuid[:1] in (b"", b"\0"),
        unknown=unknown,
    )


_UBOOT = b"U-Boot"
_BOOT_CLIENTS = (PXE_CLIENT, HTTP_CLIENT, _UBOOT)
_SYSTEM = Client(is_pxe=False, is_http=False, is_ipxe=False, knows_http=False, firmware=None, uuid="")
"""Most packets: from a system that does not boot."""


def discovery_control(firmware: Firmware | None) -> bytes:
    """
    Option 43 for PXE firmware: sub-option 6 = 8, use the boot file that stands here and discover no server (edge case 8).

    A Raspberry Pi takes us for a boot server only if it finds its own name in the boot menu (sub-option 9: type, length,
    name) and a prompt (sub-option 10: seconds, text; edge case 4).
    """
    options = {_DISCOVERY_CONTROL: b"\x08"}
    if firmware is RASPBERRY_PI:
        options |= {_BOOT_MENU: bytes((0, 0, len(_PI_NAME))) + _PI_NAME, _MENU_PROMPT: b"\0PXE"}
    return dhcp.encode_suboptions(options, end=True)


_DISCOVERY_CONTROL, _BOOT_SERVERS, _BOOT_MENU, _MENU_PROMPT, _BOOT_ITEM = 6, 8, 9, 10, 71
_PI_NAME = b"Raspberry Pi Boot"


def boot_menu(server: IPv4Address) -> bytes:
    """
    Option 43 for PXE firmware that is to choose from a menu: one entry, taken at once, whose boot server is `server`.

    Discovery control 7: ask no boot server but those of the list, neither by broadcast nor by multicast. Without a prompt,
    ROMs show the menu and wait for a key; with one of 0 s they take the first entry.
    """
    options = {
        _DISCOVERY_CONTROL: b"\x07",
        _BOOT_SERVERS: _OUR_TYPE + b"\x01" + server.packed,
        _BOOT_MENU: _OUR_TYPE + bytes((len(_MENU_ENTRY),)) + _MENU_ENTRY,
        _MENU_PROMPT: b"\0PXE",
    }
    return dhcp.encode_suboptions(options, end=True)


_OUR_TYPE = b"\x80\x00"
"""Boot server type: the first of those that are for vendors; 0 is the local disk."""
_MENU_ENTRY = b"Bootwright"


def boot_item(packet: Packet) -> bytes | None:
    """Option 43 of the answer to firmware that chose from a menu: its boot item (type and layer) as it came, else None."""
    item = dhcp.decode_suboptions(packet.options.get(Option.VENDOR_SPECIFIC, b"")).get(_BOOT_ITEM)
    return None if item is None or len(item) != 4 else dhcp.encode_suboptions({_BOOT_ITEM: item}, end=True)


def no_proxy_wait() -> bytes:
    """Option 175 for iPXE: sub-option 176 = 1, do not wait 3 s for ProxyDHCP offers."""
    return dhcp.encode_suboptions({_IPXE_NO_PXEDHCP: b"\x01"})


def _ipxe(packet: Packet) -> tuple[bool, bool]:
    """
    Whether it is iPXE, and whether that knows HTTP.

    It says so by user class "iPXE", which clients spell with and without the length byte of RFC 3004. Some builds send none
    (edge case 7): they are known by option 175 with the features HTTP and a kernel format. One that lists its features
    without HTTP has none; one that lists nothing is an ordinary build.
    """
    features = dhcp.decode_suboptions(packet.options.get(Option.IPXE, b""))
    knows_http = _IPXE_FEATURE_HTTP in features
    if packet.options.get(Option.USER_CLASS, b"") in (b"iPXE", b"\x04iPXE"):
        return True, knows_http or not any(code in _IPXE_FEATURES for code in features)
    is_ipxe = knows_http and (_IPXE_FEATURE_BZIMAGE in features or _IPXE_FEATURE_EFI in features)
    return is_ipxe, is_ipxe


def _firmware(packet: Packet, vendor: bytes) -> tuple[Firmware | None, str]:
    """
    The row of the first architecture that we know, as option 93 is a list and may hold others (edge case 2); and the
    unknown ones if there is no other, with the likeliest row (edge case 19).
    """
    value = packet.options.get(Option.CLIENT_ARCH, b"")
    codes = [int.from_bytes(value[i : i + 2], "big") for i in range(0, len(value) - 1, 2)]
    if not codes and b":Arch:" in vendor:
        digits = vendor.split(b":Arch:", 1)[1][:5]
        codes = [int(digits)] if digits.isdigit() else []
    known = next((_BY_ARCH[code] for code in codes if code in _BY_ARCH), None)
    if known is UEFI_ARM64 and packet.options.get(Option.CLIENT_INTERFACE) == _UBOOT_INTERFACE:
        return UBOOT_ARM64, ""
    if known is BIOS or not codes:  # Old ROMs name none; everything newer does.
        return RASPBERRY_PI if packet.chaddr.startswith(_RASPBERRY_PIS) else BIOS, ""
    if known is not None:
        return known, ""
    announced = ", ".join(f"0x{code:02x}" for code in codes)
    if not _OTHER_PROCESSORS.isdisjoint(codes):
        return None, announced
    if vendor.startswith(HTTP_CLIENT):
        return HTTP_X64, announced
    return UEFI_X64 if _UEFI_NETWORK_INTERFACE in vendor else BIOS, announced


_UEFI_NETWORK_INTERFACE = b":UNDI:003"
"""UNDI 3.x is UEFI's, 2.x a BIOS's (option 94, RFC 4578 section 2.2)."""

_UBOOT_INTERFACE = b"\1\0\0"
"""
U-Boot's scripts say that it were UEFI (option 93 is 0x0b, option 60 ends in UNDI:003000) before they load a UEFI program. Its
option 94 says UNDI 0.0, which exists nowhere (U-Boot 2023.01; capture u-boot).
"""


def _uuid(raw: bytes) -> str:
    """Option 97: a zero byte and the SMBIOS UUID, whose first three fields are little endian on the wire."""
    if len(raw) != 17 or raw[0] != 0:
        return ""
    return str(UUID(bytes_le=raw[1:]))

"""
PXE on top of DHCP: who asks (architecture, firmware or iPXE), and which NBP that one needs.

Sources: RFC 4578 (options 93, 94, 97), PXE specification 2.1 sections 2.2 and 2.4 (option 43), iPXE's option 175.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

from provider.wire import dhcp
from provider.wire.dhcp import Option, Packet

PXE_CLIENT = b"PXEClient"
HTTP_CLIENT = b"HTTPClient"
SERVER_PORT = 4011

LONGEST_NAME = 127
"""Characters of a boot file's name: the `file` field of BOOTP less its NUL (RFC 2131 section 2)."""


class Arch(IntEnum):
    """Client system architecture (option 93, RFC 4578 section 2.1 and the IANA registry that grew from it)."""

    BIOS = 0x00
    UEFI_IA32 = 0x06
    UEFI_X64 = 0x07
    UEFI_EBC = 0x09
    UEFI_ARM64 = 0x0B
    UEFI_X64_HTTP = 0x10


NBP: dict[Arch, str] = {
    Arch.BIOS: "undionly.kpxe",
    Arch.UEFI_X64: "snponly.efi",
    Arch.UEFI_EBC: "snponly.efi",  # x64 firmware announces either code (edge case 20).
    Arch.UEFI_X64_HTTP: "snponly.efi",
}
"""Which network bootstrap program an architecture gets; this and the next table are the only places that name them."""

SIGNED: dict[Arch, str] = {
    Arch.UEFI_X64: "shimx64.efi",
    Arch.UEFI_EBC: "shimx64.efi",
    Arch.UEFI_ARM64: "shimaa64.efi",
}
"""The signed one, for Secure Boot and where there is no other; it starts a GRUB that knows no HTTP."""

NOT_MISSED = frozenset(
    {"revocations.efi", "revocations_sku.efi", "revocations_sbat.efi", "shim_certificate.efi", "shim_certificate_0.efi"}
)
"""What a shim asks for, and goes on without."""

BOOT_LOADERS = frozenset({*NBP.values(), *SIGNED.values()})


def bootstrap_programs(arch: Arch, *, signed: bool) -> list[str]:
    """What an architecture can boot with, the best first; only what is signed if it has to be."""
    names = [SIGNED.get(arch)] if signed and arch is not Arch.BIOS else [NBP.get(arch), SIGNED.get(arch)]
    return [name for name in names if name is not None]


_IPXE_FEATURE_HTTP = 0x13
_IPXE_FEATURE_BZIMAGE = 0x18
_IPXE_FEATURE_EFI = 0x24
_IPXE_NO_PXEDHCP = 0xB0


@dataclass(frozen=True, slots=True)
class Client:
    """What a boot client says of itself."""

    is_pxe: bool
    is_http: bool
    is_ipxe: bool
    """iPXE that can fetch a script by HTTP."""
    arch: Arch | None
    """None: none that we know."""
    uuid: str
    """Lower case with dashes, or empty."""
    valid: bool = True
    """False if option 97 is there and malformed: such a packet is not from firmware (edge case 1)."""

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
    return Client(
        is_pxe=vendor.startswith(PXE_CLIENT),
        is_http=vendor.startswith(HTTP_CLIENT),
        is_ipxe=_is_ipxe(packet),
        arch=_arch(packet, vendor),
        uuid=_uuid(raw_uuid),
        valid=len(raw_uuid) in (0, 17) and raw_uuid[:1] in (b"", b"\0"),
    )


_BOOT_CLIENTS = (PXE_CLIENT, HTTP_CLIENT)
_SYSTEM = Client(is_pxe=False, is_http=False, is_ipxe=False, arch=None, uuid="")
"""Most packets: from a system that does not boot."""


def discovery_control() -> bytes:
    """Option 43 for PXE firmware: sub-option 6 = 8, use the boot file that stands here and discover no server."""
    return dhcp.encode_suboptions({6: b"\x08"}, end=True)


def no_proxy_wait() -> bytes:
    """Option 175 for iPXE: sub-option 176 = 1, do not wait 3 s for ProxyDHCP offers."""
    return dhcp.encode_suboptions({_IPXE_NO_PXEDHCP: b"\x01"})


def _is_ipxe(packet: Packet) -> bool:
    """
    User class "iPXE", or option 175 with the features HTTP and a kernel format; some builds send no user class (edge case 7).
    Clients spell option 77 with and without the length byte of RFC 3004.
    """
    if packet.options.get(Option.USER_CLASS, b"") in (b"iPXE", b"\x04iPXE"):
        return True
    features = dhcp.decode_suboptions(packet.options.get(Option.IPXE, b""))
    return _IPXE_FEATURE_HTTP in features and (_IPXE_FEATURE_BZIMAGE in features or _IPXE_FEATURE_EFI in features)


def _arch(packet: Packet, vendor: bytes) -> Arch | None:
    """The first architecture that we know; option 93 is a list and may hold others (edge case 2)."""
    value = packet.options.get(Option.CLIENT_ARCH, b"")
    codes = [int.from_bytes(value[i : i + 2], "big") for i in range(0, len(value) - 1, 2)]
    if not codes and b":Arch:" in vendor:
        digits = vendor.split(b":Arch:", 1)[1][:5]
        codes = [int(digits)] if digits.isdigit() else []
    if not codes:
        return Arch.BIOS  # Old ROMs name none; everything newer does.
    return next((Arch(code) for code in codes if code in Arch._value2member_map_), None)


def _uuid(raw: bytes) -> str:
    """Option 97: a zero byte and the SMBIOS UUID, whose first three fields are little endian on the wire."""
    if len(raw) != 17 or raw[0] != 0:
        return ""
    return str(UUID(bytes_le=raw[1:]))

"""
What a boot client boots: the file or URL, and the options that carry it.

| Asks | Gets as boot file |
|---|---|
| iPXE (user class, or its features in option 175) | the URL of the boot script |
| iPXE that knows no HTTP | the URL of its NBP by TFTP: chained by a bare name, it would look elsewhere (edge case 5) |
| HTTP boot (option 60 HTTPClient) | the URL of its NBP by HTTP |
| other firmware (option 60 PXEClient, or U-Boot) | the name of its NBP, by TFTP |
| anything else | nothing but an address, and that in server mode only |

Which NBP that is stands in `pxe.FIRMWARES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from provider.planning.loader import Loader
from provider.planning.reply import Asked, Ignore, Scope
from provider.wire import pxe
from provider.wire.dhcp import Option, Packet


@dataclass(frozen=True, slots=True)
class Boot:
    """What goes into the answer of a boot client."""

    file: str
    options: Mapping[int, bytes]
    warning: str = ""
    """What an operator should hear."""


def stage(client: pxe.Client) -> str:
    """Which of the programs that share one MAC address is speaking."""
    if client.is_ipxe:
        return "ipxe"
    return "firmware" if client.is_pxe or client.is_http else "os"


def choose(scope: Scope, asked: Asked) -> Boot | Ignore:
    """The boot part for a client that boots."""
    client, packet = asked.client, asked.packet
    if scope.missing:
        return Ignore(f"what it boots from is not served on {scope.interface}: {scope.missing} is not open", warn=True)
    if client.knows_http:
        return _boot(scope, packet, scope.script_url, {Option.IPXE: pxe.no_proxy_wait()})
    firmware = client.firmware
    if firmware is None:
        return Ignore(f"no boot program runs on its processor (option 93 is {client.unknown})", warn=True)
    if not client.is_http and not scope.has_tftp:
        return Ignore("it boots by TFTP, which is switched off (tftp.enabled)", warn=True)
    signed = asked.loader is Loader.SIGNED
    if client.is_http and signed:
        return Ignore("the signed boot loader goes on by TFTP, so it is for PXE only")
    names = pxe.bootstrap_programs(firmware, signed=signed)
    name = next((name for name in names if name in scope.boot_files), None)
    if name is None:
        return Ignore(_missing(firmware, names), warn=True)
    if client.is_http:
        boot = _boot(scope, packet, scope.file_url(name), {Option.VENDOR_CLASS: pxe.HTTP_CLIENT})
    else:
        file = scope.tftp_url(name) if client.is_ipxe else name
        boot = _boot(scope, packet, file, {Option.VENDOR_CLASS: pxe.PXE_CLIENT})
    return boot if not client.unknown else replace(boot, warning=_guess(client.unknown, firmware))


def _missing(firmware: pxe.Firmware, names: Sequence[str]) -> str:
    wanted = " or ".join(names)
    if firmware is pxe.UEFI_X64 or firmware is pxe.BIOS:
        return f"its boot program {wanted} is missing: run bootwright assets build"
    return f"the boot program of {firmware.title} is missing: put {wanted} into boot_files"


def _guess(unknown: str, firmware: pxe.Firmware) -> str:
    return f"it announces the unknown architecture {unknown} (option 93), and gets what {firmware.title} gets"


def _boot(scope: Scope, packet: Packet, file: str, options: dict[int, bytes]) -> Boot:
    """Firmware reads either the options or the header fields, so both are filled (edge cases 12, 17)."""
    options[Option.TFTP_SERVER_NAME] = str(scope.address).encode()
    options[Option.BOOT_FILE_NAME] = file.encode()
    options[Option.TFTP_SERVER_ADDRESS] = scope.address.packed
    if uuid := packet.options.get(Option.CLIENT_UUID):
        options[Option.CLIENT_UUID] = uuid
    return Boot(file, options)

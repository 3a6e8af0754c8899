"""
What a boot client boots: the file or URL, and the options that carry it.

| Asks | Gets as boot file |
|---|---|
| PXE firmware (option 60 PXEClient) | the NBP of its architecture, by TFTP (`pxe.NBP`, or `pxe.SIGNED`) |
| UEFI HTTP boot (option 60 HTTPClient) | the same, as an HTTP URL |
| iPXE (user class, or its features in option 175) | the URL of the boot script |
| anything else | nothing but an address, and that in server mode only |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provider.planning.loader import Loader
from provider.planning.reply import Asked, Ignore, Scope
from provider.wire import pxe
from provider.wire.dhcp import Option, Packet


@dataclass(frozen=True, slots=True)
class Boot:
    """What goes into the answer of a boot client."""

    file: str
    options: Mapping[int, bytes]


def stage(client: pxe.Client) -> str:
    """Which of the programs that share one MAC address is speaking."""
    if client.is_ipxe:
        return "ipxe"
    return "firmware" if client.is_pxe or client.is_http else "os"


def choose(scope: Scope, asked: Asked, client: pxe.Client) -> Boot | Ignore:
    """The boot part for a client that boots."""
    packet = asked.packet
    if client.is_ipxe:
        return _boot(scope, packet, scope.script_url, {Option.IPXE: pxe.no_proxy_wait()})
    signed = asked.loader is Loader.SIGNED
    if client.is_http and signed:
        return Ignore("the signed boot loader goes on by TFTP, so it is for PXE only")
    names = [] if client.arch is None else pxe.bootstrap_programs(client.arch, signed=signed)
    if not names:
        return Ignore("no NBP for its architecture (option 93)", warn=True)
    name = next((name for name in names if name in scope.boot_files), None)
    if name is None:
        return Ignore(f"its NBP {names[0]} is missing: run bootwright assets build", warn=True)
    if client.is_http:
        return _boot(scope, packet, scope.file_url(name), {Option.VENDOR_CLASS: pxe.HTTP_CLIENT})
    return _boot(scope, packet, name, {Option.VENDOR_CLASS: pxe.PXE_CLIENT})


def _boot(scope: Scope, packet: Packet, file: str, options: dict[int, bytes]) -> Boot:
    """Firmware reads either the options or the header fields, so both are filled (edge cases 12, 17)."""
    options[Option.TFTP_SERVER_NAME] = str(scope.address).encode()
    options[Option.BOOT_FILE_NAME] = file.encode()
    options[Option.TFTP_SERVER_ADDRESS] = scope.address.packed
    if uuid := packet.options.get(Option.CLIENT_UUID):
        options[Option.CLIENT_UUID] = uuid
    return Boot(file, options)

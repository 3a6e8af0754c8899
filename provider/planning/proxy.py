"""
ProxyDHCP: another server leases, and only boot clients hear from us: an offer on port 67, the details on port 4011.

If that server is on our host, port 67 is its own, and it points boot clients to port 4011 by option 60 (edge case 11).
"""

from __future__ import annotations

from ipaddress import IPv4Address

from provider.planning import bootfile, reply
from provider.planning.reply import EVERYBODY, Asked, Decision, Ignore, Reply, Scope, To
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option

_ASK_AGAIN = (pxe.UEFI_X64, pxe.UEFI_IA32, pxe.UEFI_ARM64)
"""Whose firmware is EDK2 or made like it; U-Boot never asks on port 4011 (edge case 12)."""


def offer(asked: Asked, scope: Scope) -> Decision:
    """Answer a DHCPDISCOVER beside a foreign server."""
    packet, client = asked.packet, asked.client
    if packet.message_type is not MessageType.DISCOVER:
        return Ignore("meant for the DHCP server beside us")
    boot = bootfile.choose(scope, asked)
    if isinstance(boot, Ignore):
        return boot
    options: dict[int, bytes] = {Option.VENDOR_CLASS: pxe.HTTP_CLIENT if client.is_http else pxe.PXE_CLIENT}
    file = boot.file
    if client.firmware in _ASK_AGAIN and client.is_pxe and not client.is_ipxe:
        # EDK2 takes this offer as "ask me on port 4011", and refuses one that already names a file.
        file = ""
        if uuid := packet.options.get(Option.CLIENT_UUID):
            options[Option.CLIENT_UUID] = uuid
    else:
        options = {**boot.options, **options}
        if not client.is_http:
            options[Option.VENDOR_SPECIFIC] = pxe.discovery_control(client.firmware)
    made = reply.answer(packet, scope, MessageType.OFFER, options, file=file, siaddr=scope.address)
    to = reply.destination(packet, dhcp.NOWHERE)
    facts = {"stage": bootfile.stage(client), "mode": "proxy"}
    return Reply(made, to, "dhcp.offered", facts=facts, largest=packet.largest_answer, warning=boot.warning)


def boot_service(asked: Asked, scope: Scope) -> Decision:
    """Answer on port 4011: the second half of ProxyDHCP, to the port that the client asked from."""
    packet, client = asked.packet, asked.client
    if packet.message_type not in (MessageType.REQUEST, MessageType.INFORM, MessageType.DISCOVER):
        return Ignore("not a request for boot details")
    if not client.boots:
        return Ignore("not a boot client")
    boot = bootfile.choose(scope, asked)
    if isinstance(boot, Ignore):
        return boot
    options = {Option.VENDOR_CLASS: pxe.PXE_CLIENT, **boot.options}
    made = reply.answer(packet, scope, MessageType.ACK, options, file=boot.file, siaddr=scope.address)
    source, port = IPv4Address(asked.source[0]), asked.source[1]
    to = EVERYBODY if source == dhcp.NOWHERE else To(source, port)
    return Reply(made, to, "pxe.acknowledged", facts={"file": boot.file}, largest=packet.largest_answer)

"""
ProxyDHCP: another server leases, and only boot clients hear from us: an offer on port 67, for some the details on port 4011.

What the offer looks like is a matter of style (`planning.proxy_style`). Whatever it is, who asks on port 4011 gets the file.

If that server is on our host, port 67 is its own, and it points boot clients to port 4011 by option 60 (edge case 11).
"""

from __future__ import annotations

from ipaddress import IPv4Address

from provider.planning import bootfile, proxy_style, reply
from provider.planning.bootfile import Boot
from provider.planning.proxy_style import Style
from provider.planning.reply import EVERYBODY, Asked, Decision, Ignore, Reply, Scope, To
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option


def offer(asked: Asked, scope: Scope) -> Decision:
    """Answer a DHCPDISCOVER beside a foreign server."""
    packet, client = asked.packet, asked.client
    if packet.message_type is not MessageType.DISCOVER:
        return Ignore("meant for the DHCP server beside us")
    boot = bootfile.choose(scope, asked)
    if isinstance(boot, Ignore):
        return boot
    file, options = _offered(asked, scope, boot)
    made = reply.answer(packet, scope, MessageType.OFFER, options, file=file, siaddr=scope.address)
    to = reply.destination(packet, dhcp.NOWHERE)
    facts = {"stage": bootfile.stage(client), "mode": "proxy"}
    if proxy_style.has_choice(client):
        facts["style"] = asked.style.value
    return Reply(made, to, "dhcp.offered", facts=facts, largest=packet.largest_answer, warning=boot.warning)


def _offered(asked: Asked, scope: Scope, boot: Boot) -> tuple[str, dict[int, bytes]]:
    """File and options of an offer in the style that was chosen."""
    packet, client = asked.packet, asked.client
    vendor_class = pxe.HTTP_CLIENT if client.is_http else pxe.PXE_CLIENT
    if asked.style is Style.COMPLETE:
        options = {**boot.options, Option.VENDOR_CLASS: vendor_class}
        if not client.is_http:
            options[Option.VENDOR_SPECIFIC] = pxe.discovery_control(client.firmware)
        return boot.file, options
    options = {Option.VENDOR_CLASS: vendor_class}
    if asked.style is Style.MENU:
        options[Option.VENDOR_SPECIFIC] = pxe.boot_menu(scope.address)
    if uuid := packet.options.get(Option.CLIENT_UUID):
        options[Option.CLIENT_UUID] = uuid
    return "", options


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
    if item := pxe.boot_item(packet):
        options[Option.VENDOR_SPECIFIC] = item
    made = reply.answer(packet, scope, MessageType.ACK, options, file=boot.file, siaddr=scope.address)
    source, port = IPv4Address(asked.source[0]), asked.source[1]
    to = EVERYBODY if source == dhcp.NOWHERE else To(source, port)
    return Reply(made, to, "pxe.acknowledged", facts={"file": boot.file}, largest=packet.largest_answer)

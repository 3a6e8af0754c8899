"""What boot clients are answered beside another DHCP server, on port 67 and on port 4011."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from provider.planning import offer
from provider.planning.proxy_style import Style
from provider.planning.reply import Asked, Ignore, Reply, To
from provider.planning.subnets import Subnets
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option
from tests.unit.planning.packets import (
    BIOS,
    FIRST,
    HTTP,
    IPXE,
    NOW,
    OS,
    OURS,
    PROXY,
    UEFI,
    UUID,
    announces,
    asks,
    decide,
    reply,
)


def test_proxy_leases_nothing() -> None:
    """The server beside us and we both give addresses."""
    packet = reply(asks(MessageType.DISCOVER, UEFI), PROXY).packet
    assert packet.yiaddr == dhcp.NOWHERE
    assert Option.LEASE_TIME not in packet.options
    assert isinstance(decide(asks(MessageType.DISCOVER, OS), PROXY), Ignore)
    assert isinstance(decide(asks(MessageType.REQUEST, UEFI), PROXY), Ignore)


DISCOVER_NO_FURTHER = bytes.fromhex("06 01 08 ff")
BOOT_MENU = bytes.fromhex(
    "06 01 07"  # Discovery control: no broadcast, no multicast, only servers of the list.
    "08 07 8000 01 0a4d0001"  # Boot servers: type, count, address.
    "09 0d 8000 0a 426f6f74777269676874"  # Boot menu: type, length, text.
    "0a 04 00 505845"  # Prompt: seconds, text.
    "ff"
)


@pytest.mark.parametrize(
    ("client", "style", "file", "option_43"),
    [
        (UEFI, None, "", None),
        (BIOS, None, "undionly.kpxe", DISCOVER_NO_FURTHER),
        (UEFI, Style.COMPLETE, "snponly.efi", DISCOVER_NO_FURTHER),
        (BIOS, Style.TWO_STEP, "", None),
        (UEFI, Style.MENU, "", BOOT_MENU),
        (BIOS, Style.MENU, "", BOOT_MENU),
    ],
)
def test_styles_of_proxy_offers(
    client: dict[int, bytes], style: Style | None, file: str, option_43: bytes | None
) -> None:
    """
    Firmware is spoken to in a way that it does not understand.

    EDK2 takes no notice of a file without option 43, and asks on port 4011 anyway; an HP laptop does nothing then.
    """
    packet = reply(asks(MessageType.DISCOVER, client), PROXY, style=style).packet
    assert (packet.file.decode(), packet.options.get(Option.VENDOR_SPECIFIC)) == (file, option_43)
    assert packet.siaddr == IPv4Address(packet.options[Option.SERVER_ID]) == OURS
    assert packet.options.get(Option.BOOT_FILE_NAME, b"").decode() == file
    assert packet.options[Option.VENDOR_CLASS] == b"PXEClient"
    assert packet.options[Option.CLIENT_UUID] == UUID


def test_event_of_an_offer_names_its_style() -> None:
    """What a firmware accepted cannot be learned, or iPXE's offers are taken for its firmware's."""
    assert reply(asks(MessageType.DISCOVER, UEFI), PROXY, style=Style.MENU).facts["style"] == "menu"
    for client in (IPXE, HTTP):
        assert "style" not in reply(asks(MessageType.DISCOVER, client), PROXY).facts


@pytest.mark.parametrize("row", [row for row in pxe.FIRMWARES if not row.by_http])
@pytest.mark.parametrize("style", Style)
def test_only_what_is_there_is_named(row: pxe.Firmware, style: Style) -> None:
    """DHCP names a boot file that we do not serve, on one port or the other, in one style or another (invariant 10)."""
    client = announces(row.archs[0], b"U-Boot.armv8" if row is pxe.UBOOT_ARM64 else b"PXEClient:Arch:00000:UNDI:003001")
    for has in (pxe.BOOT_LOADERS, frozenset({"shimaa64.efi"}), frozenset[str]()):
        scope = replace(PROXY, boot_files=has)
        offered = decide(asks(MessageType.DISCOVER, client), scope, style=style)
        detailed = decide(asks(MessageType.REQUEST, client, ciaddr=FIRST), scope, port=4011, source=str(FIRST))
        named = {each.packet.file.decode() for each in (offered, detailed) if isinstance(each, Reply)}
        assert named - {""} <= has
        assert isinstance(offered, Reply) == isinstance(detailed, Reply), "who gets an offer gets a file in the end"


def test_proxy_offer_to_ipxe_is_complete() -> None:
    """iPXE drops proxy offers without siaddr or file, and boots nothing."""
    packet = reply(asks(MessageType.DISCOVER, IPXE), PROXY).packet
    assert packet.siaddr == OURS
    assert packet.file == b"http://10.77.0.1:8080/boot.ipxe"
    assert packet.options[Option.VENDOR_CLASS] == b"PXEClient"


def asks_boot_service(kind: MessageType, **more: bytes) -> Reply:
    """A request from port 4011 to port 4011."""
    packet = asks(kind, {**UEFI, **{getattr(Option, name): value for name, value in more.items()}}, ciaddr=FIRST)
    asked = Asked(packet, pxe.client(packet), (str(FIRST), 4011), 4011, may_netboot=True)
    answer = offer.decide(asked, PROXY, Subnets(), NOW)
    assert isinstance(answer, Reply)
    return answer


@pytest.mark.parametrize("kind", [MessageType.REQUEST, MessageType.INFORM, MessageType.DISCOVER])
def test_boot_service_answers_where_it_was_asked_from(kind: MessageType) -> None:
    """The second half of ProxyDHCP goes to port 68, where EDK2 does not listen any more (edge case 10)."""
    answer = asks_boot_service(kind)
    assert answer.to == To(FIRST, 4011)
    assert answer.packet.message_type is MessageType.ACK
    assert (answer.packet.file, answer.packet.siaddr) == (b"snponly.efi", OURS)
    assert answer.packet.options[Option.VENDOR_CLASS] == b"PXEClient"
    assert Option.VENDOR_SPECIFIC not in answer.packet.options


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("47 04 8000 0000 ff", "47 04 8000 0000 ff"),
        ("06 01 07 47 04 8000 0001 ff", "47 04 8000 0001 ff"),
        ("47 04 8000 0000", "47 04 8000 0000 ff"),
        ("47 02 8000 ff", None),
        ("47 04 80", None),
        ("47", None),
        ("06 01 07 ff", None),
    ],
)
def test_boot_item_is_echoed(asked: str, answered: str | None) -> None:
    """Firmware that chose from the menu drops our answer: it is for another item, or for none."""
    answer = asks_boot_service(MessageType.REQUEST, VENDOR_SPECIFIC=bytes.fromhex(asked))
    assert answer.packet.options.get(Option.VENDOR_SPECIFIC) == (bytes.fromhex(answered) if answered else None)
    assert answer.packet.file == b"snponly.efi"

"""What each kind of client boots, in server and in proxy mode, and who is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provider.domain import mac as macs
from provider.planning.reply import Ignore, Reply, Scope
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option
from tests.unit.planning.packets import (
    BIOS,
    FIRST,
    HTTP,
    IPXE,
    OS,
    OURS,
    PROXY,
    SERVER,
    UEFI,
    UUID,
    announces,
    asks,
    decide,
    reply,
)


@pytest.mark.parametrize(
    ("options", "file", "vendor_class"),
    [
        (BIOS, "undionly.kpxe", b"PXEClient"),
        (UEFI, "snponly.efi", b"PXEClient"),
        ({**UEFI, Option.CLIENT_ARCH: b"\0\x09"}, "snponly.efi", b"PXEClient"),
        ({**UEFI, Option.CLIENT_ARCH: b"\x77\x77\0\7"}, "snponly.efi", b"PXEClient"),
        (HTTP, "http://10.77.0.1:8080/assets/boot/snponly.efi", b"HTTPClient"),
        (IPXE, "http://10.77.0.1:8080/boot.ipxe", None),
        (OS, "", None),
    ],
)
def test_boot_file(options: dict[int, bytes], file: str, vendor_class: bytes | None) -> None:
    """A client gets the wrong boot program, or none (edge case 2: a list of architectures; edge cases 14, 20 and 42)."""
    packet = reply(asks(MessageType.DISCOVER, options)).packet
    assert packet.file.decode() == file
    assert packet.options.get(Option.BOOT_FILE_NAME, b"").decode() == file
    assert packet.options.get(Option.VENDOR_CLASS) == vendor_class
    assert packet.siaddr == (OURS if file else dhcp.NOWHERE)


def test_firmware_is_told_to_discover_no_further() -> None:
    """A PXE ROM goes on looking for boot servers, and shows a menu of none (edge case 8)."""
    packet = reply(asks(MessageType.DISCOVER, BIOS)).packet
    assert dhcp.decode_suboptions(packet.options[Option.VENDOR_SPECIFIC]) == {6: b"\x08"}
    assert packet.options[Option.CLIENT_UUID] == UUID


def test_ipxe_does_not_wait_for_a_proxy() -> None:
    """Each iPXE boot takes 3 s longer."""
    packet = reply(asks(MessageType.DISCOVER, IPXE)).packet
    assert dhcp.decode_suboptions(packet.options[Option.IPXE]) == {176: b"\x01"}


def test_ipxe_is_known_by_its_features_too() -> None:
    """iPXE without a user class is chain-loaded for ever (edge case 7)."""
    features = dhcp.encode_suboptions({0x13: b"\1", 0x18: b"\1"})
    packet = reply(asks(MessageType.DISCOVER, {**BIOS, Option.IPXE: features})).packet
    assert packet.file.endswith(b"/boot.ipxe")


# --- who is left alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [SERVER, PROXY])
@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_rejected_machines_hear_nothing(scope: Scope, options: dict[int, bytes]) -> None:
    """A rejected or cordoned machine is booted from the network all the same."""
    assert isinstance(decide(asks(MessageType.DISCOVER, options), scope, may_netboot=False), Ignore)


def test_rejected_machines_keep_their_network() -> None:
    """Rejecting a machine takes the address from the system that runs on it."""
    assert isinstance(decide(asks(MessageType.DISCOVER, OS), may_netboot=False), Reply)


def test_nothing_is_advertised_that_is_not_served() -> None:
    """DHCP names a file that TFTP does not have (invariant 10)."""
    missing = decide(asks(MessageType.DISCOVER, UEFI), replace(SERVER, boot_files=frozenset()))
    assert isinstance(missing, Ignore)
    assert "assets build" in missing.reason


@pytest.mark.parametrize("scope", [SERVER, PROXY])
@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_nobody_boots_from_what_is_not_open(scope: Scope, options: dict[int, bytes]) -> None:
    """Machines are sent to a TFTP server that is not there (invariant 10), or systems lose their addresses because of it."""
    closed = replace(scope, missing="TFTP")
    for port in (67, 4011):
        decision = decide(asks(MessageType.DISCOVER, options), closed, port=port)
        assert isinstance(decision, Ignore)
        assert decision.warn
        assert "TFTP is not open" in decision.reason
    if not scope.proxy:
        assert reply(asks(MessageType.DISCOVER, OS), closed).packet.yiaddr == FIRST


@pytest.mark.parametrize("scope", [SERVER, PROXY])
@pytest.mark.parametrize(("options", "boots"), [(BIOS, False), (UEFI, False), (HTTP, True), (IPXE, True)])
def test_without_tftp_who_knows_http_boots(scope: Scope, options: dict[int, bytes], boots: bool) -> None:
    """Firmware is sent to a TFTP server that the operator switched off (invariant 10), or nobody boots without it."""
    decision = decide(asks(MessageType.DISCOVER, options), replace(scope, has_tftp=False, boot_files=pxe.BOOT_LOADERS))
    assert isinstance(decision, Reply) is boots
    if isinstance(decision, Ignore):
        assert decision.warn
        assert "tftp.enabled" in decision.reason


ALL_FILES = replace(SERVER, boot_files=pxe.BOOT_LOADERS)
"""A provider with everything, the operator's own boot files too."""


@pytest.mark.parametrize(("arch", "row"), [(arch, row) for row in pxe.FIRMWARES for arch in row.archs])
def test_who_gets_what(arch: int, row: pxe.Firmware) -> None:
    """Firmware gets another program than the table says, or one that we do not have (edge case 13: U-Boot's codes)."""
    vendor = b"U-Boot.armv8" if row in (pxe.UBOOT_ARM64, pxe.UBOOT_ARM64_HTTP) else b"PXEClient:Arch:00000:UNDI:003001"
    packet = asks(
        MessageType.DISCOVER, announces(arch, b"HTTPClient" if row.by_http and vendor[:1] == b"P" else vendor)
    )
    file = reply(packet, ALL_FILES).packet.file.decode()
    assert file == (ALL_FILES.file_url(row.programs[0]) if row.by_http else row.programs[0])
    for missing in (SERVER, replace(SERVER, boot_files=frozenset())):
        decision = decide(packet, missing)
        expected = row.programs[0] in missing.boot_files
        assert isinstance(decision, Reply) if expected else isinstance(decision, Ignore) and decision.warn


U_BOOT = {  # 2023.01, from the capture.
    Option.CLIENT_ARCH: b"\0\x0b",
    Option.CLIENT_INTERFACE: b"\1\0\0",
    Option.VENDOR_CLASS: b"PXEClient:Arch:00011:UNDI:003000",
}


@pytest.mark.parametrize("scope", [SERVER, PROXY])
def test_u_boot_that_says_it_were_uefi(scope: Scope) -> None:
    """U-Boot gets a shim, which finds no TFTP there; or is sent to port 4011, where it never asks (edge case 12)."""
    files = {"boot_files": frozenset({"shimaa64.efi", "grubaa64.efi"})}
    assert reply(asks(MessageType.DISCOVER, U_BOOT), replace(scope, **files)).packet.file == b"grubaa64.efi"
    edk2 = {**U_BOOT, Option.CLIENT_INTERFACE: b"\1\3\0"}
    assert reply(asks(MessageType.DISCOVER, edk2), replace(SERVER, **files)).packet.file == b"shimaa64.efi"


@pytest.mark.parametrize(
    ("options", "file"),
    [
        (announces(0x7777), "undionly.kpxe"),
        (announces(0x7777, b"PXEClient:Arch:30583:UNDI:003016"), "snponly.efi"),
        (announces(0x7777, b"HTTPClient:Arch:30583:UNDI:003016"), "http://10.77.0.1:8080/assets/boot/snponly.efi"),
    ],
)
def test_unknown_architecture_gets_the_likeliest(options: dict[int, bytes], file: str) -> None:
    """Firmware of tomorrow gets silence, or nobody learns that we guess (edge case 19)."""
    answer = reply(asks(MessageType.DISCOVER, options))
    assert answer.packet.file.decode() == file
    assert "0x7777" in answer.warning


def test_missing_architecture_is_a_bios() -> None:
    """An old ROM that announces nothing gets nothing (edge case 19)."""
    answer = reply(asks(MessageType.DISCOVER, {Option.VENDOR_CLASS: b"PXEClient"}))
    assert (answer.packet.file, answer.warning) == (b"undionly.kpxe", "")


@pytest.mark.parametrize("arch", [0x0A, 0x1B, 0x27])
def test_other_processors_get_nothing(arch: int) -> None:
    """An ARM 32, RISC-V or LoongArch machine is given a program for x64, or fails without a reason."""
    decision = decide(asks(MessageType.DISCOVER, announces(arch)), ALL_FILES)
    assert isinstance(decision, Ignore)
    assert decision.warn
    assert f"0x{arch:02x}" in decision.reason


PI = macs.parse("dc:a6:32:00:00:01")


@pytest.mark.parametrize("scope", [ALL_FILES, replace(ALL_FILES, proxy=True)])
def test_raspberry_pi_is_no_pc(scope: Scope) -> None:
    """A Raspberry Pi is sent a PC's boot program, because it announces that it were one (edge case 3)."""
    packet = reply(asks(MessageType.DISCOVER, BIOS, chaddr=PI), scope).packet
    assert packet.file == b"start4.elf"
    assert packet.siaddr == OURS
    with_uefi = {**BIOS, Option.CLIENT_ARCH: b"\0\x0b"}
    assert reply(asks(MessageType.DISCOVER, with_uefi, chaddr=PI), ALL_FILES).packet.file == b"snponly-arm64.efi"


@pytest.mark.parametrize("scope", [ALL_FILES, replace(ALL_FILES, proxy=True)])
def test_raspberry_pi_finds_its_name(scope: Scope) -> None:
    """A Raspberry Pi ignores every server that does not offer "Raspberry Pi Boot" (edge case 4)."""
    packet = reply(asks(MessageType.DISCOVER, BIOS, chaddr=PI), scope).packet
    assert dhcp.decode_suboptions(packet.options[Option.VENDOR_SPECIFIC]) == {
        6: b"\x08",
        9: b"\0\0\x11Raspberry Pi Boot",
        10: b"\0PXE",
    }


def test_ipxe_without_http_is_chained_by_url() -> None:
    """iPXE in a ROM looks for a bare name at another server, or gets a script URL that it cannot fetch (edge case 5)."""
    tftp_only = dhcp.encode_suboptions({0x15: b"\1", 0x18: b"\1"})
    packet = reply(asks(MessageType.DISCOVER, {**IPXE, Option.IPXE: tftp_only})).packet
    assert packet.file == b"tftp://10.77.0.1/undionly.kpxe"


@pytest.mark.parametrize("user_class", [b"iPXE", b"\x04iPXE"])
def test_ipxe_is_not_loaded_for_ever(user_class: bytes) -> None:
    """iPXE gets itself again and again, because it sends the user class of every iPXE (edge case 6)."""
    features = dhcp.encode_suboptions({0x13: b"\1", 0x15: b"\1"})
    for options in ({}, {Option.IPXE: features}):
        packet = reply(asks(MessageType.DISCOVER, {**BIOS, Option.USER_CLASS: user_class, **options})).packet
        assert packet.file.endswith(b"/boot.ipxe")


def test_uboot_reads_the_header() -> None:
    """U-Boot beside another DHCP server finds no file: it reads the BOOTP header, and never asks again (edge case 12)."""
    uboot = announces(0x16, b"U-Boot.armv8")
    packet = reply(asks(MessageType.DISCOVER, uboot), replace(ALL_FILES, proxy=True)).packet
    assert packet.file == packet.options[Option.BOOT_FILE_NAME] == b"snponly-arm64.efi"
    assert packet.siaddr == OURS


@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_boot_url_is_plain(options: dict[int, bytes]) -> None:
    """HTTP boot fails on `//` in the path (edge case 15)."""
    file = reply(asks(MessageType.DISCOVER, options)).packet.file.decode()
    assert "//" not in file.partition("://")[2]


@pytest.mark.parametrize("scope", [SERVER, PROXY])
@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE])
def test_boot_server_is_an_address(scope: Scope, options: dict[int, bytes]) -> None:
    """
    Firmware asks the DHCP server beside us for our file, or broadcasts to port 4011 (edge cases 9, 17).

    And it cannot look up a name (edge case 16).
    """
    packet = reply(asks(MessageType.DISCOVER, options), scope).packet
    assert packet.siaddr == OURS
    assert packet.options[Option.SERVER_ID] == OURS.packed
    if packet.file:
        assert packet.options[Option.TFTP_SERVER_NAME] == b"10.77.0.1"
        assert packet.options[Option.TFTP_SERVER_ADDRESS] == OURS.packed


@pytest.mark.parametrize(
    ("uuid", "answered"), [(None, True), (b"", True), (UUID, True), (b"\1" * 17, False), (b"\0", False)]
)
def test_uuid_of_firmware(uuid: bytes | None, answered: bool) -> None:
    """Firmware without a UUID does not boot, one with it does not get it back, or nonsense is answered (edge case 1)."""
    options = {**BIOS, Option.CLIENT_UUID: uuid} if uuid is not None else {Option.VENDOR_CLASS: b"PXEClient"}
    decision = decide(asks(MessageType.DISCOVER, options))
    assert isinstance(decision, Reply) == answered
    if isinstance(decision, Reply) and uuid:
        assert decision.packet.options[Option.CLIENT_UUID] == uuid

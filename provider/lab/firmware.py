"""
What lab machines boot with, and the files and QEMU arguments that each kind needs.

A BIOS machine has no PXE but the one in the ROM that QEMU brings, which is iPXE (SeaBIOS has no network stack of its
own). All others get a network card without ROM, so that the PXE, TFTP and HTTP clients of EDK2 and U-Boot are at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from provider.domain.errors import PermanentError

FOLDERS = (
    Path("/usr/share/OVMF"),
    Path("/usr/share/AAVMF"),
    Path("/usr/share/edk2/x64"),
    Path("/usr/share/edk2/aarch64"),
    Path("/usr/lib/u-boot/qemu_arm64"),
)


class Firmware(StrEnum):
    """The kinds of lab machines."""

    BIOS = "bios"
    UEFI = "uefi"
    """PXE."""
    UEFI_HTTP = "uefi-http"
    """UEFI HTTP boot, and no PXE to begin with."""
    SECURE_BOOT = "secure-boot"
    """PXE, and only what Microsoft's keys vouch for."""
    UEFI_ARM64 = "uefi-arm64"
    """PXE of a 64-bit ARM machine."""
    U_BOOT_ARM64 = "u-boot-arm64"
    """U-Boot of a 64-bit ARM board, which runs UEFI programs."""


@dataclass(frozen=True)
class Board:
    """A machine type of QEMU."""

    architecture: str
    """As `uname -m` says in the machine."""
    qemu: str
    package: str
    """Where that program is from."""
    machine: str
    console: str
    """What Linux calls the first serial port."""
    has_kcs: bool
    """Whether its processor can talk to a BMC."""


Q35 = Board("x86_64", "qemu-system-x86_64", "qemu-system-x86", "q35,graphics=off", "ttyS0", has_kcs=True)
VIRT = Board("aarch64", "qemu-system-aarch64", "qemu-system-arm", "virt", "ttyAMA0", has_kcs=False)


@dataclass(frozen=True)
class Uefi:
    """Firmware that runs UEFI programs: its code, a template of its variables, its package, and what QEMU needs for it."""

    code: str
    variables: str
    """Empty for U-Boot, which is no flash image and keeps none."""
    package: str
    machine: str = ""
    """Properties of QEMU's machine type."""
    arguments: tuple[str, ...] = ()
    board: Board = Q35
    nic: str = "virtio-net-pci"


def _without_pxe(*versions: str) -> tuple[str, ...]:
    """EDK2's own switch; without IPv6, a machine whose PXE failed comes to its next boot option a minute earlier."""
    return tuple(
        word for version in versions for word in ("-fw_cfg", f"name=opt/org.tianocore/{version}PXESupport,string=n")
    )


UEFI: Mapping[Firmware, Uefi] = {
    Firmware.UEFI: Uefi("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "ovmf"),
    Firmware.UEFI_HTTP: Uefi("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "ovmf", arguments=_without_pxe("IPv4", "IPv6")),
    Firmware.SECURE_BOOT: Uefi(
        "OVMF_CODE_4M.ms.fd",
        "OVMF_VARS_4M.ms.fd",
        "ovmf",
        machine=",smm=on",
        # The keys are safe from the system only if the flash is.
        arguments=("-global", "driver=cfi.pflash01,property=secure,value=on", *_without_pxe("IPv6")),
    ),
    Firmware.UEFI_ARM64: Uefi("AAVMF_CODE.fd", "AAVMF_VARS.fd", "qemu-efi-aarch64", board=VIRT),
    Firmware.U_BOOT_ARM64: Uefi(
        "u-boot.bin",
        "",
        "u-boot-qemu",
        board=VIRT,
        # Of a virtio-net-pci U-Boot 2023.01 believes that its MAC address were 52:52:52:52:52:52.
        nic="e1000",
    ),
}


SIGNED_CHAIN = frozenset({Firmware.SECURE_BOOT, Firmware.UEFI_ARM64})
"""Those that boot by shim and GRUB with what Debian has: Secure Boot, and arm64, for which it has no iPXE."""


def board(kind: Firmware) -> Board:
    """What the machine is built on."""
    return UEFI[kind].board if kind in UEFI else Q35


def find(name: str, package: str) -> Path:
    """
    Find a file of EDK2 or U-Boot.

    Raises:
        PermanentError: If it is not installed.
    """
    for folder in FOLDERS:
        if (folder / name).exists():
            return folder / name
    raise PermanentError(f"the lab's machines need {name}", hint=f"install the package {package}")

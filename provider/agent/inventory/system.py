"""SMBIOS types 1 to 3, as far as the kernel shows them, and what kind of firmware booted us."""

from __future__ import annotations

from pathlib import Path

from provider.agent.inventory import sysfs as values
from provider.domain.inventory import FirmwareKind, System


def read(sysfs: Path) -> System:
    """
    Read who made the machine and how it calls itself; placeholders are for the provider to recognise.

    Raises:
        FileNotFoundError: If the kernel found no SMBIOS.
    """
    dmi = sysfs / "class/dmi/id"
    if not dmi.exists():
        raise FileNotFoundError("the kernel found no SMBIOS tables")
    return System(
        uuid=values.text(dmi / "product_uuid").lower(),
        manufacturer=values.text(dmi / "sys_vendor"),
        product=values.text(dmi / "product_name"),
        serial=values.text(dmi / "product_serial"),
        board_serial=values.text(dmi / "board_serial"),
        chassis_serial=values.text(dmi / "chassis_serial"),
        bios_version=values.text(dmi / "bios_version"),
    )


def firmware(sysfs: Path) -> FirmwareKind:
    """Say how the machine booted: the folder is there if and only if the kernel was started by UEFI."""
    return FirmwareKind.UEFI if (sysfs / "firmware/efi").exists() else FirmwareKind.BIOS

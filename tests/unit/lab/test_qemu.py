"""QEMU's command line: what the firmware will see."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from provider.domain.errors import PermanentError
from provider.lab import firmware, qemu
from provider.lab.disks import DiskImage
from provider.lab.firmware import Firmware
from provider.lab.qemu import Files, Hardware

FILES = Files(Path("/lab/LAB-01"))
BIOS = Hardware(
    number=1,
    firmware=Firmware.BIOS,
    uuid="11111111-2222-4333-8444-555555555555",
    serial="LAB-01",
    mac="52:54:00:77:00:01",
    tap="tap1",
    memory_mib=768,
    disks=(DiskImage(Path("/lab/a.img"), "A", "virtio-blk-pci", 1), DiskImage(Path("/lab/b.img"), "B", "nvme", 1)),
    kcs_port=9002,
    disk_bytes_per_second=0,
)


@pytest.fixture
def ovmf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "OVMF_CODE_4M.fd").touch()
    monkeypatch.setattr(firmware, "FOLDERS", (tmp_path,))
    return tmp_path


def _argument(line: list[str], beginning: str) -> str:
    return next(argument for argument in line if argument.startswith(beginning))


def test_network_comes_first() -> None:
    """A machine with a bootable disk never asks the provider what to boot."""
    line = qemu.command_line(BIOS, FILES, "tcg")
    assert "bootindex=0" in _argument(line, "virtio-net-pci")
    assert "bootindex=1" in _argument(line, "virtio-blk-pci")
    assert "bootindex=2" in _argument(line, "nvme")


def test_override_puts_the_disk_first() -> None:
    """A one-time boot override to the disk, given to the BMC, has no effect."""
    line = qemu.command_line(BIOS, FILES, "tcg", disk_first=True)
    assert "bootindex=3" in _argument(line, "virtio-net-pci")


def test_bios_uses_the_rom_and_uefi_its_own_pxe(ovmf: Path) -> None:
    """OVMF loads QEMU's iPXE ROM, and its own PXE and TFTP clients are never tested."""
    uefi = dataclasses.replace(BIOS, firmware=Firmware.UEFI)
    line = qemu.command_line(uefi, FILES, "tcg")
    assert _argument(line, "virtio-net-pci").endswith(",romfile=")
    assert str(ovmf / "OVMF_CODE_4M.fd") in _argument(line, "if=pflash,unit=0")
    assert str(FILES.uefi_variables) in _argument(line, "if=pflash,unit=1")
    assert "romfile" not in _argument(qemu.command_line(BIOS, FILES, "tcg"), "virtio-net-pci")


def test_u_boot_is_no_flash_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU looks for variables that U-Boot does not have, or U-Boot takes its network card's MAC address for another."""
    (tmp_path / "u-boot.bin").touch()
    monkeypatch.setattr(firmware, "FOLDERS", (tmp_path,))
    line = qemu.command_line(dataclasses.replace(BIOS, firmware=Firmware.U_BOOT_ARM64), FILES, "tcg")
    assert line[line.index("-bios") + 1] == str(tmp_path / "u-boot.bin")
    assert not any("pflash" in argument for argument in line)
    assert f"mac={BIOS.mac}" in _argument(line, "e1000,")


def test_reset_does_not_end_qemu() -> None:
    """A reboot of the guest looks like a power cut to the BMC."""
    assert "-no-reboot" not in qemu.command_line(BIOS, FILES, "tcg")


def test_slow_disks() -> None:
    """A wipe cannot be watched, because the limit of the disks is lost."""
    slow = dataclasses.replace(BIOS, disk_bytes_per_second=5_000_000)
    assert "throttling.bps-total=5000000" in _argument(qemu.command_line(slow, FILES, "tcg"), "file=/lab/a.img")
    assert "throttling" not in _argument(qemu.command_line(BIOS, FILES, "tcg"), "file=/lab/a.img")


def test_missing_ovmf_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box without OVMF fails in the middle of the story with QEMU's own words."""
    monkeypatch.setattr(firmware, "FOLDERS", (tmp_path,))
    with pytest.raises(PermanentError) as caught:
        firmware.find("OVMF_CODE_4M.fd", "ovmf")
    assert "ovmf" in caught.value.hint

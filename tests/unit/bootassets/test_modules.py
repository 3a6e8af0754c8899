"""Choosing kernel modules and firmware."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from bootassets import modules
from provider.domain.errors import PermanentError
from tests.unit.bootassets import elf_files

RELEASE = "6.1.0-1-amd64"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A kernel package that has everything required, and some modules that need others."""
    drivers = tmp_path / "lib/modules" / RELEASE / "kernel/drivers"
    drivers.mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / f"vmlinuz-{RELEASE}").write_bytes(b"kernel")
    (drivers.parents[1] / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    for name in modules.REQUIRED:
        (drivers / f"{name.replace('_', '-')}.ko").write_bytes(elf_files.module(depends=[""]))
    (drivers / "bnx2.ko.xz").write_bytes(
        lzma.compress(
            elf_files.module(depends=["libphy,mdio-bus"], softdep=["pre: crc8"], firmware=["bnx2/a.fw", "bnx2/b.fw"])
        )
    )
    (drivers / "libphy.ko").write_bytes(elf_files.module(depends=["mdio_bus"]))
    for name in ("mdio-bus", "crc8", "sound"):
        (drivers / f"{name}.ko").write_bytes(elf_files.module(depends=[""]))
    firmware = tmp_path / "usr/lib/firmware/bnx2"
    firmware.mkdir(parents=True)
    (firmware / "a-1.2.fw").write_bytes(b"firmware")
    (firmware / "a.fw").symlink_to("a-1.2.fw")
    return tmp_path


def test_dependencies_come_along_and_nothing_else(unpacked: Path) -> None:
    """Breaks if a driver lacks what it needs (in either spelling), or the image fills up with other modules."""
    selection = modules.select(modules.Kernel.find(unpacked), unpacked)
    assert {"bnx2", "libphy", "mdio_bus", "crc8"} <= set(selection.modules)
    assert "sound" not in selection.modules


def test_firmware_is_found_through_its_link(unpacked: Path) -> None:
    """Breaks if a firmware file that the package ships as a link (ice.pkg) is lost, or a missing one is not told."""
    selection = modules.select(modules.Kernel.find(unpacked), unpacked)
    assert modules.read(selection.firmware["bnx2/a.fw"]) == b"firmware"
    assert selection.missing_firmware == ("bnx2/b.fw",)


def test_built_in_drivers_are_not_missing(unpacked: Path) -> None:
    """Breaks if a driver that is part of the kernel image is reported as missing."""
    selection = modules.select(modules.Kernel.find(unpacked), unpacked)
    assert "virtio_pci" not in selection.missing
    assert "ixgbe" in selection.missing


def test_unfit_kernel_is_refused(unpacked: Path) -> None:
    """Breaks if an image is built from a cloud kernel, which cannot drive bare metal."""
    next(unpacked.rglob("nvme.ko")).unlink()
    with pytest.raises(PermanentError, match="has no driver nvme"):
        modules.select(modules.Kernel.find(unpacked), unpacked)


def test_no_kernel_at_all(tmp_path: Path) -> None:
    """Breaks if packages without a kernel give a traceback."""
    with pytest.raises(PermanentError, match="no kernel"):
        modules.Kernel.find(tmp_path)


def test_list_has_no_storage_networks() -> None:
    """Breaks if somebody adds a driver for disks that may belong to other machines."""
    words = Path(modules.__file__).with_name("drivers.txt").read_text(encoding="ascii").split()
    assert not {"qla2xxx", "lpfc", "iscsi_tcp", "nvme_tcp", "nvme_fabrics"}.intersection(words)

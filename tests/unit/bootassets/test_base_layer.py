"""The parts of the base layer that are copied as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bootassets import architectures, base_layer
from bootassets.architectures import BootFile


def test_links_lead_to_the_unpacked_package(tmp_path: Path) -> None:
    """A system without ipxe installed has no /boot/ipxe.efi, and one that has it gets another version into its image."""
    folder = tmp_path / "userland/usr/lib/ipxe"
    folder.mkdir(parents=True)
    (tmp_path / "userland/boot").mkdir()
    (tmp_path / "userland/boot/ipxe.efi").write_text("ipxe.efi of the package")
    (folder / "ipxe.efi").symlink_to("/boot/ipxe.efi")
    (folder / "other.efi").write_text("snponly.efi of the package")
    (folder / "snponly.efi").symlink_to("other.efi")
    (folder / "undionly.kpxe").write_text("undionly.kpxe of the package")
    files = tuple(
        BootFile(name, "ipxe", (f"usr/lib/ipxe/{name}",)) for name in ("ipxe.efi", "snponly.efi", "undionly.kpxe")
    )
    base_layer._copy_boot_files(tmp_path, dataclasses.replace(architectures.find("x86_64"), boot_files=files))
    for name in ("ipxe.efi", "snponly.efi", "undionly.kpxe"):
        assert (tmp_path / "boot" / name).read_text() == f"{name} of the package"

"""The lab's installer as a second initial RAM disk, laid over the agent image that comes first."""

from __future__ import annotations

from pathlib import Path

from bootassets import cpio
from provider.lab import lab_installer

_PLACE = "usr/lib/bootwright/lab_installer.py"
"""On the PYTHONPATH of the image's init, which runs the module that `BOOTWRIGHT_PROGRAM` names."""


def build(target: Path) -> None:
    """Write the archive."""
    with target.open("wb") as archive:
        cpio.write({_PLACE: cpio.File(Path(lab_installer.__file__))}, archive)


def was_installed(image: Path) -> bool:
    """Whether a disk, seen from outside, begins with the installer's boot sector."""
    expected = lab_installer.boot_sector()
    with image.open("rb") as disk:
        return disk.read(len(expected)) == expected

"""The processor architectures that images are made for, by their name in `uname -m`, and what is called differently there."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from provider.domain.errors import PermanentError


@dataclass(frozen=True)
class BootFile:
    """One file for TFTP: its name there, the package it comes from, and where it may lie in that package."""

    name: str
    package: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Architecture:
    """One architecture."""

    name: str
    debian: str
    """What Debian and Ubuntu call it."""
    linker: str
    """The dynamic linker, where programs look for it (the processor's ABI; PT_INTERP)."""
    triplet: str
    """The multiarch folder of libraries."""
    boot_files: tuple[BootFile, ...]
    """Network bootstrap programs. Debian has no iPXE for arm64: there the signed GRUB is the only one."""

    @property
    def library_folders(self) -> tuple[str, ...]:
        """Where packages put libraries; the first is where they go in the image."""
        return (f"usr/lib/{self.triplet}", f"lib/{self.triplet}", "usr/lib64", "lib64")


def _ipxe(name: str) -> BootFile:
    return BootFile(name, "ipxe", (f"usr/lib/ipxe/{name}",))


def _signed(efi: str, debian: str, folder: str) -> tuple[BootFile, ...]:
    """Microsoft signed the shim, the distribution signed GRUB; the shim looks for GRUB under the name that it gets here."""
    shim = f"usr/lib/shim/shim{efi}.efi.signed"
    grub = f"usr/lib/grub/{folder}/grubnet{efi}.efi.signed"
    return (
        BootFile(f"shim{efi}.efi", "shim-signed", (shim, f"{shim}.latest")),  # Ubuntu keeps the previous one as well.
        BootFile(f"grub{efi}.efi", f"grub-efi-{debian}-signed", (grub,)),
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "x86_64": Architecture(
        "x86_64",
        "amd64",
        "lib64/ld-linux-x86-64.so.2",
        "x86_64-linux-gnu",
        (
            *(_ipxe(name) for name in ("undionly.kpxe", "snponly.efi", "ipxe.efi")),
            *_signed("x64", "amd64", "x86_64-efi-signed"),
        ),
    ),
    "aarch64": Architecture(
        "aarch64",
        "arm64",
        "lib/ld-linux-aarch64.so.1",
        "aarch64-linux-gnu",
        _signed("aa64", "arm64", "arm64-efi-signed"),
    ),
}

DEFAULT = "x86_64"


def find(name: str) -> Architecture:
    """
    Give an architecture by its kernel's or Debian's name.

    Raises:
        PermanentError: If no image is made for it.
    """
    for architecture in ARCHITECTURES.values():
        if name in (architecture.name, architecture.debian):
            return architecture
    known = ", ".join(ARCHITECTURES)
    raise PermanentError(f"no agent image is built for {name}", hint=f"known: {known}")


def host() -> Architecture:
    """
    Give the architecture of this system, whose programs can be run here.

    Raises:
        PermanentError: If it is none of ours.
    """
    return find(platform.machine())

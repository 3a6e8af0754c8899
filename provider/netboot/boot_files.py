"""
Boot files of an operator: a newer iPXE, one with HTTPS or a script of his own, one for a processor that Debian has none for.

Each file of the folder is served under its name, in place of ours if that has the same; the daemon looks at all of them
when it starts, so that no machine gets half a file or another processor's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from provider.domain.errors import SettingsError
from provider.wire import pxe

MOST_BYTES = 64 << 20
"""Of one boot file; firmware holds it in memory, beside what it loads next."""

_BIOS_PROGRAMS = frozenset({".kpxe", ".kkpxe", ".kkkpxe", ".pxe", ".0"})
"""What iPXE and others call theirs."""

_MACHINES = {0x014C: "IA-32", 0x8664: "x86-64", 0xAA64: "arm64"}
"""Of a PE file (Microsoft PE format, COFF file header)."""

_MACHINE_OF = {pxe.UEFI_IA32: 0x014C, pxe.UEFI_X64: 0x8664, pxe.UEFI_ARM64: 0xAA64}


def find(folder: Path) -> dict[str, Path]:
    """
    Give the boot files of a folder by name.

    Raises:
        SettingsError: Names every file that cannot be used.
    """
    try:
        files = {path.name: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
        problems = [f"{folder / name}: {problem}" for name, path in files.items() for problem in _problems(path)]
    except OSError as error:
        raise SettingsError(
            f"the boot files in {error.filename or folder} cannot be read: {error.strerror}", hint="check boot_files"
        ) from error
    if problems:
        raise SettingsError("\n".join(problems), hint="mend or remove these boot files")
    return files


def _problems(path: Path) -> Iterator[str]:
    if not path.is_file():
        yield "it is no file"
        return
    if not (path.name.isascii() and path.name.isprintable()) or " " in path.name or len(path.name) > pxe.LONGEST_NAME:
        yield f"firmware cannot ask for this name; use up to {pxe.LONGEST_NAME} ASCII characters without blanks"
    size = path.stat().st_size
    if not size:
        yield "it is empty"
    elif size > MOST_BYTES:
        yield f"it has {size} bytes, and a boot file has at most {MOST_BYTES}"
    elif path.suffix == ".efi":
        yield from _wrong_machine(path)
    elif _is_text(path) and path.suffix in _BIOS_PROGRAMS:
        yield "it is text, and no boot program: perhaps somebody saved a web page under its name"


def _wrong_machine(path: Path) -> Iterator[str]:
    """Firmware refuses a program of another processor, and tells nobody."""
    found = _machine(path)
    if found not in _MACHINES:
        yield "it is no UEFI program for a processor that we know"
        return
    for firmware, expected in _MACHINE_OF.items():
        if path.name in pxe.bootstrap_programs(firmware, signed=False) and found != expected:
            yield f"it is for {_MACHINES[found]}, and {_MACHINES[expected]} machines would get it under this name"


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in file.read(512))


def _machine(path: Path) -> int | None:
    """Read the processor from the header of a PE file."""
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:2] != b"MZ":
            return None
        file.seek(struct.unpack_from("<I", head, 60)[0])
        signature = file.read(6)
    return int.from_bytes(signature[4:], "little") if len(signature) == 6 and signature[:4] == b"PE\0\0" else None

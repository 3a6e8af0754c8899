"""
GRUB scripts, made from plain values.

They are for the distribution's signed network GRUB, which a shim starts: for Secure Boot, and for arm64, where Debian has
no iPXE. That GRUB has TFTP but not HTTP, and loads no modules, so everything comes by TFTP and with its built-in commands
(`source`, `linux`, `initrd`, `boot`, `search`, `chainloader`, `sleep`, `test`, `exit`).

Arguments of kernels are quoted with single quotes, between which GRUB knows nothing special; one that has such a quote in
it, or is not printable ASCII, is refused, because a kernel that starts with another argument may do harm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from provider.domain.errors import PermanentError

FIRST = "grub/grub.cfg"
"""What the signed network GRUB asks for first, below the folder that it came from."""

PAUSES = (1, 2, 4, 8, 16)
"""Seconds between tries."""

_MACHINE = re.compile(r"grub/machine/([a-z0-9_]+)/([0-9a-f]{2}(?::[0-9a-f]{2}){5})(?:/([a-z]+))?")

_LOADERS = ("/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/BOOTAA64.EFI")
"""
Boot loaders on disks, by the name that firmware itself looks for (UEFI 2.10 section 3.5.1.1). A short list on purpose: under
Secure Boot others may load and then fail to go on (edge case 56).
"""


def bootstrap_script() -> str:
    """
    The same for every machine: ask again, saying who you are. A script that works does not come back; one that sets `waits` has
    waited already, and wants to be asked for again at once. (`source` itself never fails, so its status tells nothing.)
    """
    return _script(
        "set timeout=0",
        "echo 'Bootwright: asking what to boot'",
        f"for pause in {' '.join(map(str, PAUSES))}; do",
        "  set waits=yes",
        "  while test x$waits = xyes; do",
        "    set waits=no",
        "    source $prefix/machine/$grub_cpu/$net_default_mac$again",
        "  done",
        "  sleep $pause",
        "done",
        "echo 'Bootwright: no answer, going on to the next boot device'",
        "exit",
    )


@dataclass(frozen=True)
class Asking:
    """Who asks for a script: processor as GRUB calls it (x86_64, arm64), MAC address, and the word of `waiting_script`."""

    build: str
    mac: str
    state: str = ""


def machine_of(path: str) -> Asking | None:
    """Who asks for the script at a path; None if nobody does."""
    found = _MACHINE.fullmatch(path)
    return Asking(found[1], found[2], found[3] or "") if found else None


def kernel_script(title: str, server: str, kernel: str, initrds: Sequence[str], arguments: Sequence[str]) -> str:
    """
    Load a kernel with its initial RAM disks and start it; `kernel` and `initrds` are paths on the TFTP server.

    Raises:
        PermanentError: If an argument cannot stand in a script.
    """
    files = [f"{_quoted(f'(tftp,{server})/{path}')}" for path in (kernel, *initrds)]
    line = " ".join([files[0], *map(_quoted, arguments)])
    return _script(
        f"echo 'Bootwright: {_shown(title)}'",
        f"if linux {line}; then",
        *([f"  if initrd {' '.join(files[1:])}; then boot; fi"] if initrds else ["  boot"]),
        "fi",
        "echo 'Bootwright: it cannot be loaded'",
    )


def program_script(title: str, server: str, program: str) -> str:
    """
    Start a program of UEFI, which is a path on the TFTP server: a kernel with all that belongs to it inside.

    Under Secure Boot its signature is the firmware's to judge: the key must be in its `db`, and a shim's list is of no use.
    """
    return _script(
        f"echo 'Bootwright: {_shown(title)}'",
        f"if chainloader {_quoted(f'(tftp,{server})/{program}')}; then boot; fi",
        "echo 'Bootwright: it cannot be loaded'",
    )


def waiting_script(reason: str, state: str, seconds: int) -> str:
    """Wait, and ask again; `state` is a word that comes back in the path, so that waiting is told once."""
    return _script(
        f"echo 'Bootwright: {_shown(reason)}, asking again in {seconds} s'",
        f"set again=/{state}",
        f"sleep {seconds}",
        "set waits=yes",
    )


def disk_script(reason: str) -> str:
    """Hand the machine over to the boot loader on its disk; without one, to the firmware's next boot option."""
    lines = [f"echo 'Bootwright: {_shown(reason)}, going on to the disk'"]
    for path in _LOADERS:
        lines += [
            f"if search --no-floppy --file --set=disk {path}; then",
            f"  chainloader ($disk){path}",
            "  boot",
            "fi",
        ]
    return _script(*lines, "exit")


def nothing_script(reason: str) -> str:
    """Leave the machine alone: we have nothing for it."""
    return _script(f"echo 'Bootwright: {_shown(reason)}, nothing to boot from here'", "exit")


def _quoted(word: str) -> str:
    if not re.fullmatch(r"[!-&(-~]+", word):
        raise PermanentError(
            f"{word!r} cannot stand in a boot script", hint="use printable ASCII without blanks and single quotes"
        )
    return f"'{word}'"


def _shown(text: str) -> str:
    """Text for the screen that cannot be a command."""
    return re.sub(r"[^A-Za-z0-9 .,:/()_-]", "", text)[:200]


def _script(*lines: str) -> str:
    return "\n".join((*lines, ""))

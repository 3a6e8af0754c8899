"""
iPXE scripts, made from plain values.

They must run in old builds: Debian's is of 2019, ROMs are older. So only `dhcp`-free basics are used: `chain`, `kernel`,
`initrd`, `boot`, `imgfree`, `sleep`, `iseq`, `goto`, `exit`, `sanboot`. Downloads are tried several times with growing pauses,
and at last the machine goes on to its next boot device instead of hanging (edge case 51).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

CONTENT_TYPE = "text/plain; charset=ascii"

_PAUSES = (1, 2, 4, 8, 15)
"""Seconds between tries of a download."""

_EVIDENCE = {
    "mac": "${netX/mac:hexhyp}",
    "uuid": "${uuid}",
    "serial": "${serial:uristring}",
    "board_serial": "${board-serial:uristring}",
    "platform": "${platform}",
    "buildarch": "${buildarch}",
}
"""What a machine tells of itself when it asks for its script; `netX` is the interface that booted (edge case 46)."""


@dataclass(frozen=True)
class Image:
    """A file to load; `name` is what the kernel command line calls it."""

    name: str
    url: str


def bootstrap_script(base_url: str) -> str:
    """The same for every machine: ask again, saying who you are. Retries, then the next boot device."""
    query = "&".join(f"{name}={value}" for name, value in _EVIDENCE.items())
    command = f"chain --replace {base_url}/machine.ipxe?{query}"
    return _script(
        "echo Bootwright: asking what to boot",
        *_tried("ask", [command]),
        "echo Bootwright: no answer, going on to the next boot device",
        "exit",
    )


def kernel_script(title: str, kernel: Image, initrds: Sequence[Image], arguments: Sequence[str]) -> str:
    """
    Load a kernel with its initial RAM disks and start it.

    Raises:
        ValueError: If an argument or name could end its line or be expanded by iPXE.
    """
    # UEFI kernels find their RAM disks by `initrd=` (harmless on BIOS); several are named one after the other.
    line = [f"initrd={_checked(image.name)}" for image in initrds] + [_checked(argument) for argument in arguments]
    commands = [
        "imgfree",
        f"kernel {kernel.url} {' '.join(line)}",
        *(f"initrd --name {image.name} {image.url}" for image in initrds),
        "boot",
    ]
    return _script(
        f"echo Bootwright: {_printable(title)}",
        *_tried("load", commands),
        "echo Bootwright: it cannot be loaded, going on to the next boot device",
        "exit",
    )


def disk_script(reason: str) -> str:
    """Hand the machine to its next boot device."""
    return _script(f"echo Bootwright: {_printable(reason)}, going on to the next boot device", "exit")


def fill_in(template: str, fields: Mapping[str, str]) -> list[str]:
    """
    Fill `{name}` fields into a kernel command line and split it into arguments.

    Raises:
        ValueError: If the line has a field that is not known.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in fields:
            known = ", ".join(sorted(fields))
            raise ValueError(f"the command line has a field {{{found[1]}}} that is not known; known are: {known}")
        return fields[found[1]]

    return re.sub(r"\{(\w+)\}", value, template).split()


def quoted(path: str) -> str:
    """A path as it may stand in a URL of a script."""
    return quote(path, safe="/._-~")


def _checked(argument: str) -> str:
    """Arguments come from managers and operators: none may start a new command or be expanded (edge case 168)."""
    if not argument.isascii() or not argument.isprintable() or "${" in argument or " " in argument:
        raise ValueError(f"kernel argument {argument!r} has a character that a boot script cannot carry")
    if argument in ("||", "&&") or argument.startswith("#"):
        raise ValueError(f"kernel argument {argument!r} means something else to iPXE")
    return argument


def _printable(text: str) -> str:
    """Text for the screen that cannot be a command."""
    return re.sub(r"[^A-Za-z0-9 .,:/()_-]", "", text)[:200]


def _tried(label: str, commands: Sequence[str]) -> list[str]:
    """The commands as one try, and again after each pause; falls through when all have failed."""
    lines: list[str] = []
    for number, pause in enumerate(_PAUSES):
        following = f"{label}_{number + 1}"
        lines += [f":{label}_{number}"]
        lines += [f"{command} || goto {label}_failed_{number}" for command in commands]
        lines += [f":{label}_failed_{number}", f"sleep {pause}", f"goto {following}"]
    return [*lines, f":{label}_{len(_PAUSES)}"]


def _script(*lines: str) -> str:
    return "\n".join(("#!ipxe", *lines, ""))

"""
iPXE scripts, made from plain values.

They must run in old builds: Debian's is of 2019, and ROMs are older. So they use what iPXE has had for many years
(`chain`, `kernel`, `initrd`, `boot`, `imgfree`, `set`, `sleep`, `goto`, `exit`, `sanboot`), and not `inc`, which is
missing in some ROMs (edge case 45).

A download that fails is tried again after a growing pause, each time from a clean start; if nobody answers, the other
interfaces have their turn (edge case 44). A machine that cannot be served says so, if it can, and goes on to its next boot
device; it neither hangs nor boots in circles (edge case 51).

What stands in a script was chosen by other people: machine names by firmware, arguments by managers and operators. iPXE
splits a line at white space, knows no quotes, expands `${...}`, and takes `||`, `&&`, `;` and `#` as its own. Text for the
screen is stripped of all that. An argument that has any of it is refused, because a kernel that starts without an
argument, or with another one, may do harm (edge case 168).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from provider.domain.errors import PermanentError
from provider.domain.mac import MacAddress
from provider.domain.machine import HandOff

CONTENT_TYPE = "text/plain; charset=ascii"

AUTOEXEC = "autoexec.ipxe"
"""What newer builds run first, if the server that they came from has it; no interface has an address then."""

MOST_LINE_BYTES = 2047
"""Kernels of x86 and arm64 cut off their command line here, silently (COMMAND_LINE_SIZE, with its NUL)."""

PAUSES = (1, 2, 4, 8, 16)
"""Seconds between tries of a download."""

INTERFACES = 10
"""The most that are tried; iPXE counts them from net0."""

_LINK_MILLISECONDS = 5000

_EVIDENCE = {
    "uuid": "${uuid}",
    "serial": "${serial:uristring}",
    "board_serial": "${board-serial:uristring}",
    "platform": "${platform}",
    "buildarch": "${buildarch}",
}
"""What a machine tells of itself when it asks for its script, besides its MAC address."""

_NEXT_DEVICE = "exit 1"
"""
Leave iPXE with an error. UEFI takes success for "this was the boot" and may open its menu; an error sends it on to the
next boot option. A BIOS does not care.
"""


@dataclass(frozen=True)
class Image:
    """A file to load; `name` is what the kernel command line calls it."""

    name: str
    url: str


def bootstrap_script(base_url: str, *, is_autoexec: bool = False) -> str:
    """
    The same for every machine: ask again, saying who you are.

    `netX` is the interface that booted (edge case 46). If we cannot be reached from there, each interface is tried.
    """
    return _script(
        *(("dhcp ||",) if is_autoexec else ()),
        "echo Bootwright: asking what to boot",
        *_tried([_ask(base_url, "${netX/mac:hexhyp}")]),
        "echo Bootwright: no answer, trying each interface",
        *(line for number in range(INTERFACES) for line in _asked_from(base_url, number)),
        f":net{INTERFACES}",
        "echo Bootwright: no answer, going on to the next boot device",
        _NEXT_DEVICE,
    )


def _ask(base_url: str, mac: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in _EVIDENCE.items())
    return f"chain --replace --autofree {base_url}/machine.ipxe?mac={mac}&{query}"


def _asked_from(base_url: str, number: int) -> list[str]:
    """
    Wait for the link, get an address, and ask; a ROM without `iflinkwait` does without. Who reaches us, and gets no script,
    says so.

    All interfaces are closed first: what goes to us goes by the first open one with a route there, whichever was asked for.
    """
    name, following = f"net{number}", f"goto net{number + 1}"
    return [
        f":{name}",
        f"isset ${{{name}/mac}} || goto net{INTERFACES}",
        "ifclose ||",
        f"ifopen {name} || {following}",
        f"iflinkwait --timeout {_LINK_MILLISECONDS} {name} ||",
        f"dhcp {name} || {following}",
        f"{_ask(base_url, f'${{{name}/mac:hexhyp}}')} ||",
        "set error ${errno}",
        _report(base_url, f"${{{name}/mac:hexhyp}}", "script"),
    ]


def _report(base_url: str, mac: str, stage: str) -> str:
    """Tell us what failed; whether that arrives or not, the script goes on."""
    return f"imgfetch {base_url}/failed?mac={mac}&stage={stage}&error=${{error}} ||"


def kernel_script(
    title: str, base_url: str, mac: MacAddress, kernel: Image, initrds: Sequence[Image], arguments: Sequence[str]
) -> str:
    """
    Load a kernel with its initial RAM disks and start it; the machine with `mac` tells us at `base_url` if it cannot.

    `initrd=` arguments are made here: a UEFI kernel finds its RAM disks by the names that they have in iPXE.

    Raises:
        PermanentError: If an argument or name cannot stand in a script, or the command line is too long.
    """
    named = [f"initrd={image.name}" for image in initrds]
    line = " ".join(_checked(argument) for argument in [*named, *arguments])
    if len(line) > MOST_LINE_BYTES:
        raise PermanentError(
            f"the kernel command line has {len(line)} characters, and a kernel reads {MOST_LINE_BYTES}",
            hint="shorten the command line of the profile, or the arguments of the allocation",
        )
    commands = [
        "imgfree",
        f"kernel {kernel.url} {line}".rstrip(),
        *(f"initrd --name {image.name} {image.url}" for image in initrds),
        "boot",
    ]
    return _script(
        f"echo Bootwright: {_shown(title)}",
        *_tried(commands),
        "echo Bootwright: it cannot be loaded, going on to the next boot device",
        _report(base_url, mac, "kernel"),
        "imgfree",
        _NEXT_DEVICE,
    )


def waiting_script(reason: str, base_url: str, mac: MacAddress, state: str, seconds: int) -> str:
    """
    Wait, and ask again as the machine with `mac`; `state` is a word that comes back with it, so that waiting is told once.

    It waits for as long as we say so: what is waited for may take minutes, and no request of iPXE does.
    """
    return _script(
        f"echo Bootwright: {_shown(reason)}, asking again in {seconds} s",
        f"sleep {seconds}",
        *_tried([f"{_ask(base_url, mac)}&again={state}"]),
        "echo Bootwright: no answer, going on to the next boot device",
        _report(base_url, mac, "script"),
        _NEXT_DEVICE,
    )


def disk_script(reason: str, hand_off: HandOff = HandOff.EXIT) -> str:
    """Hand the machine over to its disk."""
    greeting = f"echo Bootwright: {_shown(reason)}, going on to the next boot device"
    match hand_off:
        case HandOff.EXIT:
            return _script(greeting, _NEXT_DEVICE)
        case HandOff.SANBOOT:
            return _script(greeting, f"sanboot --no-describe --drive 0x80 || {_NEXT_DEVICE}")
        case HandOff.HTTP_404:
            return _script(greeting, "chain --replace /next-boot-device")


def nothing_script(reason: str) -> str:
    """Leave the machine alone: we have nothing for it."""
    return _script(f"echo Bootwright: {_shown(reason)}, nothing to boot from here", _NEXT_DEVICE)


def quoted(path: str) -> str:
    """A path as it may stand in a URL of a script."""
    return quote(path, safe="/._-~")


def _checked(argument: str) -> str:
    """Refuse what could end its line, begin another command or be expanded."""
    means_something = argument in ("||", "&&", ";") or argument.startswith("#") or "${" in argument
    if means_something or not re.fullmatch(r"[!-~]+", argument):
        raise PermanentError(
            f"the kernel argument {argument!r} cannot stand in a boot script",
            hint="arguments are printable ASCII without blanks, and none is ||, && or ;, contains ${ or begins with #",
        )
    return argument


def _shown(text: str) -> str:
    """Text for the screen that cannot be a command."""
    return re.sub(r"[^A-Za-z0-9 .,:/()_-]", "", text)[:200]


def _tried(commands: Sequence[str]) -> list[str]:
    """
    The commands in order; when one fails, all again after a pause, and after the last pause whatever stands below.

    How long to wait stands in a variable that is part of a label, which spares a loop counter. `a && b || c` would not do:
    iPXE stops at the first failure in such a line.
    """
    lines = ["set pause first", ":again", *(f"{command} || goto wait_${{pause}}" for command in commands)]
    for pause, following in zip(("first", *PAUSES), PAUSES, strict=False):
        lines += [f":wait_{pause}", "set error ${errno}", f"sleep {following}", f"set pause {following}", "goto again"]
    return [*lines, f":wait_{PAUSES[-1]}", "set error ${errno}"]


def _script(*lines: str) -> str:
    return "\n".join(("#!ipxe", *lines, ""))

"""What the boot script told us, on the kernel command line (`wire.agent.KernelArguments`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from provider.domain import mac
from provider.domain.errors import PermanentError
from provider.wire import agent as wire

COMMAND_LINE = Path("/proc/cmdline")
_PREFIX = "bootwright."
_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')
"""Blanks part words, except between double quotes (next_arg in the kernel's lib/cmdline.c); nothing else is special."""
_HINT = "the agent must be started by the provider's boot script"


def options(command_line: str) -> Mapping[str, str]:
    """Split `a=1 b="two words" c` into names and values as the kernel does; the last of a repeated name counts."""
    pairs = (word.replace('"', "").partition("=") for word in _WORD.findall(command_line))
    return {name: value for name, _, value in pairs}


def parse(command_line: str) -> wire.KernelArguments:
    """
    Find our arguments on a kernel command line.

    Raises:
        PermanentError: If one is missing or is not what it should be; names it.
    """
    given = options(command_line)
    wanted = ("url", "boot_url", "ca", "ticket", "mac")
    missing = [f"{_PREFIX}{name}" for name in wanted if not given.get(f"{_PREFIX}{name}")]
    if missing:
        raise PermanentError(f"the kernel command line has no {', '.join(missing)}", hint=_HINT)
    url, boot_url, ca, ticket, spelled_mac = (given[f"{_PREFIX}{name}"] for name in wanted)
    if not url.startswith("https://") or not boot_url.startswith("http://"):
        raise PermanentError("bootwright.url must be https:// and bootwright.boot_url http://", hint=_HINT)
    if not re.fullmatch("[0-9a-fA-F]{64}", ca):
        raise PermanentError("bootwright.ca is not a SHA-256 in hexadecimal digits", hint=_HINT)
    try:
        address = mac.parse(spelled_mac)
    except ValueError as error:
        raise PermanentError(f"bootwright.mac: {error}", hint=_HINT) from error
    return wire.KernelArguments(url.rstrip("/"), boot_url.rstrip("/"), ca.lower(), ticket, address)

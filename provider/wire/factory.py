"""
What a Talos Image Factory is asked, and how its answers are read.

A *schematic* says what is put into an image beside Talos. The factory keeps it under an id made from its content, and names the
boot files of a schematic, a version and an architecture in an iPXE script.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from provider.domain.errors import MalformedPacketError

DEFAULT_URL = "https://factory.talos.dev"
DEFAULT_PXE_URL = "https://pxe.factory.talos.dev"
"""Where the public one has its scripts; one of your own has both at the same address."""

SCHEMATIC_TYPE = "application/yaml"


@dataclass(frozen=True, slots=True)
class Script:
    """The boot files: a kernel with its initial RAM disks, or one unified kernel image, which has them inside."""

    kernel: str
    """URL, as are the initial RAM disks; it may be relative."""
    initrds: tuple[str, ...]
    arguments: tuple[str, ...]


def schematic_body(schematic: Mapping[str, object]) -> bytes:
    """A schematic as JSON, which is YAML too: the same bytes for the same schematic, so that answers can be kept by them."""
    return json.dumps(schematic, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def schematic_id(answer: bytes) -> str:
    """
    The id in the answer to a schematic that was posted.

    Raises:
        MalformedPacketError: If there is none.
    """
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        raise MalformedPacketError("the factory's answer is no JSON", field="answer", offset=0) from None
    identity = found.get("id") if isinstance(found, dict) else None
    if not is_schematic_id(identity):
        raise MalformedPacketError("the factory's answer has no id of a schematic", field="id", offset=0)
    return str(identity)


def is_schematic_id(text: object) -> bool:
    """Whether it is one: SHA-256 in hex."""
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{64}", text) is not None


def read_script(answer: bytes) -> Script:
    """
    Read the iPXE script of the factory: `kernel` with its arguments, `initrd`, `boot`.

    Raises:
        MalformedPacketError: If it is none, or does what this version does not know.
    """
    text = answer.decode("ascii", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    if not lines or lines[0] != "#!ipxe":
        raise MalformedPacketError("the factory's answer is no iPXE script", field="first line", offset=0)
    kernel: list[str] | None = None
    initrds: list[str] = []
    for words in (line.split() for line in lines[1:]):
        match words:
            case [] | ["imgfree" | "boot"]:
                continue
            case ["kernel", *rest] if rest and kernel is None:
                kernel = rest
            case ["initrd", url]:
                initrds.append(url)
            case [word, *_] if not word.startswith("#"):
                offset = text.find(word)
                raise MalformedPacketError(
                    f"the factory's script has an unknown line, {word[:40]!r}", field="line", offset=offset
                )
    if kernel is None:
        raise MalformedPacketError("the factory's script has no kernel", field="kernel", offset=len(answer))
    return Script(kernel[0], tuple(initrds), tuple(word for word in kernel[1:] if not word.startswith("initrd=")))

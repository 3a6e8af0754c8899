"""Tiny ELF files for tests: just enough headers to find sections by name."""

from __future__ import annotations

import struct


def make(sections: dict[str, bytes]) -> bytes:
    """Build a 64-bit little-endian ELF file with the given sections."""
    named = {"": b"", **sections, ".shstrtab": b""}
    names = b"".join(name.encode() + b"\0" for name in named)
    named[".shstrtab"] = names
    body, headers, offset = b"", b"", 64
    for name, content in named.items():
        name_offset = names.index(name.encode() + b"\0") if name else 0
        headers += struct.pack("<IIQQQQIIQQ", name_offset, 1, 0, 0, offset, len(content), 0, 0, 1, 0)
        body += content
        offset += len(content)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    rest = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(named), len(named) - 1)
    return identity + rest + body + headers


def module(**information: list[str]) -> bytes:
    """Build a kernel module with this .modinfo."""
    lines = [f"{key}={value}".encode() for key, values in information.items() for value in values]
    return make({".modinfo": b"\0".join(lines) + b"\0"})


def linked_with(*libraries: str) -> bytes:
    """Build a program that needs these libraries."""
    strings, tags = b"\0", b""
    for library in libraries:
        tags += struct.pack("<qQ", 1, len(strings))
        strings += library.encode() + b"\0"
    return make({".dynstr": strings, ".dynamic": tags + struct.pack("<qQ", 0, 0)})

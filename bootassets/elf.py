"""The three things that we ask an ELF file: which libraries it needs, its module information, and whether it is one."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAGIC = b"\x7fELF\x02\x01"  # 64 bit, little endian: all that we build for
_DT_NULL, _DT_NEEDED = 0, 1


def is_elf(data: bytes) -> bool:
    """Say whether `data` starts like a 64-bit little-endian ELF file."""
    return data.startswith(_MAGIC)


def needed(data: bytes) -> tuple[str, ...]:
    """Give the names of the shared libraries that the file is linked with (DT_NEEDED), in order."""
    strings = section(data, ".dynstr")
    tags = struct.iter_unpack("<qQ", section(data, ".dynamic"))
    names = []
    for tag, value in tags:
        if tag == _DT_NULL:
            break
        if tag == _DT_NEEDED:
            names.append(_string_at(strings, value))
    return tuple(names)


def module_information(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the `key=value` pairs of a kernel module's .modinfo: `depends`, `softdep`, `firmware`, `alias`, ..."""
    for line in section(data, ".modinfo").split(b"\0"):
        key, equals, value = line.partition(b"=")
        if equals:
            yield key.decode(), value.decode(errors="replace")


def section(data: bytes, name: str) -> bytes:
    """Give the content of the named section, empty if the file has none."""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + index * entry_size) for index in range(count)]
    if not headers:
        return b""
    names = _content(data, headers[names_index])
    for header in headers:
        if _string_at(names, header[0]) == name:
            return _content(data, header)
    return b""


def _content(data: bytes, header: tuple[int, ...]) -> bytes:
    _name, _type, _flags, _address, offset, size = header
    return data[offset : offset + size]


def _string_at(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode()

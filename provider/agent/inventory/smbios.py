"""SMBIOS structures (DSP0134 3.x, section 6.1) as the kernel keeps them in /sys/firmware/dmi/tables/DMI."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_END_OF_TABLE = 127
_HEADER_BYTES = 4


@dataclass(frozen=True)
class Structure:
    """One structure: its type and its formatted area, header included, so that offsets are those of the standard."""

    type: int
    formatted: bytes

    def unsigned(self, offset: int, size: int) -> int:
        """Give a little-endian field; 0 if the structure is of an older version and too short for it."""
        field = self.formatted[offset : offset + size]
        return int.from_bytes(field, "little") if len(field) == size else 0


def read(sysfs: Path) -> list[Structure]:
    """Give all structures; none if the kernel found no SMBIOS."""
    path = sysfs / "firmware/dmi/tables/DMI"
    return list(parse(path.read_bytes())) if path.exists() else []


def parse(table: bytes) -> Iterator[Structure]:
    """Walk a table; stops quietly where it is cut off or makes no sense."""
    offset = 0
    while offset + _HEADER_BYTES <= len(table):
        kind, length = table[offset], table[offset + 1]
        if length < _HEADER_BYTES or kind == _END_OF_TABLE:
            return
        yield Structure(kind, table[offset : offset + length])
        end_of_strings = table.find(b"\0\0", offset + length)
        if end_of_strings < 0:
            return
        offset = end_of_strings + 2

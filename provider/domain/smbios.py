"""What SMBIOS calls a machine."""

from __future__ import annotations


def byte_swapped(uuid: str) -> str:
    """The same 16 bytes with the first three fields in the other byte order (RFC 4122 against SMBIOS 2.6)."""
    if not uuid:
        return ""
    first, second, third, *rest = uuid.split("-")
    swapped = (bytes.fromhex(part)[::-1].hex() for part in (first, second, third))
    return "-".join((*swapped, *rest))

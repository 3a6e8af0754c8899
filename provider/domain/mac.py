"""MAC addresses: one spelling inside (lower case, colons), many outside."""

from __future__ import annotations

import re
from typing import NewType

MacAddress = NewType("MacAddress", str)
"""Six octets as `52:54:00:12:34:56`. Make one with `parse` or `from_bytes` only."""

_SPELLED = re.compile(r"(?:01-)?[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}|[0-9a-f]{12}")


def parse(text: str) -> MacAddress:
    """
    Read a MAC address in any common spelling, PXELINUX's BOOTIF form `01-52-54-...` included.

    Raises:
        ValueError: If `text` is not a MAC address of six octets.
    """
    lowered = text.strip().lower()
    if not _SPELLED.fullmatch(lowered):
        raise ValueError(f"{text!r} is not a MAC address such as 52:54:00:12:34:56")
    digits = re.sub(r"[:.-]", "", lowered)
    return from_bytes(bytes.fromhex(digits[-12:]))


def from_bytes(octets: bytes) -> MacAddress:
    """
    Spell six raw octets.

    Raises:
        ValueError: If there are not exactly six.
    """
    if len(octets) != 6:
        raise ValueError(f"a MAC address has 6 octets, not {len(octets)}")
    return MacAddress(octets.hex(":"))


def is_of_one(mac: MacAddress) -> bool:
    """Whether one card can have it: cards without a programmed address say zeros, and groups of cards are nobody."""
    return mac[1] in "02468ace" and mac != "00:00:00:00:00:00"


def to_bytes(mac: MacAddress) -> bytes:
    """Give the six raw octets."""
    return bytes.fromhex(mac.replace(":", ""))

"""MAC addresses in all their spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain import mac


@pytest.mark.parametrize(
    "text",
    [
        "52:54:00:12:34:56",
        "52-54-00-12-34-56",
        "525400123456",
        "5254.0012.3456",
        " 52:54:00:12:34:56\n",
        "01-52-54-00-12-34-56",
    ],
)
def test_spellings(text: str) -> None:
    """One machine becomes two because its address is spelled differently (edge cases 59, 154)."""
    assert mac.parse(text.upper()) == "52:54:00:12:34:56"


@pytest.mark.parametrize("text", ["", "52:54:00:12:34", "52:54:00:12:34:5g", "52:54:00:12:34:56:78:90", "localhost"])
def test_nonsense_is_refused(text: str) -> None:
    """Nonsense becomes the identity of a machine."""
    with pytest.raises(ValueError, match="MAC address"):
        mac.parse(text)


@given(st.binary(min_size=6, max_size=6))
def test_octets_come_back(octets: bytes) -> None:
    """An octet is lost on the way."""
    assert mac.to_bytes(mac.parse(mac.from_bytes(octets))) == octets


@pytest.mark.parametrize(
    ("text", "is_of_one"),
    [
        ("52:54:00:12:34:56", True),
        ("00:00:00:00:00:01", True),
        ("00:00:00:00:00:00", False),
        ("ff:ff:ff:ff:ff:ff", False),
        ("33:33:00:00:00:01", False),
    ],
)
def test_address_of_one_card(text: str, is_of_one: bool) -> None:
    """A machine is known by an address that others have as well."""
    assert mac.is_of_one(mac.parse(text)) is is_of_one

"""Who sent a router solicitation."""

from __future__ import annotations

import pytest

from provider.netboot.router_advertisement import solicitor

RS = b"\x85\0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    ("raw", "source", "expected"),
    [
        (RS + b"\1\1\x52\x54\0\x12\x34\x56", "fe80::1", "52:54:00:12:34:56"),
        (RS, "fe80::5054:ff:fe12:3456", "52:54:00:12:34:56"),
        (RS, "fe80::5054:ff:fe12:3456%eth0", "52:54:00:12:34:56"),
        (RS, "fe80::1", None),
        (RS + b"\x0e\0", "fe80::1", None),
        (b"\x86" + RS[1:], "fe80::5054:ff:fe12:3456", None),
        (b"", "", None),
        (RS, "nonsense", None),
    ],
)
def test_solicitor(raw: bytes, source: str, expected: str | None) -> None:
    """iPXE's solicitation is not recognised and it waits 13 s, or nonsense is a traceback."""
    assert solicitor(raw, source) == expected

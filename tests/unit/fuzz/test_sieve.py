"""Which inputs are worth keeping."""

from __future__ import annotations

import pytest

from fuzz import inputs, sieve

REQUEST = b"\0\1snponly.efi\0octet\0"


def tftp_input(request: bytes) -> bytes:
    return b"\0" + len(request).to_bytes(2, "big") + request


def test_only_what_reaches_more_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept inputs become thousands that all do the same, or something that was found is lost."""
    monkeypatch.setattr(inputs, "corpus", lambda name: [tftp_input(REQUEST)])
    same, shorter, new = tftp_input(REQUEST), tftp_input(b"\0\1a\0octet\0"), tftp_input(b"\0\2a\0octet\0")
    assert sieve.reaches_more("tftp", [same, shorter, new, new + b"\0"]) == [new]


def test_reader() -> None:
    """An input that was cut short means nothing, or something else after its end."""
    reader = inputs.Reader(b"\1\2\3ab")
    assert (reader.number(), reader.number(2), reader.has_more) == (1, 0x0203, True)
    assert (reader.bytes(5), reader.has_more) == (b"ab", False)
    assert (reader.number(), reader.bytes(2)) == (0, b"")

"""Compression that somebody else undoes."""

from __future__ import annotations

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from provider.kit import zstd


@given(st.binary())
def test_round_trip(data: bytes) -> None:
    """What Talos unpacks is not what was packed."""
    assert zstandard.ZstdDecompressor().decompress(zstd.compress(data)) == data


def test_it_is_worth_it() -> None:
    """A configuration does not fit into a kernel command line, or is another one each time."""
    text = b"apiVersion: v1alpha1\nkind: SideroLinkConfig\n" * 20
    assert len(zstd.compress(text)) < 100
    assert zstd.compress(text) == zstd.compress(text)

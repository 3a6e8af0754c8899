"""zstd; Python has it in its standard library only from 3.14 on. The agent has none: nothing in its image may import this."""

from __future__ import annotations

import zstandard

LEVEL = 19
"""What is compressed here are a few kilobytes that must become as few as can be."""


def compress(data: bytes) -> bytes:
    """Compress into one frame: the same bytes each time, as long as the library is the same."""
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)

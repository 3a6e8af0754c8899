"""zstd, through the program of the same name: Python has it in its standard library only from 3.14 on."""

from __future__ import annotations

from bootassets import programs

LEVEL = 10
"""Measured on the base layer of Debian 12 (70 MB): 10 gives 19.7 MB in 1 s, 19 gives 17.5 MB in 17 s."""


def compress(data: bytes) -> bytes:
    """Compress; `-T0` uses all processors and gives the same bytes for any number of them."""
    return programs.run_filter(["zstd", f"-{LEVEL}", "-T0", "--quiet", "--stdout"], data)


def decompress(data: bytes) -> bytes:
    """Decompress."""
    return programs.run_filter(["zstd", "--decompress", "--quiet", "--stdout"], data)

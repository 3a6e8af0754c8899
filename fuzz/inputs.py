"""How inputs are read by targets, and kept: one line of hexadecimal digits each, with `#` before remarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_CORPORA = Path(__file__).parents[1] / "tests/unit/fuzz"


class BrokenInvariantError(AssertionError):
    """The product did what it never must."""


def demand(holds: bool, otherwise: str) -> None:
    """
    Check an invariant.

    Raises:
        BrokenInvariantError: If it does not hold; `otherwise` says what that means.
    """
    if not holds:
        raise BrokenInvariantError(otherwise)


class Reader:
    """Takes an input apart. Behind its end there are only zeros, so that every input means something."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def has_more(self) -> bool:
        """Whether the end is not reached yet."""
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        """Take a number of so many bytes, big endian."""
        return int.from_bytes(self.bytes(size).ljust(size, b"\0"), "big")

    def bytes(self, size: int) -> bytes:
        """Take so many bytes, or as many as are left."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken


def corpus(name: str) -> list[bytes]:
    """The inputs that are kept for a target."""
    lines = (line.partition("#")[0].strip() for line in file(name).read_text().splitlines())
    return [bytes.fromhex(line) for line in lines if line]


def keep(name: str, more: Sequence[bytes]) -> None:
    """Add inputs to those that are kept."""
    with file(name).open("a") as kept:
        kept.writelines(f"{data.hex()}\n" for data in more)


def file(name: str) -> Path:
    """Where the inputs of a target are kept."""
    return _CORPORA / f"{name}.txt"

"""Reading single values from sysfs, where files may be missing, unreadable, padded or full of NUL bytes."""

from __future__ import annotations

from pathlib import Path


def text(path: Path) -> str:
    """Give the value as `clean` leaves it; empty if there is none."""
    try:
        raw = path.read_bytes()
    except OSError:
        return ""
    return clean(raw)


def clean(raw: bytes) -> str:
    """Trim what firmware pads with (blanks, line ends, NUL bytes); what is no printable ASCII becomes `?`."""
    words = raw.replace(b"\0", b" ").split()
    return " ".join("".join(chr(byte) if 0x20 < byte < 0x7F else "?" for byte in word) for word in words)


def number(path: Path, default: int = 0) -> int:
    """Give the value as a decimal number, `default` if there is none."""
    try:
        return int(text(path))
    except ValueError:
        return default


def flag(path: Path) -> bool:
    """Give whether the value is 1."""
    return text(path) == "1"

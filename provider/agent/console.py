"""
Words for the person at the screen, and for whoever reads the serial log.

The kernel hands PID 1 only the last of its consoles. A rack has both kinds of reader, so we write to all of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_ACTIVE = Path("/sys/class/tty/console/active")
_DEVICES = Path("/dev")


def say(text: str) -> None:
    """Write one line to every console; a console that does not take it (no such port) is passed over."""
    line = f"[{time.monotonic():9.2f}] bootwright: {text}\r\n".encode(errors="replace")
    for device in _consoles():
        with contextlib.suppress(OSError):
            _write(device, line)


def _consoles() -> list[Path]:
    try:
        names = _ACTIVE.read_text(encoding="ascii").split()
    except OSError:
        names = []
    return [_DEVICES / name for name in names or ["console"]]


def _write(device: Path, line: bytes) -> None:
    # O_NONBLOCK: opening a serial port without it waits for a carrier; O_NOCTTY: a console must not become ours.
    handle = os.open(device, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        os.set_blocking(handle, True)
        os.write(handle, line)
    finally:
        os.close(handle)

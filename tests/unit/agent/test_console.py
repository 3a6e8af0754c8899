"""Words on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from provider.agent import console


def test_every_console_gets_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if the screen stays dark because the serial port was named last, or a dead port is fatal."""
    (tmp_path / "active").write_text("tty0 ttyS9 ttyS0\n")
    for name in ("tty0", "ttyS0"):
        (tmp_path / name).touch()
    monkeypatch.setattr(console, "_ACTIVE", tmp_path / "active")
    monkeypatch.setattr(console, "_DEVICES", tmp_path)
    console.say("no DHCP server answered — trying again")
    for name in ("tty0", "ttyS0"):
        assert b"bootwright: no DHCP server answered" in (tmp_path / name).read_bytes()

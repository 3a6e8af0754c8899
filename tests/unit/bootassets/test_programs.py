"""Programs of the host: what is said when one is missing or fails."""

from __future__ import annotations

import shutil

import pytest

from bootassets import programs
from provider.domain.errors import PermanentError


def test_missing_programs_name_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if a build on a bare system fails half-way instead of saying at once what to install."""
    monkeypatch.setattr(shutil, "which", lambda name, path: None if name in ("depmod", "zstd") else f"/usr/bin/{name}")
    with pytest.raises(PermanentError, match="depmod, zstd") as caught:
        programs.require_all()
    assert caught.value.hint == "run: apt-get install kmod zstd"


def test_failed_command_is_ready_for_a_terminal() -> None:
    """Breaks if somebody has to guess what was run and what it said."""
    with pytest.raises(PermanentError) as caught:
        programs.run(["sh", "-c", "echo 'no such mirror' >&2; exit 7"])
    assert "status 7: sh -c 'echo '" in str(caught.value)
    assert "no such mirror" in str(caught.value)


def test_filter_gives_bytes() -> None:
    """Breaks if compressed data goes through a text decoder."""
    assert programs.run_filter(["cat"], b"\xff\x00") == b"\xff\x00"

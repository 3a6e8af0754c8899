"""Which files of an operator's folder are served."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from provider.http.static import StaticFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files and links in it, and a secret beside it."""
    served = tmp_path / "served"
    (served / "debian/12").mkdir(parents=True)
    (served / "debian/12/preseed.cfg").write_text("preseed")
    (served / "debian/current").symlink_to("12")
    (served / "debian/.hidden").write_text("hidden")
    (served / "out").symlink_to("../secret")
    (served / "out-folder").symlink_to("..")
    (served / "loop").symlink_to("loop")
    (tmp_path / "secret").write_text("secret")
    os.mkfifo(served / "fifo")
    return served


def found(folder: Path, path: str) -> Path | None:
    return asyncio.run(StaticFolder(folder).find(path))


@pytest.mark.parametrize("path", ["debian/12/preseed.cfg", "debian/current/preseed.cfg"])
def test_file_is_found(folder: Path, path: str) -> None:
    """An installer gets no answer file."""
    file = found(folder, path)
    assert file is not None
    assert file.read_text() == "preseed"


@pytest.mark.parametrize(
    "path",
    [
        "", "debian", "debian/", "debian/12/", "debian//12/preseed.cfg/", "missing", "out", "out-folder/secret", "loop", "fifo",
        "../secret", "debian/../../secret", "debian/.hidden", "./debian/12/preseed.cfg", "/etc/passwd", "debian/12/preseed.cfg/x",
        "a\0b", "a" * 5000, "x/" * 3000, "\udcff", "debian\\12\\preseed.cfg",
    ],
)  # fmt: skip
def test_nothing_else(folder: Path, path: str) -> None:
    """Somebody reads what is not meant for him, or a FIFO holds a thread for ever."""
    assert found(folder, path) is None


def test_folder_that_went_away(tmp_path: Path) -> None:
    """A folder on a network that is gone ends in a traceback."""
    assert found(tmp_path / "missing", "file") is None

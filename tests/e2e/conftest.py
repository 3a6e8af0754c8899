"""What all end-to-end tests need: boot assets, and a short folder (UNIX sockets have short paths)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from bootassets import manifest


@pytest.fixture(scope="session")
def assets() -> Path:
    """The boot assets; tests have no network to build them with, so they must be there."""
    folder = Path(os.environ.get("BOOTWRIGHT_ASSETS_DIR", ".bootwright/assets")).resolve()
    manifest.verify(folder)
    return folder


@pytest.fixture
def folder() -> Path:
    """A folder for a lab; kept when the test failed, because its logs tell why."""
    return Path(tempfile.mkdtemp(prefix="lab-"))

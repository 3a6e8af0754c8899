"""What many of these tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def assets() -> Path:
    """The boot assets of the checkout."""
    return Path(os.environ.get("BOOTWRIGHT_ASSETS_DIR", ".bootwright/assets")).resolve()

"""What many of these tests need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.omni_sites import Omni

_REAL_OMNI = "BOOTWRIGHT_OMNI_BIN"
without_it = pytest.mark.skipif(_REAL_OMNI not in os.environ, reason=f"{_REAL_OMNI} names no Omni")


@pytest.fixture
def assets() -> Path:
    """The boot assets of the checkout."""
    return Path(os.environ.get("BOOTWRIGHT_ASSETS_DIR", ".bootwright/assets")).resolve()


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=without_it)])
def omni(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Omni]:
    """Our fake of an Omni, and the real one; in another join mode by `omni_sites.in_mode`."""
    from tests.integration import omni_sites  # It takes its time, and few of these tests want an Omni.

    wanted = (request.param,) if isinstance(request.param, str) else request.param
    with omni_sites.either(tmp_path_factory.mktemp("omni"), *wanted) as found:
        yield found

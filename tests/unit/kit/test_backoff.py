"""Growing pauses."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.kit.backoff import delay

FIRST, MOST = timedelta(seconds=5), timedelta(minutes=10)


@pytest.mark.parametrize(("failures", "seconds"), [(0, 5), (1, 5), (2, 10), (3, 20), (8, 600), (10_000, 600)])
def test_doubles_up_to_the_most(failures: int, seconds: int) -> None:
    """A dead BMC is called ever more often, or never again."""
    assert delay(failures, FIRST, MOST, 0.0) == timedelta(seconds=seconds)


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True))
def test_spread_only_shortens(failures: int, spread: float) -> None:
    """A thousand that failed together come back together."""
    whole = delay(failures, FIRST, MOST, 0.0)
    assert whole * 0.75 <= delay(failures, FIRST, MOST, spread) <= whole

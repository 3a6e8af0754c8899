"""Reading the date of a page."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from provider.manager.omni import server_clock


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Thu, 26 Nov 2026 09:42:20 GMT", datetime(2026, 11, 26, 9, 42, 20, tzinfo=UTC)),
        ("", None),
        ("yesterday", None),
        ("Thu, 99 Nov 2026 09:42:20 GMT", None),
    ],
)
def test_a_date_header(text: str, read: datetime | None) -> None:
    """What is no date ends the link's attempt with an error of ours."""
    assert server_clock.parse(text) == read

"""Paths out of what somebody typed."""

from __future__ import annotations

import pytest
from yarl import URL

from provider.kit import unixhttp
from provider.kit.unixhttp import LONGEST_NAME, UnixHttpError


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("m-176ecee0bf", "/v1/machines/m-176ecee0bf/wipe"),
        ("52:54:00:12:34:56", "/v1/machines/52:54:00:12:34:56/wipe"),
        ("a/../b", "/v1/machines/a%2F..%2Fb/wipe"),
        ("%2e%2e", "/v1/machines/%252e%252e/wipe"),
        ("a?b#c", "/v1/machines/a%3Fb%23c/wipe"),
        ("\udcff", "/v1/machines/%FF/wipe"),
        ("x" * LONGEST_NAME, f"/v1/machines/{'x' * LONGEST_NAME}/wipe"),
    ],
)
def test_name_stays_one_segment(typed: str, expected: str) -> None:
    """A name with a slash, or dots, is the path of another machine or another verb."""
    path = unixhttp.path("machines", typed, "wipe")
    assert path == expected
    assert URL("http://localhost").join(URL(path, encoded=True)).raw_path == expected


@pytest.mark.parametrize("typed", ["", ".", "..", "x" * (LONGEST_NAME + 1)])
def test_what_is_no_name(typed: str) -> None:
    """It means the list, or more than a request may have."""
    with pytest.raises(UnixHttpError, match="there is nothing by the name") as refused:
        unixhttp.path("machines", typed)
    assert len(str(refused.value)) < 100

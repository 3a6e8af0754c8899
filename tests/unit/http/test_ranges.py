"""Which part of a file a request is for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.http import ranges

ETAG = '"18eb77-3e8"'
MODIFIED = "Thu, 26 Nov 2026 02:21:05 GMT"


def part(asked: str, size: int = 1000, **headers: str) -> range | None:
    return ranges.part({"Range": asked, **headers}, ETAG, MODIFIED, size)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-99", range(100)),
        ("bytes=100-100", range(100, 101)),
        ("bytes=999-", range(999, 1000)),
        ("bytes=900-99999999999", range(900, 1000)),
        ("bytes=-50", range(950, 1000)),
        ("bytes=-99999", range(1000)),
        ("BYTES=0-0 ", range(1)),
    ],
)
def test_one_range(asked: str, expected: range) -> None:
    """A client that goes on after a cut gets other bytes than it misses."""
    assert part(asked) == expected


@pytest.mark.parametrize(
    "asked",
    ["", "lines=1-2", "bytes=0-1,5-6", "bytes=5-2", "bytes=x-y", "bytes=-", "bytes=٣-", "bytes=" + "9" * 5000 + "-"],
)
def test_what_is_ignored(asked: str) -> None:
    """A unit of tomorrow, or several parts at once, get an error in place of the file (RFC 9110 section 14.2)."""
    assert part(asked) is None


@pytest.mark.parametrize(
    ("asked", "size"), [("bytes=1000-", 1000), ("bytes=-0", 1000), ("bytes=0-", 0), ("bytes=-5", 0)]
)
def test_nothing_is_asked_for(asked: str, size: int) -> None:
    """A range behind the end of a file is answered with something."""
    with pytest.raises(ValueError, match=f"no byte of {size}"):
        part(asked, size)


@pytest.mark.parametrize(
    ("condition", "is_met"),
    [
        (ETAG, True),
        (MODIFIED, True),
        ('"other"', False),
        (f"W/{ETAG}", False),
        ("Fri, 27 Nov 2026 02:21:05 GMT", False),
    ],
)
def test_only_of_the_file_that_was_begun(condition: str, is_met: bool) -> None:
    """The end of a new file is put behind the beginning of the old one (RFC 9110 section 13.1.5)."""
    assert part("bytes=5-9", **{"If-Range": condition}) == (range(5, 10) if is_met else None)


@given(st.text(max_size=40) | st.from_regex(r"bytes=\d{0,30}-\d{0,30}", fullmatch=True), st.integers(0, 10_000))
def test_any_header(asked: str, size: int) -> None:
    """A header out of nonsense ends in a traceback, or in bytes that are not there."""
    try:
        found = part(asked, size)
    except ValueError:
        return
    assert found is None or (found and 0 <= found.start < found.stop <= size)

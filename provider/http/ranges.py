"""
Which part of a file a request is for: the headers Range and If-Range (RFC 9110 sections 13.1.5 and 14.2).

What goes on where a cut has left it must get bytes of the same file: aiohttp reads no ETag in If-Range, and would append the
new file's end to the old one's beginning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ONE_RANGE = re.compile(r"bytes=(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))", re.IGNORECASE)


def part(headers: Mapping[str, str], etag: str, modified: str, size: int) -> range | None:
    """
    Give the bytes that are asked for, as a range within `size` bytes; None for the whole file.

    `etag` and `modified` are what the answer says in ETag and Last-Modified. Whoever asks for another unit, or for several
    parts at once, gets the whole file: that is allowed, and no boot client does.

    Raises:
        ValueError: If no byte of the file is asked for (status 416).
    """
    asked = _ONE_RANGE.fullmatch(headers.get("Range", "").strip())
    if asked is None or headers.get("If-Range", etag).strip() not in (etag, modified):
        return None
    first, last, suffix = asked.groups()
    if suffix is not None:
        found = range(max(0, size - int(suffix)), size)
    elif last and int(last) < int(first):
        return None  # Against the grammar.
    else:
        found = range(int(first), min(int(last) + 1, size) if last else size)
    if not found:
        raise ValueError(f"no byte of {size} is asked for")
    return found

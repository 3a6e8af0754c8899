"""
What time it is at Omni, which takes a signature for a good one only near its own.

Its gRPC answers bear no date: grpc-go leaves it out where net/http serves it. On the same port Omni has a web page, which does.
"""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp

ASK_SECONDS = 5.0


async def ask(url: str, ca_file: Path | None) -> datetime | None:
    """The `date` header (RFC 9110 section 6.6.1) of the page at an http or https URL; None if there is none that can be read."""
    try:
        trust = ssl.create_default_context(cafile=ca_file)
        async with (
            asyncio.timeout(ASK_SECONDS),
            aiohttp.ClientSession() as http,
            http.head(url, ssl=trust, allow_redirects=False) as answer,
        ):
            return parse(answer.headers.get("date", ""))
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


def parse(text: str) -> datetime | None:
    """Read such a header."""
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)

"""A small JSON client over HTTP on a UNIX socket, for command lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import aiohttp
from yarl import URL

from provider.kit.jsontypes import JsonObject

_CALL_SECONDS = 90.0
"""Longer than any long poll."""


LONGEST_NAME = 200
"""Characters; whatever people call something by is shorter."""


class UnixHttpError(Exception):
    """The other end answered with an error, or is not there (`status` 0)."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint


def name(typed: str) -> str:
    """
    What somebody typed, if it can be a name.

    Raises:
        UnixHttpError: If it cannot.
    """
    if typed in ("", ".", "..") or len(typed) > LONGEST_NAME:
        shown = f"{typed[:20]}..." if len(typed) > LONGEST_NAME else typed
        raise UnixHttpError(
            0, f"there is nothing by the name {shown!r}", "look at the list, and write a name out of it"
        )
    return typed


def path(*segments: str) -> str:
    """
    The path below `/v1` with these segments, each of which may be what somebody typed: it leads nowhere else.

    Raises:
        UnixHttpError: If one cannot be a segment.
    """
    return "/".join(("/v1", *(quote(name(each), safe=":", errors="surrogateescape") for each in segments)))


class UnixHttp:
    """Use as an async context manager; `who` names the other end in messages."""

    def __init__(self, path: Path, who: str) -> None:
        self._path = path
        self._who = who
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> UnixHttp:
        self._session = aiohttp.ClientSession(
            base_url="http://localhost",
            connector=aiohttp.UnixConnector(path=str(self._path)),
            timeout=aiohttp.ClientTimeout(total=_CALL_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, **query: str | int | float) -> JsonObject:
        """GET a JSON object; raises UnixHttpError."""
        return await self._call("GET", path, query, None)

    async def post(self, path: str, body: JsonObject | None = None) -> JsonObject:
        """POST a JSON object, get one; raises UnixHttpError."""
        return await self._call("POST", path, {}, body or {})

    async def _call(
        self, method: str, path: str, query: Mapping[str, str | int | float], body: JsonObject | None
    ) -> JsonObject:
        assert self._session is not None, "use it as a context manager"  # noqa: S101 - a mistake of ours
        try:
            async with self._session.request(
                method, URL(path, encoded=True), params=dict(query), json=body
            ) as response:
                answer = await response.json(content_type=None)
                status = response.status
        except aiohttp.ClientConnectorError as error:
            hint = "is it running? And may you open the socket?"
            raise UnixHttpError(0, f"{self._who} cannot be reached at {self._path}: {error.strerror}", hint) from error
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise UnixHttpError(0, f"{self._who} did not answer: {error or 'out of time'}", "") from error
        if not isinstance(answer, dict):
            raise UnixHttpError(status, f"{self._who} answered {answer!r}", "")
        if status >= 400:
            raise UnixHttpError(status, str(answer.get("error", status)), str(answer.get("hint", "")))
        return answer

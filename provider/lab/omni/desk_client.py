"""The other end of `desk_http`, for another process; it needs none of the fake's libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from provider.kit.jsontypes import JsonObject
from provider.kit.unixhttp import UnixHttp


class DeskClient:
    """The desk of a fake in another process; use it as an async context manager. Methods raise UnixHttpError."""

    def __init__(self, socket: Path) -> None:
        self._http = UnixHttp(socket, "the fake Omni")

    async def __aenter__(self) -> DeskClient:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._http.__aexit__(*error)

    async def do(self, verb: str, **arguments: object) -> object:
        """One of `desk_http.VERBS`, with its arguments; gives what the method gives."""
        return (await self._http.post(f"/v1/{verb}", dict(arguments)))["result"]

    async def fault(self, fault: str, **arguments: object) -> None:
        """One of `desk_http.FAULTS`."""
        await self._http.post(f"/v1/faults/{fault}", dict(arguments))

    async def machine(self, machine: str) -> JsonObject:
        """Everything about a machine."""
        return await self._http.get(f"/v1/machines/{machine}")

    async def list(self, what: str, **query: int) -> list[JsonObject]:
        """`providers`, `machines`, `log` or `calls`."""
        found = (await self._http.get(f"/v1/{what}", **query))[what]
        return [dict(each) for each in found] if isinstance(found, list) else []

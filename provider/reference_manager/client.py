"""The other end of `control.py`: what the command line, the lab and tests use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from provider.kit.jsontypes import JsonObject
from provider.kit.unixhttp import UnixHttp, path


def control_socket(state_dir: Path) -> Path:
    """Where a manager with this state folder listens."""
    return state_dir / "control.sock"


class Client:
    """Use as an async context manager. Every method may raise `kit.unixhttp.UnixHttpError`."""

    def __init__(self, socket: Path) -> None:
        self._http = UnixHttp(socket, "the reference manager")

    async def __aenter__(self) -> Client:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def providers(self) -> list[JsonObject]:
        """All providers."""
        return _objects(await self._http.get("/v1/providers"), "providers")

    async def machines(self) -> list[JsonObject]:
        """All machines: `{"provider", "id", "state", "desired", "revision", ...}`."""
        return _objects(await self._http.get("/v1/machines"), "machines")

    async def machine(self, machine: str) -> JsonObject:
        """One machine."""
        return await self._http.get(path("machines", machine))

    async def want(self, machine: str, verb: str) -> JsonObject:
        """accept, reject, cordon, uncordon, release, wipe, reboot, power-off, power-on."""
        return await self._http.post(path("machines", machine, verb))

    async def allocate(self, machine: str, profile: str, arguments: Sequence[str] = ()) -> JsonObject:
        """Run a boot profile on it."""
        return await self._http.post(
            path("machines", machine, "allocate"), {"profile": profile, "arguments": list(arguments)}
        )

    async def watch(self, after: int, wait: int = 30, limit: int = 1000) -> list[JsonObject]:
        """Applied items after a row id; waits up to `wait` seconds for the first."""
        return _objects(await self._http.get("/v1/log", after=after, wait=wait, limit=limit), "log")


def _objects(answer: JsonObject, name: str) -> list[JsonObject]:
    found = answer.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

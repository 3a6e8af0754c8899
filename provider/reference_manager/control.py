"""
The manager's control API: JSON over a UNIX socket, for its command line, the lab and tests.

| Request | Answer |
|---|---|
| `GET /v1/providers` | `{"providers": [...]}` with `connected` |
| `GET /v1/machines`, `GET /v1/machines/ID` | what they said last, and what is wanted |
| `POST /v1/machines/ID/VERB` | the new desired state; verbs: `VERBS`, and `allocate` with `{"profile", "arguments"}` |
| `GET /v1/log?after=&limit=&wait=` | `{"log": [...]}`: applied items after a row id, waiting up to `wait` seconds |
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from provider.domain.errors import BootwrightError, NotFoundError, PermanentError
from provider.manager.messages import DesiredState
from provider.reference_manager import state as states
from provider.reference_manager.server import LinkServer
from provider.reference_manager.state import State

VERBS: dict[str, Callable[[DesiredState], DesiredState]] = {
    "accept": states.accepted,
    "reject": states.rejected,
    "cordon": states.cordoned,
    "uncordon": states.uncordoned,
    "release": states.released,
    "wipe": states.wiped,
    "reboot": states.rebooted,
    "power-off": states.powered_off,
    "power-on": states.powered_on,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Control:
    """The API over state and links."""

    def __init__(self, state: State, links: LinkServer) -> None:
        self._state = state
        self._links = links

    def application(self) -> web.Application:
        """The application; serve it on a UNIX socket."""
        app = web.Application(middlewares=[_errors])
        app.router.add_get("/v1/providers", self._providers)
        app.router.add_get("/v1/machines", self._machines)
        app.router.add_get("/v1/machines/{id}", self._machine)
        app.router.add_post("/v1/machines/{id}/{verb}", self._want)
        app.router.add_get("/v1/log", self._log)
        return app

    async def _providers(self, _request: web.Request) -> web.Response:
        up = self._links.connected()
        found = [{**row, "connected": row["id"] in up} for row in await self._state.providers()]
        return web.json_response({"providers": found})

    async def _machines(self, _request: web.Request) -> web.Response:
        return web.json_response({"machines": await self._state.machines()})

    async def _machine(self, request: web.Request) -> web.Response:
        return web.json_response(await self._state.machine(request.match_info["id"]))

    async def _want(self, request: web.Request) -> web.Response:
        provider, message = await self._state.want(request.match_info["id"], await _change(request))
        await self._links.send(provider, message)
        return web.json_response({"provider": provider, **message.model_dump(mode="json", exclude={"type"})})

    async def _log(self, request: web.Request) -> web.Response:
        after, limit = _whole(request, "after", 0), _whole(request, "limit", 1000)
        wait = min(_whole(request, "wait", 0), 60)
        found = await self._state.log(after, limit)  # Before any deadline: `wait` may be 0.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while not found:
                    ring = self._links.changed.ticket()
                    found = await self._state.log(after, limit)
                    if not found:
                        await ring.wait()
        return web.json_response({"log": found})


async def _change(request: web.Request) -> Callable[[DesiredState], DesiredState]:
    verb = request.match_info["verb"]
    if verb != "allocate":
        if verb not in VERBS:
            raise PermanentError(f"there is no verb {verb!r}", hint=f"there are: allocate, {', '.join(VERBS)}")
        return VERBS[verb]
    body = await request.json()
    if not isinstance(body, dict) or not isinstance(body.get("profile"), str):
        raise PermanentError("allocate needs a profile", hint='send {"profile": "NAME", "arguments": []}')
    return states.allocated(body["profile"], [str(argument) for argument in body.get("arguments", ())])


def _whole(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise PermanentError(f"{name} is not a whole number: {text!r}")
    return int(text)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BootwrightError as error:
        status = 404 if isinstance(error, NotFoundError) else 409
        return web.json_response({"error": str(error), "hint": error.hint}, status=status)
    except ValueError as error:
        return web.json_response({"error": str(error), "hint": ""}, status=400)

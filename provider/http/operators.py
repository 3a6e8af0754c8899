"""
The operator API: JSON over a UNIX socket whose file permissions are the login.

| Request | Answer |
|---|---|
| `GET /v1/status` | the daemon: versions, interfaces, manager link, counts |
| `GET /v1/machines` | `{"machines": [...]}`, a summary each |
| `GET /v1/machines/ID` | everything about one; ID is an id, its beginning, a MAC address, UUID or serial |
| `GET /v1/machines/ID/explain` | facts, rule, next step |
| `GET /v1/events?machine=&after=&limit=&wait=` | `{"events": [...]}` after an event id, waiting up to `wait` seconds |
| `POST /v1/machines/ID/accept`, `/wipe` | the new summary; 409 where a manager decides |
| `POST /v1/machines/ID/power` `{"action": "status|on|off|cycle"}` | the state |
| `GET /v1/leases` | `{"leases": [...], "reservations": [...]}` |
| `POST /v1/reservations` `{"address": ..., "mac|uuid|circuit_id": ...}` | the reservation, and who holds the address now |
| `POST /v1/reservations/ADDRESS/remove` | the reservation that was |

Errors are `{"error": ..., "hint": ...}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog
from aiohttp import web

from provider.domain.errors import BootwrightError, NotFoundError, PermanentError, RefusedError
from provider.kit.jsontypes import JsonObject

log = structlog.get_logger()

LONGEST_WAIT = 60.0
MOST_EVENTS = 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Operators(Protocol):
    """Who answers; `reconcile.operators.OperatorDesk` does. Errors are of `domain.errors`."""

    async def status(self) -> JsonObject: ...
    async def machines(self) -> list[JsonObject]: ...
    async def machine(self, wanted: str) -> JsonObject: ...
    async def explain(self, wanted: str) -> JsonObject: ...
    async def events(self, wanted: str | None, after: int, limit: int, wait: float) -> list[JsonObject]: ...
    async def accept(self, wanted: str) -> JsonObject: ...
    async def wipe(self, wanted: str) -> JsonObject: ...
    async def power(self, wanted: str, action: str) -> JsonObject: ...


class Addresses(Protocol):
    """Who knows addresses; `reconcile.addresses.AddressDesk` does."""

    async def addresses(self) -> JsonObject: ...
    async def reserve(self, wanted: Mapping[str, object]) -> JsonObject: ...
    async def unreserve(self, address: str) -> JsonObject: ...


def application(desk: Operators, addresses: Addresses) -> web.Application:
    """The application; `listener.Listener` serves it on the UNIX socket."""
    handlers = _Handlers(desk, addresses)
    app = web.Application(client_max_size=64 << 10, middlewares=[_errors])
    app.router.add_get("/v1/status", handlers.status)
    app.router.add_get("/v1/machines", handlers.machines)
    app.router.add_get("/v1/machines/{id}", handlers.machine)
    app.router.add_get("/v1/machines/{id}/explain", handlers.explain)
    app.router.add_get("/v1/events", handlers.events)
    app.router.add_post("/v1/machines/{id}/accept", handlers.accept)
    app.router.add_post("/v1/machines/{id}/wipe", handlers.wipe)
    app.router.add_post("/v1/machines/{id}/power", handlers.power)
    app.router.add_get("/v1/leases", handlers.leases)
    app.router.add_post("/v1/reservations", handlers.reserve)
    app.router.add_post("/v1/reservations/{address}/remove", handlers.unreserve)
    return app


class _Handlers:
    def __init__(self, desk: Operators, addresses: Addresses) -> None:
        self._desk = desk
        self._addresses = addresses

    async def status(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._desk.status())

    async def machines(self, _request: web.Request) -> web.Response:
        return web.json_response({"machines": await self._desk.machines()})

    async def machine(self, request: web.Request) -> web.Response:
        return web.json_response(await self._desk.machine(request.match_info["id"]))

    async def explain(self, request: web.Request) -> web.Response:
        return web.json_response(await self._desk.explain(request.match_info["id"]))

    async def events(self, request: web.Request) -> web.Response:
        query = request.query
        after = int(_number(query, "after", 0, 2**62))
        limit = int(_number(query, "limit", 100, MOST_EVENTS))
        wait = _number(query, "wait", 0, LONGEST_WAIT)
        return web.json_response({"events": await self._desk.events(query.get("machine"), after, limit, wait)})

    async def accept(self, request: web.Request) -> web.Response:
        return web.json_response(await self._desk.accept(request.match_info["id"]))

    async def wipe(self, request: web.Request) -> web.Response:
        return web.json_response(await self._desk.wipe(request.match_info["id"]))

    async def power(self, request: web.Request) -> web.Response:
        body = await _object(request, '{"action": "status"}')
        action = body.get("action")
        if not isinstance(action, str):
            raise PermanentError("the body names no action", hint='send {"action": "status"}')
        return web.json_response(await self._desk.power(request.match_info["id"], action))

    async def leases(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._addresses.addresses())

    async def reserve(self, request: web.Request) -> web.Response:
        body = await _object(request, '{"address": "10.20.0.9", "mac": "52:54:00:12:34:56"}')
        return web.json_response(await self._addresses.reserve(body))

    async def unreserve(self, request: web.Request) -> web.Response:
        return web.json_response(await self._addresses.unreserve(request.match_info["address"]))


async def _object(request: web.Request, example: str) -> JsonObject:
    """The JSON object in the body."""
    try:
        body = await request.json()
    except ValueError as error:
        raise PermanentError("the body is not JSON", hint=f"send {example}") from error
    if not isinstance(body, dict):
        raise PermanentError("the body is not a JSON object", hint=f"send {example}")
    return body


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except NotFoundError as error:
        return _problem(404, error)
    except RefusedError as error:
        return _problem(409, error)
    except PermanentError as error:
        return _problem(400, error)
    except BootwrightError as error:
        return _problem(503, error)
    except web.HTTPException as error:
        problem = {"error": f"{request.method} {request.path}: {error.reason}", "hint": ""}
        return web.json_response(problem, status=error.status)
    except Exception:
        log.exception("operator.failed", path=request.path)
        return web.json_response({"error": "the daemon made a mistake; its log says which", "hint": ""}, status=500)


def _problem(status: int, error: BootwrightError) -> web.Response:
    return web.json_response({"error": str(error), "hint": error.hint}, status=status)


def _number(query: Mapping[str, str], name: str, default: float, most: float) -> float:
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise PermanentError(f"{name} is not a number: {text!r}") from error
    if not 0 <= value <= most:
        raise PermanentError(f"{name} must be between 0 and {most:g}")
    return value

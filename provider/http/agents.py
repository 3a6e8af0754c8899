"""Agent HTTPS: the table of `wire.agent`, each request checked, bounded in size and time, and handed to the agents' desk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Protocol, TypeVar

import structlog
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from provider.domain.errors import NotFoundError, RefusedError, TemporaryError
from provider.domain.inventory import Inventory
from provider.planning.observed import plain
from provider.wire.agent import Enrolled, Enrolment, Installed, Progress, Result, Work

log = structlog.get_logger()

T = TypeVar("T")

BODY_LIMIT = 4 << 20
"""Bytes; an inventory with a thousand disks has half a megabyte."""

REQUEST_SECONDS = 60.0
"""Deadline of everything but the long poll."""

LONGEST_WAIT = 60.0
"""Seconds that a long poll may ask for."""

_ENROLMENT = TypeAdapter(Enrolment)
_INVENTORY = TypeAdapter(Inventory)
_PROGRESS = TypeAdapter(Progress)
_RESULT = TypeAdapter(Result)
_INSTALLED = TypeAdapter(Installed)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AgentDesk(Protocol):
    """Who answers; `reconcile.agents.AgentDesk` does. Errors are of `domain.errors`."""

    async def enrol(self, enrolment: Enrolment, source: str) -> Enrolled:
        """Ticket for token; RefusedError."""

    async def machine_of(self, token: str) -> str:
        """Machine of a token; RefusedError."""

    async def inventory(self, machine_id: str, inventory: Inventory) -> None:
        """Take a report."""

    async def next_work(self, machine_id: str, wait: float) -> Work | None:
        """Work, or None after `wait` seconds."""

    async def progress(self, machine_id: str, operation_id: str, progress: Progress) -> None:
        """Take progress; NotFoundError."""

    async def result(self, machine_id: str, operation_id: str, result: Result) -> None:
        """Take a result; NotFoundError."""

    async def installed(self, installed: Installed, source: str) -> None:
        """Take an installer's word; RefusedError."""


def application(desk: AgentDesk) -> web.Application:
    """The application; `listener.Listener` serves it over TLS."""
    handlers = _Handlers(desk)
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_errors])
    app.router.add_post("/agent/v1/enrol", handlers.enrol)
    app.router.add_put("/agent/v1/inventory", handlers.inventory)
    app.router.add_get("/agent/v1/work", handlers.work)
    app.router.add_post("/agent/v1/operations/{id}/progress", handlers.progress)
    app.router.add_post("/agent/v1/operations/{id}/result", handlers.result)
    app.router.add_post("/agent/v1/installed", handlers.installed)
    return app


class _Handlers:
    def __init__(self, desk: AgentDesk) -> None:
        self._desk = desk

    async def enrol(self, request: web.Request) -> web.Response:
        enrolment = await _body(request, _ENROLMENT)
        enrolled = await self._desk.enrol(enrolment, request.remote or "")
        return web.json_response(asdict(enrolled))

    async def inventory(self, request: web.Request) -> web.Response:
        machine_id = await self._machine(request)
        await self._desk.inventory(machine_id, await _body(request, _INVENTORY))
        return web.Response(status=204)

    async def work(self, request: web.Request) -> web.Response:
        machine_id = await self._machine(request)
        work = await self._desk.next_work(machine_id, _wait(request))
        return web.Response(status=204) if work is None else web.json_response(plain(asdict(work)))

    async def progress(self, request: web.Request) -> web.Response:
        machine_id = await self._machine(request)
        await self._desk.progress(machine_id, request.match_info["id"], await _body(request, _PROGRESS))
        return web.Response(status=204)

    async def result(self, request: web.Request) -> web.Response:
        machine_id = await self._machine(request)
        await self._desk.result(machine_id, request.match_info["id"], await _body(request, _RESULT))
        return web.Response(status=204)

    async def installed(self, request: web.Request) -> web.Response:
        await self._desk.installed(await _body(request, _INSTALLED), request.remote or "")
        return web.Response(status=204)

    async def _machine(self, request: web.Request) -> str:
        """Whose request this is; 401 if nobody's."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise web.HTTPUnauthorized(text="this needs an Authorization header with a token\n")
        try:
            return await self._desk.machine_of(token.strip())
        except RefusedError as error:
            raise web.HTTPUnauthorized(text=f"{error}\n") from error


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn our errors into statuses; everything is bounded in time."""
    seconds = REQUEST_SECONDS + (LONGEST_WAIT if request.path.endswith("/work") else 0)
    try:
        async with asyncio.timeout(seconds):
            return await handler(request)
    except RefusedError as error:
        return _problem(403, str(error))
    except NotFoundError as error:
        return _problem(410, str(error))
    except (TemporaryError, TimeoutError) as error:
        log.warning("agent.postponed", path=request.path, error=str(error) or "out of time")
        return _problem(503, str(error) or "the provider is busy")


async def _body(request: web.Request, adapter: TypeAdapter[T]) -> T:
    """
    The JSON body as a value.

    Raises:
        HTTPBadRequest: If it is not one; the text names the field.
    """
    try:
        return adapter.validate_json(await request.read())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        log.info("agent.body_refused", path=request.path, source=request.remote, field=where, error=first["msg"])
        raise web.HTTPBadRequest(text=f"{where}: {first['msg']}\n") from error


def _wait(request: web.Request) -> float:
    try:
        wait = float(request.query.get("wait", "0"))
    except ValueError as error:
        raise web.HTTPBadRequest(text="wait: give seconds\n") from error
    return min(max(wait, 0.0), LONGEST_WAIT) if wait == wait else 0.0


def _problem(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")

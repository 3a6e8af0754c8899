"""
The desk for other processes: JSON over HTTP on a UNIX socket or on loopback, without authentication.

| Request | Answer |
|---|---|
| `GET /v1/providers`, `GET /v1/machines` | `{"providers": [...]}`, `{"machines": [...]}` |
| `GET /v1/machines/ID` | the machine |
| `GET /v1/log?after=&limit=` | `{"log": [...]}`: what callers wrote, in order |
| `GET /v1/calls` | `{"calls": [...]}`: counters by caller, method and code |
| `POST /v1/VERB` with an object of arguments | `{"result": ...}`; verbs and arguments are methods of `desk.Desk`: `VERBS` |
| `POST /v1/faults/FAULT` likewise | `{"result": null}`; `FAULTS` |

A refusal is `{"error", "code", "hint"}` with status 409, or 404 for what is not there, or 400 for a request that makes no sense.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta

import grpc
from aiohttp import web

from provider.lab.omni.desk import Desk
from provider.lab.omni.gate import Gate
from provider.lab.omni.keys import KeyPair
from provider.lab.omni.resources import CallError

VERBS = frozenset(
    {
        "create_provider", "create_account", "renew_key", "revoke_keys", "suspend", "remove_provider", "rotate_join_token",
        "accept", "reject", "cordon", "reboot", "prefer_power", "set_arguments", "power_off", "power_on", "set_bmc",
        "clear_bmc", "allocate", "upgrade", "release", "reset_done", "remove", "connect", "see_system_disk",
    }
)  # fmt: skip
"""Methods of the desk."""

FAULTS = frozenset({"refuse", "interfere", "reset_streams", "delay", "skew", "down", "up", "cut", "stall"})
"""Of calls and of connections: see `faults` and `gate`."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class DeskHttp:
    """The application over a desk."""

    def __init__(self, desk: Desk, gate: Gate) -> None:
        self._desk = desk
        self._faults: dict[str, Callable[..., object]] = {
            "refuse": desk.faults.refuse,
            "interfere": desk.faults.interfere,
            "reset_streams": desk.faults.reset_streams,
            "delay": self._delay,
            "skew": self._skew,
            "down": gate.close,
            "up": gate.open,
            "cut": gate.cut,
            "stall": gate.stall,
        }

    def application(self) -> web.Application:
        """Serve it where only the tests and the lab come."""
        app = web.Application(middlewares=[refusals_as_json])
        app.router.add_get("/v1/providers", self._providers)
        app.router.add_get("/v1/machines", self._machines)
        app.router.add_get("/v1/machines/{id}", self._machine)
        app.router.add_get("/v1/log", self._log)
        app.router.add_get("/v1/calls", self._calls)
        app.router.add_post("/v1/faults/{verb}", self._fault)
        app.router.add_post("/v1/{verb}", self._do)
        return app

    async def _providers(self, _request: web.Request) -> web.Response:
        return web.json_response({"providers": self._desk.providers()})

    async def _machines(self, _request: web.Request) -> web.Response:
        await self._desk.settled()
        return web.json_response({"machines": self._desk.machines()})

    async def _machine(self, request: web.Request) -> web.Response:
        await self._desk.settled()
        return web.json_response(self._desk.machine(request.match_info["id"]))

    async def _log(self, request: web.Request) -> web.Response:
        after, limit = int(request.query.get("after", "0")), int(request.query.get("limit", "1000"))
        return web.json_response({"log": self._desk.log(after, limit)})

    async def _calls(self, _request: web.Request) -> web.Response:
        return web.json_response({"calls": self._desk.calls()})

    async def _do(self, request: web.Request) -> web.Response:
        verb = request.match_info["verb"]
        if verb not in VERBS:
            raise ValueError(f"there is no verb {verb!r}; there are: {', '.join(sorted(VERBS))}")
        return await _called(getattr(self._desk, verb), request)

    async def _fault(self, request: web.Request) -> web.Response:
        verb = request.match_info["verb"]
        if verb not in FAULTS:
            raise ValueError(f"there is no fault {verb!r}; there are: {', '.join(sorted(FAULTS))}")
        return await _called(self._faults[verb], request)

    def _delay(self, seconds: float) -> None:
        self._desk.faults.delay = seconds

    def _skew(self, seconds: float) -> None:
        self._desk.faults.skew = timedelta(seconds=seconds)


async def _called(method: Callable[..., object], request: web.Request) -> web.Response:
    arguments = await request.json() if request.can_read_body else {}
    try:
        inspect.signature(method).bind(**arguments)
    except TypeError as error:
        raise ValueError(str(error)) from error
    result = method(**arguments)
    if inspect.isawaitable(result):
        result = await result
    return web.json_response({"result": result.service_account_key() if isinstance(result, KeyPair) else result})


@web.middleware
async def refusals_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as the module says it."""
    try:
        return await handler(request)
    except CallError as error:
        status = 404 if error.code is grpc.StatusCode.NOT_FOUND else 409
        return web.json_response({"error": str(error), "code": error.code.name, "hint": ""}, status=status)
    except (ValueError, AttributeError) as error:  # AttributeError: a spec has no such field.
        return web.json_response({"error": str(error), "code": "", "hint": ""}, status=400)

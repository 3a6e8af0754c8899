"""
Where stand-in machines speak to Omni: JSON over HTTP on a TCP port, in place of SideroLink and what goes through WireGuard.

The address is the one in the join documents (`apiUrl: grpc://HOST:PORT?jointoken=...`), and the token is the one there.

| Request | In place of | Answer |
|---|---|---|
| `POST /provision` `{"uuid", "token"}` and more of `JoinRequest` | Provision | `{"pending", "unique_token", "conflict"}` |
| `POST /event` `{"uuid", "sequence", "action", "fatal"}` | a SequenceEvent | `{"installed"}`: Omni took it for an installation |
| `POST /seen` `{"uuid", "connected", "system_disk"}` | what Omni sees of the machine | `{}` |
| `GET /machines/UUID` | the push of the machine's configuration | `{"applies_config", "config_refusal", "version"}` |

A machine that is `pending` keeps `unique_token` (in META) and comes back with it; one with a `conflict` needs another UUID.
"""

from __future__ import annotations

from aiohttp import web

from provider.lab.omni import desk_http
from provider.lab.omni.desk import Desk
from provider.lab.omni.join import JoinRequest

RECENT_TALOS = "1.13.7"
"""What a machine has that says nothing of it."""


class MachinePort:
    """The application over a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def application(self) -> web.Application:
        """Serve it where machines come."""
        app = web.Application(middlewares=[desk_http.refusals_as_json])
        app.router.add_post("/provision", self._provision)
        app.router.add_post("/event", self._event)
        app.router.add_post("/seen", self._seen)
        app.router.add_get("/machines/{uuid}", self._machine)
        return app

    async def _provision(self, request: web.Request) -> web.Response:
        body = await request.json()
        joined = await self._desk.provision(
            JoinRequest(
                uuid=str(body["uuid"]),
                token=str(body.get("token", "")),
                unique_token=str(body.get("unique_token", "")),
                talos_version=str(body.get("talos_version", RECENT_TALOS)),
                installed=bool(body.get("installed")),
            )
        )
        return web.json_response(
            {"pending": joined.pending, "unique_token": joined.unique_token, "conflict": joined.conflict}
        )

    async def _event(self, request: web.Request) -> web.Response:
        body = await request.json()
        said = (str(body["uuid"]), str(body["sequence"]), str(body["action"]), str(body.get("fatal", "")))
        return web.json_response({"installed": await self._desk.sequence_event(*said)})

    async def _seen(self, request: web.Request) -> web.Response:
        body = await request.json()
        machine = str(body["uuid"])
        if "connected" in body:
            await self._desk.connect(machine, bool(body["connected"]))
        if "system_disk" in body:
            await self._desk.see_system_disk(machine, str(body["system_disk"]))
        return web.json_response({})

    async def _machine(self, request: web.Request) -> web.Response:
        found = self._desk.machine(request.match_info["uuid"])
        infra = found["infra"]
        spec = infra["spec"] if isinstance(infra, dict) else {}
        answer = {name: found[name] for name in ("applies_config", "config_refusal")}
        return web.json_response({**answer, "version": spec.get("cluster_talos_version", "")})

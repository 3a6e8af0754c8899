"""A BMC that speaks just enough Redfish for power, and whose manners a test spoils: the second one beside sushy's emulator."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

USER, PASSWORD = "ops", "secret12"

SYSTEM = "/redfish/v1/Systems/1"

RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"

SESSIONS = "/redfish/v1/SessionService/Sessions"

_BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    body: Any
    headers: Mapping[str, str]


Quirk = Callable[[web.Request, Asked], Awaitable[web.StreamResponse | None]]


async def none(_request: web.Request, _asked: Asked) -> None:
    """The quirk of a BMC without quirks."""


@dataclass
class RedfishBmc:
    """State, what was asked, and `quirk`, which may answer in place of the BMC."""

    power: str | None = "Off"
    boot: dict[str, Any] = field(
        default_factory=lambda: {
            "BootSourceOverrideEnabled": "Disabled",
            "BootSourceOverrideTarget": "None",
            "BootSourceOverrideMode": "UEFI",
        }
    )
    members: list[str] = field(default_factory=lambda: [SYSTEM])
    takes_basic: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    """Added to the system's document."""
    etag: str = '"1"'
    quirk: Quirk = none
    asked: list[Asked] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    url: str = ""
    port: int = 0

    def said(self, method: str) -> list[tuple[str, Any]]:
        """Path and body of what was asked by this method."""
        return [(each.path, each.body) for each in self.asked if each.method == method]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        raw = await request.text()
        asked = Asked(request.method, request.path, json.loads(raw) if raw else None, dict(request.headers))
        self.asked.append(asked)
        answer = await self.quirk(request, asked)
        return self._answer(asked) if answer is None else answer

    def _answer(self, asked: Asked) -> web.Response:
        path = asked.path.rstrip("/")
        match asked.method, path:
            case "GET", "/redfish/v1":
                return web.json_response(
                    {
                        "Id": "RootService",
                        "RedfishVersion": "1.6.0",
                        "Systems": {"@odata.id": "/redfish/v1/Systems"},
                        "Links": {"Sessions": {"@odata.id": SESSIONS}},
                    }
                )
            case "POST", str() if path == SESSIONS:
                return self._log_in(asked)
        if not self._knows(asked):
            return refusal(401, "Base.1.0.AccessDenied", "who are you?")
        match asked.method, path:
            case "DELETE", _:
                self.tokens.discard(path.rpartition("/")[2])
            case "GET", "/redfish/v1/Systems":
                return web.json_response({"Members": [{"@odata.id": member} for member in self.members]})
            case "GET", str() if path in self.members:
                return web.json_response(self.document(path), headers={"ETag": self.etag} if self.etag else {})
            case "POST", str() if path == RESET:
                self.power = "Off" if "Off" in asked.body["ResetType"] else "On"
            case "PATCH", str() if path == SYSTEM:
                self.boot |= asked.body["Boot"]
            case _:
                return refusal(404, "Base.1.0.ResourceMissingAtURI", "nothing there")
        return web.Response(status=204)

    def document(self, path: str) -> dict[str, Any]:
        """The system, as it tells of itself."""
        return {
            "@odata.id": path,
            "Id": path.rpartition("/")[2],
            "PowerState": self.power,
            "Boot": self.boot,
            "Actions": {
                "#ComputerSystem.Reset": {
                    "target": f"{path}/Actions/ComputerSystem.Reset",
                    "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "ForceRestart", "GracefulShutdown"],
                }
            },
            **self.extra,
        }

    def _knows(self, asked: Asked) -> bool:
        basic = self.takes_basic and asked.headers.get("Authorization") == _BASIC
        return basic or asked.headers.get("X-Auth-Token") in self.tokens

    def _log_in(self, asked: Asked) -> web.Response:
        if asked.body != {"UserName": USER, "Password": PASSWORD}:
            return refusal(401, "Base.1.0.AccessDenied", "wrong password")
        token = f"token-{len(self.asked)}"
        self.tokens.add(token)
        return web.json_response({}, status=201, headers={"X-Auth-Token": token, "Location": f"{SESSIONS}/{token}"})


def refusal(status: int, code: str, message: str) -> web.Response:
    """An error as Redfish says it (DSP0266 section 8.6)."""
    info = [{"MessageId": code, "Message": message, "Severity": "Critical"}]
    error = {"code": code, "message": message, "@Message.ExtendedInfo": info}
    return web.json_response({"error": error}, status=status)


@contextlib.asynccontextmanager
async def serving(bmc: RedfishBmc, tls: ssl.SSLContext | None = None) -> AsyncIterator[RedfishBmc]:
    """Let it answer on a port of its own."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", bmc.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", bmc.port, ssl_context=tls).start()
        bmc.port = runner.addresses[0][1]
        bmc.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{bmc.port}"
        yield bmc
    finally:
        await runner.cleanup()

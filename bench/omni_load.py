"""
The load of `./dev bench omni`: machines whose agent is Talos' own, and their power, all in one loop.

Each machine does in its order what iPXE and Talos do that the provider or Omni sees: it fetches its script and its configuration,
joins Omni, dials the provider, and is called through its tunnel. Its power is an HTTP API at its own address. `python -m
bench.omni_load PROVIDER FIRST COUNT` runs until it is ended; `GET /` at port POWER_PORT tells of all of them as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import uvloop
from aiohttp import web

from bench.firmware import GaveUpError
from bench.web import Connection, get
from provider.lab.omni.talos_agent.agent import TalosAgent
from provider.lab.omni.talos_agent.machine import Machine as Hardware

POWER_PORT = 8000
BOOT_PORT = 8080

FIRST_ADDRESS = IPv4Address("10.77.128.1")
"""Of the first machine."""

WIPE_CALLED = "WipeDisks"

_ASKS_AGAIN = 1.0
"""Seconds after which a machine that is told to wait asks for its script again."""

_COMES_BACK = 5.0
"""Seconds after which Talos starts an agent again."""


def uuid_of(number: int) -> str:
    """What a machine is called at Omni."""
    return f"5c7b0d5e-5b7c-4d35-9d3b-{number:012x}"


def address_of(number: int) -> str:
    """The machine's, and that of its power."""
    return str(FIRST_ADDRESS + number)


@dataclass
class Machine:
    """One machine; it is on when it is made."""

    number: int
    provider: str
    happened: list[tuple[str, float]] = field(default_factory=list)
    """What was asked of it, and when: wall-clock time, as everybody on this computer sees it."""
    life: asyncio.Task[None] | None = None
    is_open: bool = False
    """Its tunnel is."""

    def __post_init__(self) -> None:
        self.uuid, self.address = uuid_of(self.number), address_of(self.number)
        self._hardware = Hardware(self.uuid)

    def switch(self, on: bool, group: asyncio.TaskGroup) -> None:
        """Power; nothing if it is so already."""
        if on and self.life is None:
            self.life = group.create_task(self._run(), name=f"machine {self.number}")
        elif not on and self.life is not None:
            self.life.cancel()
            self.life, self.is_open = None, False

    def asked(self, what: str) -> None:
        """Note what was asked of it."""
        self.happened.append((what, time.time()))

    def document(self) -> dict[str, object]:
        """For the bench."""
        return {
            "number": self.number,
            "on": self.life is not None,
            "open": self.is_open,
            "wipes": len(self._hardware.wipes),
            "happened": self.happened,
        }

    async def _run(self) -> None:
        script = await self._script()
        if " metal.provider.address=" in script:
            await self._be_agent(script)
        else:
            await self._tell_of_boot()
        await asyncio.Event().wait()

    async def _script(self) -> str:
        """What iPXE asks for, until it is told to boot something."""
        mac = f"52:54:00:{self.number >> 16:02x}:{self.number >> 8 & 255:02x}:{self.number & 255:02x}"
        ask = f"/machine.ipxe?mac={mac}&uuid={self.uuid}&platform=efi&buildarch=x86_64"
        again = ""
        while True:
            script = await get(self.address, self.provider, BOOT_PORT, ask + again)
            if "&again=" not in script:
                return script
            again = "&again=" + script.partition("&again=")[2].split()[0]
            await asyncio.sleep(_ASKS_AGAIN)

    async def _be_agent(self, script: str) -> None:
        arguments = dict(word.split("=", 1) for word in script.split() if "=" in word)
        await self._join()
        agent = TalosAgent(
            arguments["metal.provider.address"],
            self._hardware,
            trust=await _trust(self.address, self.provider),
            source=self.address,
            restarts_after=_COMES_BACK,
            say=self._said,
        )
        await agent.run()

    def _said(self, what: str) -> None:
        self.is_open = self.is_open or what == "connected"
        self.is_open = self.is_open and not what.startswith("ended")
        if what == WIPE_CALLED:
            self.asked(what)

    async def _join(self) -> None:
        """Join Omni as the configuration says, with the token that it hands out."""
        omni, token = await self._omni()
        body = {"uuid": self.uuid, "token": token}
        answer = await self._tell(omni, "/provision", body)
        if answer["pending"]:
            await self._tell(omni, "/provision", body | {"unique_token": answer["unique_token"]})

    async def _tell_of_boot(self) -> None:
        """An installer that is done, or an installed Talos: both boot, and Omni hears of it."""
        omni, _ = await self._omni()
        await self._tell(omni, "/event", {"uuid": self.uuid, "sequence": "boot", "action": "START"})

    async def _omni(self) -> tuple[urllib.parse.SplitResult, str]:
        """Where Omni is, and the token for it."""
        config = await get(self.address, self.provider, BOOT_PORT, f"/config?u={self.uuid}")
        url = urllib.parse.urlsplit(config.partition("apiUrl: ")[2].split()[0])
        return url, urllib.parse.parse_qs(url.query)["jointoken"][0]

    async def _tell(self, omni: urllib.parse.SplitResult, path: str, body: object) -> dict[str, str]:
        async with Connection(self.address, omni.hostname or "", omni.port or 0) as connection:
            answer = await connection.ask("POST", path, body)
        document: dict[str, str] = json.loads(answer.body)
        return document


_trusted: dict[str, ssl.SSLContext] = {}


async def _trust(source: str, provider: str) -> ssl.SSLContext:
    """The provider's CA; all machines share what is made of it, which real ones do not."""
    if provider not in _trusted:
        context = ssl.create_default_context(cadata=await get(source, provider, BOOT_PORT, "/ca.pem"))
        context.set_alpn_protocols(["h2"])
        _trusted[provider] = context
    return _trusted[provider]


class Power:
    """The power API of all machines, and what tells of them."""

    def __init__(self, machines: list[Machine], group: asyncio.TaskGroup) -> None:
        self._machines = {machine.address: machine for machine in machines}
        self._group = group

    def application(self) -> web.Application:
        """Serve it on all addresses: the one that is asked is the machine's."""
        app = web.Application()
        app.router.add_get("/", self._tell)
        app.router.add_get("/status", self._status)
        app.router.add_post("/{verb}", self._do)
        return app

    def _of(self, request: web.Request) -> Machine:
        if request.transport is None:
            raise ConnectionResetError
        return self._machines[request.transport.get_extra_info("sockname")[0]]

    async def _tell(self, _request: web.Request) -> web.Response:
        return web.json_response([machine.document() for machine in self._machines.values()])

    async def _status(self, request: web.Request) -> web.Response:
        machine = self._of(request)
        machine.asked("status")
        return web.json_response({"PoweredOn": machine.life is not None})

    async def _do(self, request: web.Request) -> web.Response:
        machine, verb = self._of(request), request.match_info["verb"]
        machine.asked(verb)
        if verb in ("poweroff", "reboot"):
            machine.switch(False, self._group)
        if verb in ("poweron", "reboot"):
            machine.switch(True, self._group)
        return web.Response()


async def _run(provider: str, first: int, count: int) -> None:
    machines = [Machine(number, provider) for number in range(first, first + count)]
    async with asyncio.TaskGroup() as group:
        runner = web.AppRunner(Power(machines, group).application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, port=POWER_PORT, backlog=1024).start()
        for machine in machines:
            machine.switch(True, group)
        await asyncio.Event().wait()


def main() -> None:
    """Run the machines; status 1 as soon as one cannot boot."""
    provider, first, count = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        uvloop.run(_run(provider, int(first), int(count)))
    except* (GaveUpError, OSError) as errors:
        sys.exit(f"{len(errors.exceptions)} machines gave up: {errors.exceptions[0]}")


if __name__ == "__main__":
    main()

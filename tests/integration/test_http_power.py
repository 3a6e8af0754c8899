"""The power API over HTTP against a server that plays the QEMU helper."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from aiohttp import web

from provider.bmc import http_power
from provider.bmc.base import Power
from provider.bmc.pool import BmcPool
from provider.domain.bmc import NextBoot, PowerAction, PowerState
from provider.domain.errors import PermanentError, TemporaryError


class Helper:
    """Remembers what it is told; `answer` and `respond` override what it answers."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.answer: web.Response | None = None
        self.respond: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.is_on = False
        self.is_silent = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.told.append(f"{request.method} {request.path}")
        if self.is_silent:
            await asyncio.sleep(60)
        if self.respond is not None:
            return await self.respond(request)
        if self.answer is not None:
            return self.answer
        return web.json_response({"PoweredOn": self.is_on}) if request.path == "/status" else web.Response()


def with_helper(use: Callable[[Helper, Power], Awaitable[None]]) -> None:
    async def main() -> None:
        helper = Helper()
        app = web.Application()
        app.router.add_route("*", "/{path}", helper.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        pool = BmcPool(timedelta(seconds=0.5))
        try:
            await use(helper, pool.power(http_power.access(f"{host}:{port}")))
        finally:
            await pool.close()
            await runner.cleanup()

    asyncio.run(main())


def test_power() -> None:
    """A machine of the QEMU helper cannot be switched, or does not boot from the network."""

    async def use(helper: Helper, power: Power) -> None:
        assert await power.read() is PowerState.OFF
        helper.is_on = True
        assert await power.read() is PowerState.ON
        for action in (PowerAction.ON, PowerAction.OFF, PowerAction.CYCLE, PowerAction.RESET):
            await power.act(action)
        await power.set_next_boot(NextBoot.NETWORK, None)
        await power.set_next_boot(NextBoot.DISK, None)
        posts = [told for told in helper.told if told.startswith("POST")]
        assert posts == ["POST /poweron", "POST /poweroff", "POST /reboot", "POST /reboot", "POST /pxeboot"]
        with pytest.raises(PermanentError, match="soft_off"):
            await power.act(PowerAction.SOFT_OFF)

    with_helper(use)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"PoweredOn": "yes"}', "<html>", "\xff", "[" * 4000])
def test_answer_that_is_none(text: str) -> None:
    """Whatever listens there decides whether a machine is on."""

    async def use(helper: Helper, power: Power) -> None:
        helper.answer = web.Response(body=text.encode("latin-1"))
        with pytest.raises(PermanentError, match="PoweredOn"):
            await power.read()

    with_helper(use)


def test_answer_in_pieces() -> None:
    """A status that comes in two packets is none."""

    async def pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"Powered', b'On": tr', b"ue}"):
            await response.write(piece)
            await asyncio.sleep(0.02)
        return response

    async def use(helper: Helper, power: Power) -> None:
        helper.respond = pieces
        assert await power.read() is PowerState.ON

    with_helper(use)


@pytest.mark.parametrize(("status", "kind"), [(404, PermanentError), (500, TemporaryError), (302, PermanentError)])
def test_status(status: int, kind: type[Exception]) -> None:
    """A command that was refused counts as done, or one that may work later is given up."""

    async def use(helper: Helper, power: Power) -> None:
        helper.answer = web.Response(status=status, headers={"Location": "/status"} if status == 302 else None)
        with pytest.raises(kind, match=str(status)):
            await power.act(PowerAction.ON)

    with_helper(use)


def test_silence() -> None:
    """A helper that hangs holds up its machine's worker."""

    async def use(helper: Helper, power: Power) -> None:
        helper.is_silent = True
        with pytest.raises(TemporaryError, match="out of time"):
            await power.read()

    with_helper(use)


def test_nobody_there() -> None:
    """A helper that is not running is a traceback."""

    async def main() -> None:
        power = BmcPool(timedelta(seconds=0.5)).power(http_power.access("127.0.0.1:1"))
        with pytest.raises(TemporaryError, match="does not answer"):
            await power.read()

    asyncio.run(main())

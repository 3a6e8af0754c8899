"""BMCs that speak bad HTTP, or mean harm: none may hold anybody up, fill our memory, or get our password for another."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from provider.bmc.base import Power
from provider.bmc.pool import BmcPool
from provider.bmc.redfish import Redfish
from provider.bmc.redfish_worker import LARGEST_ANSWER, MOST_REDIRECTS
from provider.domain.bmc import NextBoot, PowerAction, PowerState
from provider.domain.errors import BootwrightError, PermanentError, TemporaryError
from provider.domain.inventory import FirmwareKind
from tests.fakes.redfish_bmc import PASSWORD, RESET, SYSTEM, USER, Asked, RedfishBmc, refusal, serving
from tests.integration.redfish_rig import access, with_bmc, with_pool

LOGIN = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

Speak = Callable[[asyncio.StreamWriter], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def drip_body(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
    await drip(writer, b" ")


async def drip_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    await drip(writer, b"X")


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.1)


async def go_on_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        await asyncio.sleep(0.01)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        await writer.drain()


async def flood_body(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"\r\n")
    while True:
        await asyncio.sleep(0)
        writer.write(b"[" * (1 << 16))
        await writer.drain()


async def say_nothing(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


@contextlib.asynccontextmanager
async def speaking(speak: Speak) -> AsyncIterator[int]:
    """A server that answers with whatever `speak` writes, at the port that it gives."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                await speak(writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("speak", [drip_body, drip_headers, go_on_for_ever, say_nothing])
def test_call_ends_at_its_deadline(speak: Speak) -> None:
    """A byte now and then holds the caller for ever, and others with it (invariant 6)."""

    async def use(pool: BmcPool) -> None:
        loop = asyncio.get_running_loop()
        async with speaking(speak) as port, serving(RedfishBmc()) as good, asyncio.TaskGroup() as group:
            group.create_task(failing(pool, port))
            await asyncio.sleep(0.5)
            began = loop.time()
            for _ in range(3):
                assert await pool.power(access(good.port)).read() is PowerState.OFF
            assert loop.time() - began < 2

    async def failing(pool: BmcPool, port: int) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(TemporaryError, match=r"does not answer: (no answer within 3 s|timed out)"):
            await pool.power(access(port)).read()
        assert asyncio.get_running_loop().time() - began < 5

    with_pool(use, deadline=timedelta(seconds=3))


def test_answer_without_end() -> None:
    """A BMC fills our memory."""

    async def use(pool: BmcPool) -> None:
        async with speaking(flood_body) as port:
            with pytest.raises(BootwrightError, match=f"more than {LARGEST_ANSWER} bytes"):
                await pool.power(access(port)).read()

    with_pool(use)


def test_answer_that_swells() -> None:
    """100 kB that unpack to 100 MB fill our memory."""
    bomb = gzip.compress(b" " * 100_000_000)

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"}) if asked.path == SYSTEM else None

    async def use(power: Power) -> None:
        with pytest.raises(TemporaryError, match=f"more than {LARGEST_ANSWER} bytes"):
            await power.read()

    with_bmc(RedfishBmc(quirk=quirk), use)


def test_systems_without_end() -> None:
    """A BMC tells of a hundred thousand systems, and each is fetched to choose one."""
    bmc = RedfishBmc(members=[f"/redfish/v1/Systems/{number}" for number in range(20_000)])

    async def use(power: Power) -> None:
        with pytest.raises(PermanentError, match="which of its systems") as caught:
            await power.read()
        assert len(str(caught.value)) < 700

    with_bmc(bmc, use)
    assert len(bmc.asked) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot read"),
        ("<html>busy</html>", "cannot read"),
        ("[]", "cannot read"),
        ("null", "cannot read"),
        ("[" * 100_000, "cannot read"),
        ('{"PowerState": {"On": 1}}', "does not say"),
    ],
)
def test_what_is_no_document(text: str, said: str) -> None:
    """Edge case 110: a BMC's nonsense ends in a traceback, or as a power state."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return web.Response(text=text, content_type="application/json") if asked.path == SYSTEM else None

    async def use(power: Power) -> None:
        with pytest.raises(TemporaryError, match=said):
            await power.read()

    with_bmc(RedfishBmc(quirk=quirk), use)


def test_no_content_length() -> None:
    """Edge case 110: an answer that ends with its connection is not understood."""
    bodies = {
        b"/redfish/v1/": b'{"Id": "RootService", "RedfishVersion": "1.0.0", "Systems": {"@odata.id": "/s"}}',
        b"/s": b'{"Members": [{"@odata.id": "/s/1"}]}',
        b"/s/1": b'{"PowerState": "On"}',
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + bodies[asked.split()[1]])
        writer.close()

    async def use(pool: BmcPool) -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            assert await pool.power(access(server.sockets[0].getsockname()[1])).read() is PowerState.ON

    with_pool(use)


@pytest.mark.parametrize("answer", [web.Response(text="It works!"), web.Response(status=404), web.json_response({})])
def test_not_redfish(answer: web.Response) -> None:
    """A web server at that port is said to be a BMC that is silent, and gets our password."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return web.Response(body=answer.body, status=answer.status)

    async def use(power: Power) -> None:
        with pytest.raises(PermanentError, match=r"what answers at BMC 127.0.0.1:\d+ is not Redfish") as caught:
            await power.read()
        assert "curl" in caught.value.hint

    bmc = RedfishBmc(quirk=quirk)
    with_bmc(bmc, use)
    assert not any("Authorization" in each.headers or each.body for each in bmc.asked)


def test_slash_at_the_end() -> None:
    """Edge case 108: there is nothing at a path without its slash, or with it."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        right = "/redfish/v1" if asked.path.rstrip("/") == "/redfish/v1" else f"{asked.path.rstrip('/')}/"
        return None if asked.path == right else refusal(404, "Base.1.0.ResourceMissingAtURI", "")

    async def use(power: Power) -> None:
        await power.set_next_boot(NextBoot.NETWORK, FirmwareKind.UEFI)
        await power.act(PowerAction.ON)

    bmc = RedfishBmc(quirk=quirk)
    with_bmc(bmc, use)
    assert (bmc.power, bmc.boot["BootSourceOverrideTarget"]) == ("On", "Pxe")


def test_no_encoding_is_not_acceptable() -> None:
    """Edge case 107: HPE Gen10 Plus refuses answers without compression."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        plain = asked.headers.get("Accept-Encoding") == "identity"
        return refusal(406, "Base.1.0.NotAcceptable", "") if asked.method == "GET" and plain else None

    async def use(power: Power) -> None:
        assert await power.read() is PowerState.OFF

    with_bmc(RedfishBmc(quirk=quirk), use)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects(status: int) -> None:
    """Edge case 109: a redirected POST goes on as a GET, which does nothing and counts as done."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.path in (SYSTEM, RESET):
            return web.Response(status=status, headers={"Location": asked.path.replace("v1", "v1.2")})
        if asked.path.startswith("/redfish/v1.2"):
            return bmc._answer(replace(asked, path=asked.path.replace("v1.2", "v1")))
        return None

    async def use(power: Power) -> None:
        await power.set_next_boot(NextBoot.NETWORK, FirmwareKind.UEFI)
        await power.act(PowerAction.ON)

    bmc = RedfishBmc(quirk=quirk)
    with_bmc(bmc, use)
    assert (bmc.power, bmc.boot["BootSourceOverrideTarget"]) == ("On", "Pxe")


def test_redirects_without_end() -> None:
    """Edge case 109: a BMC sends us round and round."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return web.Response(status=308, headers={"Location": SYSTEM}) if asked.path == SYSTEM else None

    async def use(power: Power) -> None:
        with pytest.raises(PermanentError, match="redirects"):
            await power.read()

    bmc = RedfishBmc(quirk=quirk)
    with_bmc(bmc, use)
    assert [each.path for each in bmc.asked].count(SYSTEM) == MOST_REDIRECTS + 1


@pytest.mark.parametrize("how", ["redirect", "member", "action", "settings"])
def test_password_goes_to_nobody_else(how: str) -> None:
    """A BMC, or who plays it, has our password sent to another place."""

    async def main(pool: BmcPool) -> None:
        async with serving(RedfishBmc()) as other, serving(RedfishBmc()) as bmc:
            lure(bmc, other.url)
            power = pool.power(access(bmc.port))
            with contextlib.suppress(BootwrightError):
                await power.set_next_boot(NextBoot.NETWORK, FirmwareKind.UEFI)
            with contextlib.suppress(BootwrightError):
                await power.act(PowerAction.ON)
            assert other.asked == []

    def lure(bmc: RedfishBmc, away: str) -> None:
        async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
            away_from = how == "redirect" and asked.path in (SYSTEM, RESET)
            return web.Response(status=307, headers={"Location": f"{away}{SYSTEM}"}) if away_from else None

        bmc.quirk = quirk
        if how == "member":
            bmc.members = [f"{away}{SYSTEM}"]
        if how == "action":
            bmc.extra = {"Actions": {"#ComputerSystem.Reset": {"target": f"{away}{RESET}"}}}
        if how == "settings":
            bmc.extra = {"@Redfish.Settings": {"SettingsObject": {"@odata.id": f"{away}{SYSTEM}/SD"}}}

    with_pool(main)


@pytest.mark.parametrize("basic", [True, False])
def test_secrets_come_back_and_stay_here(basic: bool) -> None:
    """A BMC says in an error what we sent it, and it gets into our logs and answers (invariant 8)."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        secret = asked.headers.get("Authorization") or asked.headers.get("X-Auth-Token")
        if asked.path != SYSTEM or not secret:
            return None
        seen.append(secret)
        return refusal(400 if basic or not bmc.takes_basic else 401, "Oem.1.0.Debug", f"{secret}, {PASSWORD}\nX: y")

    async def use(power: Power) -> None:
        with pytest.raises(BootwrightError) as caught:
            await power.read()
        said = f"{caught.value} {caught.value.hint} {caught.value!r} {power!r}"
        assert "********, ******** X: y" in said
        assert not [secret for secret in (*seen, PASSWORD, LOGIN) if secret in said]

    seen: list[str] = []
    bmc = RedfishBmc(quirk=quirk, takes_basic=basic)
    with_bmc(bmc, use)
    assert seen


def test_password_is_in_no_process_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody on this host reads passwords in `ps`, or a proxy of the environment gets them."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                seen.append((folder / "cmdline").read_bytes() + (folder / "environ").read_bytes())
        return None

    async def use(power: Power) -> None:
        assert await power.read() is PowerState.OFF

    seen: list[bytes] = []
    with_bmc(RedfishBmc(quirk=quirk), use)
    assert any(b"redfish_worker" in each for each in seen)
    assert not [each for each in seen if PASSWORD.encode() in each or LOGIN.encode() in each]


def test_command_is_sent_once() -> None:
    """A reset whose answer is lost is sent again by the library: a machine is restarted twice."""

    async def quirk(request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.path == RESET:
            assert request.transport is not None
            request.transport.abort()
        return None

    async def use(power: Power) -> None:
        with pytest.raises(TemporaryError, match="does not answer"):
            await power.act(PowerAction.CYCLE)

    bmc = RedfishBmc(quirk=quirk, power="On")
    with_bmc(bmc, use)
    assert len(bmc.said("POST")) == 1


def test_rights() -> None:
    """An account that may look and not touch is called a wrong password."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return refusal(403, "Base.1.0.InsufficientPrivilege", "no") if asked.path == RESET else None

    async def use(power: Power) -> None:
        with pytest.raises(PermanentError, match="does not let 'ops' act on: 403") as caught:
            await power.act(PowerAction.ON)
        assert "role" in caught.value.hint

    with_bmc(RedfishBmc(quirk=quirk), use)


def test_no_tls_there() -> None:
    """Where BMC and settings disagree about HTTPS, the BMC is said to be silent."""

    async def use(power: Power) -> None:
        with pytest.raises(PermanentError, match=r"found no common TLS: .*(WRONG_VERSION|wrong version)") as caught:
            await power.read()
        assert "openssl s_client" in caught.value.hint

    with_bmc(RedfishBmc(), use, Redfish())

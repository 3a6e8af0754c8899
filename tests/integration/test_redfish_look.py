"""The first look at what may be a Redfish service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from aiohttp import web

from provider.bmc import either
from provider.bmc.either import EitherPower, Speaks, look
from provider.bmc.pool import BmcPool
from provider.domain.bmc import PowerState
from tests.fakes.redfish_bmc import Asked, RedfishBmc, serving
from tests.integration.redfish_rig import access, with_pool
from tests.integration.test_redfish_manners import Speak, drip_body, drip_headers, flood_body, say_nothing, speaking


def looked(bmc: RedfishBmc) -> Speaks:
    async def main() -> Speaks:
        async with serving(bmc):
            return (await look(bmc.url))[0]

    return asyncio.run(main())


def test_service_root() -> None:
    """A BMC is not recognized, or hears more than a question that everybody may ask."""
    bmc = RedfishBmc()
    assert looked(bmc) is Speaks.YES
    assert [(each.method, each.path) for each in bmc.asked] == [("GET", "/redfish/v1/")]
    assert "Authorization" not in bmc.asked[0].headers


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: web.Response(text="It works!"), Speaks.NO),
        (lambda: web.json_response({"version": 1}), Speaks.NO),
        (lambda: web.json_response(["RedfishVersion"]), Speaks.NO),
        (lambda: web.Response(text="[" * 60_000), Speaks.NO),
        (lambda: web.Response(text="{" + " " * 100_000 + '"RedfishVersion": "1"}'), Speaks.NO),
        (lambda: web.Response(status=404), Speaks.NO),
        (lambda: web.Response(status=307, headers={"Location": "/redfish/v1/"}), Speaks.NO),
        (lambda: web.Response(status=503), Speaks.SILENT),
    ],
)
def test_what_is_none(make: Callable[[], web.Response], expected: Speaks) -> None:
    """Another web server at that port counts as Redfish, and gets the password of the BMC."""

    async def quirk(_request: web.Request, _asked: Asked) -> web.StreamResponse | None:
        return make()

    assert looked(RedfishBmc(quirk=quirk)) is expected


def test_nobody_there() -> None:
    """A closed port is taken for a BMC that hangs, and asked again each hour."""
    assert asyncio.run(look("https://127.0.0.1:1"))[0] is Speaks.NO


@pytest.mark.parametrize("speak", [drip_headers, drip_body, say_nothing, flood_body])
def test_bad_neighbour(speak: Speak, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers there without end holds us up."""
    monkeypatch.setattr(either, "LOOK_TIMEOUT", timedelta(seconds=1))

    async def main() -> Speaks:
        async with speaking(speak) as port, asyncio.timeout(3):
            return (await look(f"http://127.0.0.1:{port}"))[0]

    assert asyncio.run(main()) is (Speaks.NO if speak is flood_body else Speaks.SILENT)


def test_looks_do_not_wait_for_each_other() -> None:
    """A hundred BMCs with a silent port 443 keep one that speaks from its first reading."""

    async def use(pool: BmcPool) -> None:
        looks = asyncio.Semaphore(either.LOOKS)
        async with speaking(say_nothing) as port, serving(RedfishBmc()) as good, asyncio.TaskGroup() as group:
            way = pool.power(access(good.port))

            def told(url: str) -> EitherPower:
                return EitherPower(access(good.port), url, way, way, looks)

            silent = [group.create_task(told(f"http://127.0.0.1:{port}").read()) for _ in range(100)]
            await asyncio.sleep(0.5)
            began = asyncio.get_running_loop().time()
            assert await told(good.url).read() is PowerState.OFF
            assert asyncio.get_running_loop().time() - began < 2
            for task in silent:
                task.cancel()

    with_pool(use)

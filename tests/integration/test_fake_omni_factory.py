"""The tiny Image Factory: ids as the real one's, strict members, scripts, files and error codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp.test_utils import TestServer

from provider.lab.omni import factory
from provider.lab.omni.factory import EMPTY_ID, Factory

VECTORS = {
    "{}": EMPTY_ID,
    "customization: {}": EMPTY_ID,
    'customization: {"extraKernelArgs": []}': EMPTY_ID,
    '{"customization": {"extraKernelArgs": ["noapic", "nolapic"], "systemExtensions": {}}}': (
        "9cba8e32753f91a16c1837ab8abf356af021706ef284aef07380780177d9a06c"
    ),
    '{"customization": {"meta": [{"key": 10, "value": "foo"}], "extraKernelArgs": []}}': (
        "d308a2a5ee2277bed5fbaa104fcbc8d59122abfa737df987a95b4ca763459a7f"
    ),
    '{"overlay": {"name": "rpi_generic", "image": "siderolabs/sbc-raspberrypi"}}': (
        "ee21ef4a5ef808a9b7484cc0dda0f25075021691c8c09a276591eedb638ea1f9"
    ),
    '{"customization": {"secureboot": {"includeWellKnownCertificates": true}}}': (
        "fa8e05f142a851d3ee568eb0a8e5841eaf6b0ebc8df9a63df16ac5ed2c04f3e6"
    ),
    '{"customization": {"diskImage": {"sectorSize": 4096}}}': (
        "92833e9ddd9bb9e11b2464fa5525429f01866306d52ebd882ee08d7918f6d1ea"
    ),
}
"""Out of the real one's own tests."""


def served(use: Callable[[Factory, aiohttp.ClientSession], Awaitable[None]], folder: Path | None = None) -> None:
    async def main() -> None:
        tiny = Factory(folder)
        async with TestServer(tiny.application()) as server, aiohttp.ClientSession(server.make_url("/")) as http:
            await use(tiny, http)

    asyncio.run(main())


@pytest.mark.parametrize("text", VECTORS)
def test_ids(text: str) -> None:
    """The same schematic has the same id here and there."""

    async def use(tiny: Factory, http: aiohttp.ClientSession) -> None:
        async with http.post("/schematics", data=text) as answer:
            assert answer.status == 201
            body: Any = await answer.json()
        assert body["id"] == VECTORS[text]
        async with http.get(f"/schematics/{body['id']}") as answer:
            assert await answer.text() == body["schematic"]

    served(use)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "text",
        "{",
        '{"customisation": {}}',
        '{"customization": {"extraKernelArguments": []}}',
        '{"customization": {"extraKernelArgs": "quiet"}}',
        '{"customization": {"meta": [{"key": "10", "value": "x"}]}}',
        '{"customization": {"systemExtensions": ["siderolabs/gvisor"]}}',
        '{"owner": "me"}',
    ],
)
def test_what_is_no_schematic(text: str) -> None:
    """Unknown members and wrong types are refused, so that a typing error is found here."""

    async def use(tiny: Factory, http: aiohttp.ClientSession) -> None:
        async with http.post("/schematics", data=text) as answer:
            assert answer.status == 400

    served(use)


@pytest.mark.parametrize(
    "argument", ["a: b", "123", "yes", "", "x=1 y", "- a", "'q'", '"d"', "#c", "€", "true", "1.5", "~"]
)
def test_canonical_yaml_says_what_was_given(argument: str) -> None:
    """Whatever an argument looks like, it is read back as itself."""
    given = {"customization": {"extraKernelArgs": [argument, "plain"], "meta": [{"key": 1, "value": argument}]}}
    assert yaml.safe_load(factory.canonical(given)) == given


def test_pxe_scripts() -> None:
    """Kernel arguments of the schematic stand in the script; versions get their v, architectures their usual name."""

    async def use(tiny: Factory, http: aiohttp.ClientSession) -> None:
        tiny.base_url = "http://pxe.example"
        schematic = json.dumps({"customization": {"extraKernelArgs": ["console=ttyS0", "quiet"]}})
        async with http.post("/schematics", data=schematic) as answer:
            identity = (await answer.json())["id"]
        base = f"http://pxe.example/image/{identity}/v1.13.7"
        async with http.get(f"/pxe/{identity}/1.13.7/metal-x86_64") as answer:
            assert (await answer.text()).splitlines()[-3:] == [
                f"kernel {base}/kernel-amd64 talos.platform=metal console=ttyS0 quiet",
                f"initrd {base}/initramfs-amd64.xz",
                "boot",
            ]
        async with http.get(f"/pxe/{identity}/v1.13.7/metal-arm64-secureboot") as answer:
            assert f"kernel {base}/metal-arm64-secureboot-uki.efi" in await answer.text()

    served(use)


def test_images_are_files_that_it_was_given(tmp_path: Path) -> None:
    """Those of a version win; ranges work."""
    (tmp_path / "kernel-amd64").write_bytes(b"any kernel")
    (tmp_path / "v1.14.0").mkdir()
    (tmp_path / "v1.14.0" / "kernel-amd64").write_bytes(b"new kernel")

    async def use(tiny: Factory, http: aiohttp.ClientSession) -> None:
        for version, content in (("v1.13.7", b"any kernel"), ("1.14.0", b"new kernel")):
            async with http.get(f"/image/{EMPTY_ID}/{version}/kernel-amd64") as answer:
                assert await answer.read() == content
        async with http.get(f"/image/{EMPTY_ID}/v1.14.0/kernel-amd64", headers={"Range": "bytes=4-"}) as answer:
            assert (answer.status, await answer.read()) == (206, b"kernel")
        assert tiny.requests["image"] == 3

    served(use, tmp_path)


def test_error_codes(tmp_path: Path) -> None:
    """Unknown schematic, bad path, bad version, busy: each as the real one says it."""

    async def use(tiny: Factory, http: aiohttp.ClientSession) -> None:
        async def status(path: str) -> int:
            async with http.get(path) as answer:
                return answer.status

        unknown = "0" * 64
        assert await status(f"/pxe/{unknown}/v1.13.7/metal-amd64") == 404
        assert await status(f"/image/{unknown}/v1.13.7/kernel-amd64") == 404
        assert await status(f"/schematics/{unknown}") == 404
        assert await status(f"/pxe/{EMPTY_ID}/v1.13.7/metal-sparc") == 400
        assert await status(f"/image/{EMPTY_ID}/v1.13.7/nothing") == 400
        assert await status(f"/image/{EMPTY_ID}/v1.13.7/..%2F..%2Fsecret") == 400
        assert await status(f"/pxe/{EMPTY_ID}/latest/metal-amd64") == 500
        tiny.busy = True
        assert await status(f"/schematics/{EMPTY_ID}") == 503

    served(use, tmp_path)

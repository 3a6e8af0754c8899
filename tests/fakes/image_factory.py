"""A little Image Factory, which can be told to be slow, broken, or dead."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import yaml
from aiohttp import web

Trouble = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""What is answered instead; None for the right answer."""


def content(name: str, size: int) -> bytes:
    """The bytes of a file: others for each name."""
    return (hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size]


@dataclass
class ImageFactory:
    """`sizes` are those of kernel (or unified image) and initramfs; trouble is looked up by the first part of a path."""

    sizes: tuple[int, int] = (300_000, 700_001)
    schematics: dict[str, bytes] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    """Requests, as `POST /schematics` or `GET /image/…`."""
    trouble: dict[str, Trouble] = field(default_factory=dict)
    url: str = ""

    def count(self, start: str) -> int:
        """How many requests begin so."""
        return sum(number for request, number in self.asked.items() if request.startswith(start))

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[ImageFactory]:
        """Serve on the loopback."""
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port, backlog=1000, ssl_context=tls)
            await site.start()
            self.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[f"{request.method} {request.path}"] += 1
        parts = request.path.split("/")[1:]
        trouble = self.trouble.get(parts[0])
        answer = await trouble(request) if trouble else None
        if answer is not None:
            return answer
        match request.method, parts:
            case "POST", ["schematics"]:
                return await self._schematic(request)
            case "GET", ["pxe", schematic, version, variant] if schematic in self.schematics:
                return self._script(schematic, version, variant)
            case "GET", ["image", schematic, _version, name] if schematic in self.schematics:
                return web.Response(body=self.file(request.path, name))
        return web.Response(status=404, text="schematic not found")

    async def _schematic(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/yaml"
        schematic = yaml.safe_load(await request.read())
        canonical = yaml.safe_dump(schematic).encode()
        identity = hashlib.sha256(canonical).hexdigest()
        self.schematics[identity] = canonical
        return web.json_response({"id": identity, "schematic": canonical.decode()}, status=201)

    def _script(self, schematic: str, version: str, variant: str) -> web.Response:
        images = f"{self.url}/image/{schematic}/{version}"
        architecture = variant.removesuffix("-secureboot").removeprefix("metal-")
        files = [
            f"kernel {images}/kernel-{architecture} talos.platform=metal",
            f"initrd {images}/initramfs-{architecture}.xz",
        ]
        if variant.endswith("-secureboot"):
            files = [f"kernel {images}/metal-{architecture}-secureboot-uki.efi talos.platform=metal"]
        return web.Response(text="\n".join(["#!ipxe", "", "imgfree", *files, "boot", ""]))

    def file(self, path: str, name: str) -> bytes:
        """What a download gives."""
        return content(path, self.sizes[name.startswith("initramfs")])


def status(number: int, text: str = "", **headers: str) -> Trouble:
    """Refuse."""

    async def trouble(_request: web.Request) -> web.StreamResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=number, text=text, headers=names)

    return trouble


def body(content: bytes, **headers: str) -> Trouble:
    """Answer something else."""

    async def trouble(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=content, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return trouble


def cut_off(*, chunked: bool = False, waits: bool = False) -> Trouble:
    """Promise a file and send a part of it; then hang up, or wait to be killed."""

    async def trouble(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = 100_000
        await response.prepare(request)
        await response.write(bytes(50_000))
        await asyncio.sleep(3600 if waits else 0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    return trouble


def unmeasured(content: bytes) -> Trouble:
    """Send a file without its length, in chunks."""

    async def trouble(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for at in range(0, len(content), 1000):
            await response.write(content[at : at + 1000])
        return response

    return trouble


def held(until: asyncio.Event) -> Trouble:
    """Answer rightly, but later."""

    async def trouble(_request: web.Request) -> None:
        await until.wait()

    return trouble

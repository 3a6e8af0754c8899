"""
A tiny Image Factory: schematics, PXE scripts, and images out of a folder.

| Request | Answer |
|---|---|
| `POST /schematics` (YAML) | 201 and `{"id", "schematic"}`: the id is the SHA-256 of the canonical YAML; 400: unknown member |
| `GET /schematics/ID` | the canonical YAML |
| `GET /pxe/ID/VERSION/metal-ARCH[-secureboot]` | an iPXE script with the kernel arguments of the schematic |
| `GET /image/ID/VERSION/NAME` | the file NAME of the folder (also VERSION/NAME, which wins): the real one builds it |

What is neither known nor well-formed gets the real one's codes: 400 for a bad path, 404 for an unknown schematic, 500 for
what is no version, 503 on demand. After image-factory: pkg/schematic/schematic.go and internal/frontend/http.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

EMPTY_ID = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
"""Of the schematic without any customization."""

_STRING, _STRINGS, _FLAG, _NUMBER, _MAP = "string", "strings", "flag", "number", "map"
_SHAPE: dict[str, Any] = {
    "owner": _STRING,
    "overlay": {"image": _STRING, "name": _STRING, "options": _MAP},
    "customization": {
        "embeddedMachineConfiguration": _STRING,
        "extraKernelArgs": _STRINGS,
        "meta": [{"key": _NUMBER, "value": _STRING}],
        "systemExtensions": {"officialExtensions": _STRINGS},
        "bootloader": _STRING,
        "secureboot": {"enrollKeys": _STRING, "includeWellKnownCertificates": _FLAG},
        "diskImage": {"sectorSize": _NUMBER},
    },
}
"""Members in the order of the canonical YAML."""

_ALWAYS = {"customization"}
"""Written even when empty; and so are the members of an overlay and of META values."""

_RESOLVER: Any = yaml.resolver.Resolver()

_VERSION = re.compile(r"v?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)")
_PXE = re.compile(r"metal-(amd64|arm64|x86_64|i386)(-secureboot)?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Factory:
    """The application, its schematics and counters."""

    def __init__(self, folder: Path | None, base_url: str = "") -> None:
        self.base_url = base_url
        """How clients reach it: stands in its scripts."""
        self.schematics: dict[str, Any] = {}
        self.requests: Counter[str] = Counter()
        """By the first part of the path."""
        self.busy = False
        """Answer 503 to everything."""
        self._folder = folder
        self._keep({})

    def application(self) -> web.Application:
        """The application; serve it on TCP."""
        app = web.Application(middlewares=[self._count])
        app.router.add_post("/schematics", self._create)
        app.router.add_get("/schematics/{id}", self._show)
        app.router.add_get("/pxe/{id}/{version}/{path}", self._pxe)
        app.router.add_get("/image/{id}/{version}/{path}", self._image)
        return app

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests[request.path.split("/")[1]] += 1
        if self.busy:
            raise web.HTTPServiceUnavailable(text="service temporarily unavailable\n")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _create(self, request: web.Request) -> web.Response:
        try:
            identity, text = self._keep(yaml.safe_load(await request.text()))
        except (yaml.YAMLError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.json_response({"id": identity, "schematic": text}, status=201)

    def _keep(self, asked: Any) -> tuple[str, str]:
        if asked is None:
            raise ValueError("EOF")
        _check(asked, _SHAPE, "schematic")
        if asked.get("owner"):
            raise ValueError("owner field is only supported in Enterprise edition")
        text = canonical(asked)
        identity = hashlib.sha256(text.encode()).hexdigest()
        self.schematics[identity] = asked
        return identity, text

    async def _show(self, request: web.Request) -> web.Response:
        return web.Response(text=canonical(self._schematic(request)), content_type="application/yaml")

    async def _pxe(self, request: web.Request) -> web.Response:
        schematic, version = self._schematic(request), _version(request)
        found = _PXE.fullmatch(request.match_info["path"])
        if found is None:
            raise web.HTTPBadRequest(text="error parsing profile from path\n")
        arch = "arm64" if found[1] == "arm64" else "amd64"
        base = f"{self.base_url or request.url.origin()}/image/{request.match_info['id']}/{version}"
        wanted = (schematic.get("customization") or {}).get("extraKernelArgs") or []
        line = " ".join(["talos.platform=metal", *wanted])
        if found[2]:
            script = f"#!ipxe\n\nimgfree\nkernel {base}/metal-{arch}-secureboot-uki.efi {line}\nboot\n"
        else:
            script = f"#!ipxe\n\nimgfree\nkernel {base}/kernel-{arch} {line}\ninitrd {base}/initramfs-{arch}.xz\nboot\n"
        return web.Response(text=script)

    async def _image(self, request: web.Request) -> web.StreamResponse:
        self._schematic(request)
        version, name = _version(request), request.match_info["path"]
        if _IMAGE.fullmatch(name) is None:
            raise web.HTTPBadRequest(text="error parsing profile from path\n")
        for path in (self._folder / version / name, self._folder / name) if self._folder else ():
            if path.is_file():
                return web.FileResponse(path, headers={"Content-Disposition": f'attachment; filename="{name}"'})
        raise web.HTTPBadRequest(text="error parsing profile from path\n")

    def _schematic(self, request: web.Request) -> Any:
        identity = request.match_info["id"]
        if identity not in self.schematics:
            raise web.HTTPNotFound(text=f'schematic ID "{identity}" not found\n')
        return self.schematics[identity]


def canonical(schematic: Mapping[str, Any]) -> str:
    """The YAML whose SHA-256 is the id: members in the order of the definition, empty ones left out, four spaces of indent."""
    return "".join(f"{line}\n" for line in _lines(_ordered(schematic, _SHAPE)))


def _lines(members: Mapping[str, Any]) -> Iterator[str]:
    for name, value in members.items():
        if isinstance(value, dict) and value:
            yield f"{name}:"
            yield from (f"    {line}" for line in _lines(value))
        elif isinstance(value, list):
            yield f"{name}:"
            for each in value:
                first, *rest = _lines(each) if isinstance(each, dict) else _scalar(each).split("\n")
                yield f"    - {first}"
                yield from (f"      {line}" for line in rest)
        else:
            first, *rest = _scalar(value).split("\n")
            yield f"{name}: {first}"
            yield from rest


def _scalar(value: Any) -> str:
    """As Go's library writes it: strings that would be read as something else in double quotes, several lines as a block."""
    if not isinstance(value, str):
        return "{}" if value == {} else json.dumps(value)
    style = None
    if "\n" in value:
        style = "|"
    elif _RESOLVER.resolve(yaml.ScalarNode, value, (True, False)) != "tag:yaml.org,2002:str":
        style = '"'
    node = yaml.ScalarNode("tag:yaml.org,2002:str", value, style=style)
    return yaml.serialize(node, width=1 << 30, indent=4, allow_unicode=True).removesuffix("...\n").rstrip("\n")


def _ordered(given: Mapping[str, Any], shape: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
    """The members of a mapping in their order, without those that are empty (`keep`: with them)."""
    found: dict[str, Any] = {}
    for name, kind in shape.items():
        value = given.get(name)
        if isinstance(kind, dict):
            value = _ordered(value, kind, name == "overlay") if value else {}
        elif isinstance(kind, list):
            value = [_ordered(each, kind[0], True) for each in value or ()]
        if value or name in _ALWAYS or (keep and kind != _MAP):
            found[name] = _zero(kind) if value is None else value
    return found


def _zero(kind: Any) -> Any:
    return 0 if kind == _NUMBER else ""


def _check(given: Any, shape: Any, where: str) -> None:
    """Refuse what the real one refuses: unknown members, and values of other types."""
    if given is None:
        return
    if isinstance(shape, dict):
        if not isinstance(given, dict):
            raise ValueError(f"{where}: a mapping is expected")  # noqa: TRY004 - all of these are values of a peer
        for name, value in given.items():
            if name not in shape:
                raise ValueError(f"{where}: field {name} not found")
            _check(value, shape[name], f"{where}.{name}")
        return
    if isinstance(shape, list):
        if not isinstance(given, list):
            raise ValueError(f"{where}: a list is expected")  # noqa: TRY004 - it is a value that somebody sent
        for value in given:
            _check(value, shape[0], where)
        return
    good = {
        _STRING: isinstance(given, str),
        _STRINGS: isinstance(given, list) and all(isinstance(each, str) for each in given),
        _FLAG: isinstance(given, bool),
        _NUMBER: isinstance(given, int) and not isinstance(given, bool) and given >= 0,
        _MAP: isinstance(given, dict),
    }
    if not good[shape]:
        raise ValueError(f"{where}: cannot unmarshal {given!r} as {shape}")


def _version(request: web.Request) -> str:
    found = _VERSION.fullmatch(request.match_info["version"])
    if found is None:
        raise web.HTTPInternalServerError(text="internal server error\n")
    return f"v{found[1]}"

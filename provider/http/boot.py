"""
Boot HTTP: scripts and boot files for firmware, iPXE and kernels. Plain, without trust: it serves nothing secret, but the token by
which machines join Omni, which Talos can get in no other way.

| Path | What |
|---|---|
| `/boot.ipxe` | the script that is the same for all: it asks for the next one and says who asks |
| `/machine.ipxe?mac=...&uuid=...` | the script of this machine, made from its boot decision |
| `/failed?mac=...&stage=...&error=...` | nothing: a script tells that it failed, for the machine's events |
| `/assets/PATH`, `/profiles/NAME/kernel`, `/profiles/NAME/initrd-N` | the files of the assets' manifest and of boot profiles |
| `/profiles/PATH` | any other file below the folder `profiles_dir` of the settings |
| `/talos/IMAGE/FILE` | a file of an image that an Image Factory made |
| `/config?u=UUID` | the configuration of a machine that runs Talos: the same for all of them |
| `/ca.pem` | the certificate that the kernel line pins |

A machine whose Talos is not here yet gets a script that waits and asks again, with `&again=WORD`: its events tell it once.

Files go out with ranges and ETags, always with a Content-Length, by sendfile. `?machine=ID` on a file
says on whose behalf it is fetched; that and `/failed` are claims, good for a line in the machine's events and for nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

import structlog
from aiohttp import web

from provider.domain import mac as macs
from provider.domain.errors import BootwrightError, PermanentError, RefusedError, TemporaryError, UnderWayError
from provider.domain.inventory import FirmwareKind
from provider.domain.mac import MacAddress
from provider.domain.machine import BootMode, Evidence
from provider.domain.secret import Secret
from provider.http.files import BootFile, Outgoing
from provider.http.static import StaticFolder
from provider.planning import kernels
from provider.planning.boot import BootDecision
from provider.planning.identity import believable_uuid
from provider.planning.kernels import BootPath, Caller, KernelBoot, Site
from provider.wire import ipxe
from provider.wire.ipxe import Image

log = structlog.get_logger()

DECISION_SECONDS = 30.0
"""Deadline of a boot decision; iPXE asks again after a failure."""

MOST_QUERY_CHARACTERS = 2048
"""What iPXE asks has 300; more than this is none of our scripts."""

LEAST_WAIT_SECONDS = 2
MOST_WAIT_SECONDS = 30
"""Until a machine that waits for its Talos asks again."""

MOST_EVIDENCE_CHARACTERS = 128

_PROFILES = "profiles/"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Boots(Protocol):
    """Who decides; `reconcile.boots.BootDesk` does."""

    async def decide(self, evidence: Evidence, *, again: bool = False) -> BootDecision:
        """What the machine with this evidence boots, which may have been told to wait; raises BootwrightError."""

    def note_waiting(self, machine_id: str, reason: str) -> None:
        """A machine was told to wait."""

    def note_impossible(self, machine_id: str, error: PermanentError) -> None:
        """No script can be made for what a machine should boot."""

    def note_failure(self, mac: MacAddress, stage: str, error: str) -> None:
        """A script failed."""

    def note_file(self, machine_id: str, file: str, bytes_: int, seconds: float) -> None:
        """A file was fetched on behalf of a machine."""


class Talos(Protocol):
    """Who knows what machines boot that run Talos; `talos.TalosBoots` does. TemporaryError: not yet; PermanentError: never."""

    def configuration(self) -> Secret:
        """What such a machine is configured with."""

    async def choose(self, decision: BootDecision, caller: Caller, uuid: str, *, is_uefi: bool) -> KernelBoot:
        """What it loads."""

    def find(self, path: str) -> Path | None:
        """A file of an image, by its path in URLs."""

    def hold(self, path: str) -> AbstractContextManager[Path | None]:
        """The same; it stays as long as this is open."""


@dataclass(frozen=True)
class Files:
    """What this listener serves besides scripts."""

    ca_pem: bytes
    paths: Mapping[str, Path] = field(default_factory=dict)
    """Path in URLs (`assets/...`, `profiles/...`) to file."""
    profiles: StaticFolder | None = None
    """Where other paths below `profiles/` are looked up; nothing else is ever opened."""

    async def find(self, path: str) -> Path | None:
        """The file at the path of a URL."""
        known = self.paths.get(path)
        if known is not None or self.profiles is None or not path.startswith(_PROFILES):
            return known
        return await self.profiles.find(path.removeprefix(_PROFILES))


def application(site: Site, files: Files, boots: Boots, talos: Talos | None = None) -> web.Application:
    """The application; `listener.Listener` serves it."""
    handlers = _Handlers(site, files, boots, talos)
    app = web.Application(client_max_size=1024, middlewares=[_errors])
    app.router.add_get("/boot.ipxe", handlers.bootstrap)
    app.router.add_get("/machine.ipxe", handlers.machine, allow_head=False)  # Each answer costs a ticket.
    app.router.add_get("/failed", handlers.failed, allow_head=False)
    app.router.add_get("/{path:(?:assets|profiles)/.+}", handlers.file)
    app.router.add_get("/ca.pem", handlers.ca)
    if talos is not None:
        images = _TalosHandlers(talos, handlers)
        app.router.add_get("/config", images.configuration)
        app.router.add_get("/{path:talos/[^/]+/[^/]+}", images.file)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No query without an end, and no traceback for what is our own mistake."""
    if len(request.query_string) > MOST_QUERY_CHARACTERS:
        return web.Response(status=414, text="the query is too long\n")
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception:
        log.exception("boot.crashed", path=request.path, source=request.remote)
        return web.Response(status=500, text="the provider made a mistake; its log says which\n")


class _Handlers:
    def __init__(self, site: Site, files: Files, boots: Boots, talos: Talos | None) -> None:
        self._site = site
        self._files = files
        self._boots = boots
        self._outgoing = Outgoing()
        self._talos = talos

    async def bootstrap(self, request: web.Request) -> web.Response:
        return _script(ipxe.bootstrap_script(self._base(request)))

    async def machine(self, request: web.Request) -> web.Response:
        """
        The script of one machine.

        A status that is not 200 makes `/boot.ipxe` ask again; who gets a script that does nothing goes to its next boot
        device at once.
        """
        try:
            evidence = read_evidence(request.query)
        except ValueError as error:
            log.info("boot.evidence_refused", source=request.remote, error=str(error))
            return web.Response(status=400, text=f"mac: {error}\n")
        state = request.query.get("again", "")
        try:
            async with asyncio.timeout(DECISION_SECONDS):
                decision = await self._boots.decide(evidence, again=bool(state))
        except RefusedError as error:
            log.warning("boot.refused", mac=evidence.macs[0], error=str(error), hint=error.hint)
            return _script(ipxe.nothing_script("the provider refuses this machine"))
        except BootwrightError as error:
            log.warning("boot.undecided", mac=evidence.macs[0], error=str(error), hint=error.hint)
            return web.Response(status=503, text="the provider cannot tell what to boot\n")
        except TimeoutError:
            log.warning("boot.undecided", mac=evidence.macs[0], error="no decision in time")
            return web.Response(status=503, text="the provider is too busy\n")
        try:
            return _script(await self._render(decision, evidence, request))
        except TemporaryError as error:
            return _script(self._wait(decision, evidence, request, error))

    async def failed(self, request: web.Request) -> web.Response:
        try:
            mac = macs.parse(request.query.get("mac", "")[:MOST_EVIDENCE_CHARACTERS])
        except ValueError as error:
            return web.Response(status=400, text=f"mac: {error}\n")
        self._boots.note_failure(mac, _word(request.query, "stage"), explained(_word(request.query, "error")))
        return web.Response(text="noted\n")

    async def ca(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._files.ca_pem, content_type="application/x-pem-file")

    async def file(self, request: web.Request) -> web.StreamResponse:
        path = await self._files.find(request.match_info["path"])
        if path is None:
            raise web.HTTPNotFound(text="there is no such boot file\n")
        return self.send(request, path)

    def send(
        self,
        request: web.Request,
        path: Path,
        hold: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> BootFile:
        """A file, whose sending is noted; it stays where it is as long as what `hold` gives is open."""
        return BootFile(path, self._outgoing, lambda size, seconds: self._fetched(request, path, size, seconds), hold)

    def _fetched(self, request: web.Request, path: Path, size: int, seconds: float) -> None:
        machine_id = request.query.get("machine")
        if machine_id and request.method == "GET":
            self._boots.note_file(machine_id, path.name, size, seconds)

    def _wait(self, decision: BootDecision, evidence: Evidence, request: web.Request, error: TemporaryError) -> str:
        """Have the machine ask again; its events tell it when what it waits for is another thing than before."""
        state = "fetching" if isinstance(error, UnderWayError) else "waiting"
        if request.query.get("again") != state:
            self._boots.note_waiting(decision.machine_id, str(error))
        seconds = max(LEAST_WAIT_SECONDS, min(MOST_WAIT_SECONDS, math.ceil(error.retry_after.total_seconds())))
        return ipxe.waiting_script(str(error), self._base(request), evidence.macs[0], state, seconds)

    async def _render(self, decision: BootDecision, evidence: Evidence, request: web.Request) -> str:
        try:
            match decision.mode:
                case BootMode.AGENT | BootMode.INSTALL:
                    return await self._kernel_script(decision, evidence, request)
                case BootMode.DISK:
                    return ipxe.disk_script(decision.because, decision.hand_off)
                case BootMode.NOTHING:
                    return ipxe.nothing_script(decision.because)
        except PermanentError as error:
            self._boots.note_impossible(decision.machine_id, error)
            return ipxe.nothing_script(f"no script can be made: {error}")

    async def _kernel_script(self, decision: BootDecision, evidence: Evidence, request: web.Request) -> str:
        caller = Caller(evidence.macs[0], request.query.get("buildarch", ""), IPv4Address(_local_address(request)))
        if decision.runs_talos and self._talos is not None:
            is_uefi = evidence.firmware is not FirmwareKind.BIOS
            chosen = await self._talos.choose(decision, caller, evidence.uuid, is_uefi=is_uefi)
        else:
            chosen = kernels.choose(decision, caller, self._site)
        base, machine = self._base(request), ipxe.quoted(decision.machine_id)

        def image(file: BootPath) -> Image:
            return Image(file.name, f"{base}/{ipxe.quoted(file.path)}?machine={machine}")

        initrds = list(map(image, chosen.initrds))
        return ipxe.kernel_script(chosen.title, base, caller.mac, image(chosen.kernel), initrds, chosen.arguments)

    def _base(self, request: web.Request) -> str:
        """Our own address as this client reached it; the Host header is the client's word and is not used."""
        return f"http://{_local_address(request)}:{self._site.http_port}"


class _TalosHandlers:
    """What there is besides where machines run Talos."""

    def __init__(self, talos: Talos, handlers: _Handlers) -> None:
        self._talos = talos
        self._handlers = handlers

    async def configuration(self, request: web.Request) -> web.Response:
        try:
            text = self._talos.configuration().reveal()
        except TemporaryError as error:
            log.warning("talos.config_missing", source=request.remote, error=str(error), hint=error.hint)
            return web.Response(status=503, text=f"{error}\n")
        log.info("talos.config_served", source=request.remote, uuid=believable_uuid(request.query.get("u", "")))
        return web.Response(text=text, headers={"Cache-Control": "no-store"})

    async def file(self, request: web.Request) -> web.StreamResponse:
        asked = request.match_info["path"]
        path = self._talos.find(asked)
        if path is None:
            raise web.HTTPNotFound(text="there is no such image; boot the machine again\n")
        return self._handlers.send(request, path, lambda: self._talos.hold(asked))


def read_evidence(query: Mapping[str, str]) -> Evidence:
    """
    Who a machine says it is; everything but the MAC address may be missing or nonsense, and more may be there.

    Raises:
        ValueError: If there is no MAC address.
    """
    return Evidence(
        macs=(macs.parse(query.get("mac", "")[:MOST_EVIDENCE_CHARACTERS]),),
        uuid=believable_uuid(query.get("uuid", "")),
        serial=_word(query, "serial"),
        board_serial=_word(query, "board_serial"),
        firmware={"pcbios": FirmwareKind.BIOS, "efi": FirmwareKind.UEFI}.get(query.get("platform", "")),
    )


def explained(error: str) -> str:
    """iPXE's error number, such as 0x2d0c618e, as the page that explains it."""
    return f"https://ipxe.org/{error[2:]}" if re.fullmatch("0x[0-9a-f]{8}", error) else error


def _word(query: Mapping[str, str], name: str) -> str:
    shown = (letter for letter in query.get(name, "") if letter.isprintable())
    return "".join(shown)[:MOST_EVIDENCE_CHARACTERS].strip()


def _local_address(request: web.Request) -> str:
    transport = request.transport
    if transport is None:
        raise web.HTTPServiceUnavailable(text="the client is gone\n")
    return str(transport.get_extra_info("sockname")[0])


def _script(text: str, status: int = 200) -> web.Response:
    # Some iPXE builds run a script only if it comes as text, whole and with a length (edge case 43).
    return web.Response(
        text=text, status=status, headers={"Content-Type": ipxe.CONTENT_TYPE, "Cache-Control": "no-store"}
    )

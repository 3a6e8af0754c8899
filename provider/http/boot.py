"""
Boot HTTP: scripts and boot files for firmware, iPXE and kernels. Plain, without trust: it serves nothing secret.

| Path | What |
|---|---|
| `/boot.ipxe` | the script that is the same for all: it asks for the next one and says who asks |
| `/machine.ipxe?mac=...&uuid=...` | the script of this machine, made from its boot decision |
| `/assets/PATH` | a file of the assets' manifest, and no other |
| `/profiles/NAME/kernel`, `/profiles/NAME/initrd-N` | the files of a boot profile |
| `/ca.pem` | the certificate that the kernel line pins |

Files go out with ranges and ETags, always with a Content-Length, by sendfile. `?machine=ID` on a file
says on whose behalf it is fetched; that is a claim, good for a line in the machine's events and for nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog
from aiohttp import web

from provider.domain import mac as macs
from provider.domain.errors import BootwrightError, PermanentError, RefusedError
from provider.domain.inventory import FirmwareKind
from provider.domain.machine import BootMode, Evidence
from provider.http.files import BootFile
from provider.planning.boot import BootDecision
from provider.planning.identity import believable_uuid
from provider.wire import ipxe
from provider.wire.agent import KernelArguments
from provider.wire.ipxe import HandOff, Image

log = structlog.get_logger()

DECISION_SECONDS = 30.0
"""Deadline of a boot decision; iPXE asks again after a failure."""

MOST_QUERY_CHARACTERS = 2048
"""What iPXE asks has 300; more than this is none of our scripts."""

MOST_EVIDENCE_CHARACTERS = 128

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Boots(Protocol):
    """Who decides; `reconcile.boots.BootDesk` does."""

    async def decide(self, evidence: Evidence) -> BootDecision:
        """What the machine with this evidence boots; raises BootwrightError."""

    def note_file(self, machine_id: str, file: str, bytes_: int, seconds: float) -> None:
        """A file was fetched on behalf of a machine."""


@dataclass(frozen=True)
class Profile:
    """A boot profile of kind `kernel`, ready to serve."""

    kernel: Path
    initrds: tuple[Path, ...] = ()
    command_line: str = ""


@dataclass(frozen=True)
class AgentImage:
    """Where the agent's kernel and initramfs lie among the assets (`x86_64/vmlinuz`), and extra kernel arguments."""

    kernel: str
    initramfs: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Site:
    """What scripts need to know of this provider."""

    http_port: int
    agent_port: int
    ca_pem: bytes
    ca_sha256: str
    agent_image: AgentImage
    assets: Mapping[str, Path] = field(default_factory=dict)
    """Path in URLs to file; made from the verified manifest."""
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    hand_off: HandOff = HandOff.EXIT
    """How a machine is sent to its disk."""


def application(site: Site, boots: Boots) -> web.Application:
    """The application; `listener.Listener` serves it."""
    handlers = _Handlers(site, boots)
    app = web.Application(client_max_size=1024, middlewares=[_errors])
    app.router.add_get("/boot.ipxe", handlers.bootstrap)
    app.router.add_get("/machine.ipxe", handlers.machine, allow_head=False)  # Each answer costs a ticket.
    app.router.add_get("/assets/{path:.+}", handlers.asset)
    app.router.add_get("/profiles/{name}/{file}", handlers.profile_file)
    app.router.add_get("/ca.pem", handlers.ca)
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
    def __init__(self, site: Site, boots: Boots) -> None:
        self._site = site
        self._boots = boots

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
        try:
            async with asyncio.timeout(DECISION_SECONDS):
                decision = await self._boots.decide(evidence)
        except RefusedError as error:
            log.warning("boot.refused", mac=evidence.macs[0], error=str(error), hint=error.hint)
            return _script(ipxe.nothing_script("the provider refuses this machine"))
        except BootwrightError as error:
            log.warning("boot.undecided", mac=evidence.macs[0], error=str(error), hint=error.hint)
            return web.Response(status=503, text="the provider cannot tell what to boot\n")
        except TimeoutError:
            log.warning("boot.undecided", mac=evidence.macs[0], error="no decision in time")
            return web.Response(status=503, text="the provider is too busy\n")
        return _script(self._render(decision, evidence, request))

    async def asset(self, request: web.Request) -> web.StreamResponse:
        path = self._site.assets.get(request.match_info["path"])
        return await self._file(request, path)

    async def profile_file(self, request: web.Request) -> web.StreamResponse:
        profile = self._site.profiles.get(request.match_info["name"])
        return await self._file(
            request, None if profile is None else _profile_path(profile, request.match_info["file"])
        )

    async def ca(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._site.ca_pem, content_type="application/x-pem-file")

    async def _file(self, request: web.Request, path: Path | None) -> web.StreamResponse:
        if path is None:
            raise web.HTTPNotFound(text="there is no such boot file\n")
        return BootFile(path, lambda size, seconds: self._fetched(request, path, size, seconds))

    def _fetched(self, request: web.Request, path: Path, size: int, seconds: float) -> None:
        machine_id = request.query.get("machine")
        if machine_id and request.method == "GET":
            self._boots.note_file(machine_id, path.name, size, seconds)

    def _render(self, decision: BootDecision, evidence: Evidence, request: web.Request) -> str:
        try:
            match decision.mode:
                case BootMode.AGENT:
                    return self._agent_script(decision, evidence, request)
                case BootMode.INSTALL:
                    return self._install_script(decision, evidence, request)
                case BootMode.DISK:
                    return ipxe.disk_script(decision.because, self._site.hand_off)
                case BootMode.NOTHING:
                    return ipxe.nothing_script(decision.because)
        except PermanentError as error:
            log.error("boot.script_impossible", machine=decision.machine_id, error=str(error), hint=error.hint)
            return ipxe.nothing_script(f"no script can be made: {error}")

    def _agent_script(self, decision: BootDecision, evidence: Evidence, request: web.Request) -> str:
        image, base = self._site.agent_image, self._base(request)
        arguments = KernelArguments(
            url=self._agent_url(request),
            boot_url=base,
            ca=self._site.ca_sha256,
            ticket=_ticket(decision),
            mac=evidence.macs[0],
        )
        return ipxe.agent_script(
            Image("vmlinuz", _url(f"{base}/assets", image.kernel, decision)),
            Image("initramfs", _url(f"{base}/assets", image.initramfs, decision)),
            arguments,
            image.arguments,
        )

    def _install_script(self, decision: BootDecision, evidence: Evidence, request: web.Request) -> str:
        name = decision.profile or ""
        profile = self._site.profiles.get(name)
        if profile is None:
            raise PermanentError(f"there is no boot profile {name!r}", hint="add it to `profiles` in the settings")
        fields = {
            "agent_url": self._agent_url(request),
            "install_url": f"{self._agent_url(request)}/agent/v1/installed",
            "install_ticket": _ticket(decision),
            "boot_url": self._base(request),
            "ca_sha256": self._site.ca_sha256,
            "mac": evidence.macs[0],
            "machine": decision.machine_id,
            "arguments": " ".join(decision.arguments),
        }
        base = f"{self._base(request)}/profiles/{ipxe.quoted(name)}"
        initrds = [f"initrd-{number}" for number in range(len(profile.initrds))]
        return ipxe.kernel_script(
            f"installing {name}",
            Image("kernel", _url(base, "kernel", decision)),
            [Image(initrd, _url(base, initrd, decision)) for initrd in initrds],
            ipxe.fill_in(profile.command_line, fields),
        )

    def _base(self, request: web.Request) -> str:
        """Our own address as this client reached it; the Host header is the client's word and is not used."""
        return f"http://{_local_address(request)}:{self._site.http_port}"

    def _agent_url(self, request: web.Request) -> str:
        return f"https://{_local_address(request)}:{self._site.agent_port}"


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


def _word(query: Mapping[str, str], name: str) -> str:
    shown = (letter for letter in query.get(name, "") if letter.isprintable())
    return "".join(shown)[:MOST_EVIDENCE_CHARACTERS].strip()


def _ticket(decision: BootDecision) -> str:
    if decision.ticket is None:
        raise PermanentError(f"machine {decision.machine_id} got no ticket for its {decision.mode.value} script")
    return decision.ticket.reveal()


def _url(base: str, path: str, decision: BootDecision) -> str:
    return f"{base}/{ipxe.quoted(path)}?machine={ipxe.quoted(decision.machine_id)}"


def _profile_path(profile: Profile, file: str) -> Path | None:
    if file == "kernel":
        return profile.kernel
    names = {f"initrd-{number}": path for number, path in enumerate(profile.initrds)}
    return names.get(file)


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

"""
Boot HTTP: scripts and boot files for firmware, iPXE and kernels. Plain, without trust: it serves nothing secret.

| Path | What |
|---|---|
| `/boot.ipxe` | the script that is the same for all: it asks for the next one and says who asks |
| `/machine.ipxe?mac=...&uuid=...` | the script of this machine, made from its boot decision |
| `/assets/PATH` | a file of the assets' manifest, and no other |
| `/profiles/NAME/kernel`, `/profiles/NAME/initrd-N` | the files of a boot profile |
| `/ca.pem` | the certificate that the kernel line pins |

Files go out by sendfile with ranges and ETags, always with a Content-Length. `?machine=ID` on a file says on whose behalf.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog
from aiohttp import web

from provider.domain import mac as macs
from provider.domain.errors import BootwrightError
from provider.domain.inventory import FirmwareKind
from provider.domain.machine import BootMode, Evidence
from provider.planning.boot import BootDecision
from provider.planning.identity import believable_uuid
from provider.wire import ipxe
from provider.wire.ipxe import Image

log = structlog.get_logger()

DECISION_SECONDS = 30.0
"""Deadline of a boot decision; iPXE asks again after a failure."""


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


def application(site: Site, boots: Boots) -> web.Application:
    """The application; `listener.Listener` serves it."""
    handlers = _Handlers(site, boots)
    app = web.Application(client_max_size=1024)
    app.router.add_get("/boot.ipxe", handlers.bootstrap)
    app.router.add_get("/machine.ipxe", handlers.machine)
    app.router.add_get("/assets/{path:.+}", handlers.asset)
    app.router.add_get("/profiles/{name}/{file}", handlers.profile_file)
    app.router.add_get("/ca.pem", handlers.ca)
    return app


class _Handlers:
    def __init__(self, site: Site, boots: Boots) -> None:
        self._site = site
        self._boots = boots

    async def bootstrap(self, request: web.Request) -> web.Response:
        return _script(ipxe.bootstrap_script(self._base(request)))

    async def machine(self, request: web.Request) -> web.Response:
        """The script of one machine. Who cannot be identified is handed to its next boot device."""
        try:
            evidence = read_evidence(request.query)
        except ValueError as error:
            log.info("boot.evidence_refused", source=request.remote, error=str(error))
            return _script(ipxe.disk_script("who are you? The request names no MAC address"), status=400)
        try:
            async with asyncio.timeout(DECISION_SECONDS):
                decision = await self._boots.decide(evidence)
        except BootwrightError as error:
            log.warning("boot.undecided", mac=evidence.macs[0], error=str(error), hint=error.hint)
            return _script(ipxe.disk_script("the provider cannot tell what to boot"), status=503)
        except TimeoutError:
            log.warning("boot.undecided", mac=evidence.macs[0], error="no decision in time")
            return _script(ipxe.disk_script("the provider is too busy"), status=503)
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
        response = _NotedFile(path, lambda size, seconds: self._fetched(request, path, size, seconds))
        response.content_type = "application/octet-stream"
        return response

    def _fetched(self, request: web.Request, path: Path, size: int, seconds: float) -> None:
        machine_id = request.query.get("machine")
        if machine_id and request.method == "GET" and "Range" not in request.headers:
            self._boots.note_file(machine_id, path.name, size, seconds)

    def _render(self, decision: BootDecision, evidence: Evidence, request: web.Request) -> str:
        match decision.mode:
            case BootMode.AGENT:
                return self._agent_script(decision, evidence, request)
            case BootMode.INSTALL:
                return self._install_script(decision, evidence, request)
            case _:
                return ipxe.disk_script(decision.because)

    def _agent_script(self, decision: BootDecision, evidence: Evidence, request: web.Request) -> str:
        image, base = self._site.agent_image, self._base(request)
        query = f"?machine={decision.machine_id}"
        arguments = [
            f"bootwright.url={self._agent_url(request)}",
            f"bootwright.boot_url={base}",
            f"bootwright.ca={self._site.ca_sha256}",
            f"bootwright.ticket={decision.ticket.reveal() if decision.ticket else ''}",
            f"bootwright.mac={evidence.macs[0]}",
            *image.arguments,
        ]
        return ipxe.kernel_script(
            "starting the agent",
            Image("vmlinuz", f"{base}/assets/{ipxe.quoted(image.kernel)}{query}"),
            [Image("initramfs", f"{base}/assets/{ipxe.quoted(image.initramfs)}{query}")],
            arguments,
        )

    def _install_script(self, decision: BootDecision, evidence: Evidence, request: web.Request) -> str:
        name = decision.profile or ""
        profile, base = self._site.profiles[name], f"{self._base(request)}/profiles/{ipxe.quoted(name)}"
        fields = {
            "agent_url": self._agent_url(request),
            "install_url": f"{self._agent_url(request)}/agent/v1/installed",
            "install_ticket": decision.ticket.reveal() if decision.ticket else "",
            "boot_url": self._base(request),
            "ca_sha256": self._site.ca_sha256,
            "mac": evidence.macs[0],
            "machine": decision.machine_id,
            "arguments": " ".join(decision.arguments),
        }
        query = f"?machine={decision.machine_id}"
        initrds = [Image(f"initrd-{n}", f"{base}/initrd-{n}{query}") for n in range(len(profile.initrds))]
        try:
            arguments = ipxe.fill_in(profile.command_line, fields)
            return ipxe.kernel_script(
                f"installing {name}", Image("kernel", f"{base}/kernel{query}"), initrds, arguments
            )
        except ValueError as error:
            log.error("boot.profile_unusable", machine=decision.machine_id, reason=str(error))
            return ipxe.disk_script(f"profile {name} cannot be used")

    def _base(self, request: web.Request) -> str:
        """Our own address as this client reached it; the Host header is the client's word and is not used."""
        return f"http://{_local_address(request)}:{self._site.http_port}"

    def _agent_url(self, request: web.Request) -> str:
        return f"https://{_local_address(request)}:{self._site.agent_port}"


class _NotedFile(web.FileResponse):
    """A file that tells when it has gone out whole."""

    def __init__(self, path: Path, sent: Callable[[int, float], None]) -> None:
        super().__init__(path)
        self._sent = sent

    async def prepare(self, request: web.BaseRequest) -> object:  # type: ignore[override]  # aiohttp's writer type is private
        started = asyncio.get_running_loop().time()
        writer = await super().prepare(request)
        if self.status == 200:
            self._sent(self.content_length or 0, asyncio.get_running_loop().time() - started)
        return writer


def read_evidence(query: Mapping[str, str]) -> Evidence:
    """
    Who a machine says it is; everything but the MAC address may be missing or nonsense.

    Raises:
        ValueError: If there is no MAC address.
    """
    platform = query.get("platform", "")
    return Evidence(
        macs=(macs.parse(query.get("mac", "")),),
        uuid=believable_uuid(query.get("uuid", "")[:64]),
        serial=query.get("serial", "")[:128],
        board_serial=query.get("board_serial", "")[:128],
        firmware={"pcbios": FirmwareKind.BIOS, "efi": FirmwareKind.UEFI}.get(platform),
    )


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

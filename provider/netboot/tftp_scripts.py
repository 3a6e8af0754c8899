"""
Scripts by TFTP, made when they are asked for: GRUB's first one, and the one of each machine from its boot decision; and the
one that newer builds of iPXE look for where they came from.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from typing import Protocol

import structlog

from provider.domain import mac as macs
from provider.domain.errors import BootwrightError, PermanentError, RefusedError, TemporaryError, UnderWayError
from provider.domain.inventory import FirmwareKind
from provider.domain.machine import BootMode, Evidence
from provider.planning import kernels
from provider.planning.boot import BootDecision
from provider.planning.kernels import Caller, KernelBoot, Site
from provider.wire import grub, ipxe

log = structlog.get_logger()

DECISION_SECONDS = 30.0
"""Deadline of a boot decision; GRUB asks again after a failure."""

WAIT_SECONDS = 10
"""Until a machine that waits for its Talos asks again."""

UUID_BY_TALOS = "${uuid}"
"""GRUB does not know the machine's, and leaves this as it is; Talos fills it in."""


class Boots(Protocol):
    """Who decides; `reconcile.boots.BootDesk` does."""

    async def decide(self, evidence: Evidence, *, again: bool = False) -> BootDecision:
        """What the machine with this evidence boots, which may have been told to wait; raises BootwrightError."""

    def note_waiting(self, machine_id: str, reason: str) -> None:
        """A machine was told to wait."""

    def note_impossible(self, machine_id: str, error: PermanentError) -> None:
        """No script can be made for what a machine should boot."""


class Talos(Protocol):
    """Who knows what machines boot that run Talos; `http.talos.TalosBoots` does."""

    async def choose(self, decision: BootDecision, caller: Caller, uuid: str, *, is_uefi: bool) -> KernelBoot:
        """What it loads; raises TemporaryError if not yet, PermanentError if never."""


class TftpScripts:
    """Makes scripts; `make` is what the TFTP server asks."""

    def __init__(self, site: Site, boots: Boots, talos: Talos | None = None) -> None:
        self._site = site
        self._boots = boots
        self._talos = talos

    async def make(self, name: str, address: str) -> bytes | None:
        """
        Give the script with this name for a machine that reached us at `address`; None if it is none of ours.

        Raises:
            OSError: If no decision can be made now; the boot loader shall ask again.
        """
        if name == ipxe.AUTOEXEC:
            base_url = f"http://{address}:{self._site.http_port}"
            return ipxe.bootstrap_script(base_url, is_autoexec=True).encode()
        if name == grub.FIRST:
            return grub.bootstrap_script().encode()
        if name.startswith("grub/") and name.endswith(".lst"):
            return b""  # Lists of modules: without them, GRUB complains on the screen (edge case 33).
        asking = grub.machine_of(name)
        if asking is None:
            return None
        caller = Caller(macs.parse(asking.mac), asking.build, IPv4Address(address))
        return (await self._script(caller, asking.state)).encode()

    async def _script(self, caller: Caller, state: str) -> str:
        evidence = Evidence(macs=(caller.mac,), firmware=FirmwareKind.UEFI)
        try:
            async with asyncio.timeout(DECISION_SECONDS):
                decision = await self._boots.decide(evidence, again=bool(state))
        except RefusedError as error:
            log.warning("boot.refused", mac=caller.mac, error=str(error), hint=error.hint)
            return grub.nothing_script("the provider refuses this machine")
        except (BootwrightError, TimeoutError) as error:
            log.warning("boot.undecided", mac=caller.mac, error=str(error) or "no decision in time")
            raise OSError("the provider cannot tell what to boot") from error
        try:
            return await self._render(decision, caller)
        except TemporaryError as error:
            return self._wait(decision, state, error)

    def _wait(self, decision: BootDecision, before: str, error: TemporaryError) -> str:
        """Have the machine ask again; its events tell it when what it waits for is another thing than before."""
        state = "fetching" if isinstance(error, UnderWayError) else "waiting"
        if before != state:
            self._boots.note_waiting(decision.machine_id, str(error))
        return grub.waiting_script(str(error), state, WAIT_SECONDS)

    async def _render(self, decision: BootDecision, caller: Caller) -> str:
        try:
            match decision.mode:
                case BootMode.AGENT | BootMode.INSTALL:
                    return _kernel_script(await self._choose(decision, caller), str(caller.address))
                case BootMode.DISK:
                    return grub.disk_script(decision.because)
                case BootMode.NOTHING:
                    return grub.nothing_script(decision.because)
        except PermanentError as error:
            self._boots.note_impossible(decision.machine_id, error)
            return grub.nothing_script(f"no script can be made: {error}")

    async def _choose(self, decision: BootDecision, caller: Caller) -> KernelBoot:
        if decision.runs_talos and self._talos is not None:
            return await self._talos.choose(decision, caller, UUID_BY_TALOS, is_uefi=True)
        return kernels.choose(decision, caller, self._site)


def _kernel_script(chosen: KernelBoot, server: str) -> str:
    if chosen.is_unified:
        return grub.program_script(chosen.title, server, chosen.kernel.path)
    initrds = [initrd.path for initrd in chosen.initrds]
    return grub.kernel_script(chosen.title, server, chosen.kernel.path, initrds, chosen.arguments)

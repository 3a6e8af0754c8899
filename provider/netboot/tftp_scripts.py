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
from provider.domain.errors import BootwrightError, PermanentError, RefusedError
from provider.domain.inventory import FirmwareKind
from provider.domain.machine import BootMode, Evidence
from provider.planning import kernels
from provider.planning.boot import BootDecision
from provider.planning.kernels import Caller, Site
from provider.wire import grub, ipxe

log = structlog.get_logger()

DECISION_SECONDS = 30.0
"""Deadline of a boot decision; GRUB asks again after a failure."""


class Boots(Protocol):
    """Who decides; `reconcile.boots.BootDesk` does."""

    async def decide(self, evidence: Evidence) -> BootDecision:
        """What the machine with this evidence boots; raises BootwrightError."""


class TftpScripts:
    """Makes scripts; `make` is what the TFTP server asks."""

    def __init__(self, site: Site, boots: Boots) -> None:
        self._site = site
        self._boots = boots

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
        build, mac = asking
        caller = Caller(macs.parse(mac), build, IPv4Address(address))
        return (await self._script(caller)).encode()

    async def _script(self, caller: Caller) -> str:
        try:
            async with asyncio.timeout(DECISION_SECONDS):
                decision = await self._boots.decide(Evidence(macs=(caller.mac,), firmware=FirmwareKind.UEFI))
        except RefusedError as error:
            log.warning("boot.refused", mac=caller.mac, error=str(error), hint=error.hint)
            return grub.nothing_script("the provider refuses this machine")
        except (BootwrightError, TimeoutError) as error:
            log.warning("boot.undecided", mac=caller.mac, error=str(error) or "no decision in time")
            raise OSError("the provider cannot tell what to boot") from error
        return self._render(decision, caller)

    def _render(self, decision: BootDecision, caller: Caller) -> str:
        try:
            match decision.mode:
                case BootMode.AGENT | BootMode.INSTALL:
                    chosen = kernels.choose(decision, caller, self._site)
                    initrds = [initrd.path for initrd in chosen.initrds]
                    return grub.kernel_script(
                        chosen.title, str(caller.address), chosen.kernel.path, initrds, chosen.arguments
                    )
                case BootMode.DISK:
                    return grub.disk_script(decision.because)
                case BootMode.NOTHING:
                    return grub.nothing_script(decision.because)
        except PermanentError as error:
            log.error("boot.script_impossible", machine=decision.machine_id, error=str(error), hint=error.hint)
            return grub.nothing_script(f"no script can be made: {error}")

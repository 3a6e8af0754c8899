"""
IPMI 2.0 over LAN, through pyghmi in worker processes.

pyghmi keeps sessions, sockets and one I/O loop in globals of its process, blocks, and in some cases never returns (a user that
the BMC does not know, measured). A thread that hangs cannot be ended and would hold that loop for all. So calls run in worker
processes (`workers.py`).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from provider.bmc.workers import Workers
from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerState
from provider.domain.errors import PermanentError, TemporaryError
from provider.domain.inventory import FirmwareKind

WORKER = "provider.bmc.ipmi_worker"

_RETRY_AFTER = timedelta(seconds=10)

_DEVICES = {NextBoot.NETWORK: "network", NextBoot.DISK: "hd", NextBoot.DEFAULT: "default"}


class IpmiPower:
    """One BMC that speaks IPMI; calls to it wait for each other."""

    def __init__(self, bmc: Bmc, workers: Workers) -> None:
        self._bmc = bmc
        self._workers = workers
        self._turn = asyncio.Lock()

    async def read(self) -> PowerState:
        """Get Chassis Status (IPMI 2.0 section 28.2)."""
        answer = await self._call("read")
        return PowerState.ON if answer.get("power") == "on" else PowerState.OFF

    async def act(self, action: PowerAction) -> None:
        """Chassis Control (IPMI 2.0 section 28.3)."""
        await self._call("act", action=action.value)

    async def set_next_boot(self, device: NextBoot, firmware: FirmwareKind | None) -> None:
        """Set System Boot Options, parameters 3 and 5 (IPMI 2.0 section 28.12, table 28-14)."""
        await self._call("boot", device=_DEVICES[device], uefi=firmware is FirmwareKind.UEFI)

    async def _call(self, call: str, **arguments: object) -> dict[str, Any]:
        bmc = self._bmc
        request = {
            "address": bmc.address,
            "port": bmc.port,
            "user": bmc.user,
            "password": bmc.password.reveal(),
            "call": call,
            **arguments,
        }
        async with self._turn:
            answer = await self._workers.ask(request)
        match answer.get("failed"):
            case None:
                return answer
            case "login":
                raise PermanentError(
                    f"BMC {bmc.name} refused the login of {bmc.user!r}: {answer['error']}",
                    hint="check user and password of this BMC in `bmcs`, and that IPMI over LAN is allowed for the user",
                )
            case "refused":
                raise PermanentError(f"BMC {bmc.name} refused to {call} {arguments}: {answer['error']}")
            case _:
                raise TemporaryError(
                    f"BMC {bmc.name} does not answer: {answer['error']}",
                    retry_after=_RETRY_AFTER,
                    hint=f"is it reachable? Try: ipmitool -I lanplus -H {bmc.address} -p {bmc.port} -U {bmc.user} mc info",
                )

"""What a way to a BMC can do, and where to get one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from provider.bmc import http_power, ipmi
from provider.bmc.http_power import HttpPower
from provider.bmc.ipmi import IpmiPower
from provider.bmc.workers import Workers
from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerState
from provider.domain.errors import PermanentError
from provider.domain.inventory import FirmwareKind


class Power(Protocol):
    """
    One BMC. Each call ends within its deadline.

    All raise TemporaryError (no answer, busy) or PermanentError (login refused, not supported), with a hint.
    """

    async def read(self) -> PowerState:
        """The chassis power now."""

    async def act(self, action: PowerAction) -> None:
        """Do it; returns when the BMC took the command. Power off when off, and on when on, are no errors."""

    async def set_next_boot(self, device: NextBoot, firmware: FirmwareKind | None) -> None:
        """Boot from there once, next time."""


class BmcPool:
    """Gives the way to each BMC; one for a BMC's address, so that calls to it stay in line."""

    def __init__(self, call_timeout: timedelta) -> None:
        self._workers = Workers(ipmi.WORKER, call_timeout)
        self._kinds: dict[str, Callable[[Bmc], Power]] = {
            "ipmi": lambda bmc: IpmiPower(bmc, self._workers),
            http_power.KIND: lambda bmc: HttpPower(bmc, call_timeout),
        }
        self._powers: dict[Bmc, Power] = {}

    def power(self, bmc: Bmc) -> Power:
        """
        The way to this BMC; the same object as long as address and credentials stay the same.

        Raises:
            PermanentError: If we do not speak what it speaks.
        """
        if bmc.kind not in self._kinds:
            raise PermanentError(
                f"BMC {bmc.name} speaks {bmc.kind}, and we do not", hint="give it one that speaks IPMI"
            )
        if bmc not in self._powers:
            for stale in [known for known in self._powers if known.name == bmc.name]:
                del self._powers[stale]
            self._powers[bmc] = self._kinds[bmc.kind](bmc)
        return self._powers[bmc]

    async def close(self) -> None:
        """End all worker processes."""
        await self._workers.close()

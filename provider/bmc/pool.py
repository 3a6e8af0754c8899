"""Gives the way to each BMC: by IPMI, by Redfish, by whichever of the two it speaks, or by the power API of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from weakref import WeakValueDictionary

from provider.bmc import either, http_power, ipmi, redfish
from provider.bmc.base import Power
from provider.bmc.either import EitherPower
from provider.bmc.http_power import HttpPower
from provider.bmc.ipmi import IpmiPower
from provider.bmc.redfish import Redfish, RedfishPower
from provider.bmc.workers import Workers
from provider.domain.bmc import EITHER, Bmc, RedfishUse
from provider.domain.errors import PermanentError


class BmcPool:
    """Gives the way to each BMC; one for a BMC's address, so that calls to it stay in line."""

    def __init__(
        self, call_timeout: timedelta, use: RedfishUse = RedfishUse.AVAILABLE, options: Redfish | None = None
    ) -> None:
        self._use = use
        self._options = options or Redfish()
        self._ipmi_workers = Workers(ipmi.WORKER, call_timeout)
        self._redfish_workers = Workers(redfish.WORKER, call_timeout)
        self._looks = asyncio.Semaphore(either.LOOKS)
        self._turns: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()
        self._kinds: dict[str, Callable[[Bmc], Power]] = {
            "ipmi": self._ipmi,
            redfish.KIND: self._redfish,
            EITHER: self._either,
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
                f"BMC {bmc.name} speaks {bmc.kind}, and we do not", hint="give it one that speaks IPMI or Redfish"
            )
        if bmc not in self._powers:
            for stale in [known for known in self._powers if known.name == bmc.name]:
                del self._powers[stale]
            self._powers[bmc] = self._kinds[bmc.kind](bmc)
        return self._powers[bmc]

    async def close(self) -> None:
        """End all worker processes."""
        await self._ipmi_workers.close()
        await self._redfish_workers.close()

    def _ipmi(self, bmc: Bmc) -> Power:
        return IpmiPower(bmc, self._ipmi_workers)

    def _redfish(self, bmc: Bmc) -> Power:
        turn = self._turns.setdefault((bmc.address, bmc.port), asyncio.Lock())
        return RedfishPower(bmc, self._options, self._redfish_workers, turn)

    def _either(self, bmc: Bmc) -> Power:
        if self._use is RedfishUse.NEVER:
            return self._ipmi(bmc)
        elsewhere = replace(bmc, port=self._options.port)
        if self._use is RedfishUse.ALWAYS:
            return self._redfish(elsewhere)
        ways = self._ipmi(bmc), self._redfish(elsewhere)
        return EitherPower(bmc, self._options.url(elsewhere), *ways, self._looks)

"""
Forgets the machines that nobody knows, and all that hangs on them, so that strangers on the provisioning network cannot fill
memory and disk (`planning.forgetting` decides which).

The store looks once more, in the transaction that deletes: what was claimed meanwhile stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from provider.domain.errors import BootwrightError
from provider.planning import forgetting
from provider.planning.forgetting import KEPT_FOR, MOST, Names
from provider.planning.seldom import Seldom
from provider.reconcile.firmwares import Firmwares
from provider.reconcile.machines import Machines

log = structlog.get_logger()

EVERY_SECONDS = 10.0

TOGETHER = 64
"""Machines that go in one transaction, so that others need not wait for it."""


class Forgetter:
    """`names` gives the names that settings and operators have for machines, as of now."""

    def __init__(
        self, machines: Machines, firmwares: Firmwares, names: Callable[[], Names], clock: Callable[[], datetime]
    ) -> None:
        self._machines = machines
        self._firmwares = firmwares
        self._names = names
        self._clock = clock
        self._told = Seldom()

    async def run(self) -> None:
        """Look again and again, for ever; a store that does not answer costs no more than another look."""
        while True:
            try:
                await self.look()
            except BootwrightError as error:
                log.warning("machines.unforgotten", error=str(error))
            await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Forget whose time is over, and the oldest of those that are too many."""
        names = self._names()
        heard = {each.id: at for each, at in self._machines.unclaimed() if not names.have(each)}
        outdated = forgetting.outdated(heard, self._clock())
        await self._forget(outdated, names, f"not heard of for {KEPT_FOR}, and never claimed")
        for machine_id in outdated:
            del heard[machine_id]
        too_many = forgetting.too_many(heard)
        if too_many and self._told.may("too many", self._clock()):
            log.warning(
                "machines.too_many",
                count=len(heard),
                reason=f"more than {MOST} machines asked for a boot script and never reported: somebody may be inventing"
                " MAC addresses; the oldest of them are forgotten",
                hint="see where they are: bootwright machine list; bootwright lease list",
            )
        await self._forget(too_many, names, "too many machines that nobody claimed")

    async def _forget(self, machine_ids: Sequence[str], names: Names, reason: str) -> None:
        for first in range(0, len(machine_ids), TOGETHER):
            for gone in await self._machines.forget(machine_ids[first : first + TOGETHER], names, reason):
                self._firmwares.forget(gone.macs)

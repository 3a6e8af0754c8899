"""What a way to a BMC can do."""

from __future__ import annotations

from typing import Protocol

from provider.domain.bmc import NextBoot, PowerAction, PowerState
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

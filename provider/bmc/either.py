"""
BMCs that we were told of as IPMI and that may speak Redfish too, which is better: it says what went wrong, and tells each
system of a chassis apart.

Which it is, is found out once, before the first call, and holds as long as the daemon runs and the BMC stays the same: a
Redfish service that falls silent later is a BMC that does not answer, and no reason to speak IPMI. Only where nothing was heard
is it tried again, and at a reading: what belongs to one command goes one way.

Anybody may listen at port 443. So the first question is for the service root, which Redfish answers to everybody (DSP0266
section 13.2.5): it costs no worker process, and whatever else listens there never gets our password.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from enum import StrEnum

import aiohttp
import structlog

from provider.bmc.base import Power
from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerState
from provider.domain.errors import PermanentError, TemporaryError
from provider.domain.inventory import FirmwareKind

log = structlog.get_logger()

LOOK_TIMEOUT = timedelta(seconds=5)

LOOK_AGAIN = timedelta(hours=1)

LOOKS = 256
"""Most service roots asked for at once."""

_LONGEST_ROOT = 1 << 16  # bytes


class Speaks(StrEnum):
    """Whether it speaks Redfish."""

    YES = "yes"
    NO = "no"
    SILENT = "silent"


class EitherPower:
    """Redfish at `url` if that works, else IPMI; `looks` is shared by all BMCs."""

    def __init__(self, bmc: Bmc, url: str, ipmi: Power, redfish: Power, looks: asyncio.Semaphore) -> None:
        self._bmc = bmc
        self._url = url
        self._ipmi = ipmi
        self._redfish = redfish
        self._looks = looks
        self._turn = asyncio.Lock()
        self._chosen: Power | None = None
        self._look_again_at: float | None = None  # loop time

    async def read(self) -> PowerState:
        """By whichever way it is; may look again whether there is Redfish."""
        return await (await self._way(may_change=True)).read()

    async def act(self, action: PowerAction) -> None:
        """By whichever way it is."""
        await (await self._way()).act(action)

    async def set_next_boot(self, device: NextBoot, firmware: FirmwareKind | None) -> None:
        """By whichever way it is."""
        await (await self._way()).set_next_boot(device, firmware)

    async def _way(self, *, may_change: bool = False) -> Power:
        async with self._turn:
            now = asyncio.get_running_loop().time()
            is_time = may_change and self._look_again_at is not None and now >= self._look_again_at
            if self._chosen is None or is_time:
                speaks, why = await self._speaks_redfish()
                way = "redfish" if speaks is Speaks.YES else "ipmi"
                log.info("bmc.way_chosen", bmc=self._bmc.name, way=way, reason=why)
                self._chosen = self._redfish if speaks is Speaks.YES else self._ipmi
                self._look_again_at = now + LOOK_AGAIN.total_seconds() if speaks is Speaks.SILENT else None
            return self._chosen

    async def _speaks_redfish(self) -> tuple[Speaks, str]:
        """And why we think so. It has to let us read the power, too."""
        async with self._looks:
            speaks, why = await look(self._url)
        if speaks is not Speaks.YES:
            return speaks, why
        try:
            state = await self._redfish.read()
        except PermanentError as error:
            return Speaks.NO, str(error)
        except TemporaryError as error:
            return Speaks.SILENT, str(error)
        return Speaks.YES, f"it says that it is {state.value}"


async def look(url: str) -> tuple[Speaks, str]:
    """Whether there is a Redfish service root, and what there is else. Certificates do not matter: nothing secret is said."""
    timeout = aiohttp.ClientTimeout(total=LOOK_TIMEOUT.total_seconds())
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for path in ("/redfish/v1/", "/redfish/v1"):
                status, document = await _get(session, f"{url}{path}")
                if status == 200 and isinstance(document, dict) and "RedfishVersion" in document:
                    return Speaks.YES, "it has a service root"
    except TimeoutError:
        return Speaks.SILENT, f"no service root within {LOOK_TIMEOUT.total_seconds():g} s"
    except (aiohttp.ClientError, OSError) as error:
        return Speaks.NO, str(error)
    if status >= 500:
        return Speaks.SILENT, f"it answers {status} in place of a service root"
    return Speaks.NO, f"it answers {status}, and no service root"


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, object]:
    """Status and document, or None if it is no JSON of a sensible size."""
    async with session.get(url, ssl=False, allow_redirects=False) as response:
        raw = b""
        async for piece in response.content.iter_chunked(_LONGEST_ROOT):
            raw += piece
            if len(raw) > _LONGEST_ROOT:
                return response.status, None
    try:
        return response.status, json.loads(raw)
    except (ValueError, RecursionError):
        return response.status, None

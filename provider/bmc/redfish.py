"""
Redfish (DSP0266), through sushy in worker processes.

sushy blocks, and its timeouts are for a single read of a socket: a BMC that sends a byte a second holds its caller for hours,
and a thread that hangs cannot be ended. So calls run as IPMI's do (`workers.py`). What a BMC was found to want is remembered
here: where its system is, and whether it takes a login with each request or wants a session.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from provider.bmc.workers import Workers
from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerState
from provider.domain.errors import PermanentError, TemporaryError
from provider.domain.inventory import FirmwareKind

KIND = "redfish"

WORKER = "provider.bmc.redfish_worker"

_RETRY_AFTER = timedelta(seconds=10)

_PERMANENT = {
    "login": (
        "BMC {bmc.name} refused the login of {bmc.user!r}: {said}",
        "check user and password of this BMC, and that the user may use Redfish",
    ),
    "rights": (
        "BMC {bmc.name} does not let {bmc.user!r} {call}: {said}",
        "give the user the role Operator there",
    ),
    "certificate": (
        "BMC {bmc.name} has a certificate that we do not trust: {said}",
        "name its authority in `power.redfish.ca_file`; if only its dates are wrong, set the clock of the BMC",
    ),
    "tls": (
        "BMC {bmc.name} and we found no common TLS: {said}",
        "does it speak HTTPS? See: openssl s_client -connect {bmc.address}:{bmc.port}",
    ),
    "other": (
        "what answers at BMC {bmc.name} is not Redfish: {said}",
        "is the port right? Try: curl -k {url}/redfish/v1/",
    ),
    "system": (
        "BMC {bmc.name} has not the one system that we look for: {said}",
        "set `system` of this BMC in `bmcs`; see: curl -k -u {bmc.user} {url}/redfish/v1/Systems",
    ),
    "refused": ("BMC {bmc.name} refused to {call}: {said}", ""),
}
"""What the worker says when it failed, as message and hint; nothing changes until somebody does something."""

_TEMPORARY = {
    "busy": ("BMC {bmc.name} is busy: {said}", ""),
    "nonsense": (
        "BMC {bmc.name} answers what we cannot read: {said}",
        "does it start up? See: curl -k -u {bmc.user} {url}/redfish/v1/Systems",
    ),
    "silent": ("BMC {bmc.name} does not answer: {said}", "is it reachable? Try: curl -k {url}/redfish/v1/"),
}

_LESSONS = frozenset({"login", "system", "other"})
"""What fails when a BMC is no longer as we found it."""


@dataclass(frozen=True)
class Redfish:
    """How we speak Redfish to all BMCs."""

    port: int = 443
    """Of BMCs that we were told of as IPMI."""
    https: bool = True
    verify: bool = False
    """Let only BMCs with a certificate of a known authority have our password."""
    ca_file: Path | None = None
    override_mode: bool = True
    """Say with a boot override whether it is for UEFI or for BIOS."""

    def url(self, bmc: Bmc) -> str:
        """The base of all its URLs."""
        host = f"[{bmc.address}]" if ":" in bmc.address else bmc.address
        return f"{'https' if self.https else 'http'}://{host}:{bmc.port}"


class RedfishPower:
    """One system behind a BMC that speaks Redfish; `turn` keeps calls to the BMC in line."""

    def __init__(self, bmc: Bmc, options: Redfish, workers: Workers, turn: asyncio.Lock) -> None:
        self._bmc = bmc
        self._options = options
        self._workers = workers
        self._turn = turn
        self._path = ""
        self._session = False

    async def read(self) -> PowerState:
        """PowerState of the system."""
        state = PowerState(str((await self._call("read"))["power"]))
        if state is PowerState.UNKNOWN:
            raise TemporaryError(f"BMC {self._bmc.name} does not say whether it is on", retry_after=_RETRY_AFTER)
        return state

    async def act(self, action: PowerAction) -> None:
        """Reset the system: On, ForceOff, ForceRestart or GracefulShutdown."""
        await self._call("act", action=action.value)

    async def set_next_boot(self, device: NextBoot, firmware: FirmwareKind | None) -> None:
        """Override the boot source once."""
        await self._call("boot", device=device.value, firmware=None if firmware is None else firmware.value)

    async def _call(self, call: str, **arguments: object) -> dict[str, Any]:
        async with self._turn:
            answer = await self._workers.ask({**self._request(), "call": call, **arguments})
        if (failed := answer.get("failed")) is not None:
            if failed in _LESSONS:
                self._path, self._session = "", False
            raise self._error(failed, f"{call} {' '.join(map(str, arguments.values()))}".rstrip(), answer["error"])
        self._path, self._session = answer["path"], answer["session"]
        return answer

    def _request(self) -> dict[str, object]:
        bmc, options = self._bmc, self._options
        return {
            "url": options.url(bmc),
            "verify": options.verify,
            "ca_file": None if options.ca_file is None else str(options.ca_file),
            "user": bmc.user,
            "password": bmc.password.reveal(),
            "override_mode": options.override_mode,
            "seconds": self._workers.timeout.total_seconds(),
            "system": bmc.system,
            "path": self._path,
            "session": self._session,
        }

    def _error(self, failed: str, call: str, said: str) -> PermanentError | TemporaryError:
        bmc = self._bmc
        names = {"bmc": bmc, "call": call, "said": said, "url": self._options.url(bmc)}
        if failed in _PERMANENT:
            message, hint = _PERMANENT[failed]
            return PermanentError(message.format(**names), hint=hint.format(**names))
        message, hint = _TEMPORARY[failed]
        return TemporaryError(message.format(**names), retry_after=_RETRY_AFTER, hint=hint.format(**names))

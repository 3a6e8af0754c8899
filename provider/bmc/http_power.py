"""
The power API over HTTP of Sidero's QEMU helpers, for machines without a BMC (kind `api`).

POST `/poweron`, `/poweroff`, `/reboot`, `/pxeboot` (network boot, once), and GET `/status` with a JSON object whose `PoweredOn`
is a boolean (pkg/provision/providers/vm of siderolabs/talos). It has neither users nor TLS.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp

from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerState
from provider.domain.errors import NotFoundError, PermanentError, TemporaryError
from provider.domain.inventory import FirmwareKind
from provider.domain.secret import Secret

KIND = "api"

_RETRY_AFTER = timedelta(seconds=10)

_LONGEST_ANSWER = 4096  # bytes

_LARGEST_FILE = 1 << 20  # bytes

_PATHS = {
    PowerAction.ON: "/poweron",
    PowerAction.OFF: "/poweroff",
    PowerAction.CYCLE: "/reboot",  # It starts a machine that is off.
    PowerAction.RESET: "/reboot",
}


class HttpPower:
    """One machine's power API."""

    def __init__(self, bmc: Bmc, timeout: timedelta) -> None:
        self._bmc = bmc
        self._timeout = aiohttp.ClientTimeout(total=timeout.total_seconds())

    async def read(self) -> PowerState:
        """Ask for the status."""
        answer = await self._call("GET", "/status")
        try:
            status = json.loads(answer)
        except (ValueError, RecursionError):
            status = None
        powered_on = status.get("PoweredOn") if isinstance(status, dict) else None
        if not isinstance(powered_on, bool):
            raise PermanentError(
                f"power API {self._bmc.name} answered /status without a boolean PoweredOn",
                hint="does another program listen there?",
            )
        return PowerState.ON if powered_on else PowerState.OFF

    async def act(self, action: PowerAction) -> None:
        """Do it; there is no soft off."""
        path = _PATHS.get(action)
        if path is None:
            raise PermanentError(f"power API {self._bmc.name} cannot do {action.value}")
        await self._call("POST", path)

    async def set_next_boot(self, device: NextBoot, _firmware: FirmwareKind | None) -> None:
        """Boot from the network once; anything else is what it does by itself."""
        if device is NextBoot.NETWORK:
            await self._call("POST", "/pxeboot")

    async def _call(self, method: str, path: str) -> bytes:
        url = f"http://{self._bmc.name}{path}"
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.request(method, url, allow_redirects=False) as response,
            ):
                answer, status = await _read(response), response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise TemporaryError(
                f"power API {self._bmc.name} does not answer: {str(error) or 'out of time'}",
                retry_after=_RETRY_AFTER,
                hint=f"is it reachable? Try: curl http://{self._bmc.name}/status",
            ) from error
        if status != 200:
            message = f"power API {self._bmc.name} answered {method} {path} with status {status}"
            raise TemporaryError(message, retry_after=_RETRY_AFTER) if status >= 500 else PermanentError(message)
        return answer


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """An answer, which may come in pieces; no more of it than matters."""
    answer = b""
    async for piece in response.content.iter_any():
        answer += piece
        if len(answer) > _LONGEST_ANSWER:
            break
    return answer[:_LONGEST_ANSWER]


def access(address: str) -> Bmc:
    """
    What `HOST:PORT` names.

    Raises:
        PermanentError: If that is not what it is.
    """
    host, colon, port = address.rpartition(":")
    named = host and all(letter.isalnum() or letter in ".-" for letter in host)
    if not (colon and named and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise PermanentError(f"{address[:80]!r} is not the HOST:PORT of a power API")
    return Bmc(host, "", Secret(""), int(port), KIND)


def find(folder: Path, uuid: str) -> Bmc:
    """
    Where the power API of a machine is, from what the QEMU helper wrote when it made the machine; blocks.

    It keeps a file `*.config` for each: a JSON object with `NodeUUID`, `APIBindAddress` (`Port`) or `APIPort`, and
    `GatewayAddrs`, in itself or in `Network` (internal/provider/bmc/api/manager.go of siderolabs/omni-infra-provider-bare-metal).

    Raises:
        NotFoundError: If there is none of this machine.
        PermanentError: If the folder cannot be read.
    """
    try:
        for file in sorted(folder.glob("*.config")):
            if file.stat().st_size <= _LARGEST_FILE and (found := _launched(file.read_bytes(), uuid)):
                return access(found)
    except OSError as error:
        raise PermanentError(f"{folder} cannot be read: {error.strerror}") from error
    raise NotFoundError(
        f"the agent runs in test mode, and no file in {folder} tells of a power API of machine {uuid}",
        hint="without the QEMU helper, leave metal.provider.test.mode out of the kernel arguments",
    )


def _launched(raw: bytes, uuid: str) -> str:
    """HOST:PORT, or nothing if the file is of another machine, or tells of no API."""
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(config, dict) or str(config.get("NodeUUID")).lower() != uuid:
        return ""
    gateways: Any = _mapping(config.get("Network")).get("GatewayAddrs") or config.get("GatewayAddrs")
    port: Any = _mapping(config.get("APIBindAddress")).get("Port") or config.get("APIPort")
    try:
        return f"{ipaddress.IPv4Address(gateways[0])}:{int(port)}"
    except (TypeError, ValueError, LookupError):
        return ""


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}

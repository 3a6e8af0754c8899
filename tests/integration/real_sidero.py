"""
The real provider that Sidero Labs make for bare metal, a binary that BOOTWRIGHT_SIDERO_PROVIDER_BIN names.

It answers on the address of the cable, as ours does: its HTTP and its agents on one port, TFTP beside it; its DHCP proxy is off.
It trusts any Omni, and forgets nothing when it is stopped: what it knows is in Omni.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from provider.lab.omni import names
from tests.integration.provider_process import ADDRESS
from tests.integration.real_omni import SURROUNDINGS, RealOmni

VARIABLE = "BOOTWRIGHT_SIDERO_PROVIDER_BIN"

PORT = 50042
"""Its default."""
START_SECONDS = 60.0
_LAST_LINES = 30


@dataclass(frozen=True)
class SideroProvider:
    """Where it answers, and what it says."""

    log: Path
    url: str = f"http://{ADDRESS}:{PORT}"

    async def configuration(self) -> str:
        """What a machine joins Omni by."""
        return await self._read("/config")

    async def script(self, uuid: str) -> str:
        """What a machine is told to boot; as it looks for people where it is told nothing."""
        return await self._read(f"/ipxe/boot.ipxe?uuid={uuid}&mac=52-54-00-00-00-01&arch=x86_64")

    async def _read(self, target: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(self.url + target) as answer:
            return await answer.text()


@contextlib.asynccontextmanager
async def running(folder: Path, omni: RealOmni, provider: str, key: str) -> AsyncIterator[SideroProvider]:
    """Start it under an Omni, and stop it in order."""
    here = SideroProvider(folder / "sidero.log")
    async with asyncio.timeout(START_SECONDS):
        while await omni.find(names.JOIN_CONFIG, provider) is None:  # It does not wait for that.
            await asyncio.sleep(0.1)
    with here.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            os.environ[VARIABLE],
            *_flags(omni, provider),
            env={**os.environ, "OMNI_SERVICE_ACCOUNT_KEY": key},
            stdout=log,
            stderr=log,
        )
    try:
        await _started(process, here)
        yield here
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


def _flags(omni: RealOmni, provider: str) -> list[str]:
    flags = {
        "id": provider,
        "omni-api-endpoint": omni.endpoint,
        "insecure-skip-tls-verify": "true",
        "api-listen-address": ADDRESS,
        "api-advertise-address": ADDRESS,
        "api-port": str(PORT),
        "image-factory-base-url": f"http://{SURROUNDINGS}",
        "image-factory-pxe-base-url": f"http://{SURROUNDINGS}",
        "disable-dhcp-proxy": "true",
        "min-reboot-interval": "1s",
        "debug": "true",
    }
    return [f"--{name}={value}" for name, value in flags.items()]


async def _started(process: asyncio.subprocess.Process, here: SideroProvider) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            if process.returncode is not None:
                raise AssertionError("\n".join(here.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]))
            with contextlib.suppress(aiohttp.ClientError):
                if "SideroLinkConfig" in await here.configuration():
                    return
            await asyncio.sleep(0.1)

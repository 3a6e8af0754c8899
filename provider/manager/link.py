"""
The manager link of the daemon: dials, carries one `connection.Connection`, and dials again when that ends.

Autonomy: nothing else in the daemon waits for this. What must be told lies in the outbox on disk until the manager has it
on disk; with the manager away for a week it is told a week later, in order. There is nothing to save at the end and nothing
to repair at the start: whatever a connection leaves undone when it dies, the next welcome brings up again.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import aiohttp
import structlog

from provider.domain.errors import BootwrightError
from provider.domain.secret import Secret
from provider.kit import backoff
from provider.kit.jsontypes import JsonObject
from provider.manager import messages
from provider.manager.connection import (
    CLOSE_SECONDS,
    Connection,
    Desk,
    LinkEndedError,
    Memory,
    Outbox,
    ReplacedError,
)

log = structlog.get_logger()

CONNECT_SECONDS = 20.0
"""From dialling to the end of the WebSocket handshake."""

FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=1)

_MANY = 1000
"""Failures in a row: enough for the longest pause."""


class ManagerLink:
    """The link of one daemon; `run` it for ever."""

    def __init__(
        self,
        *,
        url: str,
        token: str,
        ca_file: Path | None,
        heartbeat: timedelta,
        provider: str,
        version: str,
        labels: Mapping[str, str],
        outbox: Outbox,
        desk: Desk,
        first_pause: timedelta = FIRST_PAUSE,
    ) -> None:
        self._url = url
        self._token = Secret(token)
        self._ca_file = ca_file
        self._heartbeat = heartbeat.total_seconds()
        self._hello = messages.Hello(
            provider=provider,
            name=socket.gethostname(),
            version=version,
            labels=dict(labels),
            next_sequence=0,
            heartbeat_seconds=self._heartbeat,
        )
        self._outbox = outbox
        self._desk = desk
        self._first_pause = first_pause
        self._memory = Memory()

    def status(self) -> JsonObject:
        """For `bootwright status`."""
        return {"url": self._url, "connected": self._memory.connected, "last_error": self._memory.last_error}

    async def run(self) -> None:
        """Keep a link up; no failure of it ends the daemon."""
        while True:
            # In a task of its own: Python 3.11 leaves a cancellation behind in a task whose TaskGroup failed.
            async with asyncio.TaskGroup() as group:
                group.create_task(self._attempt(), name="manager connection")
            spread = random.random()  # noqa: S311 - jitter
            pause = backoff.delay(self._memory.failures, self._first_pause, LONGEST_PAUSE, spread)
            await asyncio.sleep(pause.total_seconds())

    async def _attempt(self) -> None:
        """One connection; however it ends, it is remembered and logged here."""
        try:
            await self._once()
        except* BootwrightError as errors:
            self._ended(_first(errors))
        except* Exception as errors:
            self._ended(LinkEndedError("an error of ours; see the log"))
            log.exception("manager.link_failed", error=str(errors))

    def _ended(self, error: BootwrightError) -> None:
        self._memory.connected = False
        self._memory.last_error = str(error)
        # Two providers with one id: if both came back at once, neither would do anything else.
        self._memory.failures = _MANY if isinstance(error, ReplacedError) else self._memory.failures + 1
        log.warning("manager.disconnected", url=self._url, error=str(error), hint=error.hint)

    async def _once(self) -> None:
        """One connection, from dialling to its end, which is always an error."""
        async with aiohttp.ClientSession() as http:
            connection = Connection(await self._dial(http), self._outbox, self._desk, self._heartbeat, self._memory)
            try:
                await connection.run(self._hello)
            finally:
                await connection.close()

    async def _dial(self, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await http.ws_connect(
                    self._url,
                    headers={"Authorization": f"Bearer {self._token.reveal()}"},
                    ssl=self._tls(),
                    max_msg_size=messages.LARGEST_MESSAGE,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                )
        except aiohttp.ClientConnectorCertificateError as error:
            hint = "set manager.ca_file to the manager's CA certificate, and dial a name that its certificate has"
            raise LinkEndedError(
                f"the manager's certificate is not trusted: {error.certificate_error}", hint
            ) from error
        except aiohttp.WSServerHandshakeError as error:
            hint = "check manager.token_file" if error.status in (401, 403) else "check manager.url"
            raise LinkEndedError(f"the manager refused the connection with status {error.status}", hint) from error
        except TimeoutError as error:
            raise LinkEndedError(f"the manager did not answer within {CONNECT_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise LinkEndedError(f"the manager cannot be reached: {error}") from error

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._url.startswith("wss:"):
            return False
        try:
            return ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        except OSError as error:  # SSLError is one.
            hint = "set manager.ca_file to the manager's CA certificate in PEM"
            raise LinkEndedError(f"the CA file {self._ca_file} cannot be used: {error}", hint) from error


def _first(errors: BaseExceptionGroup[BootwrightError]) -> BootwrightError:
    """The first cause; the other tasks of a connection often fail together with it."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, BootwrightError) else LinkEndedError(str(found))

"""
The shell of the manager link: dials, carries `session.LinkSession` over a WebSocket, and dials again when it ends.

Autonomy: nothing else in the daemon waits for this. What must be told lies in the outbox on disk until the manager has
acknowledged it; with the manager away for a week it is told a week later, in order.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import aiohttp
import structlog

from provider.domain.errors import BootwrightError, NotFoundError
from provider.domain.machine import Desired
from provider.kit import backoff
from provider.kit.jsontypes import JsonObject
from provider.manager import messages
from provider.manager.messages import BadMessageError, FromProvider, UnknownTypeError
from provider.manager.session import Close, Command, Desire, Forget, Item, LinkSession, SkipTo, TellAll

log = structlog.get_logger()

CONNECT_SECONDS = 20.0
SEND_SECONDS = 20.0
LARGEST_MESSAGE = 16 << 20
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=1)


class Outbox(Protocol):
    """What must still be told; `store.outbox.Outbox` is one."""

    async def after(self, sequence: int, limit: int) -> Sequence[Item]: ...
    async def acknowledge(self, sequence: int) -> None: ...
    async def next_sequence(self) -> int: ...
    async def skip_to(self, sequence: int) -> None: ...
    async def wait(self, after: int) -> None: ...


class Desk(Protocol):
    """Who takes what the manager wants; `reconcile.desired.ManagerDesk` is one."""

    async def desire(self, machine_id: str, revision: int, desired: Desired) -> bool: ...
    async def resync(self) -> None: ...


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
        labels: dict[str, str],
        outbox: Outbox,
        desk: Desk,
    ) -> None:
        self._url = url
        self._token = token
        self._ca_file = ca_file
        self._heartbeat = heartbeat.total_seconds()
        self._provider = provider
        self._version = version
        self._labels = labels
        self._outbox = outbox
        self._desk = desk
        self._connected = False
        self._last_error = ""
        self._progress = asyncio.Event()
        """Set when a message came: there may be room in the window."""

    def status(self) -> JsonObject:
        """For `bootwright status`."""
        return {"url": self._url, "connected": self._connected, "last_error": self._last_error}

    async def run(self) -> None:
        """Keep a link up; no failure of it ends the daemon."""
        failures = 0
        while True:
            try:
                await self._once()
            except _LinkEndedError as error:
                failures = 0 if error.was_up else failures + 1
                self._last_error = str(error)
                log.warning("manager.disconnected", url=self._url, error=str(error), hint=error.hint)
            except Exception:
                failures += 1
                log.exception("manager.link_failed", url=self._url)
            self._connected = False
            spread = random.random()  # noqa: S311 - jitter
            await asyncio.sleep(backoff.delay(max(1, failures), FIRST_PAUSE, LONGEST_PAUSE, spread).total_seconds())

    async def _once(self) -> None:
        """One connection, from dialling to its end, which is always a _LinkEndedError."""
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            socket = await self._dial(http)
            session = await self._session()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._send(socket, session.opened()), name="manager hello")
                    group.create_task(self._listen(socket, session), name="manager listen")
                    group.create_task(self._tell(socket, session), name="manager tell")
                    group.create_task(self._beat(socket), name="manager heartbeat")
            except* _LinkEndedError as errors:
                first = errors.exceptions[0]
                hint = first.hint if isinstance(first, _LinkEndedError) else ""
                raise _LinkEndedError(str(first), hint, was_up=session.welcomed) from None
            finally:
                await socket.close()

    async def _dial(self, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        try:
            return await http.ws_connect(
                self._url,
                headers={"Authorization": f"Bearer {self._token}"},
                ssl=self._tls(),
                max_msg_size=LARGEST_MESSAGE,
                autoping=True,
            )
        except aiohttp.ClientConnectorCertificateError as error:
            hint = "set manager.ca_file to the manager's CA certificate"
            raise _LinkEndedError(
                f"the manager's certificate is not trusted: {error.certificate_error}", hint
            ) from error
        except aiohttp.WSServerHandshakeError as error:
            hint = "check manager.token_file" if error.status in (401, 403) else ""
            raise _LinkEndedError(f"the manager refused the connection with status {error.status}", hint) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _LinkEndedError(f"the manager cannot be reached: {error or 'no answer in time'}") from error

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._url.startswith("wss:"):
            return False
        try:
            return ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        except (OSError, ssl.SSLError) as error:
            raise _LinkEndedError(f"the CA file {self._ca_file} cannot be used: {error}") from error

    async def _session(self) -> LinkSession:
        following = await self._outbox.next_sequence()
        waiting = await self._outbox.after(0, 1)
        oldest = waiting[0].sequence if waiting else following
        return LinkSession(self._provider, self._version, self._labels, following, oldest)

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse, session: LinkSession) -> None:
        """Take messages in; silence for three heartbeats ends the link."""
        while True:
            try:
                async with asyncio.timeout(3 * self._heartbeat):
                    frame = await socket.receive()
            except TimeoutError as error:
                raise _LinkEndedError(f"the manager was silent for {3 * self._heartbeat:g} s") from error
            if frame.type is not aiohttp.WSMsgType.TEXT:
                raise _LinkEndedError(_why_closed(frame, socket))
            try:
                message = messages.from_manager(frame.data)
            except UnknownTypeError as error:
                log.info("manager.message_ignored", error=str(error))
                continue
            except BadMessageError as error:
                log.warning("manager.message_refused", field=error.field, error=error.message)
                await self._send(socket, messages.Error(field=error.field, message=error.message))
                continue
            for command in session.received(message):
                await self._perform(command, socket)
            for complaint in session.complaints:
                log.error("manager.complained", error=complaint)
            session.complaints.clear()
            if isinstance(message, messages.Welcome):
                self._connected, self._last_error = True, ""
                log.info("manager.connected", url=self._url, last_sequence=message.last_sequence)
            self._progress.set()

    async def _perform(self, command: Command, socket: aiohttp.ClientWebSocketResponse) -> None:
        match command:
            case Forget(sequence=sequence):
                await self._outbox.acknowledge(sequence)
            case SkipTo(sequence=sequence):
                await self._outbox.skip_to(sequence)
            case TellAll(why=why):
                log.warning("manager.told_all", reason=why)
                await self._desk.resync()
            case Desire():
                await self._desire(command, socket)
            case Close(why=why):
                raise _LinkEndedError(why)

    async def _desire(self, wanted: Desire, socket: aiohttp.ClientWebSocketResponse) -> None:
        try:
            applied = await self._desk.desire(wanted.machine_id, wanted.revision, wanted.desired)
        except NotFoundError as error:
            await self._send(socket, messages.Error(field="machine", message=str(error)))
        except BootwrightError as error:
            # Not taken: the manager sends it again when the link comes back.
            raise _LinkEndedError(f"what the manager wants could not be stored: {error}") from error
        else:
            log.info("manager.desired", machine=wanted.machine_id, revision=wanted.revision, applied=applied)

    async def _tell(self, socket: aiohttp.ClientWebSocketResponse, session: LinkSession) -> None:
        """Send what the outbox holds, in order, within the window."""
        while True:
            progress = self._progress = asyncio.Event()
            if session.room <= 0:
                await progress.wait()
                continue
            found = await self._outbox.after(session.sent, session.room)
            for message in session.items(found):
                await self._send(socket, message)
            if not found:
                await self._outbox.wait(session.sent)

    async def _beat(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            await self._send(socket, messages.Heartbeat())

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, message: FromProvider) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await socket.send_str(message.model_dump_json())
        except TimeoutError as error:
            raise _LinkEndedError("the manager takes nothing any more") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _LinkEndedError(f"the connection broke: {error}") from error


class _LinkEndedError(BootwrightError):
    """This connection is over; `was_up` if it had been welcomed."""

    def __init__(self, message: str, hint: str = "", *, was_up: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.was_up = was_up


def _why_closed(frame: aiohttp.WSMessage, socket: aiohttp.ClientWebSocketResponse) -> str:
    if frame.type is aiohttp.WSMsgType.CLOSE and frame.extra:
        return f"the manager closed the link: {frame.extra}"
    if frame.type is aiohttp.WSMsgType.BINARY:
        return "the manager sent a binary frame, and this link speaks text"
    return f"the connection ended (code {socket.close_code})"

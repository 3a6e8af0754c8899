"""
The manager's end of the links: one WebSocket a provider.

What a provider sends is stored in batches and acknowledged after the commit. What is wanted of its machines is sent after the
welcome and whenever it changes. A second link of the same provider replaces the first: after a network failure the old one
may take minutes to be noticed.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass, field

import structlog
from aiohttp import WSMsgType, web

from provider.kit.signal import Signal
from provider.manager import messages
from provider.manager.messages import (
    Ack,
    BadMessageError,
    CloseReason,
    DesiredMessage,
    Event,
    FromManager,
    FromProvider,
    Heartbeat,
    Hello,
    Observed,
    UnknownTypeError,
    Welcome,
)
from provider.reference_manager.state import State

log = structlog.get_logger()

HELLO_SECONDS = 20.0
SEND_SECONDS = 20.0
BATCH = 256
QUEUE = 1024
"""Items of one provider that wait for the disk; when full, its socket is not read any more."""


@dataclass
class _Link:
    """One provider's connection."""

    provider: str
    socket: web.WebSocketResponse
    patience: float
    """Seconds of silence after which the provider is gone."""
    items: asyncio.Queue[Observed | Event] = field(default_factory=lambda: asyncio.Queue(QUEUE))

    async def send(self, message: FromManager) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await self.socket.send_str(messages.to_text(message))


class LinkServer:
    """Takes links; `changed` rings after each stored batch."""

    def __init__(self, state: State, token: str) -> None:
        self._state = state
        self._token = token
        self._links: dict[str, _Link] = {}
        self.changed = Signal()

    def application(self) -> web.Application:
        """The application; serve it over TLS."""
        app = web.Application()
        app.router.add_get("/link", self._connected)
        return app

    def connected(self) -> frozenset[str]:
        """The providers whose link is up."""
        return frozenset(self._links)

    async def send(self, provider: str, message: DesiredMessage) -> None:
        """Tell a provider what is wanted; if it is away it hears of it with its next welcome."""
        link = self._links.get(provider)
        if link is None:
            return
        try:
            await link.send(message)
        except (ConnectionError, TimeoutError) as error:
            log.info("link.send_failed", provider=provider, error=str(error))

    async def _connected(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            log.warning("link.refused", source=request.remote, reason="wrong token")
            return web.Response(status=401, text="the token is not the one of this manager\n")
        socket = web.WebSocketResponse(max_msg_size=messages.LARGEST_MESSAGE)
        await socket.prepare(request)
        link = await self._greet(socket)
        if link is None:
            return socket
        await self._replace(link)
        try:
            async with asyncio.TaskGroup() as group:
                storing = group.create_task(self._store(link), name=f"store {link.provider}")
                await self._read(link)
                storing.cancel()
        except* (ConnectionError, TimeoutError) as errors:
            log.info("link.broken", provider=link.provider, error=str(errors.exceptions[0]))
        finally:
            if self._links.get(link.provider) is link:
                del self._links[link.provider]
            log.info("link.closed", provider=link.provider)
            await socket.close()
        return socket

    async def _greet(self, socket: web.WebSocketResponse) -> _Link | None:
        """Hello and welcome; None if there is no way to talk."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                frame = await socket.receive()
            hello = messages.from_provider(frame.data if frame.type is WSMsgType.TEXT else "")
            if not isinstance(hello, Hello):
                raise BadMessageError("type", "the first message is hello")
        except (BadMessageError, UnknownTypeError, TimeoutError) as error:
            log.warning("link.refused", reason=str(error) or "no hello in time")
            await socket.close(code=CloseReason.BAD_HELLO, message=b"the first message is hello")
            return None
        protocol = messages.common_protocol(hello.protocols)
        if protocol is None:
            log.warning("link.refused", provider=hello.provider, reason=f"protocols {hello.protocols} are not known")
            await socket.close(code=CloseReason.NO_COMMON_PROTOCOL, message=b"no common protocol version")
            return None
        last, last_at = await self._state.hello(hello)
        link = _Link(hello.provider, socket, patience=3 * hello.heartbeat_seconds)
        await link.send(Welcome(protocol=protocol, last_sequence=last, last_at=last_at))
        log.info("link.opened", provider=hello.provider, host=hello.name, version=hello.version, last_sequence=last)
        return link

    async def _replace(self, link: _Link) -> None:
        old = self._links.get(link.provider)
        self._links[link.provider] = link
        if old is not None:
            log.warning("link.replaced", provider=link.provider, reason="another link with this provider id came")
            await old.socket.close(code=CloseReason.REPLACED, message=b"another link with this provider id came")
        for wanted in await self._state.wanted(link.provider):
            await link.send(wanted)

    async def _read(self, link: _Link) -> None:
        while True:
            async with asyncio.timeout(link.patience):
                frame = await link.socket.receive()
            if frame.type is not WSMsgType.TEXT:
                return
            try:
                message = messages.from_provider(frame.data)
            except UnknownTypeError as error:
                log.info("link.message_ignored", provider=link.provider, error=str(error))
                continue
            except BadMessageError as error:
                log.warning("link.message_refused", provider=link.provider, field=error.field, error=error.message)
                await link.send(error.answer())
                continue
            await self._took(link, message)

    async def _took(self, link: _Link, message: FromProvider) -> None:
        match message:
            case Observed() | Event():
                await link.items.put(message)
            case messages.Error():
                log.warning("link.complaint", provider=link.provider, field=message.field, error=message.message)
            case Hello():
                await link.send(messages.Error(field="type", message="hello comes once"))
            case Heartbeat():
                await link.send(Heartbeat())  # The provider chose the pace, and takes silence for death.

    async def _store(self, link: _Link) -> None:
        """Write what has come, all of it in one transaction, then acknowledge the last."""
        while True:
            items = [await link.items.get()]
            while not link.items.empty() and len(items) < BATCH:
                items.append(link.items.get_nowait())
            last = await self._state.apply(link.provider, items)
            self.changed.ring()
            await link.send(Ack(sequence=last))

"""
One connection to the manager, from hello to its end: carries a `session.LinkSession` over a WebSocket.

After hello and welcome three tasks are at work: one listens, and performs what a message asks for before it reads the next;
one sends what the outbox holds; one gives a sign of life. Whichever fails ends the connection by raising.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

import aiohttp
import structlog

from provider.domain.errors import BootwrightError, TemporaryError
from provider.domain.machine import Desired
from provider.manager import messages
from provider.manager.messages import (
    Ack,
    BadMessageError,
    CloseReason,
    FromManager,
    FromProvider,
    Heartbeat,
    Hello,
    UnknownTypeError,
)
from provider.manager.session import (
    Close,
    Command,
    Compare,
    Complaint,
    Desire,
    Forget,
    Item,
    LinkSession,
    SkipTo,
    TellAll,
)

log = structlog.get_logger()

SEND_SECONDS = 20.0
CLOSE_SECONDS = 2.0


class Outbox(Protocol):
    """What must still be told; `store.outbox.Outbox` is one. What it did is on disk when it returns."""

    async def after(self, sequence: int, limit: int) -> Sequence[Item]:
        """The next items after a number, in order."""

    async def acknowledge(self, sequence: int) -> None:
        """Forget everything up to and including a number."""

    async def oldest(self) -> int:
        """The first number that no manager has acknowledged."""

    async def next_sequence(self) -> int:
        """The number that the next new item will get."""

    async def skip_to(self, sequence: int) -> None:
        """Give all that is kept, and all that follows, numbers above `sequence`; keep the order."""

    async def wait(self, after: int) -> None:
        """Return when there is an item with a number above `after`."""


class Desk(Protocol):
    """Who takes what the manager wants; `reconcile.desired.ManagerDesk` is one."""

    async def desire(self, machine_id: str, revision: int, desired: Desired) -> bool:
        """Take the desired state of a machine; False if that revision is not new. May raise BootwrightError."""

    async def resync(self) -> None:
        """Put the observed state of every machine into the outbox again."""


@dataclass
class Memory:
    """What is remembered from one connection to the next, and shown as the link's status."""

    connected: bool = False
    last_error: str = ""
    failures: int = 0
    """Connections in a row that were of no use."""
    told_from: int | None = None
    """See `LinkSession.told_from`."""


class LinkEndedError(BootwrightError):
    """This connection is over."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)


class ReplacedError(LinkEndedError):
    """The manager took another's link with our provider id instead of this one."""


class Connection:
    """`run` it once; `heartbeat` is in seconds."""

    def __init__(
        self,
        websocket: aiohttp.ClientWebSocketResponse,
        outbox: Outbox,
        desk: Desk,
        heartbeat: float,
        memory: Memory,
    ) -> None:
        self._websocket = websocket
        self._outbox = outbox
        self._desk = desk
        self._heartbeat = heartbeat
        self._memory = memory
        self._room = asyncio.Event()
        """Set when the window may have room again."""

    async def run(self, hello: Hello) -> NoReturn:
        """
        Greet, then talk until something ends it; the outbox numbers of `hello` are filled in here.

        Raises:
            LinkEndedError: If the peer or the network ended it, alone or in a group.
            BootwrightError: If outbox or desk failed, alone or in a group.
        """
        session = await self._session(hello)
        await self._send(session.hello)
        while session.welcome is None:
            await self._take(await self._receive(), session)
        self._memory.connected, self._memory.last_error = True, ""
        log.info("manager.connected", last_sequence=session.welcome.last_sequence, oldest=session.oldest)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(session), name="manager listen")
            group.create_task(self._tell(session), name="manager tell")
            group.create_task(self._beat(), name="manager heartbeat")
        raise AssertionError("all three run until one raises")

    async def close(self) -> None:
        """Say good-bye to a peer that may be gone."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._websocket.close()
        except TimeoutError:
            log.debug("manager.close_timed_out")

    async def _session(self, hello: Hello) -> LinkSession:
        following, oldest = await self._outbox.next_sequence(), await self._outbox.oldest()
        return LinkSession(hello.model_copy(update={"next_sequence": following}), oldest, self._memory.told_from)

    # --- the three tasks ---

    async def _listen(self, session: LinkSession) -> None:
        while True:
            await self._take(await self._receive(), session)

    async def _tell(self, session: LinkSession) -> None:
        while True:
            self._room.clear()
            if session.room <= 0:
                await self._room.wait()
                continue
            found = await self._outbox.after(session.sent, session.room)
            for message in session.items(found):
                await self._send(message)
            if not found:
                await self._outbox.wait(session.sent)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            await self._send(Heartbeat())

    # --- frames ---

    async def _receive(self) -> FromManager | None:
        """The next message, None for one that is of no use; silence for three heartbeats ends the link."""
        patience = 3 * self._heartbeat
        try:
            async with asyncio.timeout(patience):
                frame = await self._websocket.receive()
        except TimeoutError as error:
            raise LinkEndedError(f"the manager was silent for {patience:g} s") from error
        if frame.type is not aiohttp.WSMsgType.TEXT:
            raise _why_closed(frame)
        try:
            return messages.from_manager(frame.data)
        except UnknownTypeError as error:
            log.info("manager.message_ignored", error=str(error))
        except BadMessageError as error:
            log.warning("manager.message_refused", field=error.field, error=error.message, machine=error.machine)
            await self._send(error.answer())
        return None

    async def _send(self, message: FromProvider) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._websocket.send_str(messages.to_text(message))
        except TimeoutError as error:
            raise LinkEndedError(f"the manager took nothing for {SEND_SECONDS:g} s") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise LinkEndedError(f"the connection broke: {error}") from error

    # --- what messages ask for ---

    async def _take(self, message: FromManager | None, session: LinkSession) -> None:
        if message is None:
            return
        for command in session.received(message):
            await self._perform(command, session)
        if isinstance(message, Ack | Heartbeat):
            self._memory.failures = 0  # It carried something, or stood for a while.
        self._room.set()

    async def _perform(self, command: Command, session: LinkSession) -> None:
        match command:
            case Compare(sequence=sequence):
                found = await self._outbox.after(sequence - 1, 1)
                at = found[0].at if found and found[0].sequence == sequence else None
                for following in session.compared(at):
                    await self._perform(following, session)
            case Forget(sequence=sequence):
                await self._outbox.acknowledge(sequence)
            case TellAll(why=why):
                log.warning("manager.told_all", reason=why)
                await self._desk.resync()
                await self._remember_telling()
            case SkipTo(sequence=sequence):
                await self._outbox.skip_to(sequence)
                await self._remember_telling()
            case Desire():
                await self._desire(command)
            case Complaint():
                # What the manager cannot use it drops: somebody must look at the two versions.
                log.error("manager.complained", field=command.field, error=command.message, machine=command.machine_id)
            case Close(why=why):
                raise LinkEndedError(why)

    async def _remember_telling(self) -> None:
        self._memory.told_from = await self._outbox.oldest()

    async def _desire(self, wanted: Desire) -> None:
        """One machine that cannot have what is wanted of it must not hold up the others."""
        machine, revision = wanted.machine_id, wanted.revision
        try:
            applied = await self._desk.desire(machine, revision, replace(wanted.desired, revision=revision))
        except TemporaryError:
            raise  # Nothing was stored: the link ends, and the manager sends it again to the next one.
        except BootwrightError as error:
            log.warning("manager.desire_refused", machine=machine, revision=revision, error=str(error))
            await self._send(messages.Error(field="machine", message=str(error), machine=machine))
        except Exception:
            log.exception("manager.desire_failed", machine=machine, revision=revision)
            await self._send(messages.Error(field="state", message="an error of ours", machine=machine))
        else:
            log.info("manager.desired", machine=machine, revision=revision, applied=applied)


def _why_closed(frame: aiohttp.WSMessage) -> LinkEndedError:
    said = f": {frame.extra}" if frame.extra else ""
    match frame.type, frame.data:
        case aiohttp.WSMsgType.CLOSE, CloseReason.REPLACED:
            hint = "another provider has our provider.id: give each id to one provider only"
            return ReplacedError(f"the manager closed the link{said}", hint)
        case aiohttp.WSMsgType.CLOSE, CloseReason.NO_COMMON_PROTOCOL:
            return LinkEndedError(f"the manager closed the link{said}", "update the older one of manager and provider")
        case aiohttp.WSMsgType.CLOSE, code:
            return LinkEndedError(f"the manager closed the link (code {code}){said}")
        case aiohttp.WSMsgType.BINARY, _:
            return LinkEndedError("the manager sent a binary frame, and this link speaks text")
        case aiohttp.WSMsgType.ERROR, error:
            return LinkEndedError(f"the manager sent what is no WebSocket message: {error}")
    return LinkEndedError("the connection broke")

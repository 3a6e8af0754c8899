"""
The listener that Talos' metal agents dial: each opens a reverse tunnel (`wire.tunnel`) and is called through it.

For each tunnel there are two tasks: gRPC's, which carries frames as long as the tunnel lasts, and the desk's, which works with
the agent and outlives the tunnel by as long as it takes to write down what came of it. Either ends the other. The desk's are
cancelled only when we stop.

Nothing on the provisioning network proves who it is, so what an agent may use up is bounded (`Limits`). Which machine it speaks
for is the desk's to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc
import grpc.aio
import structlog

from provider.domain.errors import BootwrightError, MalformedPacketError, PermanentError, TemporaryError
from provider.http import listener
from provider.http.tls import Authority
from provider.kit.signal import Signal
from provider.wire import protobuf, tunnel
from provider.wire.protobuf import Method
from provider.wire.tunnel import Answered, Event, Failed, StatusCode, Tunnel

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Request = TypeVar("Request", bound="DataclassInstance")
Answer = TypeVar("Answer", bound="DataclassInstance")

log = structlog.get_logger()

SHUTDOWN_SECONDS = 1.0
"""For tunnels to end when we do; they are told before."""

LONGEST_ID = 128
"""Letters of what an agent calls its machine."""

_NAME = "listener for Talos agents"


@dataclass(frozen=True, slots=True)
class Limits:
    """What agents may use up."""

    tunnels: int = 4000
    """At once; a further agent is sent away, and Talos starts it again. There may be twice as many connections."""
    tunnels_per_address: int = 8
    """More than one that lives is a mistake, but those of a machine that was switched off take a while to be missed."""
    ping: timedelta = timedelta(seconds=20)
    """So often an agent's end of the connection has to answer. One that is gone is missed after a half more."""
    idle: timedelta = timedelta(minutes=1)
    """A connection without a tunnel is closed then."""
    frame_bytes: int = 256 << 10
    frames_at_once: int = 64
    """An honest agent sends ten for a call. Whoever sends more is read slowly, and its own end of the connection fills up."""
    pause: timedelta = timedelta(milliseconds=50)
    """After each `frames_at_once`."""


class Desk(Protocol):
    """Who knows the machines; `reconcile.talos_agents.TalosAgentDesk` is one."""

    async def serve(self, uuid: str, address: str, agent: TalosAgent) -> None:
        """
        Work with an agent that says it is of this machine, until it is gone.

        A BootwrightError sends it away, and is what it hears.
        """


class TalosAgent:
    """One agent behind its tunnel."""

    def __init__(self, *, negotiated: bool, limits: Limits) -> None:
        self._tunnel = Tunnel(negotiated=negotiated)
        self._limits = limits
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._outgoing = asyncio.Event()
        self._over = asyncio.Event()

    async def call(self, method: Method[Request, Answer], request: Request, timeout: timedelta) -> Answer:
        """
        Call the agent. It is told to stop when the time is up, and when nobody waits for the answer any more.

        Raises:
            TemporaryError: If there was no answer in time, or the tunnel ended.
            PermanentError: If the agent says that it did not work, or what it says is no answer.
        """
        number = self._tunnel.call(method.name, protobuf.encode(request), timeout=timeout)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._outgoing.set()
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                return protobuf.decode(method.answer, await answer)
        except TimeoutError:
            raise TemporaryError(
                f"the agent did not answer {_short(method.name)} within {timeout.total_seconds():g} s",
                retry_after=tunnel.RETRY_AFTER,
            ) from None
        except MalformedPacketError as error:
            raise PermanentError(f"the agent's answer to {_short(method.name)} is none: {error}") from error
        finally:
            del self._waiting[number]
            self._tunnel.cancel(number)
            self._outgoing.set()

    @property
    def why_gone(self) -> str | None:
        """Why its tunnel is over; None as long as it is not."""
        return self._tunnel.end

    async def gone(self) -> None:
        """Wait until its tunnel is over."""
        await self._over.wait()

    def end(self, why: str) -> None:
        """End the tunnel; calls that are under way fail."""
        self._settle(self._tunnel.ended(why))
        self._over.set()

    async def carry(
        self, read: Callable[[], Awaitable[bytes | None]], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Carry frames both ways until the tunnel is over. Neither `read` nor `write` is called after that."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._read(read), name="tunnel frames in"),
                    group.create_task(self._write(write), name="tunnel frames out"),
                ]
                await self._over.wait()
                for task in tasks:
                    task.cancel()
        finally:
            self.end("its connection broke")

    async def _read(self, read: Callable[[], Awaitable[bytes | None]]) -> None:
        frames = 0
        while (raw := await read()) is not None:
            self._settle(self._tunnel.received(raw))
            self._outgoing.set()
            if self._tunnel.end is not None:
                self._over.set()
                return
            frames += 1
            if frames % self._limits.frames_at_once == 0:
                await asyncio.sleep(self._limits.pause.total_seconds())
        self.end("the agent ended it")

    async def _write(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """The only one who takes frames: they are written in the order in which they were taken."""
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            for frame in self._tunnel.take_frames():
                await write(frame)

    def _settle(self, events: list[Event]) -> None:
        for event in events:
            waiting = self._waiting.get(event.number)
            if waiting is None or waiting.done():
                continue
            match event:
                case Answered(answer=answer):
                    waiting.set_result(answer)
                case Failed(code=StatusCode.UNAVAILABLE, message=message):
                    waiting.set_exception(TemporaryError(message, retry_after=tunnel.RETRY_AFTER))
                case Failed(code=code, message=message):
                    waiting.set_exception(PermanentError(f"the agent says: {message} ({code.name})"))


@dataclass(eq=False)
class _Door:
    """An address that we listen on."""

    server: grpc.aio.Server
    agents: set[TalosAgent] = field(default_factory=set)
    is_started: bool = False


class TalosAgentListener:
    """gRPC on the addresses that it is opened on; `open` and `close` at any time, `run` for ever."""

    def __init__(
        self,
        desk: Desk,
        port: int,
        credentials: Callable[[str], grpc.ServerCredentials] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`credentials` makes those of an address (see `tls`); None: without TLS."""
        self._desk = desk
        self._port = port
        self._credentials = credentials
        self._limits = limits or Limits()
        self._doors: dict[str, _Door] = {}
        self._wanted: set[str] = set()
        self._changed = Signal()
        self._tunnels: Counter[str] = Counter()
        self._group: asyncio.TaskGroup | None = None

    def open(self, address: str) -> None:
        """
        Listen there, also while `run` runs; before, connections wait for it.

        Raises:
            PermanentError: If the port cannot be had; says what to do.
        """
        if address not in self._doors:  # It may have been closed in this very turn of the loop.
            self._doors[address] = self._door(address)
        self._wanted.add(address)
        self._changed.ring()

    def close(self, address: str) -> None:
        """Listen there no more; its tunnels end."""
        self._wanted.discard(address)
        self._changed.ring()

    async def run(self) -> None:
        """Serve for ever; ends the daemon if it fails. An agent that goes wrong is logged, and harms no other."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await self._follow(group)
                finally:
                    self._group = None  # Whoever comes now is sent away.
        finally:
            await asyncio.gather(*(_shut(door) for door in self._doors.values()))

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        """Start and stop servers as they are opened and closed."""
        while True:
            changed = self._changed.ticket()
            for address, door in list(self._doors.items()):
                if address not in self._wanted:
                    del self._doors[address]
                    group.create_task(_shut(door), name=f"talos agents shut {address}")
                elif not door.is_started:
                    door.is_started = True
                    group.create_task(_keep(door.server), name=f"talos agents {address}")
            await changed.wait()

    def _door(self, address: str) -> _Door:
        _probe(address, self._port)
        door = _Door(grpc.aio.server(options=_options(self._limits)))
        service, method = tunnel.METHOD.strip("/").split("/")
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method: grpc.stream_stream_rpc_method_handler(functools.partial(self._on_tunnel, door))
        }
        door.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        where = f"{address}:{self._port}"
        try:
            if self._credentials is None:
                door.server.add_insecure_port(where)
            else:
                door.server.add_secure_port(where, self._credentials(address))
        except RuntimeError as error:
            raise PermanentError(f"the {_NAME} cannot listen on {where}: {error}") from error
        return door

    async def _on_tunnel(
        self, door: _Door, _requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        """gRPC's task of one tunnel; cancelled when its connection breaks."""
        with contextlib.suppress(grpc.aio.BaseError):  # It is over already: reading will tell.
            # At once: the agent waits for it before it sends anything.
            await context.send_initial_metadata((tunnel.NEGOTIATE,))
        metadata = context.invocation_metadata() or ()
        uuid = next((str(value) for key, value in metadata if key == tunnel.MACHINE_ID), "").strip().lower()
        address = _address(context.peer())
        group, refusal = self._group, self._refusal(uuid, address)
        if group is None or refusal:
            log.warning("talos_agent.sent_away", uuid=uuid[:LONGEST_ID], source=address, error=refusal or "we stop")
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, refusal or "the provider stops")
        agent = TalosAgent(negotiated=tunnel.negotiates(metadata), limits=self._limits)
        with self._counted(address, door, agent):
            serving = group.create_task(self._serve(uuid, address, agent), name=f"talos agent {uuid}")
            await agent.carry(functools.partial(_read, context), functools.partial(_write, context))
        if serving.done() and not serving.cancelled() and (refusal := serving.result()):
            await context.abort(grpc.StatusCode.UNAVAILABLE, refusal)

    async def _serve(self, uuid: str, address: str, agent: TalosAgent) -> str:
        """The desk's task of one tunnel; says why the agent was sent away, if it was."""
        try:
            await self._desk.serve(uuid, address, agent)
        except BootwrightError as error:
            log.warning("talos_agent.sent_away", uuid=uuid, source=address, error=str(error), hint=error.hint)
            return str(error)
        except Exception:
            log.exception("talos_agent.failed", uuid=uuid, source=address)
            return "the provider made a mistake"
        else:
            return ""
        finally:
            agent.end("the provider ended it")

    def _refusal(self, uuid: str, address: str) -> str:
        if not uuid or len(uuid) > LONGEST_ID:
            return f"the metadata {tunnel.MACHINE_ID} is missing or too long"
        if self._tunnels.total() >= self._limits.tunnels:
            return f"there are {self._limits.tunnels} tunnels already"
        if self._tunnels[address] >= self._limits.tunnels_per_address:
            return f"there are {self._limits.tunnels_per_address} tunnels of this address already"
        return ""

    @contextlib.contextmanager
    def _counted(self, address: str, door: _Door, agent: TalosAgent) -> Iterator[None]:
        self._tunnels[address] += 1
        door.agents.add(agent)
        try:
            yield
        finally:
            door.agents.discard(agent)
            self._tunnels[address] -= 1
            if not self._tunnels[address]:
                del self._tunnels[address]


def tls(authority: Authority) -> Callable[[str], grpc.ServerCredentials]:
    """TLS by our own authority, with a certificate for each address: agents look for what they dialled in it."""

    def credentials(address: str) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials([authority.issue([address])])

    return credentials


async def _read(context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes | None:
    """The next frame; None when there will be no more, for whatever reason."""
    try:
        raw = await context.read()
    except grpc.aio.BaseError:
        return None
    return raw if isinstance(raw, bytes) else None


async def _write(context: grpc.aio.ServicerContext[bytes, bytes], frame: bytes) -> None:
    with contextlib.suppress(grpc.aio.BaseError):  # The stream broke: reading tells, and ends the tunnel.
        await context.write(frame)


async def _keep(server: grpc.aio.Server) -> None:
    """Serve until it is stopped; raises what it failed of."""
    await server.start()
    while await server.wait_for_termination(timeout=3600):
        pass


async def _shut(door: _Door) -> None:
    for agent in list(door.agents):
        agent.end("the provider stops")
    if not door.is_started:
        await door.server.start()  # Only a server that runs can be stopped, and gives back its port.
    await door.server.stop(SHUTDOWN_SECONDS)


def _options(limits: Limits) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.frame_bytes),
        ("grpc.max_concurrent_streams", limits.tunnels_per_address),
        ("grpc.max_allowed_incoming_connections", 2 * limits.tunnels),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.idle)),
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.idle)),
        ("grpc.keepalive_time_ms", _milliseconds(limits.ping)),
        ("grpc.keepalive_timeout_ms", _milliseconds(limits.ping / 2)),
        (
            "grpc.http2.ping_timeout_ms",
            _milliseconds(limits.ping / 2),
        ),  # A minute by itself, whatever the line above says.
        ("grpc.http2.max_pings_without_data", 0),  # As many as it takes.
    )


def _milliseconds(time: timedelta) -> int:
    return round(time / timedelta(milliseconds=1))


def _probe(address: str, port: int) -> None:
    """Find out why the port cannot be had: gRPC does not tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(1)
        except OSError as error:
            raise listener.refused(_NAME, f"{address}:{port}", port, error) from error


def _address(peer: str) -> str:
    """The address in `ipv4:10.0.0.7:4711`, as gRPC writes it."""
    return peer.split(":", 1)[-1].rsplit(":", 1)[0].strip("[]")


def _short(method: str) -> str:
    return method.rsplit("/", 1)[-1]

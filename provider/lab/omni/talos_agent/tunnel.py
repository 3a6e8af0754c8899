"""
The agent's end of a reverse tunnel, as tunnel_server.go and flow_control.go of jhump/grpctunnel have it.

Frames of the provider come to `received`; each call becomes a task that serves it and sends its answer as the provider's window
allows. What the provider must not do raises `BrokenRuleError`, which ends the tunnel as it does there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from provider.lab.omni.talos_agent import wire
from provider.lab.omni.talos_agent.faults import Faults

METHOD = "/grpctunnel.v1.TunnelService/OpenReverseTunnel"
NEGOTIATE = ("grpctunnel-negotiate", "on")

CHUNK = 16384  # bytes

UNKNOWN, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE = 2, 8, 12, 14

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class BrokenRuleError(Exception):
    """The provider sent what it must not."""


class CallError(Exception):
    """A call went wrong."""

    def __init__(self, message: str, code: int = UNKNOWN) -> None:
        super().__init__(message)
        self.code = code


@dataclass(eq=False)
class _Call:
    """A call, until it is answered."""

    number: int
    method: str
    timeout: float | None
    has_windows: bool
    window: int
    """What we may send."""
    unread: int = 0
    size: int | None = None
    request: bytearray = field(default_factory=bytearray)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


Serve = Callable[[str, bytes], Awaitable[bytes]]


class Tunnel:
    """`send` takes frames, `serve` answers a method's request or raises CallError; tasks go into `group`."""

    def __init__(
        self, send: Callable[[bytes], Awaitable[None]], serve: Serve, group: asyncio.TaskGroup, faults: Faults
    ) -> None:
        self._send = send
        self._serve = serve
        self._group = group
        self._faults = faults
        self._calls: dict[int, _Call] = {}
        self._last = -1

    async def say_settings(self) -> None:
        """The first frame, for a provider that negotiates."""
        revisions = b"".join(wire.put(1, each) for each in self._faults.revisions)
        await self._send_frame(-1, 6, revisions + wire.put(2, self._faults.window))

    async def received(self, raw: bytes) -> None:
        """Take a frame."""
        fields = wire.read(raw)
        number = wire.signed(wire.last(fields, 1, 0))
        kinds = [kind for kind in fields if kind != 1]
        if len(kinds) != 1:
            raise BrokenRuleError(f"a frame has the members {kinds}")
        if kinds[0] == 2:
            await self._begin(number, _bytes(wire.last(fields, 2, b"")))
            return
        call = self._calls.get(number)
        if call is None:
            if number > self._last:
                raise BrokenRuleError(f"call {number} was never begun")
            return  # Late.
        await self._on_frame(call, kinds[0], wire.last(fields, kinds[0], 0 if kinds[0] == 7 else b""))

    async def _begin(self, number: int, raw: bytes) -> None:
        if number <= self._last:
            raise BrokenRuleError(f"call {number} was begun before")
        self._last = number
        fields = wire.read(raw)
        method = _bytes(wire.last(fields, 1, b"")).decode().removeprefix("/")
        revision = wire.last(fields, 4, 0)
        if revision not in self._faults.revisions:
            raise BrokenRuleError(f"revision {revision!r} was not offered")
        window = wire.signed(wire.last(fields, 3, 0))
        timeout = _timeout(_bytes(wire.last(fields, 2, b"")))
        self._calls[number] = _Call(number, method, timeout, revision == 1, window)

    async def _on_frame(self, call: _Call, kind: int, value: wire.Value) -> None:
        match kind:
            case 3:
                fields = wire.read(_bytes(value))
                if call.size is not None:
                    raise BrokenRuleError("a second request")
                call.size = wire.signed(wire.last(fields, 1, 0))
                await self._take(call, _bytes(wire.last(fields, 2, b"")))
            case 4:
                await self._take(call, _bytes(value))
            case 5:
                if call.size != len(call.request):
                    raise BrokenRuleError(f"half-closed after {len(call.request)} of {call.size} bytes")
                call.task = self._group.create_task(self._answer(call), name=f"call {call.number} {call.method}")
            case 6:
                self._end(call)
            case 7:
                call.window += wire.signed(value)
                call.room.set()
            case other:
                raise BrokenRuleError(f"a frame of kind {other}")

    async def _take(self, call: _Call, data: bytes) -> None:
        if call.size is None or len(data) > CHUNK or len(call.request) + len(data) > call.size:
            raise BrokenRuleError("data of a request that does not fit")
        call.request += data
        if not call.has_windows:
            return
        call.unread += len(data)
        if call.unread > self._faults.window:
            raise BrokenRuleError("more than the window")
        if len(call.request) < call.size:
            length, call.unread = call.unread, 0
            await self._send_frame(call.number, 7, length)

    def _end(self, call: _Call) -> None:
        """The provider does not wait any more."""
        del self._calls[call.number]
        if call.task is not None:
            call.task.cancel()

    async def _answer(self, call: _Call) -> None:
        try:
            async with asyncio.timeout(call.timeout):
                answer = await self._serve(call.method, bytes(call.request))
                await self._send_frame(call.number, 2, b"")
                await self._send_message(call, answer)
        except TimeoutError:
            await self._close(call, UNKNOWN, "context deadline exceeded")  # Its library does not translate it.
        except CallError as error:
            await self._close(call, error.code, str(error))
        else:
            await self._close(call, 0, "")

    async def _send_message(self, call: _Call, answer: bytes) -> None:
        sent, is_first = 0, True
        while is_first or sent < len(answer):
            length = min(CHUNK, len(answer) - sent)
            if call.has_windows and not self._faults.ignores_windows:
                while length and call.window <= 0:
                    call.room.clear()
                    await call.room.wait()
                length = min(length, call.window)
                call.window -= length
            data = answer[sent : sent + length]
            message = wire.put(1, len(answer)) + wire.put(2, data)
            await self._send_frame(call.number, 3 if is_first else 4, message if is_first else data)
            sent, is_first = sent + length, False

    async def _close(self, call: _Call, code: int, message: str) -> None:
        self._calls.pop(call.number, None)
        status = wire.put(2, wire.put(1, code) + wire.put(2, message)) if code else b""
        await self._send_frame(call.number, 5, status)

    async def _send_frame(self, number: int, kind: int, value: int | bytes) -> None:
        await self._send(wire.put(1, number) + wire.put(kind, value))


def _bytes(value: wire.Value) -> bytes:
    if not isinstance(value, bytes):
        raise wire.NotProtobufError("bytes are a number")
    return value


def _timeout(metadata: bytes) -> float | None:
    """Seconds that the request's `grpc-timeout` gives it."""
    for entry in wire.read(metadata).get(1, []):
        fields = wire.read(_bytes(entry))
        if wire.last(fields, 1, b"") == b"grpc-timeout":
            values = wire.read(_bytes(wire.last(fields, 2, b""))).get(1, [])
            with contextlib.suppress(ValueError, KeyError, IndexError):
                text = _bytes(values[-1]).decode()
                return int(text[:-1]) * _UNITS[text[-1]]
    return None

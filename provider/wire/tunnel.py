"""
The reverse tunnel of the Talos metal agent: gRPC calls to the agent, over a stream that the agent opened to us.

The agent calls `METHOD` of ours and then serves calls inside of that stream. Its frames come in and ours go out as messages
of the stream, many calls at once, each with an id. `Tunnel` is our end, for one stream and without any input or output:

    events = tunnel.received(frame)               whatever arrives; `Answered` and `Failed` say which calls are over
    number = tunnel.call(method, request)         or `tunnel.cancel(number)`
    frames = tunnel.take_frames()                 after each of these: send them in this order
    events = tunnel.ended("the agent is gone")    when the stream is over
    tunnel.end                                    once it is set, end the stream: it says why

What is to be sent is made when it is taken, so take frames only as fast as the stream takes them: an agent that does not
read cannot fill our memory, and one that is not read is stopped by its windows.

There is no standard of it. The rules are those of jhump/grpctunnel, which the agent is built with, named here by file:
`tunnel.proto` (messages and revisions), `flow_control.go` (chunks and windows), `tunnel_client.go` (our end) and
`tunnel_server.go` (the agent's). Anybody on the provisioning network can pose as an agent, so `Limits` are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum

from provider.domain.errors import MalformedPacketError, TemporaryError
from provider.wire import protobuf
from provider.wire.protobuf import Empty, proto

METHOD = "/grpctunnel.v1.TunnelService/OpenReverseTunnel"

NEGOTIATE = ("grpctunnel-negotiate", "on")
"""
Metadata of both ends that know revision 1 (tunnel.proto). Send it at once, before anything else: the agent waits for it
before it sends its settings.
"""

MACHINE_ID = "machine-id"
"""Metadata of the agent: the SMBIOS UUID of its machine, as it claims."""

CHUNK_BYTES = 16384
"""No frame has more data (tunnel.proto, `chunkMax` in flow_control.go)."""

WINDOW_BYTES = 65536
"""Of an answer, the agent sends as much before it waits for us (`initialWindowSize` in flow_control.go)."""

RETRY_AFTER = timedelta(seconds=10)
"""An agent whose tunnel ended is started again by Talos, and calls back."""

TUNNEL_ID = -1
"""The stream id of a frame that belongs to no call."""


class StatusCode(IntEnum):
    """How a gRPC call ended (doc/statuscodes.md of grpc/grpc)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# --- frames -----------------------------------------------------------------------------------------------------------


class Revision(IntEnum):
    """Zero has neither settings nor windows; one has both."""

    ZERO = 0
    ONE = 1


@dataclass(frozen=True, slots=True)
class Values:
    """The values of one metadata key."""

    val: tuple[str, ...] = proto(1, ())


@dataclass(frozen=True, slots=True)
class Metadata:
    """gRPC metadata."""

    md: Mapping[str, Values] = proto(1, {})


@dataclass(frozen=True, slots=True)
class NewStream:
    """Begins a call. The window, for the answer, is 0 in revision 0."""

    method_name: str = proto(1, "")
    request_headers: Metadata | None = proto(2, None)
    initial_window_size: int = proto(3, 0, wire="uint32")
    protocol_revision: Revision = proto(4, Revision.ZERO)


@dataclass(frozen=True, slots=True)
class MessageData:
    """The first part of a message, and the size of the whole."""

    size: int = proto(1, 0, wire="uint32")
    data: bytes = proto(2, b"", secret=True)


@dataclass(frozen=True, slots=True)
class ClientToServer:
    """A frame of ours."""

    stream_id: int = proto(1, 0)
    new_stream: NewStream | None = proto(2, None, oneof="frame")
    request_message: MessageData | None = proto(3, None, oneof="frame")
    more_request_data: bytes | None = proto(4, None, oneof="frame", secret=True)
    half_close: Empty | None = proto(5, None, oneof="frame")
    cancel: Empty | None = proto(6, None, oneof="frame")
    window_update: int | None = proto(7, None, wire="uint32", oneof="frame")


@dataclass(frozen=True, slots=True)
class Status:
    """google.rpc.Status without its details."""

    code: int = proto(1, 0, wire="int32")
    message: str = proto(2, "")


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Ends a call. Without a status it went well."""

    response_trailers: Metadata | None = proto(1, None)
    status: Status = proto(2, Status())


@dataclass(frozen=True, slots=True)
class Settings:
    """The agent's first frame, if both ends negotiate; the window is for the request of each call."""

    supported_protocol_revisions: tuple[Revision, ...] = proto(1, ())
    initial_window_size: int = proto(2, 0, wire="uint32")


@dataclass(frozen=True, slots=True)
class ServerToClient:
    """A frame of the agent."""

    stream_id: int = proto(1, 0)
    response_headers: Metadata | None = proto(2, None, oneof="frame")
    response_message: MessageData | None = proto(3, None, oneof="frame")
    more_response_data: bytes | None = proto(4, None, oneof="frame", secret=True)
    close_stream: CloseStream | None = proto(5, None, oneof="frame")
    settings: Settings | None = proto(6, None, oneof="frame")
    window_update: int | None = proto(7, None, wire="uint32", oneof="frame")


# --- our end ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What an agent may send; the largest message of its service has a host name in it."""

    frame_bytes: int = 2 * WINDOW_BYTES
    """One frame, be it data or metadata. More ends the tunnel."""
    answer_bytes: int = 64 << 10
    """One answer. More fails the call."""
    tunnel_bytes: int = 256 << 10
    """All answers that are not complete yet. The call that brings more fails."""
    reason_letters: int = 500
    """Of the agent's words on why a call failed; the rest is cut off."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The call went well."""

    number: int
    answer: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """The call went wrong. `code` is never `OK`; it is the agent's, or ours if `message` speaks of a rule."""

    number: int
    code: StatusCode
    message: str


Event = Answered | Failed


class _BrokenRuleError(Exception):
    """The agent broke a rule of the call that a frame is of."""

    def __init__(self, message: str, code: StatusCode = StatusCode.INTERNAL) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class _Call:
    """One call, from `Tunnel.call` to its end."""

    number: int
    new_stream: NewStream
    request: memoryview = field(repr=False)
    sent: int = 0
    """Bytes of the request."""
    send_window: int | None = None
    """What of the request may be sent; None is all."""
    is_begun: bool = False
    """Whether the agent can know of it."""
    is_half_closed: bool = False
    """Whether all of the request is sent."""
    size: int | None = None
    """Of the answer, once the agent told it."""
    answer: bytearray = field(default_factory=bytearray, repr=False)
    receive_window: int | None = None
    """What the agent may still send of the answer; None is all."""
    consumed: int = 0
    """Bytes by which the agent's window has to grow."""

    @property
    def is_answered(self) -> bool:
        """Whether all of the answer is here."""
        return self.size is not None and len(self.answer) == self.size


class Tunnel:
    """
    Our end of one tunnel.

    `negotiated` says whether the agent sent `NEGOTIATE` (see `negotiates`): then its settings come first, and calls wait
    for them; else it knows revision 0 only (`newReverseChannel` in tunnel_client.go).
    """

    def __init__(self, *, negotiated: bool, limits: Limits | None = None) -> None:
        self.end: str | None = None
        """Why the tunnel is over: what `ended` was told, or which rule the agent broke."""
        self._limits = limits or Limits()
        self._revision: Revision | None = None if negotiated else Revision.ZERO
        self._send_window: int | None = None
        self._last_number = 0
        self._last_begun = 0
        self._calls: dict[int, _Call] = {}
        self._cancelled: list[int] = []

    @property
    def is_ready(self) -> bool:
        """Whether calls are sent at once: the tunnel is not over, and the agent's settings are here or will not come."""
        return self.end is None and self._revision is not None

    def call(
        self,
        method: str,
        request: bytes,
        *,
        timeout: timedelta | None = None,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> int:
        """
        Begin a call and return its number, which `Answered`, `Failed` and `cancel` name.

        The agent gives up after `timeout`, in case that `cancel` does not reach it, and says so with `StatusCode.UNKNOWN`:
        its library does not translate the error (finishStream in tunnel_server.go). Nothing is timed here.

        Raises:
            TemporaryError: If the tunnel is over.
        """
        if self.end is not None:
            raise TemporaryError(f"the agent's tunnel is over: {self.end}", retry_after=RETRY_AFTER)
        headers: dict[str, tuple[str, ...]] = {}
        for key, value in metadata:
            headers[key] = (*headers.get(key, ()), value)
        if timeout is not None:
            headers["grpc-timeout"] = (_timeout(timeout),)
        new_stream = NewStream(method, Metadata({key: Values(values) for key, values in headers.items()}))
        self._last_number += 1
        self._calls[self._last_number] = _Call(self._last_number, new_stream, memoryview(request))
        return self._last_number

    def cancel(self, number: int) -> None:
        """Forget a call, and tell the agent. No event follows; a call that is over already stays so."""
        call = self._calls.pop(number, None)
        if call is not None and call.is_begun:
            self._cancelled.append(number)

    def take_frames(self) -> list[bytes]:
        """Return what is to be sent now."""
        if not self.is_ready:
            return []
        frames = [ClientToServer(number, cancel=Empty()) for number in self._cancelled]
        self._cancelled.clear()
        for call in self._calls.values():
            frames += self._frames_of(call)
        return [protobuf.encode(frame) for frame in frames]

    def received(self, raw: bytes) -> list[Event]:
        """Take one frame from the agent; the events say which calls are over. See whether `end` is set afterwards."""
        if self.end is not None:
            return []
        if len(raw) > self._limits.frame_bytes:
            return self._end(f"the agent sent a frame of {len(raw)} bytes, {self._limits.frame_bytes} are the limit")
        try:
            frame = protobuf.decode(ServerToClient, raw)
        except MalformedPacketError as error:
            return self._end(f"the agent sent what is no frame: {error}")
        if self._revision is None:
            return self._on_settings(frame)
        if frame.stream_id > self._last_begun:
            # As `getStream` in tunnel_client.go; lower ids are of calls that are over, or of the tunnel.
            return self._end(f"the agent sent a frame of call {frame.stream_id}, which was never begun")
        call = self._calls.get(frame.stream_id)
        return [] if call is None else self._on_frame(call, frame)

    def ended(self, why: str) -> list[Event]:
        """Take notice that the stream is over: all calls have failed."""
        return [] if self.end is not None else self._end(why)

    def _end(self, why: str) -> list[Event]:
        self.end = why
        numbers = list(self._calls)
        self._calls.clear()
        self._cancelled.clear()
        return [Failed(number, StatusCode.UNAVAILABLE, why) for number in numbers]

    # Sending

    def _frames_of(self, call: _Call) -> Iterator[ClientToServer]:
        """Go on with one call: begin it, send what its window allows, and give back what we took of the answer."""
        if not call.is_begun:
            yield self._begin(call)
        while not call.is_half_closed and (length := self._sendable(call)) is not None:
            chunk = bytes(call.request[call.sent : call.sent + length])
            if call.sent == 0:
                yield ClientToServer(call.number, request_message=MessageData(len(call.request), chunk))
            else:
                yield ClientToServer(call.number, more_request_data=chunk)
            call.sent += length
            if call.send_window is not None:
                call.send_window -= length
            if call.sent == len(call.request):
                call.is_half_closed = True
                yield ClientToServer(call.number, half_close=Empty())
        # All of the answer is here: the agent waits for nothing (`updateWindow` in tunnel_client.go).
        if call.consumed and not call.is_answered and call.receive_window is not None:
            yield ClientToServer(call.number, window_update=call.consumed)
            call.receive_window += call.consumed
            call.consumed = 0

    def _begin(self, call: _Call) -> ClientToServer:
        call.is_begun = True
        self._last_begun = call.number
        if self._revision is not Revision.ONE:
            return ClientToServer(call.number, new_stream=call.new_stream)
        call.send_window, call.receive_window = self._send_window, WINDOW_BYTES
        opening = NewStream(call.new_stream.method_name, call.new_stream.request_headers, WINDOW_BYTES, Revision.ONE)
        return ClientToServer(call.number, new_stream=opening)

    def _sendable(self, call: _Call) -> int | None:
        """How many bytes of the request can go, or None if the agent has to make room first. An empty one needs no room."""
        left = min(CHUNK_BYTES, len(call.request) - call.sent)
        room = left if call.send_window is None else min(left, call.send_window)
        return None if room == 0 < left else room

    # Receiving

    def _on_settings(self, frame: ServerToClient) -> list[Event]:
        """
        Take the first frame of an agent that negotiates (`recvLoop` in tunnel_client.go).

        No revisions at all mean revision 0 (tunnel.proto), though tunnel_client.go hangs up then.
        """
        if frame.stream_id != TUNNEL_ID or frame.settings is None:
            return self._end("the agent's first frame is not its settings")
        supported = frame.settings.supported_protocol_revisions or (Revision.ZERO,)
        common = [revision for revision in Revision if revision in supported]
        if not common:
            return self._end(
                f"the agent knows none of our protocol revisions, but {', '.join(map(str, supported[:9]))}"
            )
        self._revision = max(common)
        self._send_window = frame.settings.initial_window_size if self._revision is Revision.ONE else None
        return []

    def _on_frame(self, call: _Call, frame: ServerToClient) -> list[Event]:
        """Take a frame of a call that is not over. A broken rule ends this call alone, and the agent is told."""
        try:
            if frame.response_message is not None:
                self._on_envelope(call, frame.response_message)
            elif frame.more_response_data is not None:
                self._on_data(call, frame.more_response_data)
            elif frame.window_update is not None:
                call.send_window = None if call.send_window is None else call.send_window + frame.window_update
            elif frame.close_stream is not None:
                return [self._on_close(call, frame.close_stream)]
            elif frame.response_headers is None:
                raise _BrokenRuleError("the agent sent a frame of an unknown type")
        except _BrokenRuleError as error:
            self.cancel(call.number)
            return [Failed(call.number, error.code, str(error))]
        return []

    def _on_envelope(self, call: _Call, message: MessageData) -> None:
        if call.size is not None:
            raise _BrokenRuleError("the agent sent a second answer")
        if message.size > self._limits.answer_bytes:
            raise _BrokenRuleError(
                f"the agent announced an answer of {message.size} bytes, {self._limits.answer_bytes} are the limit",
                StatusCode.RESOURCE_EXHAUSTED,
            )
        call.size = message.size
        self._on_data(call, message.data)

    def _on_data(self, call: _Call, data: bytes) -> None:
        if call.size is None:
            raise _BrokenRuleError("the agent sent data of an answer before its size")
        if len(call.answer) + len(data) > call.size:
            raise _BrokenRuleError("the agent sent more than the size of its answer")
        if call.receive_window is not None:
            if len(data) > call.receive_window:
                raise _BrokenRuleError("the agent sent more than its window allows", StatusCode.RESOURCE_EXHAUSTED)
            call.receive_window -= len(data)
            call.consumed += len(data)
        if sum(len(each.answer) for each in self._calls.values()) + len(data) > self._limits.tunnel_bytes:
            raise _BrokenRuleError(
                f"the agent's answers are larger than {self._limits.tunnel_bytes} bytes in all",
                StatusCode.RESOURCE_EXHAUSTED,
            )
        call.answer += data

    def _on_close(self, call: _Call, close: CloseStream) -> Event:
        del self._calls[call.number]
        if close.status.code != StatusCode.OK:
            message = "".join(letter for letter in close.status.message if letter.isprintable())
            return Failed(call.number, _status_code(close.status.code), message[: self._limits.reason_letters])
        if not call.is_answered:
            what = "no answer" if call.size is None else f"{len(call.answer)} of {call.size} bytes"
            return Failed(call.number, StatusCode.INTERNAL, f"the agent ended the call well, but sent {what}")
        return Answered(call.number, bytes(call.answer))


def negotiates(metadata: Iterable[tuple[str, str | bytes]]) -> bool:
    """Whether an agent that opened a tunnel with this metadata sends settings."""
    values = [value for key, value in metadata if key == NEGOTIATE[0]]
    return values[:1] == [NEGOTIATE[1]]  # The first one counts (tunnel_client.go).


def _status_code(number: int) -> StatusCode:
    try:
        return StatusCode(number)
    except ValueError:
        return StatusCode.UNKNOWN


def _timeout(timeout: timedelta) -> str:
    """Write a `grpc-timeout`: at most eight digits and a unit (doc/PROTOCOL-HTTP2.md of grpc/grpc)."""
    milliseconds = max(1, round(timeout / timedelta(milliseconds=1)))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(milliseconds // 1000, 10**8 - 1)}S"

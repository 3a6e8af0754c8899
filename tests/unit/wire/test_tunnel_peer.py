"""Our end of the tunnel against an agent's, written a second time with grpcio-tools' classes and as strict as can be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from provider.wire import tunnel
from provider.wire.tunnel import Answered, Failed, Limits, StatusCode, Tunnel
from tests.unit.wire.protoc import theirs

FromAgent = theirs("grpctunnel.v1.ServerToClient")
FromUs = theirs("grpctunnel.v1.ClientToServer")

CHUNK = 16384
WINDOW = 65536


@dataclass
class Call:
    """A call at the agent's end."""

    revision: int
    room: int
    """What the agent may send."""
    size: int | None = None
    request: bytes = b""
    unread: int = 0
    """Bytes of the request that we were not told to send again yet."""
    is_half_closed: bool = False
    answer: bytes | None = None
    sent: int = 0
    is_announced: bool = False


@dataclass
class Agent:
    """The other end: what tunnel_server.go and flow_control.go do, with an assertion for all that a client must not do."""

    window: int
    """For each request."""
    calls: dict[int, Call] = field(default_factory=dict)
    last: int = 0
    outgoing: deque[bytes] = field(default_factory=deque)

    def send(self, number: int, **frame: Any) -> None:
        self.outgoing.append(FromAgent(stream_id=number, **frame).SerializeToString())

    def receive(self, raw: bytes) -> None:
        frame = FromUs.FromString(raw)
        number, kind = frame.stream_id, frame.WhichOneof("frame")
        if kind == "new_stream":
            assert number > self.last, "numbers grow"
            self.last = number
            assert frame.new_stream.initial_window_size == (WINDOW if frame.new_stream.protocol_revision else 0)
            self.calls[number] = Call(frame.new_stream.protocol_revision, frame.new_stream.initial_window_size)
            return
        assert 0 < number <= self.last, "only calls that were begun are spoken of"
        if (call := self.calls.get(number)) is None:
            assert kind in ("cancel", "window_update", "request_message", "more_request_data", "half_close")
            return  # They crossed our close_stream.
        match kind:
            case "request_message":
                assert call.size is None
                call.size = frame.request_message.size
                self.take(call, frame.request_message.data)
            case "more_request_data":
                assert call.size is not None
                assert frame.more_request_data
                self.take(call, frame.more_request_data)
            case "half_close":
                assert len(call.request) == call.size
                assert not call.is_half_closed
                call.is_half_closed = True
            case "cancel":
                del self.calls[number]
            case "window_update":
                assert call.revision == 1
                assert frame.window_update > 0
                call.room += frame.window_update
                assert call.room <= WINDOW, "no more than was sent is given back"
            case _:
                raise AssertionError(kind)

    def take(self, call: Call, data: bytes) -> None:
        assert not call.is_half_closed
        assert len(data) <= CHUNK
        call.request += data
        assert len(call.request) <= (call.size or 0)
        if call.revision == 1:
            call.unread += len(data)
            assert call.unread <= self.window, "no more than the window"

    def read(self, number: int, share: float) -> None:
        """Read some of a request, and give back as much of its window."""
        call = self.calls[number]
        length = round(call.unread * share)
        if call.revision == 1 and length:
            call.unread -= length
            self.send(number, window_update=length)

    def go_on(self, number: int) -> None:
        """Send the next part of an answer, as its window allows, or its end."""
        call = self.calls[number]
        assert call.answer is not None
        if call.is_announced and call.sent == len(call.answer):
            self.close(number, 0)
            return
        length = min(CHUNK, len(call.answer) - call.sent)
        if call.revision == 1:
            length = min(length, call.room)
            call.room -= length
        data = call.answer[call.sent : call.sent + length]
        if not call.is_announced:
            call.is_announced = True
            self.send(number, response_headers={})
            self.send(number, response_message={"size": len(call.answer), "data": data})
        elif data:
            self.send(number, more_response_data=data)
        call.sent += length

    def close(self, number: int, code: int) -> None:
        del self.calls[number]
        self.send(number, close_stream={"status": {"code": code}} if code else {})


def mirrored(request: bytes) -> bytes:
    """What the agent answers: something that depends on all of the request, and is larger."""
    return request[::-1] * 2


LIMITS = Limits(answer_bytes=1 << 20, tunnel_bytes=1 << 24)

WINDOWS = st.sampled_from([500, 1000, CHUNK, WINDOW, 1 << 31])
SIZES = st.sampled_from([0, 1, 999, CHUNK, CHUNK + 1, WINDOW, WINDOW + 1, 150_000])


class Conversation(RuleBasedStateMachine):
    """Frames are on their way in both directions, and anybody may do anything at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[int, bytes] = {}
        self.failing: set[int] = set()
        self.cancelled: set[int] = set()
        self.over: dict[int, tunnel.Event] = {}
        self.to_agent: deque[bytes] = deque()

    @initialize(window=WINDOWS, negotiated=st.booleans())
    def open(self, window: int, negotiated: bool) -> None:
        self.ours = Tunnel(negotiated=negotiated, limits=LIMITS)
        self.agent = Agent(window)
        if negotiated:
            told = {"supported_protocol_revisions": [0, 1], "initial_window_size": window}
            self.agent.send(-1, settings=told)

    @rule(size=SIZES, seed=st.integers(1, 255))
    def call(self, size: int, seed: int) -> None:
        request = bytes((seed * place) % 256 for place in range(min(size, 251))) * (size // 251 + 1)
        self.requests[self.ours.call("/x/Y", request[:size])] = request[:size]

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.requests)))
        self.ours.cancel(number)
        if number not in self.over:
            self.cancelled.add(number)

    @rule()
    def take(self) -> None:
        self.to_agent.extend(self.ours.take_frames())

    @rule(count=st.integers(1, 12))
    def deliver_to_agent(self, count: int) -> None:
        for _ in range(min(count, len(self.to_agent))):
            self.agent.receive(self.to_agent.popleft())

    @rule(count=st.integers(1, 12))
    def deliver_to_us(self, count: int) -> None:
        for _ in range(min(count, len(self.agent.outgoing))):
            for event in self.ours.received(self.agent.outgoing.popleft()):
                assert event.number not in self.over, "a call ends once"
                assert event.number not in self.cancelled
                self.over[event.number] = event

    def _some(self, data: st.DataObject, which: Callable[[Call], bool]) -> int | None:
        numbers = [number for number, call in self.agent.calls.items() if which(call)]
        return data.draw(st.sampled_from(numbers)) if numbers else None

    @rule(data=st.data(), share=st.sampled_from([0.1, 0.5, 1.0]))
    def agent_reads(self, data: st.DataObject, share: float) -> None:
        if (number := self._some(data, lambda call: call.unread > 0)) is not None:
            self.agent.read(number, share)

    @rule(data=st.data())
    def agent_answers(self, data: st.DataObject) -> None:
        if (number := self._some(data, lambda call: call.is_half_closed)) is not None:
            call = self.agent.calls[number]
            call.answer = mirrored(call.request)
            self.agent.go_on(number)

    @rule(data=st.data(), code=st.integers(1, 16))
    def agent_fails(self, data: st.DataObject, code: int) -> None:
        if (number := self._some(data, lambda call: True)) is not None:
            self.failing.add(number)
            self.agent.close(number, code)

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "ours"):
            assert self.ours.end is None, self.ours.end

    def teardown(self) -> None:
        """Let all of it come to its end: every call is answered, failed by the agent, or was cancelled."""
        if not hasattr(self, "ours"):
            return
        is_going_on = True
        while is_going_on:
            self.take()
            is_going_on = bool(self.to_agent or self.agent.outgoing)
            self.deliver_to_agent(len(self.to_agent))
            for number in list(self.agent.calls):
                call = self.agent.calls[number]
                self.agent.read(number, 1.0)
                if call.is_half_closed:
                    call.answer = mirrored(call.request)
                    self.agent.go_on(number)
            is_going_on |= bool(self.agent.outgoing)
            self.deliver_to_us(len(self.agent.outgoing))
        for number, request in self.requests.items():
            if number in self.cancelled:
                assert number not in self.over
            elif number in self.failing:
                assert isinstance(self.over[number], Failed)
            else:
                assert self.over[number] == Answered(number, mirrored(request))
        assert self.ours.ended("the end") == []
        assert not self.agent.calls


Conversation.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_conversations = Conversation.TestCase


def test_what_the_agent_fails_has_its_code() -> None:
    """UNIMPLEMENTED of an old agent is not UNAVAILABLE of a dead one."""
    ours, agent = Tunnel(negotiated=True), Agent(WINDOW)
    agent.send(-1, settings={"supported_protocol_revisions": [1], "initial_window_size": WINDOW})
    assert ours.received(agent.outgoing.popleft()) == []
    number = ours.call("/x/Y", b"")
    for raw in ours.take_frames():
        agent.receive(raw)
    agent.close(number, 12)
    assert ours.received(agent.outgoing.popleft()) == [Failed(number, StatusCode.UNIMPLEMENTED, "")]

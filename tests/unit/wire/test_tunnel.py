"""The tunnel as scripts: what we are asked for and what the agent sends, and what goes out and is told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.errors import TemporaryError
from provider.wire import protobuf, tunnel
from provider.wire.tunnel import Answered, Failed, Limits, StatusCode, Tunnel
from tests.unit.wire.protoc import theirs

HELLO = "/management.AgentService/Hello"

FromAgent = theirs("grpctunnel.v1.ServerToClient")
"""The agent's frames are made, and ours read, by grpcio-tools' classes."""
FromUs = theirs("grpctunnel.v1.ClientToServer")


def settings(revisions: Sequence[int] = (0, 1), window: int = 65536) -> Any:
    told = {"supported_protocol_revisions": revisions, "initial_window_size": window}
    return FromAgent(stream_id=-1, settings=told)


def ready(window: int = 65536, limits: Limits | None = None) -> Tunnel:
    """A tunnel of revision 1 that has its settings."""
    made = Tunnel(negotiated=True, limits=limits)
    assert made.received(settings(window=window).SerializeToString()) == []
    return made


def take(ours: Tunnel) -> list[tuple[int, str, Any]]:
    """What goes out: the call, the kind of frame, and what is in it."""
    frames = [FromUs.FromString(raw) for raw in ours.take_frames()]
    return [(frame.stream_id, frame.WhichOneof("frame"), getattr(frame, frame.WhichOneof("frame"))) for frame in frames]


def kinds(ours: Tunnel) -> list[tuple[int, str]]:
    return [(number, kind) for number, kind, _ in take(ours)]


def give(ours: Tunnel, number: int, **frame: Any) -> list[tunnel.Event]:
    return ours.received(FromAgent(stream_id=number, **frame).SerializeToString())


def answer(ours: Tunnel, number: int, content: bytes = b"") -> list[tunnel.Event]:
    """All frames of a good answer."""
    events = give(ours, number, response_headers={})
    events += give(ours, number, response_message={"size": len(content), "data": content})
    return events + give(ours, number, close_stream={})


# --- a call -----------------------------------------------------------------------------------------------------------


def test_a_call_and_its_answer() -> None:
    """The whole conversation of the smallest call."""
    ours = ready()
    assert ours.call(HELLO, b"hi", metadata=[("a", "1"), ("a", "2")]) == 1
    opening, message, close = take(ours)
    assert opening[:2] == (1, "new_stream")
    assert opening[2].method_name == HELLO
    assert list(opening[2].request_headers.md["a"].val) == ["1", "2"]
    assert (opening[2].initial_window_size, opening[2].protocol_revision) == (65536, 1)
    assert message[:2] == (1, "request_message")
    assert (message[2].size, message[2].data) == (2, b"hi")
    assert close[:2] == (1, "half_close")
    assert answer(ours, 1, b"there") == [Answered(1, b"there")]
    assert take(ours) == [], "an answer that is complete needs no room any more"


def test_an_empty_request_has_a_message_all_the_same() -> None:
    """The agent waits for the message: half_close alone is a call without a request to it (tunnel_server.go, readMsg)."""
    ours = ready()
    ours.call(HELLO, b"")
    assert kinds(ours) == [(1, "new_stream"), (1, "request_message"), (1, "half_close")]


def test_numbers_only_ever_grow() -> None:
    """An agent breaks the tunnel if one comes again (tunnel_server.go, createStream)."""
    ours = ready()
    assert [ours.call(HELLO, b"") for _ in range(3)] == [1, 2, 3]
    ours.cancel(3)
    assert ours.call(HELLO, b"") == 4
    assert [number for number, kind in kinds(ours) if kind == "new_stream"] == [1, 2, 4]


def test_calls_are_answered_in_any_order() -> None:
    """A wipe takes hours, and the agent is asked for life signs meanwhile."""
    ours = ready()
    first, second = ours.call("wipe", b""), ours.call(HELLO, b"")
    take(ours)
    assert give(ours, first, response_message={"size": 4, "data": b"wi"}) == []
    assert answer(ours, second, b"hi") == [Answered(second, b"hi")]
    assert give(ours, first, more_response_data=b"pe") == []
    assert give(ours, first, close_stream={}) == [Answered(first, b"wipe")]


@pytest.mark.parametrize(
    ("timeout", "header"),
    [
        (timedelta(seconds=3), "3000m"),
        (timedelta(microseconds=1), "1m"),
        (timedelta(hours=24), "86400000m"),
        (timedelta(days=30), "2592000S"),
        (timedelta(days=365000), "99999999S"),
    ],
)
def test_the_agent_is_told_the_deadline(timeout: timedelta, header: str) -> None:
    """Without it, a wipe whose caller is gone runs on; more than eight digits are refused by gRPC."""
    ours = ready()
    ours.call(HELLO, b"", timeout=timeout)
    opening = take(ours)[0][2]
    assert list(opening.request_headers.md["grpc-timeout"].val) == [header]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_calls_wait_for_the_settings() -> None:
    """Before them we know neither the revision nor the window."""
    ours = Tunnel(negotiated=True)
    ours.call(HELLO, b"hi")
    assert not ours.is_ready
    assert take(ours) == []
    ours.received(settings().SerializeToString())
    assert ours.is_ready
    assert kinds(ours) == [(1, "new_stream"), (1, "request_message"), (1, "half_close")]


def test_an_answer_before_the_settings_breaks_the_tunnel() -> None:
    """The call has not been sent, so nobody can have answered it."""
    ours = Tunnel(negotiated=True)
    ours.call(HELLO, b"hi")
    events = answer(ours, 1)
    assert events == [Failed(1, StatusCode.UNAVAILABLE, "the agent's first frame is not its settings")]
    assert ours.end == "the agent's first frame is not its settings"


@pytest.mark.parametrize(
    ("negotiated", "told", "revision", "window"),
    [
        (True, settings([0, 1]), 1, 65536),
        (True, settings([1]), 1, 65536),
        (True, settings([1, 0, 7]), 1, 65536),
        (True, settings([0]), 0, 0),
        (True, settings([]), 0, 0),
        (False, None, 0, 0),
    ],
)
def test_the_highest_common_revision_is_used(negotiated: bool, told: Any, revision: int, window: int) -> None:
    """An agent refuses calls of a revision that it does not know; revision 0 has no windows (tunnel.proto)."""
    ours = Tunnel(negotiated=negotiated)
    if told is not None:
        ours.received(told.SerializeToString())
    ours.call(HELLO, b"x" * 200_000)
    frames = take(ours)
    assert (frames[0][2].protocol_revision, frames[0][2].initial_window_size) == (revision, window)
    assert (frames[-1][1] == "half_close") is (revision == 0), "without windows, all of it goes at once"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (settings([2, 3]), "the agent knows none of our protocol revisions, but 2, 3"),
        (FromAgent(stream_id=0, settings={}), "the agent's first frame is not its settings"),
        (FromAgent(stream_id=-1), "the agent's first frame is not its settings"),
        (FromAgent(stream_id=-1, response_headers={}), "the agent's first frame is not its settings"),
    ],
)
def test_settings_that_we_cannot_go_on_with_end_the_tunnel(told: Any, why: str) -> None:
    """What follows would be read by rules that the agent does not go by (tunnel_client.go, recvLoop)."""
    ours = Tunnel(negotiated=True)
    ours.received(told.SerializeToString())
    assert ours.end == why


@pytest.mark.parametrize(
    ("metadata", "negotiated"),
    [
        ([("machine-id", "x"), ("grpctunnel-negotiate", "on")], True),
        ([("grpctunnel-negotiate", "off"), ("grpctunnel-negotiate", "on")], False),
        ([("machine-id", "on")], False),
        ([], False),
    ],
)
def test_who_negotiates(metadata: list[tuple[str, str | bytes]], negotiated: bool) -> None:
    """We would wait for settings that never come, or take them for a broken rule (tunnel_client.go, newReverseChannel)."""
    assert tunnel.negotiates(metadata) is negotiated


# --- windows ----------------------------------------------------------------------------------------------------------


def test_chunks_and_the_agents_window() -> None:
    """More than a window at once, and the agent fails the call (flow_control.go, accept)."""
    ours = ready(window=40000)
    content = bytes(range(256)) * 400
    ours.call(HELLO, content)
    sent = [(kind, value) for _, kind, value in take(ours)][1:]
    assert [kind for kind, _ in sent] == ["request_message", "more_request_data", "more_request_data"]
    assert sent[0][1].size == len(content)
    data = [sent[0][1].data, sent[1][1], sent[2][1]]
    assert [len(chunk) for chunk in data] == [16384, 16384, 7232]
    assert take(ours) == []
    give(ours, 1, window_update=1)
    assert [(kind, len(value)) for _, kind, value in take(ours)] == [("more_request_data", 1)]
    give(ours, 1, window_update=1 << 20)
    rest = take(ours)
    assert [kind for _, kind, _ in rest] == ["more_request_data"] * 4 + ["half_close"]
    assert b"".join([*data, content[40000:40001], *[value for _, _, value in rest[:-1]]]) == content


@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 32768, 65536])
def test_the_last_chunk_is_followed_by_half_close_alone(size: int) -> None:
    """An empty chunk behind a full one is more data than announced to nobody, but one frame too many."""
    ours = ready()
    ours.call(HELLO, bytes(size))
    frames = take(ours)[1:]
    assert [kind for _, kind, _ in frames[1:]] == ["more_request_data"] * ((size - 1) // 16384) + ["half_close"]


def test_a_window_of_nothing_holds_back_all_but_an_empty_request() -> None:
    """Zero bytes need no room; one byte does."""
    ours = ready(window=0)
    ours.call(HELLO, b"x")
    ours.call(HELLO, b"")
    assert kinds(ours) == [(1, "new_stream"), (2, "new_stream"), (2, "request_message"), (2, "half_close")]
    give(ours, 1, window_update=5)
    assert kinds(ours) == [(1, "request_message"), (1, "half_close")]


def test_windows_are_each_calls_own() -> None:
    """A call that waits must not hold up the others."""
    ours = ready(window=10)
    ours.call("wipe", b"x" * 20)
    ours.call(HELLO, b"hi")
    assert kinds(ours)[-1] == (2, "half_close")
    give(ours, 2, window_update=100)
    assert take(ours) == []


def test_the_agent_gets_back_what_was_taken() -> None:
    """It stops when its window is used up; in one frame, however many came (flow_control.go, dequeue)."""
    ours = ready(limits=Limits(answer_bytes=200_000))
    ours.call(HELLO, b"")
    take(ours)
    give(ours, 1, response_message={"size": 150_000, "data": bytes(16384)})
    give(ours, 1, more_response_data=bytes(16384))
    assert take(ours) == [(1, "window_update", 32768)]
    assert take(ours) == []


def test_the_last_part_of_an_answer_is_not_given_back() -> None:
    """The agent has nothing more to send: room for it would be a frame for each call, to nobody's use."""
    ours = ready()
    ours.call(HELLO, b"")
    take(ours)
    give(ours, 1, response_message={"size": 3, "data": b"abc"})
    assert take(ours) == []
    assert give(ours, 1, close_stream={}) == [Answered(1, b"abc")]


def test_an_agent_that_does_not_wait_fails_its_call() -> None:
    """Its window is what keeps it from filling our memory while we cannot send (flow_control.go, accept)."""
    ours = ready(limits=Limits(answer_bytes=200_000))
    ours.call(HELLO, b"")
    take(ours)
    give(ours, 1, response_message={"size": 150_000, "data": bytes(16384)})
    for _ in range(3):
        assert give(ours, 1, more_response_data=bytes(16384)) == []
    events = give(ours, 1, more_response_data=b"x")
    assert events == [Failed(1, StatusCode.RESOURCE_EXHAUSTED, "the agent sent more than its window allows")]
    assert take(ours) == [(1, "cancel", FromUs().cancel)]


def test_revision_zero_has_no_windows() -> None:
    """The agent would not know a window_update, and does not wait for one."""
    ours = Tunnel(negotiated=False, limits=Limits(answer_bytes=200_000))
    ours.call(HELLO, b"")
    take(ours)
    give(ours, 1, response_message={"size": 163_840, "data": bytes(16384)})
    for _ in range(9):
        give(ours, 1, more_response_data=bytes(16384))
    assert take(ours) == []
    assert give(ours, 1, window_update=5) == []
    assert give(ours, 1, close_stream={}) == [Answered(1, bytes(163_840))]


# --- the end of a call ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("close", "code", "message"),
    [
        ({"status": {"code": 12, "message": "X not implemented"}}, StatusCode.UNIMPLEMENTED, "X not implemented"),
        ({"status": {"code": 99}}, StatusCode.UNKNOWN, ""),
        ({"status": {"code": -5}}, StatusCode.UNKNOWN, ""),
        ({"status": {"code": 2, "message": "a\x1b[31m\nb" + "x" * 600}}, StatusCode.UNKNOWN, "a[31mb" + "x" * 494),
        ({}, StatusCode.INTERNAL, "the agent ended the call well, but sent no answer"),
        ({"status": {"message": "fine"}}, StatusCode.INTERNAL, "the agent ended the call well, but sent no answer"),
    ],
)
def test_the_agent_fails_a_call(close: Any, code: StatusCode, message: str) -> None:
    """The code decides what happens next; the agent's words go to logs and to people, whatever it puts into them."""
    ours = ready()
    ours.call(HELLO, b"")
    take(ours)
    assert give(ours, 1, close_stream=close) == [Failed(1, code, message)]
    assert take(ours) == [], "it is over at the agent's already"


def test_half_an_answer_is_none() -> None:
    """It would be read as a message with fields missing."""
    ours = ready()
    ours.call(HELLO, b"")
    take(ours)
    give(ours, 1, response_message={"size": 10, "data": b"12345"})
    assert give(ours, 1, close_stream={}) == [
        Failed(1, StatusCode.INTERNAL, "the agent ended the call well, but sent 5 of 10 bytes")
    ]


def test_an_answer_and_then_a_failure_is_a_failure() -> None:
    """A wipe that failed must not look done."""
    ours = ready()
    ours.call("wipe", b"")
    take(ours)
    give(ours, 1, response_message={})
    assert give(ours, 1, close_stream={"status": {"code": 13, "message": "no"}}) == [
        Failed(1, StatusCode.INTERNAL, "no")
    ]


@pytest.mark.parametrize(
    ("frames", "code", "message"),
    [
        ([{"more_response_data": b"x"}], StatusCode.INTERNAL, "the agent sent data of an answer before its size"),
        (
            [{"response_message": {"size": 1, "data": b"x"}}, {"response_message": {}}],
            StatusCode.INTERNAL,
            "the agent sent a second answer",
        ),
        (
            [{"response_message": {"size": 9, "data": b"x"}}, {"response_message": {}}],
            StatusCode.INTERNAL,
            "the agent sent a second answer",
        ),
        (
            [{"response_message": {"size": 1, "data": b"xy"}}],
            StatusCode.INTERNAL,
            "the agent sent more than the size of its answer",
        ),
        (
            [{"response_message": {"size": 1, "data": b"x"}}, {"more_response_data": b"y"}],
            StatusCode.INTERNAL,
            "the agent sent more than the size of its answer",
        ),
        ([{"settings": {}}], StatusCode.INTERNAL, "the agent sent a frame of an unknown type"),
        ([{}], StatusCode.INTERNAL, "the agent sent a frame of an unknown type"),
        (
            [{"response_message": {"size": 65537}}],
            StatusCode.RESOURCE_EXHAUSTED,
            "the agent announced an answer of 65537 bytes, 65536 are the limit",
        ),
        (
            [{"response_message": {"size": (1 << 32) - 1, "data": b"x"}}],
            StatusCode.RESOURCE_EXHAUSTED,
            "the agent announced an answer of 4294967295 bytes, 65536 are the limit",
        ),
    ],
)
def test_a_broken_rule_ends_the_call_alone(frames: list[Any], code: StatusCode, message: str) -> None:
    """The agent is told to stop, and other calls go on (tunnel_client.go, readMsg, cancelStream)."""
    ours = ready()
    ours.call(HELLO, b"")
    ours.call(HELLO, b"")
    take(ours)
    *first, last = frames
    for frame in first:
        assert give(ours, 1, **frame) == []
    assert give(ours, 1, **last) == [Failed(1, code, message)]
    assert kinds(ours) == [(1, "cancel")]
    assert answer(ours, 2) == [Answered(2, b"")]
    assert ours.end is None


def test_metadata_of_an_answer_is_read_over() -> None:
    """Some handlers send headers twice, or trailers (tunnel_client.go takes the first and drops the others)."""
    ours = ready()
    ours.call(HELLO, b"")
    take(ours)
    headers = {"md": {"a": {"val": ["1"]}}}
    assert give(ours, 1, response_headers=headers) == []
    assert give(ours, 1, response_headers=headers) == []
    assert give(ours, 1, response_message={}) == []
    assert give(ours, 1, close_stream={"response_trailers": headers}) == [Answered(1, b"")]


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_a_cancelled_call_is_forgotten_and_the_agent_told() -> None:
    """A wipe whose caller has given up must not go on unseen; what was on its way is ignored."""
    ours = ready()
    ours.call("wipe", b"")
    take(ours)
    give(ours, 1, response_message={"size": 5, "data": b"x"})
    ours.cancel(1)
    assert kinds(ours) == [(1, "cancel")]
    ours.cancel(1)
    assert take(ours) == [], "once is enough"
    assert give(ours, 1, more_response_data=b"1234") == []
    assert give(ours, 1, close_stream={"status": {"code": 1}}) == []
    assert ours.end is None


def test_a_call_that_was_not_sent_is_cancelled_in_silence() -> None:
    """A cancel of a call that the agent never heard of breaks the tunnel (tunnel_server.go, getStream)."""
    ours = Tunnel(negotiated=True)
    ours.call(HELLO, b"")
    ours.cancel(1)
    ours.received(settings().SerializeToString())
    assert take(ours) == []


def test_a_half_sent_request_is_cancelled() -> None:
    """Nothing but the cancel may follow (tunnel.proto, ClientToServer)."""
    ours = ready(window=5)
    ours.call(HELLO, b"0123456789")
    take(ours)
    ours.cancel(1)
    give(ours, 1, window_update=5)
    assert kinds(ours) == [(1, "cancel")]


def test_late_frames_are_ignored() -> None:
    """Both ends close a call when they want, so frames cross (tunnel_client.go, getStream)."""
    ours = ready()
    ours.call(HELLO, b"")
    take(ours)
    answer(ours, 1)
    for frame in ({"window_update": 5}, {"response_message": {}}, {"close_stream": {}}, {"settings": {}}, {}):
        assert give(ours, 1, **frame) == []
        assert give(ours, -1, **frame) == []
    assert ours.end is None


# --- the end of the tunnel --------------------------------------------------------------------------------------------


def test_all_calls_fail_when_the_stream_ends() -> None:
    """Somebody waits for each of them."""
    ours = ready()
    ours.call("wipe", b"")
    take(ours)
    ours.call(HELLO, b"")
    assert ours.ended("the agent is gone") == [
        Failed(1, StatusCode.UNAVAILABLE, "the agent is gone"),
        Failed(2, StatusCode.UNAVAILABLE, "the agent is gone"),
    ]
    assert ours.end == "the agent is gone"


def test_nothing_comes_after_the_end() -> None:
    """The stream's task and its callers see the end at different times."""
    ours = ready()
    ours.call(HELLO, b"")
    ours.cancel(1)
    ours.ended("first")
    assert ours.ended("second") == []
    assert ours.end == "first"
    assert ours.take_frames() == []
    assert answer(ours, 1) == []
    ours.cancel(1)
    with pytest.raises(TemporaryError, match="first"):
        ours.call(HELLO, b"")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (FromAgent(stream_id=2, response_headers={}).SerializeToString(), "a frame of call 2, which was never begun"),
        (b"\x08", "what is no frame"),
        (b"\x22\x01\xff\xff", "what is no frame"),
        (bytes(131073), "a frame of 131073 bytes, 131072 are the limit"),
    ],
)
def test_what_breaks_the_tunnel(raw: bytes, why: str) -> None:
    """After it, nobody can say what the agent's bytes mean (tunnel_client.go, recvLoop)."""
    ours = ready()
    ours.call(HELLO, b"")
    take(ours)
    ours.call(HELLO, b"")  # Not yet sent: to the agent there is no call 2.
    (first, second) = ours.received(raw)
    assert ours.end is not None
    assert why in ours.end
    assert isinstance(first, Failed)
    assert (first, second) == (
        Failed(1, StatusCode.UNAVAILABLE, ours.end),
        Failed(2, StatusCode.UNAVAILABLE, ours.end),
    )


# --- what an agent can do to us ---------------------------------------------------------------------------------------


def test_all_answers_together_are_limited() -> None:
    """One agent with many calls must not take the memory of all."""
    ours = Tunnel(negotiated=False, limits=Limits(answer_bytes=1000, tunnel_bytes=2500))
    for _ in range(3):
        ours.call(HELLO, b"")
    take(ours)
    assert give(ours, 1, response_message={"size": 1000, "data": bytes(1000)}) == []
    assert give(ours, 2, response_message={"size": 1000, "data": bytes(1000)}) == []
    assert give(ours, 3, response_message={"size": 1000, "data": bytes(501)}) == [
        Failed(3, StatusCode.RESOURCE_EXHAUSTED, "the agent's answers are larger than 2500 bytes in all")
    ]
    assert give(ours, 1, close_stream={}) == [Answered(1, bytes(1000))]


def test_secrets_are_in_no_repr() -> None:
    """Requests have the BMC's new password in them."""
    frame = tunnel.ClientToServer(1, request_message=tunnel.MessageData(7, b"hunter2"))
    assert "hunter2" not in repr(frame) + repr(Answered(1, b"hunter2"))


@given(
    frames=st.lists(
        st.builds(
            lambda number, frame: FromAgent(stream_id=number, **frame).SerializeToString(),
            st.integers(-2, 4),
            st.one_of(
                st.just({}),
                st.builds(lambda data: {"more_response_data": data}, st.binary(max_size=40)),
                st.builds(
                    lambda size, data: {"response_message": {"size": size, "data": data}},
                    st.integers(0, 120),
                    st.binary(max_size=40),
                ),
                st.builds(lambda code: {"close_stream": {"status": {"code": code}}}, st.integers(-1, 20)),
                st.builds(lambda size: {"window_update": size}, st.integers(0, (1 << 32) - 1)),
                st.sampled_from([{"settings": {}}, {"response_headers": {}}]),
            ),
        )
        | st.binary(max_size=20),
        max_size=30,
    ),
    negotiated=st.booleans(),
)
def test_any_frames_end_calls_once_and_keep_within_the_limits(frames: list[bytes], negotiated: bool) -> None:
    """Whoever reaches the port speaks as an agent."""
    ours = Tunnel(negotiated=negotiated, limits=Limits(answer_bytes=100, tunnel_bytes=150))
    if negotiated:
        ours.received(settings(window=50).SerializeToString())
    for _ in range(3):
        ours.call(HELLO, bytes(60))
    take(ours)
    over: list[int] = []
    for frame in frames:
        over += [event.number for event in ours.received(frame)]
        for raw in ours.take_frames():
            protobuf.decode(tunnel.ClientToServer, raw)
        assert sum(len(call.answer) for call in ours._calls.values()) <= 150
    over += [event.number for event in ours.ended("the end")]
    assert sorted(over) == [1, 2, 3]

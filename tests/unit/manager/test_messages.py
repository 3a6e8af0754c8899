"""The messages of the manager link."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.machine import Acceptance, Allocation, Desired, PreferredPower
from provider.manager import messages
from provider.manager.messages import BadMessageError, DesiredMessage, DesiredState, UnknownTypeError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
any_desired = st.builds(
    Desired,
    acceptance=st.sampled_from(Acceptance),
    cordoned=st.booleans(),
    allocation=st.none()
    | st.builds(Allocation, st.text(min_size=1, max_size=9), arguments=st.lists(st.text(max_size=5)).map(tuple)),
    preferred_power=st.sampled_from(PreferredPower),
    wipe_id=st.text(max_size=9),
    reboot_id=st.text(max_size=9),
    power_off_id=st.text(max_size=9),
)


names = st.text(min_size=1, max_size=9)
numbers = st.integers(0, 2**63 - 1)
times = st.datetimes(timezones=st.just(UTC))
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
errors = st.builds(messages.Error, field=st.text(), message=st.text(), machine=st.text())
from_provider = (
    st.builds(
        messages.Hello,
        provider=names,
        name=st.text(),
        version=st.text(),
        protocols=st.lists(st.integers(0, 9)).map(tuple),
        labels=st.dictionaries(st.text(), st.text(), max_size=3),
        next_sequence=numbers,
        heartbeat_seconds=st.floats(0.1, 3600),
    )
    | st.builds(messages.Observed, sequence=numbers, machine=names, state=json_objects, at=times)
    | st.builds(messages.Event, sequence=numbers, machine=names, name=st.text(), data=json_objects, at=times)
    | st.builds(messages.Heartbeat)
    | errors
)
from_manager = (
    st.builds(messages.Welcome, protocol=st.integers(1, 9), last_sequence=numbers, last_at=st.none() | times)
    | st.builds(messages.Ack, sequence=numbers)
    | st.builds(
        DesiredMessage, machine=names, revision=st.integers(1, 2**63 - 1), state=any_desired.map(DesiredState.of)
    )
    | st.builds(messages.Resync)
    | st.builds(messages.Heartbeat)
    | errors
)


@given(from_provider)
def test_what_the_provider_says_is_what_the_manager_hears(said: messages.Message) -> None:
    """A field of a message is lost or changed on the way."""
    assert messages.from_provider(messages.to_text(said)) == said


@given(from_manager)
def test_what_the_manager_says_is_what_the_provider_hears(said: messages.Message) -> None:
    """The same the other way."""
    assert messages.from_manager(messages.to_text(said)) == said


@given(any_desired)
def test_desired_state_survives_the_wire(desired: Desired) -> None:
    """What the manager wants is not what arrives."""
    sent = DesiredMessage(machine="m-1", revision=7, state=DesiredState.of(desired))
    received = messages.from_manager(messages.to_text(sent))
    assert isinstance(received, DesiredMessage)
    assert received.state.domain(0) == desired
    assert received.state.domain(7).revision == 7


@given(json_values)
def test_any_json_gives_a_message_or_a_named_error(value: object) -> None:
    """A message that is none is a traceback (invariant 7)."""
    for read in (messages.from_manager, messages.from_provider):
        try:
            read(json.dumps(value))
        except BadMessageError as error:
            assert error.field
        except UnknownTypeError as error:
            assert str(error)


@given(st.binary(max_size=200))
def test_any_bytes_too(raw: bytes) -> None:
    """The same for what is not even JSON."""
    for read in (messages.from_manager, messages.from_provider):
        with pytest.raises((BadMessageError, UnknownTypeError)):
            read(raw)


@given(from_provider | from_manager, st.data())
def test_damaged_messages_too(said: messages.Message, data: st.DataObject) -> None:
    """The same for messages that are almost right."""
    text = messages.to_text(said).encode()
    where = data.draw(st.integers(0, len(text)))
    damaged = text[:where] + data.draw(st.binary(max_size=3)) + text[data.draw(st.integers(where, len(text))) :]
    for read in (messages.from_manager, messages.from_provider):
        with contextlib.suppress(BadMessageError, UnknownTypeError):
            assert isinstance(read(damaged), messages.Message)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{}", "type"),
        ("[]", "message"),
        ('{"type": "ack"}', "sequence"),
        ('{"type": "ack", "sequence": -1}', "sequence"),
        ('{"type": "ack", "sequence": "7"}', "sequence"),
        ('{"type": "desired", "machine": "m", "revision": 1, "state": {"acceptance": "maybe"}}', "state.acceptance"),
        ('{"type": "desired", "machine": "m", "revision": 0, "state": {}}', "revision"),
    ],
)
def test_errors_name_the_field(text: str, field: str) -> None:
    """Somebody who writes a manager is not told what is wrong with a message."""
    with pytest.raises(BadMessageError) as caught:
        messages.from_manager(text)
    assert caught.value.field == field


def test_newer_peers_are_understood() -> None:
    """A field or type of a newer version breaks the link."""
    assert messages.from_manager('{"type": "ack", "sequence": 7, "colour": "red"}') == messages.Ack(sequence=7)
    with pytest.raises(UnknownTypeError, match="song"):
        messages.from_manager('{"type": "song"}')


def test_half_a_surrogate_does_not_block_the_link() -> None:
    """A broken character in a firmware's string cannot be sent, and everything behind it waits for ever."""
    odd = messages.Event(sequence=1, machine="m", name="x.happened", data={"text": "a\ud800b"}, at=NOW)
    received = messages.from_provider(messages.to_text(odd))
    assert isinstance(received, messages.Event)
    assert received.data == {"text": "a?b"}


def test_schema_is_exported() -> None:
    """Whoever writes a manager has no schema of some message."""
    schema = json.dumps(messages.json_schema())
    for name in ("hello", "welcome", "observed", "event", "ack", "desired", "resync", "heartbeat", "error"):
        assert f'"{name}"' in schema

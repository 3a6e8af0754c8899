"""Dataclasses as messages: what may be declared, what is read and written, and how wrong declarations are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum

import pytest

from provider.domain.errors import MalformedPacketError
from provider.wire import protobuf
from provider.wire.protobuf import proto


class Colour(IntEnum):
    NONE = 0
    RED = 1


class Shade(IntEnum):
    DARK = 1


@dataclass(frozen=True, slots=True)
class Inner:
    text: str = proto(1, "")


@dataclass(frozen=True, slots=True)
class Outer:
    number: int = proto(1, 0)
    small: int = proto(2, 0, wire="uint32")
    colour: Colour = proto(3, Colour.NONE)
    always: Inner = proto(4, Inner())
    perhaps: Inner | None = proto(5, None)
    text: str | None = proto(6, None)
    time: datetime | None = proto(7, None)
    many: tuple[Inner, ...] = proto(8, ())
    times: tuple[datetime, ...] = proto(9, ())
    colours: tuple[Colour, ...] = proto(10, ())
    table: Mapping[str, str] = proto(11, {})
    inners: Mapping[str, Inner] = proto(12, {})
    either: int | None = proto(13, None, oneof="one")
    other: Inner | None = proto(14, None, oneof="one")
    password: str = proto(15, "", secret=True)
    itself: Outer | None = proto(16, None)


def test_what_is_not_there_is_read_as_its_default() -> None:
    """An absent field must not be taken for a missing attribute, or for somebody else's value."""
    assert protobuf.decode(Outer, b"") == Outer()


def test_presence_is_kept() -> None:
    """An empty string in an `optional` field is a word of the sender; silence is another."""
    assert protobuf.decode(Outer, protobuf.encode(Outer(text="", perhaps=Inner()))) == Outer(text="", perhaps=Inner())


def test_a_message_that_is_always_there_is_written_when_empty() -> None:
    """COSI refuses a resource whose spec is absent, though it may be empty."""
    assert protobuf.encode(Outer()) == b"\x22\x00"


def test_all_shapes_come_back() -> None:
    """A shape that is lost on the way loses what somebody said."""
    now = datetime(2026, 11, 25, 12, 30, 1, 250_000, UTC)
    message = Outer(
        number=-1,
        small=(1 << 32) - 1,
        colour=Colour.RED,
        always=Inner("a"),
        time=now,
        many=(Inner("b"), Inner("c")),
        times=(now, datetime(1, 1, 1, tzinfo=UTC)),
        colours=(Colour.RED, Colour.NONE),
        table={"k": "v", "": ""},
        inners={"k": Inner("d")},
        other=Inner(),
        itself=Outer(itself=Outer(number=5)),
    )
    assert protobuf.decode(Outer, protobuf.encode(message)) == message


def test_equal_messages_have_equal_bytes() -> None:
    """Bytes are compared to see whether anything changed; the order in which a dict was filled is no change."""
    one, two = Outer(table={"a": "1", "b": "2"}), Outer(table={"b": "2", "a": "1"})
    assert protobuf.encode(one) == protobuf.encode(two)


def test_unknown_fields_are_ignored() -> None:
    """A newer manager says more than we know; what we do know still counts."""
    assert protobuf.decode(Inner, b"\x0a\x01a" + b"\xf8\x07\x05") == Inner("a")


def test_an_unknown_number_of_an_enum_is_equal_to_no_member() -> None:
    """A new state of acceptance must never be read as ACCEPTED; and it keeps its number on the way back."""
    raw = b"\x18\x07"
    colour = protobuf.decode(Outer, raw).colour
    assert colour == 7
    assert colour not in list(Colour)
    assert isinstance(colour, Colour)
    assert (colour.name, repr(colour)) == ("UNRECOGNIZED_7", "<Colour.UNRECOGNIZED_7: 7>")
    assert protobuf.encode(Outer(colour=colour)).startswith(raw)
    assert len(Colour) == 2, "and nothing is remembered of what a peer sends"


def test_of_a_oneof_the_last_counts() -> None:
    """As any parser of protocol buffers has it; who sees two members would act on both."""
    raw = protobuf.encode(Outer(either=1)) + protobuf.encode(Outer(other=Inner("x")))
    assert protobuf.decode(Outer, raw) == Outer(other=Inner("x"))


def test_two_members_of_a_oneof_cannot_be_written() -> None:
    """One of the two would silently be lost."""
    with pytest.raises(ValueError, match="Outer can have only one of either, other"):
        protobuf.encode(Outer(either=1, other=Inner()))


def test_times_are_of_any_zone_and_read_as_utc() -> None:
    """The wire has no zones."""
    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert protobuf.decode(Outer, protobuf.encode(Outer(time=east))).time == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_time_without_a_zone_cannot_be_written() -> None:
    """It would be written as if it were UTC, and be wrong by hours."""
    with pytest.raises(TypeError):
        protobuf.encode(Outer(time=datetime(2026, 1, 1)))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\x0a\x05a", "Inner"),
        (b"\x0a\x01\xff", "UTF-8"),
        (b"\x3a\x0c\x08" + b"\xff" * 10 + b"\x01", "Outer"),
    ],
)
def test_what_is_no_message_is_malformed(raw: bytes, says: str) -> None:
    """Any other exception would end the worker with a traceback."""
    with pytest.raises(MalformedPacketError, match=says):
        protobuf.decode(Outer if says == "Outer" else Inner, raw)


@pytest.mark.parametrize(
    ("seconds", "nanos", "why"),
    [
        (0, 1_000_000_000, "no part of a second"),
        (0, -1, "no part of a second"),
        (-62_135_596_801, 0, "years 1 to 9999"),
        (253_402_300_800, 0, "years 1 to 9999"),
        ((1 << 63) - 1, 0, "years 1 to 9999"),
    ],
)
def test_times_out_of_range_are_malformed(seconds: int, nanos: int, why: str) -> None:
    """An OverflowError of a peer's making would end the worker."""
    stamp = protobuf.encode(protobuf._Timestamp(seconds, nanos))
    with pytest.raises(MalformedPacketError, match=rf"{why}.*Outer\.time"):
        protobuf.decode(Outer, b"\x3a" + bytes([len(stamp)]) + stamp)


def test_secrets_are_in_no_repr() -> None:
    """Messages are logged, and stand in tracebacks."""
    assert "hunter2" not in repr(Outer(password="hunter2"))


@pytest.mark.parametrize("message", [Outer(small=-1), Outer(small=1 << 32), Outer(number=1 << 63)])
def test_a_number_that_does_not_fit_is_not_written(message: Outer) -> None:
    """It would arrive as another number."""
    with pytest.raises(ValueError, match="out of range"):
        protobuf.encode(message)


# --- wrong declarations -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WithoutNumber:
    text: str = ""


@dataclass(frozen=True)
class NumberTwice:
    one: str = proto(1, "")
    two: str = proto(1, "")


@dataclass(frozen=True)
class NumberZero:
    one: str = proto(0, "")


@dataclass(frozen=True)
class NumberReserved:
    one: str = proto(19000, "")


@dataclass(frozen=True)
class WrongDefault:
    text: str = proto(1, "pending")


@dataclass(frozen=True)
class ZeroForFalse:
    flag: bool = proto(1, 0)


@dataclass(frozen=True)
class ListOfTexts:
    texts: list[str] = field(default_factory=list, metadata={"proto": protobuf._Declared(1, None, "")})


@dataclass(frozen=True)
class FloatField:
    share: float = proto(1, 0.0)


@dataclass(frozen=True)
class NumbersAsKeys:
    table: Mapping[int, str] = proto(1, {})


@dataclass(frozen=True)
class TimeWithoutNone:
    time: datetime = proto(1, datetime(1970, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class OneofWithoutNone:
    number: int = proto(1, 0, oneof="one")


@dataclass(frozen=True)
class WireOfText:
    text: str = proto(1, "", wire="int32")


@dataclass(frozen=True)
class EnumWithoutZero:
    shade: Shade = proto(1, Shade.DARK)


@dataclass(frozen=True)
class NameOfNothing:
    thing: Nothing | None = proto(1, None)  # noqa: F821


class NoDataclass:
    text: str = ""


@dataclass(frozen=True)
class WrongInside:
    inner: WrongDefault | None = proto(1, None)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (WithoutNumber, r"WithoutNumber\.text has no number; declare it with `= proto\(number, default\)`"),
        (NumberTwice, r"NumberTwice\.two has the number 1, which is one's"),
        (NumberZero, r"NumberZero\.one cannot have the number 0: use 1 to 536870911"),
        (NumberReserved, r"NumberReserved\.one cannot have the number 19000"),
        (WrongDefault, r"WrongDefault\.text has the default 'pending', but is read as '' if it is not there"),
        (ZeroForFalse, r"ZeroForFalse\.flag has the default 0, but is read as False"),
        (ListOfTexts, r"ListOfTexts\.texts cannot be of type list\[str\]; use .* tuple\[X, \.\.\.\]"),
        (FloatField, r"FloatField\.share cannot be of type float; use str, bytes, bool, int"),
        (NumbersAsKeys, r"NumbersAsKeys\.table cannot be of type .*Mapping\[int, str\]; use .* Mapping\[str, X\]"),
        (TimeWithoutNone, r"TimeWithoutNone\.time .*; declare it as `datetime \| None`"),
        (OneofWithoutNone, r"OneofWithoutNone\.number is a member of oneof one; declare it as `X \| None`"),
        (WireOfText, r"WireOfText\.text: `wire` is for int alone"),
        (EnumWithoutZero, r"EnumWithoutZero\.shade: Shade has no member 0"),
        (NameOfNothing, r"NameOfNothing: name 'Nothing' is not defined; .* have to stand in its module"),
        (NoDataclass, r"NoDataclass is no dataclass, so it cannot be a message"),
        (WrongInside, r"WrongDefault\.text has the default 'pending'"),
    ],
)
def test_a_wrong_declaration_is_told_at_first_use(kind: type[WithoutNumber], says: str) -> None:
    """google.protobuf says that it could not build a file; the name of the field and what to write end the search."""
    with pytest.raises(TypeError, match=says):
        protobuf.decode(kind, b"")
    with pytest.raises(TypeError, match=says):
        protobuf.encode(kind())

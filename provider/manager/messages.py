"""
The messages of the native manager link; these models are its schema (`json_schema`).

Provider and manager speak JSON, one message in one WebSocket text frame, each with a `type`:

| Provider to manager | Manager to provider |
|---|---|
| `hello`: who I am, and the number that my next item will get | `welcome`: the last number that I have on disk |
| `observed`, `event`: numbered items, in order | `ack`: everything up to this number is on my disk |
| `heartbeat` | `heartbeat`, the answer to one |
| `error` | `error`, `desired`, `resync` |

A provider forgets a machine that never reported and that nobody wants, or that turned out to be a part of another: the event
`machine.forgotten` is the last item of it, and what comes by its id later is a new machine, of which nothing is wanted yet.

Fields that a side does not know are ignored and types that it does not know are logged, so that either side may be newer. A
message that does not validate is answered with `error`, which names the field, and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json

from provider.domain.errors import BootwrightError
from provider.domain.machine import Acceptance, Allocation, Desired, PreferredPower
from provider.kit.jsontypes import JsonObject

PROTOCOLS = (1,)
"""The versions that we speak. `hello` lists the provider's, `welcome` names the highest that both know."""

LARGEST_MESSAGE = 4 << 20
"""Bytes; either side closes a link that brings a larger one."""

T = TypeVar("T")

Number = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
"""A sequence number; 0 is before the first."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
RequestId = Annotated[str, Field(max_length=200)]


class CloseReason(IntEnum):
    """WebSocket close codes with which a manager ends a link (RFC 6455 section 7.4.2: private use)."""

    BAD_HELLO = 4001
    """The first message was no valid `hello`."""
    NO_COMMON_PROTOCOL = 4002
    """None of the provider's protocol versions is known."""
    REPLACED = 4003
    """Another link with the same provider id came: a second provider calls itself the same."""


class Message(BaseModel):
    """Base of all: frozen, and open for fields of newer versions."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Hello(Message):
    """The provider's first words."""

    type: Literal["hello"] = "hello"
    provider: Name
    """Provider id: the same string for the life of the site, and of no other provider."""
    name: str = ""
    """Name of the host that it runs on, which tells two providers with one id apart."""
    version: str = ""
    """Version of the software."""
    protocols: tuple[int, ...] = PROTOCOLS
    labels: dict[str, str] = {}
    next_sequence: Number
    """The number that the next new item will get."""
    heartbeat_seconds: float = Field(default=15.0, gt=0, le=3600)
    """Time between its heartbeats; three of them without any message mean that it is gone."""


class Observed(Message):
    """The whole observed state of one machine, as `planning.observed` describes it."""

    type: Literal["observed"] = "observed"
    sequence: Number
    machine: Name
    state: JsonObject
    at: AwareDatetime


class Event(Message):
    """Something that happened to one machine."""

    type: Literal["event"] = "event"
    sequence: Number
    machine: Name
    name: str
    """`area.past_tense`, such as `wipe.finished`."""
    data: JsonObject = {}
    at: AwareDatetime


class Heartbeat(Message):
    """A sign of life. The manager answers each one of the provider's with one of its own."""

    type: Literal["heartbeat"] = "heartbeat"


class Error(Message):
    """A message could not be used; nothing was changed by it. It is logged, and not answered."""

    type: Literal["error"] = "error"
    field: str
    message: str
    machine: str = ""
    """The machine that the bad message was about, where that could be read."""


class Welcome(Message):
    """The manager's first words: what it has stored from this provider."""

    type: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOLS[-1]
    last_sequence: Number
    last_at: AwareDatetime | None = None
    """The `at` of the item with that number. With it the provider sees whether the manager means the same item."""


class Ack(Message):
    """Everything up to and including this number is on the manager's disk."""

    type: Literal["ack"] = "ack"
    sequence: Number


class AllocationModel(Message):
    """What an allocated machine runs."""

    profile: Name
    version: str = ""
    arguments: tuple[str, ...] = ()
    configuration: str = ""


class DesiredState(Message):
    """The whole desired state of one machine."""

    acceptance: Acceptance = Acceptance.PENDING
    cordoned: bool = False
    allocation: AllocationModel | None = None
    preferred_power: PreferredPower = PreferredPower.OFF
    wipe_id: RequestId = ""
    reboot_id: RequestId = ""
    power_off_id: RequestId = ""

    @classmethod
    def of(cls, desired: Desired) -> DesiredState:
        """The message form of what the rest of the provider knows; the revision travels beside it."""
        return cls.model_validate(desired, from_attributes=True)

    def domain(self, revision: int) -> Desired:
        """As the rest of the provider knows it."""
        allocation = None if self.allocation is None else Allocation(**self.allocation.model_dump())
        return Desired(
            acceptance=self.acceptance,
            cordoned=self.cordoned,
            allocation=allocation,
            preferred_power=self.preferred_power,
            wipe_id=self.wipe_id,
            reboot_id=self.reboot_id,
            power_off_id=self.power_off_id,
            revision=revision,
        )


class DesiredMessage(Message):
    """What the manager wants of one machine; a revision that is not higher than the last one is ignored."""

    type: Literal["desired"] = "desired"
    machine: Name
    revision: Annotated[int, Field(strict=True, ge=1, lt=2**63)]
    state: DesiredState


class Resync(Message):
    """The manager wants the observed state of all machines again."""

    type: Literal["resync"] = "resync"


FromProvider = Hello | Observed | Event | Heartbeat | Error
FromManager = Welcome | Ack | DesiredMessage | Resync | Heartbeat | Error

_FROM_PROVIDER: TypeAdapter[FromProvider] = TypeAdapter(Annotated[FromProvider, Field(discriminator="type")])
_FROM_MANAGER: TypeAdapter[FromManager] = TypeAdapter(Annotated[FromManager, Field(discriminator="type")])


class BadMessageError(BootwrightError):
    """A message does not validate; `field` is where, `machine` whom it was about if that could be read."""

    def __init__(self, field: str, message: str, machine: str = "") -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.machine = machine

    def answer(self) -> Error:
        """What to send back."""
        return Error(field=self.field, message=self.message, machine=self.machine)


class UnknownTypeError(BootwrightError):
    """A message of a type that this version does not know: logged, and otherwise nothing."""


def from_provider(text: str | bytes) -> FromProvider:
    """
    Read a message at the manager's end.

    Raises:
        BadMessageError: If it is none; names the field.
        UnknownTypeError: If its type is not known here.
    """
    return _read(_FROM_PROVIDER, text)


def from_manager(text: str | bytes) -> FromManager:
    """
    Read a message at the provider's end.

    Raises:
        BadMessageError: If it is none; names the field.
        UnknownTypeError: If its type is not known here.
    """
    return _read(_FROM_MANAGER, text)


def to_text(message: Message) -> str:
    """Write a message; any that could be made can be written."""
    try:
        return message.model_dump_json()
    except PydanticSerializationError:
        # Half a surrogate pair in a text that came out of some firmware: no UTF-8 has it. One odd item must not block
        # the link for ever, so it goes out with a question mark there.
        text = json.dumps(message.model_dump(), ensure_ascii=False, default=datetime.isoformat)
        return text.encode("utf-8", "replace").decode()


def common_protocol(theirs: Iterable[int]) -> int | None:
    """The highest protocol version that both sides speak."""
    return max(set(PROTOCOLS) & set(theirs), default=None)


def json_schema() -> JsonObject:
    """JSON Schema of both directions."""
    return {"from_provider": _FROM_PROVIDER.json_schema(), "from_manager": _FROM_MANAGER.json_schema()}


def _read(adapter: TypeAdapter[T], text: str | bytes) -> T:
    try:
        document = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise BadMessageError("message", f"this is not JSON: {error}") from None
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "union_tag_invalid":
        raise UnknownTypeError(f"unknown message type {first['ctx']['tag']}")
    # The first part of the place is the message type that the discriminator chose.
    place = ".".join(str(part) for part in first["loc"][1:])
    missing = "type" if first["type"] == "union_tag_not_found" else "message"
    raise BadMessageError(place or missing, first["msg"], _machine_of(document))


def _machine_of(document: object) -> str:
    machine = document.get("machine") if isinstance(document, dict) else None
    return machine[:200] if isinstance(machine, str) else ""

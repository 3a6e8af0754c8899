"""
The messages of the native manager link; these models are its schema (`json_schema`).

The provider says `hello`, the manager answers `welcome` with the last sequence number that it has stored; then the provider
sends what is newer, in order, and the manager acknowledges what it has on disk. Fields that a side does not know are ignored,
types that it does not know are logged, and a message that does not validate is answered with `error` and changes nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from provider.domain.errors import BootwrightError
from provider.domain.machine import Acceptance, Allocation, Desired, PreferredPower
from provider.kit.jsontypes import JsonObject

PROTOCOL = 1
"""The newest version that we speak; both sides use the lower of their newest ones."""

T = TypeVar("T")

Sequence = Annotated[int, Field(ge=0, lt=2**63)]


class Message(BaseModel):
    """Base of all: frozen, and open for fields of newer versions."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Hello(Message):
    """The provider's first words."""

    type: Literal["hello"] = "hello"
    provider: str
    """Provider id: the same string for the life of the site."""
    version: str
    """Version of the software."""
    protocol: int = PROTOCOL
    labels: dict[str, str] = {}
    next_sequence: Sequence
    """The number that the next new item will get."""


class Observed(Message):
    """The whole observed state of one machine."""

    type: Literal["observed"] = "observed"
    sequence: Sequence
    machine: str
    state: JsonObject
    at: datetime


class Event(Message):
    """Something that happened to one machine."""

    type: Literal["event"] = "event"
    sequence: Sequence
    machine: str
    name: str
    data: JsonObject = {}
    at: datetime


class Heartbeat(Message):
    """A sign of life, from either side."""

    type: Literal["heartbeat"] = "heartbeat"


class Error(Message):
    """The last message was not understood; nothing was changed by it."""

    type: Literal["error"] = "error"
    field: str
    message: str


class Welcome(Message):
    """The manager's first words: what it has stored from this provider."""

    type: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL
    last_sequence: Sequence


class Ack(Message):
    """Everything up to and including this number is on the manager's disk."""

    type: Literal["ack"] = "ack"
    sequence: Sequence


class AllocationModel(Message):
    """What an allocated machine runs."""

    profile: str = Field(min_length=1, max_length=200)
    version: str = ""
    arguments: tuple[str, ...] = ()
    configuration: str = ""


class DesiredState(Message):
    """The whole desired state of one machine."""

    acceptance: Acceptance = Acceptance.PENDING
    cordoned: bool = False
    allocation: AllocationModel | None = None
    preferred_power: PreferredPower = PreferredPower.OFF
    wipe_id: str = Field(default="", max_length=200)
    reboot_id: str = Field(default="", max_length=200)
    power_off_id: str = Field(default="", max_length=200)

    def domain(self, revision: int) -> Desired:
        """As the rest of the provider knows it."""
        allocation = None
        if self.allocation is not None:
            allocation = Allocation(**self.allocation.model_dump())
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
    """What the manager wants of one machine; an older revision than the last is ignored."""

    type: Literal["desired"] = "desired"
    machine: str
    revision: Annotated[int, Field(ge=1, lt=2**63)]
    state: DesiredState


class Resync(Message):
    """The manager wants everything again."""

    type: Literal["resync"] = "resync"


FromProvider = Hello | Observed | Event | Heartbeat | Error
FromManager = Welcome | Ack | DesiredMessage | Resync | Heartbeat | Error

_FROM_PROVIDER: TypeAdapter[FromProvider] = TypeAdapter(Annotated[FromProvider, Field(discriminator="type")])
_FROM_MANAGER: TypeAdapter[FromManager] = TypeAdapter(Annotated[FromManager, Field(discriminator="type")])


class BadMessageError(BootwrightError):
    """A message does not validate; `field` is where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class UnknownTypeError(BootwrightError):
    """A message of a type that this version does not know: logged, and otherwise nothing."""


def from_provider(text: str | bytes) -> FromProvider:
    """
    Read a message at the manager's end.

    Raises:
        BadMessageError, UnknownTypeError
    """
    return _read(_FROM_PROVIDER, text)


def from_manager(text: str | bytes) -> FromManager:
    """
    Read a message at the provider's end.

    Raises:
        BadMessageError, UnknownTypeError
    """
    return _read(_FROM_MANAGER, text)


def json_schema() -> JsonObject:
    """JSON Schema of both directions."""
    return {"from_provider": _FROM_PROVIDER.json_schema(), "from_manager": _FROM_MANAGER.json_schema()}


def _read(adapter: TypeAdapter[T], text: str | bytes) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "union_tag_invalid":
        raise UnknownTypeError(f"unknown message type {first['ctx']['tag']!r}")
    place = [str(part) for part in first["loc"]]
    # The first part of the place is the message type that the discriminator chose.
    field = ".".join(place[1:]) or ("type" if first["type"] == "union_tag_not_found" else "message")
    raise BadMessageError(field, first["msg"])

"""
What a failed call to Omni means. gRPC has few codes for many reasons, so the method and the text decide with the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import grpc

from provider.domain.errors import BootwrightError, NotFoundError, PermanentError, RefusedError, TemporaryError
from provider.manager.omni import server_clock

CLOCK_LIMIT = timedelta(minutes=5)
"""Omni takes a signature for good within five minutes of its own clock."""

SOON = timedelta(seconds=5)

_NEW_KEY = "make a new key with: omnictl infraprovider renewkey ID, put it into manager.key_file, and restart"


class ConflictError(TemporaryError):
    """Somebody changed the resource since we read it: read it again."""


class ExistsError(PermanentError):
    """There is such a resource already."""


class BookmarkError(TemporaryError):
    """The place where a watch should go on is too long ago: begin it anew."""


class UnsupportedError(PermanentError):
    """This Omni does not know the method."""


class CredentialsError(PermanentError):
    """Omni does not take our signature; the message says which of the reasons it is."""


@dataclass(frozen=True)
class Failure:
    """A call that failed: what gRPC says, and what helps to understand it."""

    method: str
    code: grpc.StatusCode
    text: str
    now: datetime
    server_date: datetime | None = None
    """The server's clock."""
    key_expires_at: datetime | None = None
    key_created_at: datetime | None = None


def explain(failure: Failure) -> BootwrightError:
    """Give the error that says what happened, why, and what to do."""
    call = failure.method.rsplit("/", 1)[-1]
    said = f"Omni answered {call} with: {failure.text or failure.code.name}"
    match failure.code:
        case grpc.StatusCode.NOT_FOUND:
            return NotFoundError(said)
        case grpc.StatusCode.ALREADY_EXISTS:
            return ExistsError(said)
        case grpc.StatusCode.UNIMPLEMENTED:
            return UnsupportedError(said, hint="a newer Omni knows it")
        case grpc.StatusCode.UNAUTHENTICATED:
            return _unauthenticated(failure)
        case grpc.StatusCode.PERMISSION_DENIED:
            return RefusedError(said, hint=_denied_hint(failure.text))
        case grpc.StatusCode.FAILED_PRECONDITION:
            return _precondition(call, failure.text, said)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return ConflictError(said, retry_after=SOON) if "phase" in failure.text else PermanentError(said)
        case grpc.StatusCode.UNAVAILABLE:
            return _unreachable(failure.text)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return TemporaryError(f"Omni did not answer {call} in time", retry_after=SOON)
        case _:
            return TemporaryError(said, retry_after=SOON)


def server_date(metadata: Iterable[tuple[str, str | bytes]] | None) -> datetime | None:
    """The `date` header among gRPC metadata, which a proxy before Omni may add; None if there is none that can be read."""
    found = [value for key, value in metadata or () if key == "date" and isinstance(value, str)]
    return server_clock.parse(found[0]) if found else None


def _unauthenticated(failure: Failure) -> CredentialsError:
    """Omni says "invalid signature" to all of these; what we know ourselves tells them apart."""
    expires_at, date = failure.key_expires_at, failure.server_date
    if date is not None and abs(date - failure.now) > CLOCK_LIMIT:
        ahead = failure.now - date
        which = "ahead of" if ahead > timedelta(0) else "behind"
        return CredentialsError(
            f"our clock is {_rough(abs(ahead))} {which} Omni's, so it takes none of our signatures",
            hint="set the clock (NTP); five minutes are allowed",
        )
    if expires_at is not None and expires_at <= (date or failure.now):
        return CredentialsError(f"the service account key expired on {expires_at:%Y-%m-%d %H:%M} UTC", hint=_NEW_KEY)
    if failure.key_created_at is not None and failure.key_created_at > (date or failure.now) + CLOCK_LIMIT:
        return CredentialsError(
            f"the service account key is not valid before {failure.key_created_at:%Y-%m-%d %H:%M} UTC",
            hint=f"the clock where it was made was ahead: set that clock; {_NEW_KEY}",
        )
    clock = "" if date is not None else ", or our clock is more than five minutes off"
    return CredentialsError(
        f"Omni does not know the service account key: it was revoked, or belongs to another Omni{clock}",
        hint=f"compare with: omnictl serviceaccount list; {_NEW_KEY}",
    )


def _denied_hint(text: str) -> str:
    if "not registered" in text:
        return "Omni has no infra provider of our id: run omnictl infraprovider create"
    if "is owned by" in text:
        return "another program writes the same resources: is a second provider running with our id?"
    return "the service account must have the role InfraProvider, and the Omni account must not be suspended"


def _precondition(call: str, text: str, said: str) -> BootwrightError:
    if "EULA" in text:
        return PermanentError(said, hint="an administrator must accept the EULA in Omni's web page")
    if call == "Watch":
        return BookmarkError(said, retry_after=timedelta(0))
    return ConflictError(said, retry_after=SOON)


_CERTIFICATE_HINT = "set manager.ca_file to the CA certificate of Omni, and dial a name that its certificate has"

_UNREACHABLE = (
    ("CERTIFICATE_VERIFY_FAILED: ", "its certificate is not trusted", _CERTIFICATE_HINT),
    ("not in peer certificate", "its certificate is of another name", _CERTIFICATE_HINT),
    (
        "WRONG_VERSION_NUMBER",
        "what listens there does not speak TLS",
        "check host and port of manager.endpoint; http:// is for an Omni on this host",
    ),
    (
        "last error: UNAVAILABLE: ",
        "what listens there ends the connection at once",
        "if it speaks TLS, write https:// in manager.endpoint; else check the port",
    ),
    ("lookup failed", "its name is not found", "check the host in manager.endpoint, and DNS"),
    ("Connection refused", "nobody listens there", "check host and port of manager.endpoint"),
)
"""What gRPC says, what that means, and what to do."""


def _unreachable(text: str) -> TemporaryError:
    """gRPC tells where in its code it failed, too; that goes no further."""
    last = text.rpartition("last error: ")[2].removeprefix("UNKNOWN: ").removesuffix(": OK")
    for needle, meaning, hint in _UNREACHABLE:
        if needle in text:
            detail = f": {last.rpartition(needle)[2]}" if needle.endswith("FAILED: ") else ""
            return TemporaryError(f"Omni cannot be reached: {meaning}{detail}", retry_after=SOON, hint=hint)
    return TemporaryError(f"Omni cannot be reached: {last}", retry_after=SOON)


def _rough(span: timedelta) -> str:
    minutes = round(span.total_seconds() / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"

"""What a failed call means: the operator is sent to the wrong place, or a conflict ends the link."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest

from provider.domain.errors import BootwrightError, NotFoundError, PermanentError, RefusedError, TemporaryError
from provider.manager.omni import errors
from provider.manager.omni.errors import (
    BookmarkError,
    ConflictError,
    CredentialsError,
    ExistsError,
    Failure,
    UnsupportedError,
)

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
Code = grpc.StatusCode


def failed(call: str, code: grpc.StatusCode, text: str = "", **more: datetime) -> BootwrightError:
    return errors.explain(Failure(f"/cosi.resource.State/{call}", code, text, NOW, **more))


@pytest.mark.parametrize(
    ("call", "code", "text", "kind"),
    [
        ("Get", Code.NOT_FOUND, "gone", NotFoundError),
        ("Create", Code.ALREADY_EXISTS, "there", ExistsError),
        ("Teardown", Code.UNIMPLEMENTED, "unknown method", UnsupportedError),
        ("Update", Code.FAILED_PRECONDITION, "update conflict: expected version 1", ConflictError),
        ("Destroy", Code.FAILED_PRECONDITION, "has pending finalizers", ConflictError),
        ("Watch", Code.FAILED_PRECONDITION, "invalid bookmark", BookmarkError),
        ("Get", Code.FAILED_PRECONDITION, "EULA has not been accepted yet", PermanentError),
        ("Update", Code.INVALID_ARGUMENT, "resource is not in phase running", ConflictError),
        ("Create", Code.INVALID_ARGUMENT, "failed to validate: id", PermanentError),
        ("Update", Code.PERMISSION_DENIED, 'resource is owned by "x"', RefusedError),
        ("Get", Code.UNAVAILABLE, "Stream removed (Socket closed)", TemporaryError),
        ("Get", Code.DEADLINE_EXCEEDED, "", TemporaryError),
        ("Get", Code.RESOURCE_EXHAUSTED, "slow down", TemporaryError),
        ("Get", Code.UNKNOWN, "unparsable", TemporaryError),
        ("Get", Code.INTERNAL, "", TemporaryError),
    ],
)
def test_kind(call: str, code: grpc.StatusCode, text: str, kind: type[BootwrightError]) -> None:
    """Who must act: nobody (again at once), time, or a person."""
    found = failed(call, code, text)
    assert type(found) is kind
    assert text in str(found) or code is Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("date", "expires", "said", "hint"),
    [
        (NOW + timedelta(minutes=9), None, "our clock is 9 minutes behind Omni's", "NTP"),
        (NOW - timedelta(hours=5), None, "our clock is 5 hours ahead of Omni's", "NTP"),
        (NOW, NOW - timedelta(days=1), "the service account key expired on 2026-05-03", "new key"),
        (NOW, NOW + timedelta(days=1), "Omni does not know the service account key: it was revoked", "list"),
        (None, None, "or our clock is more than five minutes off", "list"),
        (NOW + timedelta(minutes=9), NOW, "our clock is 9 minutes behind Omni's", "NTP"),
    ],
)
def test_signature_that_is_not_taken(date: datetime | None, expires: datetime | None, said: str, hint: str) -> None:
    """Omni says "invalid signature" to a wrong clock, an expired key and a revoked one alike (facts 8.4)."""
    failure = Failure("/x/Get", Code.UNAUTHENTICATED, "invalid signature", NOW, date, expires)
    found = errors.explain(failure)
    assert isinstance(found, CredentialsError)
    assert said in str(found)
    assert hint in found.hint


@pytest.mark.parametrize(
    ("date", "created", "said"),
    [
        (NOW, NOW + timedelta(days=1), "not valid before 2026-05-05 12:00 UTC"),
        (None, NOW + timedelta(days=1), "not valid before 2026-05-05 12:00 UTC"),
        (NOW, NOW + timedelta(minutes=4), "it was revoked"),
        (NOW, NOW - timedelta(days=1), "it was revoked"),
    ],
)
def test_key_that_is_not_valid_yet(date: datetime | None, created: datetime, said: str) -> None:
    """A key that was made by a clock that was ahead is held to be revoked, and made anew with the same clock."""
    failure = Failure("/x/Get", Code.UNAUTHENTICATED, "invalid signature", NOW, date, None, created)
    assert said in str(errors.explain(failure))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('provider "bm" is not registered in the system', "omnictl infraprovider create"),
        ('resource is owned by "other"', "second provider"),
        ("permission denied", "InfraProvider"),
    ],
)
def test_denied(text: str, hint: str) -> None:
    """All reasons of PERMISSION_DENIED get one hint."""
    assert hint in failed("Update", Code.PERMISSION_DENIED, text).hint


ALL = "failed to connect to all addresses; last error: "
TLS = f"{ALL}UNKNOWN: ipv4:127.0.0.1:1: Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1:SSL routines:X:"


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (
            f"{TLS}CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK",
            "its certificate is not trusted: unable to get local issuer certificate",
            "ca_file",
        ),
        (
            f"{ALL}UNKNOWN: Peer name omni is not in peer certificate",
            "its certificate is of another name",
            "a name that",
        ),
        (
            f"{TLS}WRONG_VERSION_NUMBER: Invalid certificate verification context: OK",
            "what listens there does not speak TLS",
            "http:// is for",
        ),
        (
            f"{ALL}UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed",
            "what listens there ends the connection at once",
            "write https://",
        ),
        (
            "errors resolving omni.invalid:443: [field:hostname lookup error:address lookup failed for omni.invalid:443: X]",
            "its name is not found",
            "DNS",
        ),
        (
            f"{ALL}UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused",
            "nobody listens there",
            "port",
        ),
        (f"{ALL}UNKNOWN: ipv4:1.2.3.4:1: No route to host", "ipv4:1.2.3.4:1: No route to host", ""),
        ("Stream removed (Socket closed)", "Stream removed (Socket closed)", ""),
    ],
)
def test_unreachable(text: str, said: str, hint: str) -> None:
    """The operator reads where in gRPC something happened, or looks for a CA where there is no TLS. Texts of grpcio 1.82."""
    found = failed("Get", Code.UNAVAILABLE, text)
    assert str(found) == f"Omni cannot be reached: {said}"
    assert hint in found.hint


@pytest.mark.parametrize(
    ("metadata", "date"),
    [
        ((("date", "Mon, 04 May 2026 12:00:00 GMT"),), NOW),
        ((("date", "Mon, 04 May 2026 12:00:00 -0000"),), NOW),
        ((("date", "Mon, 04 May 2026 14:00:00 +0200"),), NOW),
        ((("content-type", "x"), ("date", "soon")), None),
        ((("date", b"Mon"),), None),
        ((), None),
        (None, None),
    ],
)
def test_date_of_the_server(metadata: tuple[tuple[str, str | bytes], ...] | None, date: datetime | None) -> None:
    """A date that cannot be read ends the link with another error than the one that happened."""
    assert errors.server_date(metadata) == date

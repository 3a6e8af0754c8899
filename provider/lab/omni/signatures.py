"""
The check that every call passes first: its signature, as Omni's interceptor and go-api-signature check it.

No reason is told to the caller beyond "invalid signature"; `why` has the last one for tests.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import grpc

from provider.lab.omni.accounts import Accounts, Caller
from provider.lab.omni.resources import CallError

_SKEW = timedelta(minutes=5)
_SIGNED_HEADERS = (
    "x-sidero-timestamp",
    "nodes",
    "selectors",
    "fieldSelectors",  # Metadata names are lower-case on the wire, so this one is never there.
    "runtime",
    "context",
    "cluster",
    "namespace",
    "uid",
    "authorization",
)


class Signatures:
    """Finds out who calls."""

    def __init__(self, accounts: Accounts, now: Callable[[], datetime]) -> None:
        self._accounts = accounts
        self._now = now
        self.why = ""
        """Why the last refused call was refused."""
        self.eula_accepted = True

    def caller(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """
        The caller of a method (with its leading slash) by the metadata of the call.

        Raises:
            CallError: UNAUTHENTICATED; FAILED_PRECONDITION until the EULA is accepted.
        """
        if not self.eula_accepted:
            text = "EULA has not been accepted; please accept the End User License Agreement before using Omni"
            raise CallError(grpc.StatusCode.FAILED_PRECONDITION, text)
        headers: dict[str, list[str]] = {}
        for name, value in metadata:
            headers.setdefault(name, []).append(value if isinstance(value, str) else value.decode("latin-1"))
        try:
            return self._check(method, headers)
        except ValueError as error:
            self.why = str(error)
            raise CallError(grpc.StatusCode.UNAUTHENTICATED, "invalid signature") from error

    def _check(self, method: str, headers: dict[str, list[str]]) -> Caller:
        fields = _first(headers, "x-sidero-signature").split(" ")
        if fields[0] != "siderov1" or len(fields) != 4:
            raise ValueError(f"unsupported signature version: {fields[0]!r} with {len(fields)} fields")
        fingerprint, signature = fields[2], _base64(fields[3])
        caller, certificate = self._accounts.holder(fingerprint)
        now = self._now()
        if abs(now.timestamp() - _whole(_first(headers, "x-sidero-timestamp"))) > _SKEW.total_seconds():
            raise ValueError("timestamp is outside of allowed skew")
        raw = _first(headers, "x-sidero-payload")
        _check_payload(raw, method, headers)
        certificate.verify(raw.encode(), signature, now)
        return caller


def _check_payload(raw: str, method: str, headers: dict[str, list[str]]) -> None:
    payload = json.loads(raw)  # A JSONDecodeError is a ValueError.
    if not isinstance(payload, dict) or payload.get("method") != method:
        raise ValueError("payload method does not match")
    signed = payload.get("headers") or {}
    if not isinstance(signed, dict):
        raise ValueError("payload headers are not an object")  # noqa: TRY004 - it is a value that somebody sent
    for name in _SIGNED_HEADERS:
        if signed.get(name) != headers.get(name):  # An empty list is not an absent one.
            raise ValueError(f"payload header does not match: {name}")


def _first(headers: dict[str, list[str]], name: str) -> str:
    if name not in headers:
        raise ValueError(f"not found: {name}")
    return headers[name][0]


def _whole(text: str) -> int:
    if not text.isascii() or not text.removeprefix("-").isdigit():
        raise ValueError(f"the timestamp is not a number: {text!r}")
    return int(text)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the signature is not base64: {error}") from error

"""
How a service account of Omni proves who it is: the key that the operator was given, and the headers that each call carries.

What is signed is the method and the time, not what is said: Omni accepts a signature for five minutes before and after its time.
The server compares the payload with the call, and verifies the signature over the very bytes of the payload.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from provider.domain.errors import PermanentError
from provider.wire import openpgp

_VARIABLE = "OMNI_SERVICE_ACCOUNT_KEY="
_PREFIX = "infra-provider:"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A name as in DNS (RFC 1123 section 2.1)."""

_WHOLE = "copy all of it: the one line with OMNI_SERVICE_ACCOUNT_KEY that omnictl infraprovider create printed"
_OTHER = "make one with: omnictl infraprovider create ID"


class UnusableAccountError(PermanentError):
    """The text is no key of a service account for an infrastructure provider; the message says why."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(f"the service account key cannot be used: {reason}", hint=hint)


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Who we are to Omni."""

    provider_id: str
    key: openpgp.SecretKey

    @property
    def identity(self) -> str:
        """The name as headers have it. It informs only: Omni finds the account by the key."""
        return _PREFIX + self.provider_id


def read_service_account(text: str) -> ServiceAccount:
    """
    Read the key that `omnictl infraprovider create` prints: base64 of a JSON object.

    Raises:
        UnusableAccountError: If it is anything else.
        openpgp.UnusableKeyError: If the OpenPGP key in it cannot sign.
    """
    account = _object(text)
    name, armored = account.get("name"), account.get("pgp_key")
    if not isinstance(name, str) or not isinstance(armored, str):
        missing = "name" if not isinstance(name, str) else "pgp_key"
        raise UnusableAccountError(f"it has no {missing}", _WHOLE)
    provider_id = name.removeprefix(_PREFIX)
    if provider_id == name:
        raise UnusableAccountError(f"it is of {name[:80]!r}, which is no infrastructure provider", _OTHER)
    if not _LABEL.fullmatch(provider_id):
        hint = "ids have up to 63 small letters, digits and dashes; " + _OTHER
        raise UnusableAccountError(f"{provider_id[:80]!r} is no id of a provider", hint)
    return ServiceAccount(provider_id, openpgp.read_secret_key(armored))


def headers(
    account: ServiceAccount, method: str, now: datetime, sign: Callable[[bytes], bytes]
) -> tuple[tuple[str, str], ...]:
    """The metadata of one call of `method`, such as `/cosi.resource.State/Get`; `sign` as for openpgp.detached_signature."""
    timestamp = str(int(now.timestamp()))
    payload = json.dumps({"headers": {"x-sidero-timestamp": [timestamp]}, "method": method}, separators=(",", ":"))
    signature = base64.b64encode(openpgp.detached_signature(account.key, payload.encode(), now, sign)).decode()
    return (
        ("x-sidero-timestamp", timestamp),
        ("x-sidero-payload", payload),
        ("x-sidero-signature", f"siderov1 {account.identity} {account.key.fingerprint} {signature}"),
    )


def _object(text: str) -> dict[str, object]:
    """What is inside; white space, the name before it, and the padding that some tools leave out, do not matter."""
    letters = "".join(text.split()).removeprefix(_VARIABLE).rstrip("=")
    if not letters:
        raise UnusableAccountError("it is empty", _WHOLE)
    try:
        inside = base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII.
        raise UnusableAccountError("it is not base64", _WHOLE) from None
    try:
        account = json.loads(inside)
    except (ValueError, RecursionError):
        raise UnusableAccountError("it is no JSON, or is cut off", _WHOLE) from None
    if not isinstance(account, dict):
        raise UnusableAccountError("it is no JSON object", _WHOLE)
    return account

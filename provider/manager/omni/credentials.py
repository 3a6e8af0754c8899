"""
The service account key at work: signs calls to Omni, and knows when the key ends.

Keys end after a year at most, and a provider cannot renew its own. So people are told 60, 30 and 7 days ahead, and when it is
too late: Omni itself says no more than "invalid signature".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider.wire import openpgp, sidero_auth


class Expiry(Enum):
    """How near the end of a key is; each is worth one warning."""

    IN_60_DAYS = timedelta(days=60)
    IN_30_DAYS = timedelta(days=30)
    IN_7_DAYS = timedelta(days=7)
    EXPIRED = timedelta(0)


def due_warning(expires_at: datetime | None, now: datetime) -> Expiry | None:
    """Which warning holds now, None if none does; it is due when it is another than the last one that was given."""
    if expires_at is None:
        return None
    return next((expiry for expiry in reversed(Expiry) if expires_at - now <= expiry.value), None)


@dataclass(frozen=True)
class Credentials:
    """One service account."""

    account: sidero_auth.ServiceAccount
    _signer: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, text: str) -> Credentials:
        """
        Take what `omnictl infraprovider create` printed.

        Raises:
            sidero_auth.UnusableAccountError: If it is something else.
            openpgp.UnusableKeyError: If the key in it cannot sign.
        """
        account = sidero_auth.read_service_account(text)
        signer = Ed25519PrivateKey.from_private_bytes(account.key.seed)
        if signer.public_key().public_bytes_raw() != account.key.public:
            raise openpgp.UnusableKeyError("it is damaged: its secret part belongs to another public part")
        return cls(account, signer)

    @property
    def expires_at(self) -> datetime | None:
        """When Omni stops accepting the key; None if the key does not say."""
        return self.account.key.expires

    def headers(self, method: str, now: datetime) -> tuple[tuple[str, str], ...]:
        """The gRPC metadata of a call of `method` (`/package.Service/Method`) that is made now."""
        return sidero_auth.headers(self.account, method, now, self._signer.sign)

"""
OpenPGP keys as `omnictl` makes them, and signatures checked and made, all by Sequoia.

Sequoia's own keys sign with a subkey; those of `omnictl` sign with the primary one. So Sequoia makes key, user id and encryption
subkey, and one packet is ours: the certification which says that the primary key may sign.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider.domain.errors import PermanentError

LIFETIME = timedelta(days=365)
"""The longest that Omni takes."""

_POSITIVE_CERTIFICATION = 0x13
_CERTIFY_AND_SIGN = b"\x03"


@dataclass(frozen=True)
class KeyPair:
    """A fresh key: the secret half armored, and what is registered of it."""

    name: str
    """As it stands in the key string, such as `infra-provider:bm`."""
    armored: str
    public: str
    fingerprint: str
    expires: datetime

    def service_account_key(self) -> str:
        """The string that an operator gives to a provider: base64 of a JSON object."""
        return base64.b64encode(json.dumps({"name": self.name, "pgp_key": self.armored}).encode()).decode()

    def signer(self) -> Callable[[bytes], bytes]:
        """Makes binary detached signatures."""
        sequoia = _sequoia()
        key = sequoia.Tsk.from_bytes(self.armored.encode()).signer()

        def sign(data: bytes) -> bytes:
            return bytes(sequoia.sign(key, data, mode=sequoia.SignatureMode.DETACHED, armor=False))

        return sign


class Certificate:
    """A registered public key."""

    def __init__(self, armored: bytes) -> None:
        """
        Raises:
            ValueError: If it is no public key that Omni would take.
        """
        sequoia = _sequoia()
        try:
            self._cert = sequoia.Cert.from_bytes(armored)
            packets = list(sequoia.packet.PacketPile.from_bytes(armored))
        except Exception as error:
            raise ValueError("gopenpgp: error in reading key ring: it is not OpenPGP") from error
        if any(packet.tag in (sequoia.packet.Tag.SecretKey, sequoia.packet.Tag.SecretSubkey) for packet in packets):
            raise ValueError("PGP key contains private key")
        self.fingerprint: str = self._cert.fingerprint
        self.created: datetime = packets[0].key_created
        self.expires: datetime | None = self._cert.expiration
        self.user_ids = [str(each) for each in self._cert.user_ids]

    def check(self, longest: timedelta, now: datetime) -> datetime:
        """
        What Omni asks of a key that is registered; gives when it expires.

        Raises:
            ValueError: If it does not expire, has expired, lives too long, or bears no mail address.
        """
        if self.expires is None:
            raise ValueError("key does not contain a valid key lifetime")
        if self.expires < now:
            raise ValueError("key expired")
        if self.expires > now + longest + timedelta(minutes=1):
            raise ValueError(f"key lifetime is too long: {self.expires - self.created}")
        if not any("@" in each for each in self.user_ids):
            raise ValueError(f"key does not contain a valid email address: {self.user_ids}")
        return self.expires

    def verify(self, data: bytes, signature: bytes, now: datetime) -> None:
        """
        Check a binary detached signature; its maker's clock may be five minutes ahead.

        Raises:
            ValueError: If it is not a good one.
        """
        sequoia = _sequoia()
        if signature.startswith(b"-----"):
            raise ValueError("the signature is armored")
        try:
            found = sequoia.Sig.from_bytes(signature)
            sequoia.verify(bytes=data, store=lambda _: [self._cert], signature=found)
        except Exception as error:
            raise ValueError(f"bad signature: {error}") from error
        latest = now + timedelta(minutes=5)
        if found.created is None or found.created > latest or self.created > latest:
            raise ValueError("the signature or its key is of the future")


def generate(name: str, email: str, lifetime: timedelta = LIFETIME, comment: str = "linux/amd64") -> KeyPair:
    """A new key named as `omnictl` names keys; `name` is that of the account, with its prefix."""
    sequoia = _sequoia()
    short = name.rpartition(":")[2]
    made = sequoia.Tsk.generate(
        user_id=f"{short} ({comment}) <{email}>", validity_seconds=int(lifetime.total_seconds())
    )
    tags = sequoia.packet.Tag
    packets = list(sequoia.packet.PacketPile.from_bytes(bytes(made)))
    primary = packets[0]
    user_id = next(packet for packet in packets if packet.tag == tags.UserID)
    subkey, binding = packets[-2:]  # The encryption subkey, which nobody uses; real keys have one, too.
    certification = _certification(primary, user_id.body, lifetime)
    raw = bytes(primary) + bytes(user_id) + certification + bytes(subkey) + bytes(binding)
    key = sequoia.Tsk.from_bytes(raw)
    public = key.extract_certificate()
    return KeyPair(name, str(key), str(public), public.fingerprint, public.expiration)


def _certification(primary: Any, user_id: bytes, lifetime: timedelta) -> bytes:
    """The signature packet of a primary key over itself and its user id (RFC 4880 section 5.2.4)."""
    body: bytes = primary.body
    public = body[: 6 + 10 + 2 + 33]  # version, time, algorithm; curve; length and value of the point
    seed = _seed(body[len(public) :])
    fingerprint = bytes.fromhex(primary.fingerprint)
    created = int(primary.key_created.timestamp())
    hashed = b"".join(
        _subpacket(kind, content)
        for kind, content in (
            (2, struct.pack(">I", created)),
            (9, struct.pack(">I", int(lifetime.total_seconds()))),
            (25, b"\x01"),
            (27, _CERTIFY_AND_SIGN),
            (33, b"\x04" + fingerprint),
        )
    )
    head = bytes((4, _POSITIVE_CERTIFICATION, 22, 8)) + struct.pack(">H", len(hashed)) + hashed
    signed = b"\x99" + struct.pack(">H", len(public)) + public + b"\xb4" + struct.pack(">I", len(user_id)) + user_id
    digest = hashlib.sha256(signed + head + b"\x04\xff" + struct.pack(">I", len(head))).digest()
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(digest)
    issuer = _subpacket(16, fingerprint[-8:])
    content = head + struct.pack(">H", len(issuer)) + issuer + digest[:2] + _mpi(signature[:32]) + _mpi(signature[32:])
    return bytes((0xC2, len(content))) + content


def _seed(secret: bytes) -> bytes:
    """Of an unprotected key: a zero octet, the number, a checksum."""
    (bits,) = struct.unpack(">H", secret[1:3])
    return secret[3 : 3 + (bits + 7) // 8].rjust(32, b"\0")


def _subpacket(kind: int, content: bytes) -> bytes:
    return bytes((len(content) + 1, kind)) + content


def _mpi(number: bytes) -> bytes:
    stripped = number.lstrip(b"\0")
    return struct.pack(">H", int.from_bytes(stripped, "big").bit_length()) + stripped


def _sequoia() -> Any:
    try:
        import pysequoia
    except ImportError as error:
        raise PermanentError(
            "the fake Omni needs a library that is not installed: pysequoia",
            hint="install the test extra: pip install 'bootwright[test]'",
        ) from error
    return pysequoia

"""
As much OpenPGP (RFC 4880, RFC 9580) as it takes to sign with an Ed25519 key: read an unprotected secret key, and put a detached
signature together.

Pure: Ed25519 itself is a function that the caller gives. Reading is lenient where writers differ (old and new packet headers,
algorithms 22 and 27, any CRC line or none, seeds without their leading zeros) and strict where a mistake would sign with the
wrong key (checksum of the secret). Whether the key's own signatures are right is not looked at: who accepts ours does that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from provider.domain.errors import PermanentError

_WHAT = "the OpenPGP key cannot be used"
_ANOTHER = "make another key, with: omnictl infraprovider create (or renewkey)"

_BEGIN = "-----BEGIN PGP PRIVATE KEY BLOCK-----"
_END = "-----END PGP PRIVATE KEY BLOCK-----"

_ED25519_OID = bytes.fromhex("092b06010401da470f01")
"""With its length (RFC 9580 section 9.2)."""

_NAMES = {
    1: "RSA",
    2: "RSA",
    3: "RSA",
    16: "Elgamal",
    17: "DSA",
    18: "ECDH",
    19: "ECDSA",
    25: "X25519",
    26: "X448",
    28: "Ed448",
}
"""Public key algorithms (RFC 9580 section 9.1) that people may come with."""


class Algorithm(IntEnum):
    """Two spellings of Ed25519 (RFC 9580 section 9.1)."""

    EDDSA_LEGACY = 22
    ED25519 = 27


class Hash(IntEnum):
    """Digests that signatures are made of (RFC 9580 section 9.5)."""

    SHA256 = 8
    SHA512 = 10


class UnusableKeyError(PermanentError):
    """The key is none, or none that we can sign with; the message says why."""

    def __init__(self, reason: str, hint: str = _ANOTHER) -> None:
        super().__init__(f"{_WHAT}: {reason}", hint=hint)


class _TruncatedError(Exception):
    """The bytes end too early."""


@dataclass(frozen=True, slots=True)
class SecretKey:
    """An Ed25519 key; `seed` is the secret, of 32 bytes, and in no repr."""

    seed: bytes = field(repr=False)
    public: bytes
    """32 bytes, as the key states it: derive it from the seed and compare, before you sign."""
    algorithm: Algorithm
    fingerprint: str
    """40 lower-case hex digits."""
    user_id: str
    created: datetime
    expires: datetime | None
    """From the self certification; None if the key says nothing of its end."""


def read_secret_key(armored: str) -> SecretKey:
    """
    Read an ASCII-armored transferable secret key of version 4 (RFC 9580 section 10.2).

    Raises:
        UnusableKeyError: If it is anything else.
    """
    try:
        return _read(_dearmor(armored))
    except _TruncatedError:
        raise UnusableKeyError("it is cut off", "copy the whole key, to its last character") from None


def detached_signature(
    key: SecretKey, data: bytes, now: datetime, sign: Callable[[bytes], bytes], hash_id: Hash = Hash.SHA512
) -> bytes:
    """
    Sign `data` as a binary document, at the second of `now`; gives the packet (RFC 9580 section 5.2.3), not armored.

    `sign` is Ed25519 with `key.seed`: it takes a digest and gives 64 bytes.
    """
    fingerprint = bytes.fromhex(key.fingerprint)
    hashed = b"\x05\x02" + int(now.timestamp()).to_bytes(4, "big") + b"\x16\x21\x04" + fingerprint
    head = bytes((4, 0, key.algorithm, hash_id)) + len(hashed).to_bytes(2, "big") + hashed
    digest = hashlib.new(hash_id.name, data + head + b"\x04\xff" + len(head).to_bytes(4, "big")).digest()
    signature = sign(digest)
    values = signature if key.algorithm is Algorithm.ED25519 else _mpi(signature[:32]) + _mpi(signature[32:])
    body = head + b"\x00\x0a\x09\x10" + fingerprint[-8:] + digest[:2] + values
    return bytes((0xC2, len(body))) + body


def _mpi(number: bytes) -> bytes:
    """RFC 9580 section 3.2: the exact length in bits, and no leading zero bytes."""
    value = int.from_bytes(number, "big")
    return value.bit_length().to_bytes(2, "big") + value.to_bytes((value.bit_length() + 7) // 8, "big")


# --- armor (RFC 9580 section 6) ---


def _dearmor(text: str) -> bytes:
    lines = [line.strip() for line in text.split("\n")]
    if _BEGIN not in lines:
        if "-----BEGIN PGP PUBLIC KEY BLOCK-----" in lines:
            raise UnusableKeyError("it is the public half, which cannot sign", "give the secret key")
        raise UnusableKeyError(f"it does not have the line {_BEGIN}")
    lines = lines[lines.index(_BEGIN) + 1 :]
    if _END not in lines:
        raise _TruncatedError
    # Headers such as `Version: …` come first. The CRC is not looked at: RFC 9580 forbids to refuse a key for it.
    inside = (line for line in lines[: lines.index(_END)] if ":" not in line and not line.startswith("="))
    try:
        return base64.b64decode("".join(inside), validate=True)
    except (binascii.Error, ValueError):
        raise UnusableKeyError("between its first and last line is something other than base64") from None


# --- packets (RFC 9580 section 4) ---


class _Reader:
    """Takes bytes off the front."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.at = 0

    def take(self, count: int) -> bytes:
        taken = self._raw[self.at : self.at + count]
        if len(taken) < count:
            raise _TruncatedError
        self.at += count
        return taken

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def mpi(self) -> bytes:
        return self.take((self.number(2) + 7) // 8)

    def rest(self) -> bytes:
        return self.take(len(self._raw) - self.at)

    def __bool__(self) -> bool:
        return self.at < len(self._raw)


def _packets(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet, with headers of either format."""
    reader = _Reader(raw)
    while reader:
        first = reader.number(1)
        if not first & 0x80:
            raise UnusableKeyError("it is not made of OpenPGP packets")
        if first & 0x40:
            yield first & 0x3F, reader.take(_length(reader))
            continue
        kind = first & 3
        yield first >> 2 & 0x0F, reader.rest() if kind == 3 else reader.take(reader.number(1 << kind))


def _length(reader: _Reader) -> int:
    """Of packets and of subpackets (RFC 9580 sections 4.2.1 and 5.2.3.7); no key has partial lengths."""
    first = reader.number(1)
    if first < 192:
        return first
    if first < 255:
        return (first - 192 << 8) + reader.number(1) + 192
    return reader.number(4)


def _read(raw: bytes) -> SecretKey:
    key: SecretKey | None = None
    user_id = ""
    own: list[_Certification] = []
    for tag, body in _packets(raw):
        match tag:
            case 5:
                key = _secret_key(body)
            case 6:
                raise UnusableKeyError("it is the public half, which cannot sign", "give the secret key")
            case 13:
                user_id = user_id or body.decode(errors="replace")
            case 2 if key is not None:
                own += _certifications(body, key)
            case 7 | 14:
                break  # Subkeys and their signatures are the rest.
    if key is None:
        raise UnusableKeyError("there is no secret key in it")
    if not own:
        return replace(key, user_id=user_id)
    in_force = max(own, key=lambda one: (one.is_primary, one.made))
    if not in_force.may_sign:
        raise UnusableKeyError("its primary key is for certifying only, and must sign here")
    expires = key.created + timedelta(seconds=in_force.lifetime) if in_force.lifetime else None
    return replace(key, user_id=user_id, expires=expires)


def _secret_key(body: bytes) -> SecretKey:
    """The primary key; user id and end come in packets of their own."""
    reader = _Reader(body)
    version = reader.number(1)
    if version != 4:
        raise UnusableKeyError(f"it is of version {version}, and we sign with version 4")
    created = datetime.fromtimestamp(reader.number(4), UTC)
    algorithm, public = _public(reader)
    stated = body[: reader.at]
    if reader.number(1) != 0:
        raise UnusableKeyError("it is protected by a passphrase", "take the passphrase off it, or " + _ANOTHER)
    start = reader.at
    seed = reader.mpi() if algorithm is Algorithm.EDDSA_LEGACY else reader.take(32)
    checksum = sum(body[start : reader.at]) % 65536
    if len(seed) > 32 or reader.number(2) != checksum:
        raise UnusableKeyError("it is damaged: the checksum of its secret part is wrong")
    fingerprint = hashlib.sha1(b"\x99" + len(stated).to_bytes(2, "big") + stated, usedforsecurity=False).hexdigest()
    return SecretKey(seed.rjust(32, b"\0"), public, algorithm, fingerprint, "", created, None)


def _public(reader: _Reader) -> tuple[Algorithm, bytes]:
    number = reader.number(1)
    match number:
        case Algorithm.ED25519:
            return Algorithm.ED25519, reader.take(32)
        case Algorithm.EDDSA_LEGACY:
            if reader.take(len(_ED25519_OID)) != _ED25519_OID:
                raise UnusableKeyError("its curve is not Ed25519")
            point = reader.mpi()
            if len(point) != 33 or point[0] != 0x40:
                raise UnusableKeyError("it is damaged: its public part is no point of Ed25519")
            return Algorithm.EDDSA_LEGACY, point[1:]
    raise UnusableKeyError(f"it is a key for {_NAMES.get(number, f'algorithm {number}')}, and we sign with Ed25519")


# --- signatures over the key itself (RFC 9580 section 5.2) ---


@dataclass(frozen=True)
class _Certification:
    """What one self certification says of the key; the primary user id's is in force, else the latest."""

    is_primary: bool
    made: int
    lifetime: int
    """Seconds from the creation of the key; 0 for no end."""
    may_sign: bool


def _certifications(body: bytes, key: SecretKey) -> list[_Certification]:
    """One, or none if this is another kind of signature, or somebody else's."""
    reader = _Reader(body)
    if reader.number(1) != 4 or not 0x10 <= reader.number(1) <= 0x13:
        return []
    reader.take(2)
    hashed = dict(_subpackets(reader.take(reader.number(2))))
    unhashed = dict(_subpackets(reader.take(reader.number(2))))
    issuer = hashed.get(33, b"")[1:].hex() or hashed.get(16, unhashed.get(16, b"")).hex()
    if not key.fingerprint.endswith(issuer):
        return []
    made, lifetime = (int.from_bytes(hashed.get(kind, b"")[:4], "big") for kind in (2, 9))
    flags = hashed.get(27, b"\x02")[:1]
    return [
        _Certification(
            is_primary=any(hashed.get(25, b"")), made=made, lifetime=lifetime, may_sign=bool(flags and flags[0] & 2)
        )
    ]


def _subpackets(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Type, without its critical bit, and body."""
    reader = _Reader(raw)
    while reader:
        body = reader.take(_length(reader))
        if body:
            yield body[0] & 0x7F, body[1:]

"""OpenPGP keys made for tests: the packets of facts that gopenpgp accepted, and every other way to write them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider.wire.openpgp import Algorithm

OID = bytes.fromhex("092b06010401da470f01")


def mpi(number: bytes) -> bytes:
    value = int.from_bytes(number, "big")
    return value.bit_length().to_bytes(2, "big") + value.to_bytes((value.bit_length() + 7) // 8, "big")


def new_packet(tag: int, body: bytes) -> bytes:
    """With a header of the new format."""
    size = len(body)
    if size < 192:
        return bytes((0xC0 | tag, size)) + body
    if size < 8384:
        return bytes((0xC0 | tag, (size - 192 >> 8) + 192, size - 192 & 0xFF)) + body
    return bytes((0xC0 | tag, 255)) + size.to_bytes(4, "big") + body


def old_packet(tag: int, body: bytes) -> bytes:
    """With a header of the old format, its length in two bytes."""
    return bytes((0x80 | tag << 2 | 1,)) + len(body).to_bytes(2, "big") + body


def checksum(secret: bytes) -> bytes:
    return (sum(secret) % 65536).to_bytes(2, "big")


def subpacket(kind: int, body: bytes) -> bytes:
    return bytes((len(body) + 1, kind)) + body


def armored(
    packets: bytes, *, crc: str | None = "=AAAA", newline: str = "\n", header: str = "", width: int = 64
) -> str:
    """The CRC is wrong unless told otherwise: nobody may look at it."""
    text = base64.b64encode(packets).decode()
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    kind = "PGP PRIVATE KEY BLOCK-----"
    return newline.join(
        [
            f"-----BEGIN {kind}",
            *([header] if header else []),
            "",
            *lines,
            *([crc] if crc else []),
            f"-----END {kind}",
            "",
        ]
    )


def account_text(armored_key: str, name: str = "infra-provider:bm") -> str:
    return base64.b64encode(json.dumps({"name": name, "pgp_key": armored_key}).encode()).decode()


@dataclass(frozen=True)
class Key:
    """A key that was generated here."""

    seed: bytes
    created: int = 1_700_000_000
    lifetime: int | None = 365 * 24 * 3600
    algorithm: Algorithm = Algorithm.EDDSA_LEGACY
    user_id: str = "bm (linux/amd64) <bm@infra-provider.serviceaccount.omni.sidero.dev>"
    flags: int | None = 0x03
    packet: Callable[[int, bytes], bytes] = field(default=new_packet, repr=False)

    @property
    def signer(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def public_body(self) -> bytes:
        point = self.signer.public_key().public_bytes_raw()
        material = OID + mpi(b"\x40" + point) if self.algorithm is Algorithm.EDDSA_LEGACY else point
        return b"\x04" + self.created.to_bytes(4, "big") + bytes((self.algorithm,)) + material

    @property
    def secret_body(self) -> bytes:
        secret = mpi(self.seed) if self.algorithm is Algorithm.EDDSA_LEGACY else self.seed
        return self.public_body + b"\0" + secret + checksum(secret)

    @property
    def fingerprint(self) -> bytes:
        digest = hashes.Hash(hashes.SHA1())
        digest.update(b"\x99" + len(self.public_body).to_bytes(2, "big") + self.public_body)
        return digest.finalize()

    def certification(self, *, made: int = 0, lifetime: int | None = None, is_primary: bool = True) -> bytes:
        """The body of a self certification."""
        lifetime = self.lifetime if lifetime is None else lifetime
        hashed = subpacket(2, (made or self.created).to_bytes(4, "big")) + subpacket(33, b"\x04" + self.fingerprint)
        hashed += subpacket(9, lifetime.to_bytes(4, "big")) if lifetime is not None else b""
        hashed += subpacket(25, b"\x01") if is_primary else b""
        hashed += subpacket(27, bytes((self.flags,))) if self.flags is not None else b""
        head = bytes((4, 0x13, self.algorithm, 8)) + len(hashed).to_bytes(2, "big") + hashed
        digest = hashes.Hash(hashes.SHA256())
        digest.update(b"\x99" + len(self.public_body).to_bytes(2, "big") + self.public_body)
        user_id = self.user_id.encode()
        digest.update(b"\xb4" + len(user_id).to_bytes(4, "big") + user_id)
        digest.update(head + b"\x04\xff" + len(head).to_bytes(4, "big"))
        signed = digest.finalize()
        signature = self.signer.sign(signed)
        values = mpi(signature[:32]) + mpi(signature[32:]) if self.algorithm is Algorithm.EDDSA_LEGACY else signature
        unhashed = subpacket(16, self.fingerprint[-8:])
        return head + len(unhashed).to_bytes(2, "big") + unhashed + signed[:2] + values

    def _with(self, primary: bytes) -> bytes:
        return primary + self.packet(13, self.user_id.encode()) + self.packet(2, self.certification())

    @property
    def secret(self) -> bytes:
        """All packets of the secret key."""
        return self._with(self.packet(5, self.secret_body))

    @property
    def public(self) -> bytes:
        """All packets of the public half, for whoever verifies."""
        return self._with(self.packet(6, self.public_body))

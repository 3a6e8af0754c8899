"""
A certificate authority of our own, made at the first start and kept for good: agents pin it.

Certificates are good at any time, because clocks are not: an appliance and a server that was in storage start in 1970, and mend
that later. A certificate that ends protects nothing here, with the key of its CA in the same folder; who wants other ones removes
the folder, and boots its machines again.

The folder holds `ca.pem`, `ca.key`, `server.pem`, `server.key`. Each file is written whole or not at all, keys with mode
0600, the CA's key before its certificate: a crash between any two files leaves what the next start completes.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from provider.domain.errors import PermanentError
from provider.wire.agent import SERVER_NAME

_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""The end is the one that stands for none (RFC 5280 section 4.1.2.5)."""

_RENEW_BEFORE = timedelta(days=30)
"""Earlier versions gave the server two years."""


@dataclass(frozen=True)
class Authority:
    """The CA and the server certificate that it signed."""

    ca_pem: bytes
    ca_sha256: str
    """SHA-256 of the CA certificate in DER, lower-case hex: what the kernel line pins."""
    _certificate: Path
    _key: Path
    _ca: x509.Certificate = field(repr=False)
    _ca_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def open(cls, folder: Path, now: datetime, names: Sequence[str] = (SERVER_NAME,)) -> Authority:
        """
        Read what is there, make what is missing, renew a server certificate that is not good now and in 30 days, or is not for
        `names` (DNS names and IP addresses); blocks.

        Raises:
            PermanentError: If the folder cannot be used or a file in it is damaged.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ca_key = _key(folder / "ca.key")
            ca = _ca(folder / "ca.pem", ca_key)
            _server(folder, ca, ca_key, now, names)
        except (OSError, ValueError) as error:
            raise PermanentError(
                f"the certificates in {folder} cannot be used: {error}",
                hint="restore the folder from a backup; if you remove it, running agents must boot again",
            ) from error
        der = ca.public_bytes(serialization.Encoding.DER)
        pem = ca.public_bytes(serialization.Encoding.PEM)
        return cls(pem, hashlib.sha256(der).hexdigest(), folder / "server.pem", folder / "server.key", ca, ca_key)

    def server_context(self) -> ssl.SSLContext:
        """For the listener."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key)
        return context

    def issue(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """Key and certificate in PEM for a server by other names (DNS names and IP addresses), kept nowhere."""
        key = ec.generate_private_key(ec.SECP256R1())
        return _pem(key), _signed(self._ca, self._ca_key, key, names).public_bytes(serialization.Encoding.PEM)


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{path.name} is not an elliptic curve key")
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    _write(path, _pem(key), 0o600)
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _ca(path: Path, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    if path.exists():
        return x509.load_pem_x509_certificate(path.read_bytes())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bootwright provider CA")])
    certificate = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate


def _server(
    folder: Path, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, now: datetime, names: Sequence[str]
) -> None:
    path = folder / "server.pem"
    key = _key(folder / "server.key")
    if path.exists():
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        if _still_good(certificate, ca, key, now) and _names(certificate) == _alternatives(names):
            return
    certificate = _signed(ca, ca_key, key, names)
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _signed(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    return (
        _builder(name, ca.subject, key.public_key())
        .add_extension(_alternatives(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _still_good(
    certificate: x509.Certificate, ca: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: datetime
) -> bool:
    ours = certificate.public_key() == key.public_key() and certificate.issuer == ca.subject
    return ours and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - _RENEW_BEFORE


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_general_name(name) for name in names])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_ALWAYS[0])
        .not_valid_after(_ALWAYS[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)

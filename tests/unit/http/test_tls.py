"""The provider's own certificate authority: made once, kept for good, completed after a crash."""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from provider.domain.errors import PermanentError
from provider.http import tls
from provider.http.tls import Authority
from provider.wire.agent import SERVER_NAME

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FILES = ("ca.key", "ca.pem", "server.key", "server.pem")


def test_made_once_and_kept(tmp_path: Path) -> None:
    """Agents that pinned the CA cannot come back after a restart."""
    first = Authority.open(tmp_path / "tls", NOW)
    again = Authority.open(tmp_path / "tls", NOW + timedelta(days=1))
    assert again.ca_sha256 == first.ca_sha256
    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(first.ca_pem.decode())).hexdigest() == first.ca_sha256
    for name in ("ca.key", "server.key"):
        assert (tmp_path / "tls" / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700


def test_server_certificate_has_the_agents_name(tmp_path: Path) -> None:
    """The agent asks for a name that the certificate does not have."""
    Authority.open(tmp_path, NOW).server_context()
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME]
    assert certificate.not_valid_before_utc < NOW


@pytest.mark.parametrize("missing", [FILES[start:] for start in range(4)])
def test_crash_while_making_is_completed(tmp_path: Path, missing: tuple[str, ...]) -> None:
    """A power cut in the first second of the first start needs somebody to remove files (invariant 9)."""
    Authority.open(tmp_path, NOW)
    for name in missing:
        (tmp_path / name).unlink()
    Authority.open(tmp_path, NOW).server_context()


def test_server_certificate_is_renewed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two years of one that an earlier version made are over, and nobody can connect any more."""
    with monkeypatch.context() as earlier:
        earlier.setattr(tls, "_ALWAYS", (NOW, NOW + timedelta(days=730)))
        first = Authority.open(tmp_path, NOW)
    before = (tmp_path / "server.pem").read_bytes()
    Authority.open(tmp_path, NOW + timedelta(days=690))
    assert (tmp_path / "server.pem").read_bytes() == before
    later = Authority.open(tmp_path, NOW + timedelta(days=710))
    assert later.ca_sha256 == first.ca_sha256
    assert (tmp_path / "server.pem").read_bytes() != before


@pytest.mark.parametrize("made", [datetime(1970, 1, 2, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)])
def test_clock_that_is_set_later(tmp_path: Path, made: datetime) -> None:
    """An appliance without a clock chip makes certificates that have ended, or not begun, once NTP tells it the time."""
    authority = Authority.open(tmp_path, made)
    _key, issued = authority.issue(["10.77.0.1"])
    for pem in (authority.ca_pem, (tmp_path / "server.pem").read_bytes(), issued):
        certificate = x509.load_pem_x509_certificate(pem)
        for year in (1971, 2026, 2098, 3000):
            moment = datetime(year, 1, 1, tzinfo=UTC)
            assert certificate.not_valid_before_utc < moment < certificate.not_valid_after_utc


def test_other_names_make_another_certificate(tmp_path: Path) -> None:
    """A manager that moved to another address keeps the certificate of the old one."""
    Authority.open(tmp_path, NOW, ["127.0.0.1"])
    Authority.open(tmp_path, NOW, ["manager.example.com", "10.0.0.1"])
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["manager.example.com"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]


def test_certificate_for_an_address(tmp_path: Path) -> None:
    """A Talos agent verifies the address that it dials, which the certificate of the other agents does not have."""
    authority = Authority.open(tmp_path, NOW)
    before = sorted(tmp_path.iterdir())
    key, pem = authority.issue(["10.77.0.1"])
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.77.0.1"]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.ca_pem))
    assert serialization.load_pem_private_key(key, None).public_key() == certificate.public_key()
    assert sorted(tmp_path.iterdir()) == before
    assert b"PRIVATE" not in repr(authority).encode()


def test_damaged_file_is_explained(tmp_path: Path) -> None:
    """A damaged key is a traceback at start."""
    Authority.open(tmp_path, NOW)
    (tmp_path / "ca.key").write_bytes(b"damaged")
    with pytest.raises(PermanentError, match="cannot be used") as caught:
        Authority.open(tmp_path, NOW)
    assert "backup" in caught.value.hint

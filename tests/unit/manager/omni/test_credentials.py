"""The service account at work: what it sends, what it says of its end."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pysequoia
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.manager.omni import credentials
from provider.manager.omni.credentials import Credentials, Expiry
from provider.wire.openpgp import Algorithm, UnusableKeyError
from tests.unit.wire import pgp_keys
from tests.unit.wire.pgp_keys import Key

NOW = datetime(2024, 3, 1, 12, 0, 0, 700_000, tzinfo=UTC)
KEY = Key(bytes(range(32)))


def loaded(key: Key) -> Credentials:
    return Credentials.load(pgp_keys.account_text(pgp_keys.armored(key.secret)))


@settings(max_examples=30)
@given(
    st.binary(min_size=32, max_size=32), st.sampled_from(Algorithm), st.text(st.characters(codec="ascii"), max_size=200)
)
def test_sequoia_accepts_headers(seed: bytes, algorithm: Algorithm, method: str) -> None:
    """The signature is not one of the payload that was sent, or not by the key that is named."""
    key = Key(seed, algorithm=algorithm)
    headers = dict(loaded(key).headers(method, NOW))
    scheme, identity, fingerprint, signature = headers["x-sidero-signature"].split(" ")
    assert (scheme, identity, fingerprint) == ("siderov1", "infra-provider:bm", key.fingerprint.hex())
    found = pysequoia.verify(
        bytes=headers["x-sidero-payload"].encode(),
        store=lambda _ids: [pysequoia.Cert.from_bytes(key.public)],
        signature=pysequoia.Sig.from_bytes(base64.b64decode(signature)),
    )
    assert [one.certificate for one in found.valid_sigs] == [fingerprint]
    payload = json.loads(headers["x-sidero-payload"])
    assert payload == {"headers": {"x-sidero-timestamp": [str(int(NOW.timestamp()))]}, "method": method}


@given(st.text())
def test_headers_can_be_metadata(method: str) -> None:
    """gRPC refuses a method that is not ASCII with an error of its own, instead of Omni."""
    assert all(value.isascii() and value.isprintable() for _, value in loaded(KEY).headers(method, NOW))


def test_halves_of_two_keys() -> None:
    """Every signature is refused, and nobody knows why."""
    other = Key(b"x" * 32).public_body
    mixed = pgp_keys.new_packet(5, other + KEY.secret_body[len(KEY.public_body) :])
    with pytest.raises(UnusableKeyError, match="another public part"):
        Credentials.load(pgp_keys.account_text(pgp_keys.armored(mixed)))


def test_secret_is_in_no_repr() -> None:
    """A log line has the key."""
    shown = repr(loaded(KEY))
    assert "seed" not in shown
    assert "signer" not in shown


@pytest.mark.parametrize(
    ("left", "due"),
    [
        (timedelta(days=365), None),
        (timedelta(days=60, seconds=1), None),
        (timedelta(days=60), Expiry.IN_60_DAYS),
        (timedelta(days=30, seconds=1), Expiry.IN_60_DAYS),
        (timedelta(days=30), Expiry.IN_30_DAYS),
        (timedelta(days=7, seconds=1), Expiry.IN_30_DAYS),
        (timedelta(days=7), Expiry.IN_7_DAYS),
        (timedelta(seconds=1), Expiry.IN_7_DAYS),
        (timedelta(0), Expiry.EXPIRED),
        (timedelta(days=-900), Expiry.EXPIRED),
    ],
)
def test_warnings(left: timedelta, due: Expiry | None) -> None:
    """The link dies one night, a year after it was set up, and nobody was told."""
    assert credentials.due_warning(NOW + left, NOW) is due


def test_no_warning_without_an_end() -> None:
    """A key that does not end is warned of."""
    assert credentials.due_warning(None, NOW) is None


def test_end_of_a_key() -> None:
    """The end that is warned of is not the key's."""
    assert loaded(KEY).expires_at == datetime(2024, 11, 13, 22, 13, 20, tzinfo=UTC)
    assert loaded(replace(KEY, lifetime=None)).expires_at is None

"""The service account key that people paste, and the headers that Omni reads."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.errors import PermanentError
from provider.wire import openpgp, sidero_auth
from provider.wire.sidero_auth import UnusableAccountError
from tests.unit.wire import pgp_keys
from tests.unit.wire.pgp_keys import Key

KEY = Key(bytes(range(32)))
ARMORED = pgp_keys.armored(KEY.secret)
TEXT = pgp_keys.account_text(ARMORED)
SIGNATURE = (
    "wnUEABYKAB0FAmVT8WQWIQQFUPRfVXRs7KPorpf3oyVo4gGWUgAKCRD3oyVo4gGWUpAKAQDqea/RE97SmDTDFBA/EeBoYqub7IJs1soYfSnNKbojAQD/YEMY"
    "Qz8WpQwBxoBvFeHzXrlrIusSQe5XWX587PdjuQ8="
)


def encoded(account: object) -> str:
    return base64.b64encode(json.dumps(account).encode()).decode()


def test_vector() -> None:
    """Omni says `invalid signature`."""
    account = sidero_auth.read_service_account(TEXT)
    now = datetime.fromtimestamp(1_700_000_100.9, UTC)
    assert sidero_auth.headers(account, "/cosi.resource.State/Get", now, KEY.signer.sign) == (
        ("x-sidero-timestamp", "1700000100"),
        ("x-sidero-payload", '{"headers":{"x-sidero-timestamp":["1700000100"]},"method":"/cosi.resource.State/Get"}'),
        ("x-sidero-signature", f"siderov1 infra-provider:bm 0550f45f55746ceca3e8ae97f7a32568e2019652 {SIGNATURE}"),
    )


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"  {TEXT}\n",
        TEXT.rstrip("="),
        f"OMNI_SERVICE_ACCOUNT_KEY={TEXT}\n",
        "\n".join(TEXT[at : at + 70] for at in range(0, 2000, 70)),
    ],
)
def test_pasted(text: str) -> None:
    """A line end in a file is a bad key, or the whole line that omnictl printed."""
    account = sidero_auth.read_service_account(text)
    assert (account.provider_id, account.identity) == ("bm", "infra-provider:bm")
    assert account.key.seed == KEY.seed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        (ARMORED, "not base64"),
        ("ключ", "not base64"),
        (TEXT[:200], "no JSON, or is cut off"),
        (base64.b64encode(b"\xff\xfe").decode(), "no JSON"),
        (base64.b64encode(b"[" * 100_000).decode(), "no JSON"),
        (encoded([1]), "no JSON object"),
        (encoded({"name": "infra-provider:bm"}), "it has no pgp_key"),
        (encoded({"name": "infra-provider:bm", "pgp_key": 1}), "it has no pgp_key"),
        (encoded({"pgp_key": ARMORED}), "it has no name"),
        (pgp_keys.account_text(ARMORED, "automation"), "of 'automation', which is no infrastructure provider"),
        (pgp_keys.account_text(ARMORED, "infra-provider:"), "'' is no id"),
        (pgp_keys.account_text(ARMORED, "infra-provider:a b"), "'a b' is no id"),
        (pgp_keys.account_text(ARMORED, "infra-provider:bm\n"), "is no id"),
        (pgp_keys.account_text(ARMORED, "infra-provider:" + "a" * 64), "is no id"),
    ],
)
def test_unusable_accounts(text: str, why: str) -> None:
    """Whoever pastes the wrong thing is not told what is wrong with it."""
    with pytest.raises(UnusableAccountError, match=why) as caught:
        sidero_auth.read_service_account(text)
    assert caught.value.hint


@given(st.one_of(st.text(), st.binary().map(lambda raw: base64.b64encode(raw).decode()), st.builds(encoded, st.recursive(
    st.none() | st.booleans() | st.text(), lambda inner: st.dictionaries(st.sampled_from(["name", "pgp_key", "x"]), inner)
))))  # fmt: skip
def test_any_text(text: str) -> None:
    """Any text ends in a traceback."""
    with pytest.raises(PermanentError):
        sidero_auth.read_service_account(text)


@given(st.binary())
def test_any_key(packets: bytes) -> None:
    """A key of any bytes, in a good account, ends in a traceback."""
    with pytest.raises(openpgp.UnusableKeyError):
        sidero_auth.read_service_account(pgp_keys.account_text(pgp_keys.armored(packets)))


def test_secret_is_in_no_repr_and_no_error() -> None:
    """A log line has the key."""
    assert "seed" not in repr(sidero_auth.read_service_account(TEXT))
    with pytest.raises(PermanentError) as caught:
        sidero_auth.read_service_account(pgp_keys.account_text(ARMORED[:-60]))
    assert ARMORED[60:80] not in f"{caught.value} {caught.value.hint} {caught.value!r}"

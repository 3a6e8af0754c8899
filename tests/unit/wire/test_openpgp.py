"""OpenPGP keys as people have them, and the signature that Omni accepts byte for byte."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pysequoia
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provider.wire import openpgp
from provider.wire.openpgp import Algorithm, Hash, UnusableKeyError
from tests.unit.wire import pgp_keys
from tests.unit.wire.pgp_keys import Key

SEED = bytes(range(32))
KEY = Key(SEED)

PUBLIC_BODY = "046553f10016092b06010401da470f0101074003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
FINGERPRINT = "0550f45f55746ceca3e8ae97f7a32568e2019652"
SECRET_PACKET = bytes.fromhex(
    f"c557{PUBLIC_BODY}0000f10102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f02e1"
)
PAYLOAD = b'{"headers":{"x-sidero-timestamp":["1700000100"]},"method":"/cosi.resource.State/Get"}'
SIGNATURE = bytes.fromhex(
    "c2750400160a001d05026553f1641621040550f45f55746ceca3e8ae97f7a32568e2019652000a0910f7a32568e2019652900a"
    "0100ea79afd113ded29834c314103f11e06862ab9bec826cd6ca187d29cd29ba2301"
    "00ff604318433f16a50c01c6806f15e1f35eb96b22eb1241ee57597e7cecf763b90f"
)
SIGNED_AT = datetime.fromtimestamp(1_700_000_100, UTC)

seeds = st.one_of(
    st.binary(min_size=32, max_size=32), st.integers(0, 2**200).map(lambda number: number.to_bytes(32, "big"))
)


def read(packets: bytes) -> openpgp.SecretKey:
    return openpgp.read_secret_key(pgp_keys.armored(packets))


def test_vector() -> None:
    """A key or a signature that gopenpgp accepts is read or made in another way."""
    key = read(SECRET_PACKET)
    assert key.seed == SEED
    assert key.fingerprint == FINGERPRINT
    assert key.created == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (key.expires, key.user_id) == (None, "")
    assert openpgp.detached_signature(key, PAYLOAD, SIGNED_AT, KEY.signer.sign) == SIGNATURE


def test_keys_of_tests_are_those_of_the_vector() -> None:
    """The tests below prove something about another kind of key."""
    assert KEY.secret.startswith(SECRET_PACKET)


@pytest.mark.parametrize("packet", [pgp_keys.new_packet, pgp_keys.old_packet])
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("crc", [None, "=njUN"])
@pytest.mark.parametrize("header", ["", "Version: GopenPGP 2.8.1"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_writers_differ(packet: object, algorithm: Algorithm, crc: str | None, header: str, newline: str) -> None:
    """A good key is refused because another program wrote it."""
    written = replace(KEY, packet=packet, algorithm=algorithm)
    key = openpgp.read_secret_key(pgp_keys.armored(written.secret, crc=crc, header=header, newline=newline))
    assert key.seed == SEED
    assert key.algorithm is algorithm
    assert key.fingerprint == written.fingerprint.hex()
    assert key.user_id == KEY.user_id
    assert key.expires == key.created + timedelta(days=365)


def test_end_is_the_primary_user_ids_or_the_latest() -> None:
    """A renewed key counts as expired, or an expired one as good."""
    first = KEY.packet(5, KEY.secret_body) + KEY.packet(13, b"first")
    old, renewed = (KEY.packet(2, KEY.certification(made=made, lifetime=made)) for made in (1000, 2000))
    assert read(first + renewed + old).expires == datetime.fromtimestamp(1_700_002_000, UTC)
    other = KEY.packet(13, b"second") + KEY.packet(2, KEY.certification(made=9000, lifetime=9000, is_primary=False))
    key = read(first + old + other)
    assert key.expires == datetime.fromtimestamp(1_700_001_000, UTC)
    assert key.user_id == "first"


def test_other_peoples_certifications_say_nothing_of_the_end() -> None:
    """Who signs our key shortens its life, as we see it."""
    other = replace(KEY, seed=b"x" * 32).certification(made=2**31, lifetime=1)
    assert read(KEY.secret + KEY.packet(2, other)).expires == datetime(2024, 11, 13, 22, 13, 20, tzinfo=UTC)


def test_no_end() -> None:
    """A lifetime of nothing is the end at once."""
    assert read(replace(KEY, lifetime=0).secret).expires is None
    assert read(replace(KEY, lifetime=None, flags=None).secret).expires is None


def secret_with(usage: bytes) -> bytes:
    return pgp_keys.new_packet(5, KEY.public_body + usage)


@pytest.mark.parametrize(
    ("packets", "why"),
    [
        (secret_with(b"\xfe\x09\x03\x08" + bytes(60)), "protected by a passphrase"),
        (secret_with(b"\xff\x00\x65GNU\x01"), "protected by a passphrase"),
        (pgp_keys.new_packet(5, b"\x04\0\0\0\0\x01\x00\x08\xff"), "is a key for RSA"),
        (pgp_keys.new_packet(5, b"\x04\0\0\0\0\x63"), "algorithm 99"),
        (pgp_keys.new_packet(5, b"\x06\0\0\0\0\x1b"), "version 6"),
        (pgp_keys.new_packet(5, KEY.public_body.replace(pgp_keys.OID, b"\x08\x2a\x86\x48\xce\x3d\x03\x01\x07") + b"\0"),
         "not Ed25519"),
        (pgp_keys.new_packet(5, KEY.public_body.replace(b"\x01\x07\x40", b"\x01\x07\x41") + b"\0"), "no point"),
        (KEY.secret.replace(b"\x1d\x1e\x1f\x02\xe1", b"\x1d\x1e\x1f\x02\xe2"), "checksum"),
        (replace(KEY, flags=1).secret, "certifying only"),
        (KEY.public, "public half"),
        (pgp_keys.new_packet(13, b"nobody"), "no secret key"),
        (b"", "no secret key"),
        (b"nonsense", "not made of OpenPGP packets"),
    ],
)  # fmt: skip
def test_unusable_keys(packets: bytes, why: str) -> None:
    """Somebody with the wrong key reads `invalid signature` and nothing else."""
    with pytest.raises(UnusableKeyError, match=why) as caught:
        read(packets)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not have the line"),
        (pgp_keys.armored(KEY.public).replace("PRIVATE", "PUBLIC"), "public half"),
        (pgp_keys.armored(KEY.secret).replace("x", "!"), "other than base64"),
        (pgp_keys.armored(KEY.secret)[:-40], "cut off"),
        (pgp_keys.armored(KEY.secret[:60]), "cut off"),
    ],
)
def test_unusable_texts(text: str, why: str) -> None:
    """A text that is no key ends in a traceback."""
    with pytest.raises(UnusableKeyError, match=why):
        openpgp.read_secret_key(text)


@given(st.integers(0, len(KEY.secret) - 1))
def test_any_end(at: int) -> None:
    """A key that was cut off ends in a traceback, or is taken for a key without an end."""
    try:
        key = read(KEY.secret[:at])
    except UnusableKeyError:
        return
    assert key.seed == SEED, "it was cut between two packets"


@given(st.one_of(st.binary(), st.lists(st.tuples(st.integers(0, 63), st.binary()), max_size=4).map(
    lambda packets: b"".join(pgp_keys.new_packet(tag, body) for tag, body in packets)
)))  # fmt: skip
def test_any_bytes(packets: bytes) -> None:
    """Any bytes end in a traceback."""
    for raw in (packets, KEY.secret + packets):
        try:
            read(raw)
        except UnusableKeyError as error:
            assert str(error)


@given(st.integers(0, len(KEY.secret) - 1), st.integers(1, 255))
def test_any_byte_changed(at: int, by: int) -> None:
    """A damaged key ends in a traceback."""
    damaged = bytearray(KEY.secret)
    damaged[at] ^= by
    try:
        read(bytes(damaged))
    except UnusableKeyError as error:
        assert str(error)


@given(st.text())
def test_any_text(text: str) -> None:
    """Any text ends in a traceback."""
    with pytest.raises(UnusableKeyError):
        openpgp.read_secret_key(text)


def test_secret_is_in_no_repr() -> None:
    """A log line has the key."""
    key = read(KEY.secret)
    assert repr(SEED)[2:20] not in repr(key)
    assert "seed" not in repr(key)


# --- the second opinion: Sequoia ---


def verified(key: Key, payload: bytes, signature: bytes) -> pysequoia.Decrypted:
    return pysequoia.verify(
        bytes=payload,
        store=lambda _ids: [pysequoia.Cert.from_bytes(key.public)],
        signature=pysequoia.Sig.from_bytes(signature),
    )


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(seeds, st.sampled_from(Algorithm), st.sampled_from(Hash), st.binary(max_size=300))
def test_sequoia_accepts_signatures(seed: bytes, algorithm: Algorithm, hash_id: Hash, payload: bytes) -> None:
    """One signature in 128 has a leading zero too many, or it is of the wrong bytes."""
    written = Key(seed, algorithm=algorithm)
    key = read(written.secret)
    signature = openpgp.detached_signature(key, payload, SIGNED_AT, written.signer.sign, hash_id)
    assert [found.certificate for found in verified(written, payload, signature).valid_sigs] == [key.fingerprint]


def test_sequoia_refuses_another_payload() -> None:
    """The second opinion has none."""
    with pytest.raises(Exception, match=r"(?i)sign|verif|valid"):
        verified(KEY, PAYLOAD + b" ", SIGNATURE)


@given(seeds, st.sampled_from(Algorithm))
@settings(max_examples=20)
def test_sequoia_reads_the_same_key(seed: bytes, algorithm: Algorithm) -> None:
    """We read fingerprint, user id or end in another way than others do."""
    written = Key(seed, algorithm=algorithm)
    key, cert = read(written.secret), pysequoia.Cert.from_bytes(written.public)
    assert cert.fingerprint == key.fingerprint
    assert [str(user_id) for user_id in cert.user_ids] == [key.user_id]
    assert cert.expiration == key.expires


# --- keys that GnuPG made ---


def gpg(home: Path, *arguments: str) -> str:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(shutil.which("gpg") is None, reason="there is no gpg")
@pytest.mark.parametrize("passphrase", ["", "secret"])
def test_keys_of_gpg(tmp_path: Path, passphrase: str) -> None:
    """A key that somebody made with gpg is refused, or its signatures are."""
    tmp_path.chmod(0o700)
    try:
        gpg(tmp_path, "--passphrase", passphrase, "--quick-gen-key", "bm <bm@x.example>", "ed25519", "sign,cert", "1y")
        armored = gpg(tmp_path, "--passphrase", passphrase, "--armor", "--export-secret-keys")
        public = subprocess.run(["gpg", "--homedir", tmp_path, "--export"], check=True, capture_output=True).stdout
    finally:
        subprocess.run(["gpgconf", "--homedir", tmp_path, "--kill", "all"], check=False)
    if passphrase:
        with pytest.raises(UnusableKeyError, match="passphrase"):
            openpgp.read_secret_key(armored)
        return
    key = openpgp.read_secret_key(armored)
    cert = pysequoia.Cert.from_bytes(public)
    assert (key.fingerprint, key.expires) == (cert.fingerprint, cert.expiration)
    signature = openpgp.detached_signature(key, b"payload", datetime.now(UTC), Key(key.seed).signer.sign)
    found = pysequoia.verify(bytes=b"payload", store=lambda _: [cert], signature=pysequoia.Sig.from_bytes(signature))
    assert [one.certificate for one in found.valid_sigs] == [key.fingerprint]

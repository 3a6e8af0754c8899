"""What makes a machine join its Omni, compared with what Omni's own code makes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.errors import BootwrightError, PermanentError, SettingsError
from provider.domain.secret import Secret
from provider.http.tls import Authority
from provider.kit import zstd
from provider.wire import ipxe, siderolink
from provider.wire.siderolink import ConnectionParameters

OMNI = "[fdae:41e4:649b:9303::1]"

TOKEN = (
    "eyJleHRyYV9kYXRhIjp7Im9tbmkuc2lkZXJvLmRldi9pbmZyYS1wcm92aWRlci1pZCI6ImJtMSJ9LCJzaWduYXR1cmUiOiJ2RVJMeCtMYlI4UFE4RVBGTWJI"
    "cElvUG45QWdreW5oc0lpbDZoS0xpcHVFPSJ9"
)

ESCAPED = (
    "eyJleHRyYV9kYXRhIjp7Im9tbmkuc2lkZXJvLmRldi9pbmZyYS1wcm92aWRlci1pZCI6InRlc3QifSwic2lnbmF0dXJlIjoiWTNpZ285V2xJSVZOWWpXZmgy"
    "Wlg5NnpnWW5UQjlwWTI3ZEJaVnJwNDJMZz0ifQ%3D%3D"
)
"""The token of provider `test` for the plain token `abcd`, from Omni's own tests (client/pkg/siderolink)."""

JOIN = f"""\
apiVersion: v1alpha1
kind: SideroLinkConfig
apiUrl: grpc://127.0.0.1:8099?grpc_tunnel=true&jointoken=abcd
---
apiVersion: v1alpha1
kind: EventSinkConfig
endpoint: '{OMNI}:8091'
---
apiVersion: v1alpha1
kind: KmsgLogConfig
name: omni-kmsg
url: tcp://{OMNI}:8092
"""
"""From the same tests."""

PARAMETERS = ConnectionParameters("grpc://127.0.0.1:8099", Secret("abcd"), 8091, 8092, is_tunnelled=True)
CA = "-----BEGIN CERTIFICATE-----\nMIIB+zCCAaGgAwIBAgIUabc=\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_token_vector(version: str) -> None:
    """Omni refuses the machine."""
    token = siderolink.join_token(Secret("1234"), "bm1", version)  # type: ignore[arg-type]
    assert token.reveal() == f"{version}:{TOKEN}"


def test_finished_token_stays() -> None:
    """A token of Omni's is signed once more, and no longer good."""
    assert siderolink.join_token(Secret(f"v2:{TOKEN}"), "bm2", "v1").reveal() == f"v2:{TOKEN}"


def test_documents_are_omnis() -> None:
    """An old Omni's machines get other documents than a new one's."""
    assert siderolink.join_documents(PARAMETERS) == JOIN


@pytest.mark.parametrize(
    ("parameters", "api"),
    [
        (PARAMETERS, "grpc://127.0.0.1:8099?grpc_tunnel=true&jointoken=abcd"),
        (ConnectionParameters("https://127.0.0.1:8099", Secret("abcd"), 8091, 8092), "https://127.0.0.1:8099?jointoken=abcd"),
        (ConnectionParameters("https://h", siderolink.join_token(Secret("abcd"), "test", "v2"), 8091, 8092),
         f"https://h?jointoken=v2%3A{ESCAPED}"),
        (ConnectionParameters("https://h:1/p?z=1&a=b+c", Secret("t"), 8091, 8092), "https://h:1/p?a=b+c&jointoken=t&z=1"),
    ],
)  # fmt: skip
def test_arguments_are_omnis(parameters: ConnectionParameters, api: str) -> None:
    """A simulator with these arguments joins another way than a machine."""
    assert siderolink.join_arguments(parameters) == (
        f"siderolink.api={api}",
        f"talos.events.sink={OMNI}:8091",
        f"talos.logging.kernel=tcp://{OMNI}:8092",
    )


def test_machine_config() -> None:
    """A document is lost or changed when others follow it."""
    extra = "apiVersion: v1alpha1\nkind: ResolverConfig\n"
    text = siderolink.machine_config(JOIN, siderolink.trusted_roots(CA), extra).reveal()
    assert text.startswith(JOIN)
    assert text.endswith(f"---\n{extra}")
    documents = list(yaml.safe_load_all(text))
    assert [document["kind"] for document in documents] == [
        "SideroLinkConfig", "EventSinkConfig", "KmsgLogConfig", "TrustedRootsConfig", "ResolverConfig",
    ]  # fmt: skip
    assert documents[3] == {
        "apiVersion": "v1alpha1", "kind": "TrustedRootsConfig", "name": "infra-provider-ca", "certificates": CA,
    }  # fmt: skip


def test_machine_config_alone_is_as_it_was() -> None:
    """Omni's text comes out as another one."""
    assert siderolink.machine_config(JOIN).reveal() == JOIN


@pytest.mark.parametrize(
    "text",
    [
        "---\nkind: X\n", "kind: X", "\n\n--- \nkind: X\n...\n", "# of ours\n---\nkind: X\n---\n# no more\n", "--- {kind: X}",
        "%YAML 1.2\n---\nkind: X\n", "---\n---\nkind: X\n---\n",
        "# a\n... # end\n%YAML 1.1\n%TAG !e! tag:x\n--- # of\nkind: X\n...\n%YAML 1.1\n---\n",
        "kind: X\r\n---\r\n", "---\tkind: X",
    ],
)  # fmt: skip
def test_marks_of_documents(text: str) -> None:
    """Two streams that are joined have an empty document between them, or are no YAML."""
    joined = siderolink.machine_config(JOIN, text, text).reveal().replace("\t", " ")
    assert list(yaml.safe_load_all(joined))[3:] == [{"kind": "X"}, {"kind": "X"}]


def test_config_is_a_secret() -> None:
    """The join token is in a log line."""
    assert "abcd" not in f"{siderolink.machine_config(JOIN)!r} {PARAMETERS!r}"


@pytest.mark.parametrize("pem", ["", "\n", "x\nkind: ключ", "a\tb"])
def test_ca_that_is_none(pem: str) -> None:
    """Something else is in the document."""
    with pytest.raises(PermanentError):
        siderolink.trusted_roots(pem)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"apiVersion": "v1alpha1", "kind": "SideroLinkConfig"}, "SideroLinkConfig makes machines join"),
        ({"apiVersion": "v1alpha1", "kind": "EventSinkConfig"}, "EventSinkConfig makes machines join"),
        ({"apiVersion": "v1alpha1", "kind": "KmsgLogConfig", "name": "omni-kmsg"}, "KmsgLogConfig omni-kmsg"),
        (
            {"apiVersion": "v1alpha1", "kind": "KmsgLogConfig", "name": "siderolink-agent-kmsg-log"},
            "KmsgLogConfig siderolink",
        ),
        ({"apiVersion": "v1alpha1", "kind": "TrustedRootsConfig", "name": "infra-provider-ca"}, "is ours"),
        ({"version": "v1alpha1", "machine": {}}, "Omni's to give"),
        ({"cluster": {}}, "Omni's to give"),
        ({"kind": "SideroLinkConfig"}, "makes machines join"),
        ({"apiVersion": "v1beta1", "kind": "SideroLinkConfig"}, "SideroLinkConfig makes machines join"),
        ({"apiVersion": "v1alpha1", "kind": "siderolinkconfig"}, "SideroLinkConfig makes machines join"),
        ({"apiVersion": "v1alpha1", "kind": "kmsgLogConfig", "name": "omni-kmsg"}, "KmsgLogConfig omni-kmsg"),
        ({"apiVersion": "v1alpha1", "kind": "", "machine": {}}, "Omni's to give"),
        ({"apiVersion": "v1alpha1", "kind": ""}, "no apiVersion and kind"),
        ({"apiVersion": "", "kind": "ResolverConfig"}, "no apiVersion and kind"),
        ({"apiVersion": "v1alpha1", "kind": "v1alpha1"}, "Omni's to give"),
        ({"apiVersion": "v1alpha1", "kind": "ResolverConfig", "cluster": {}}, "Omni's to give"),
        ({"debug": True}, "Omni's to give"),
        ({"kind": "ResolverConfig"}, "no apiVersion and kind"),
        ({}, "no apiVersion and kind"),
        ([1], "no apiVersion and kind"),
        ("text", "no apiVersion and kind"),
    ],
)
def test_refused_documents(document: object, why: str) -> None:
    """Machines of this provider join another Omni, or none."""
    good = {"apiVersion": "v1alpha1", "kind": "ResolverConfig"}
    with pytest.raises(SettingsError, match=f"document 3: .*{why}") as caught:
        siderolink.refuse_overrides([good, None, document, document])
    assert "document 4" in str(caught.value)


def test_document_that_is_there_twice() -> None:
    """Talos refuses all documents, and no machine of this provider joins."""
    resolver = {"apiVersion": "v1alpha1", "kind": "ResolverConfig"}
    log = {"apiVersion": "v1alpha1", "kind": "KmsgLogConfig", "name": "ours"}
    with pytest.raises(
        SettingsError, match=r"document 4: there is another KmsgLogConfig ours\n.* 5: .* ResolverConfig$"
    ):
        siderolink.refuse_overrides([resolver, None, log, log, resolver])


def test_other_documents() -> None:
    """An operator cannot give his own CA, or log to his own server."""
    siderolink.refuse_overrides(
        [
            None,
            {"apiVersion": "v1alpha1", "kind": "KmsgLogConfig", "name": "ours"},
            {"apiVersion": "v1alpha1", "kind": "KmsgLogConfig", "name": "ours too"},
            {"apiVersion": "v1alpha1", "kind": "TrustedRootsConfig", "name": "ours"},
        ]
    )


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.one_of(st.sampled_from(["kind", "apiVersion", "name", "machine"]), st.integers()), inner), max_leaves=5))  # fmt: skip
def test_any_document(document: object) -> None:
    """A strange document ends in a traceback."""
    try:
        siderolink.refuse_overrides([document])
    except SettingsError as error:
        assert "document 1" in str(error)


def test_inline_argument() -> None:
    """Talos unpacks something else than the configuration."""
    name, _, packed = siderolink.inline_argument(zstd.compress(JOIN.encode())).partition("=")
    assert name == "talos.config.inline"
    assert zstandard.ZstdDecompressor().decompress(base64.b64decode(packed)).decode() == JOIN


def test_inline_argument_has_room(tmp_path: Path) -> None:
    """A usual configuration with a CA of ours does not fit into a kernel command line."""
    ca = Authority.open(tmp_path, datetime.now(UTC)).ca_pem.decode()
    join = JOIN.replace("abcd", f"v2%3A{ESCAPED}")
    text = siderolink.machine_config(join, siderolink.trusted_roots(ca)).reveal()
    assert len(siderolink.inline_argument(zstd.compress(text.encode()))) < 1500


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"is_tls": False}, ("metal.provider.address=10.0.0.1:50042",)),
        ({"is_tls": True}, ("metal.provider.address=https://10.0.0.1:50042",)),
        ({"is_tls": False, "is_test": True}, ("metal.provider.address=10.0.0.1:50042", "metal.provider.test.mode=1")),
        ({"is_tls": True, "is_unverified": True},
         ("metal.provider.address=https://10.0.0.1:50042", "metal.provider.tls.skip.verify=1")),
    ],
)  # fmt: skip
def test_agent_arguments(options: dict[str, bool], arguments: tuple[str, ...]) -> None:
    """The agent dials nobody."""
    assert siderolink.agent_arguments("10.0.0.1:50042", **options) == arguments


def test_length() -> None:
    """A kernel forgets the end of its command line, and the machine boots without a configuration."""
    siderolink.check_length(["a=" + "x" * (ipxe.MOST_LINE_BYTES - 4), "b"])
    siderolink.check_length(["a" * 47], room=2000)
    with pytest.raises(
        PermanentError, match=r"would have 2052 bytes, and a kernel reads 2047; .* is inline with 2050"
    ) as caught:
        siderolink.check_length(["inline=" + "x" * 2043, "b"])
    assert caught.value.hint
    assert "xxx" not in f"{caught.value}", "tokens are in it"
    with pytest.raises(BootwrightError):
        siderolink.check_length(["a" * 48], room=2000)

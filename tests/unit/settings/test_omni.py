"""The settings of an Omni and of Talos: what goes together, and what the key decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from provider.domain.machine import AgentKind
from provider.settings import load
from provider.settings.models import NativeManager, OmniManager
from tests.unit.settings.test_load import LEAST, loaded, problems
from tests.unit.wire import pgp_keys

OMNI = "manager: {kind: omni, endpoint: 'https://omni.example.com', key_file: key}\n"
NATIVE = "manager: {url: 'wss://m/', token_file: t}\n"


def with_key(folder: Path, name: str = "infra-provider:bm") -> None:
    armored = pgp_keys.armored(pgp_keys.Key(bytes(range(32))).secret)
    (folder / "key").write_text(pgp_keys.account_text(armored, name) + "\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "manager:\n  url: wss://m/\n  token_file: t\n  endpoint: https://o\n",
            "provider.yaml:7: manager.endpoint: is a setting of kind: omni, and this manager is of kind: native",
        ),
        (
            "manager:\n  kind: omni\n  endpoint: https://o\n  key_file: k\n  heartbeat: 15s\n",
            "provider.yaml:8: manager.heartbeat: is a setting of kind: native, and this manager is of kind: omni",
        ),
        ("manager:\n  kind: omny\n", "provider.yaml:4: manager: kind is native or omni"),
        ("manager: omni\n", "provider.yaml:4: manager: kind is native or omni"),
        ("manager: {kind: omni, endpoint: 'https://o'}\n", "provider.yaml:4: manager.key_file: is missing"),
        (
            "manager: {kind: omni, endpoint: 'https://o', key_fil: k}\n",
            "manager.key_fil: no such setting; did you mean key_file?",
        ),
        ("manager: {kind: omni, endpoint: omni.example.com, key_file: k}\n", "manager.endpoint: write it as https://"),
        ("manager: {kind: omni, endpoint: 'https://o/x', key_file: k}\n", "manager.endpoint: write it as https://"),
        (
            "manager: {kind: omni, endpoint: 'grpc://omni.example.com', key_file: k}\n",
            "provider.yaml:4: manager: without TLS, join token and signatures can be read on the way: use https://",
        ),
        (
            OMNI + "provider:\n  labels: {rack: '1', omni.sidero.dev/cluster: x}\n",
            "provider.yaml:6: provider.labels: omni.sidero.dev/cluster is Omni's to give",
        ),
        (
            OMNI + "provider:\n  labels: {'rack no': '1'}\n",
            "provider.yaml:6: provider.labels: 'rack no' cannot be selected by a machine class",
        ),
        (OMNI + "provider:\n  labels: {'rack>': '1'}\n", "provider.labels: 'rack>' cannot be selected"),
        (
            OMNI + 'provider:\n  labels: {rack: "1\\n"}\n',
            "provider.yaml:6: provider.labels: Omni takes no label 'rack': '1\\n'",
        ),
        (OMNI + "provider:\n  labels: {'': x}\n", "provider.yaml:6: provider.labels: '' cannot be selected"),
        (
            OMNI + f"provider:\n  labels: {{{', '.join(f'l{n}: x' for n in range(201))}}}\n",
            "provider.yaml:6: provider.labels: 201 are more than Omni takes: 200 of yours",
        ),
        (OMNI + "profiles: {talos: {kernel: k}}\n", "provider.yaml:5: profiles: with Omni, talos is what"),
        ("talos: {agent_version: v1.8.3}\n", "talos.agent_version: there is no agent for Talos v1.8.3"),
        ("talos: {agent_extensions: []}\n", "talos.agent_extensions: without siderolabs/metal-agent"),
        ("talos: {cache_size: 20}\n", "talos.cache_size: write a size as 500MB, 20GB or 1TB"),
        ("talos: {cache_size: 1MB}\n", "talos.cache_size: input should be greater than or equal to 1000000000"),
        ("talos: {factory_url: 'ftp://u:hunter2@f'}\n", "provider.yaml:4: talos.factory_url: string should match"),
        ("agent: {kind: sidero}\n", "agent.kind: input should be 'bootwright' or 'talos', not 'sidero'"),
        ("boot_files: p\n" + OMNI.replace("key}", "p/key}"), "and manager.key_file is there"),
    ],
)
def test_problem_is_told(tmp_path: Path, text: str, expected: str) -> None:
    """Settings that do not go together start a daemon that does something else, or nobody is told which one to mend."""
    found = problems(tmp_path, LEAST + text)
    assert any(expected in problem for problem in found), found
    assert "hunter2" not in "".join(found)


def test_kinds(tmp_path: Path) -> None:
    """A file from before there was Omni is read as another manager, or not at all."""
    assert isinstance(loaded(tmp_path, LEAST + NATIVE).manager, NativeManager)
    settings = loaded(tmp_path, LEAST + OMNI)
    assert isinstance(settings.manager, OmniManager)
    assert settings.manager.key_file == tmp_path / "key"


@pytest.mark.parametrize(
    ("text", "kind", "has_talos"),
    [
        ("", AgentKind.BOOTWRIGHT, False),
        (NATIVE, AgentKind.BOOTWRIGHT, False),
        (OMNI, AgentKind.TALOS, True),
        (OMNI + "agent: {kind: bootwright}\n", AgentKind.BOOTWRIGHT, True),
        ("agent: {kind: talos}\n", AgentKind.TALOS, True),
        ("agent: {machines: [{mac: '52:54:00:00:00:01', kind: talos}]}\n", AgentKind.BOOTWRIGHT, True),
    ],
)
def test_which_agent(tmp_path: Path, text: str, kind: AgentKind, has_talos: bool) -> None:
    """Machines of Omni wait in what Omni does not talk to; or gRPC is loaded, and a port opened, for nobody."""
    settings = loaded(tmp_path, LEAST + text)
    assert (settings.agent_kind, settings.has_talos) == (kind, has_talos)


def test_id_is_that_of_the_key(tmp_path: Path) -> None:
    """The provider works under the name of the host, and Omni refuses all that it writes."""
    with_key(tmp_path)
    settings = loaded(tmp_path, LEAST + OMNI)
    assert load.check(settings) == []
    assert load.identified(settings).provider.id == "bm"
    assert load.check(loaded(tmp_path, LEAST + OMNI + "provider: {id: bm}\n")) == []


def test_another_id_is_refused(tmp_path: Path) -> None:
    """Somebody takes the key of another rack, and its machines are wiped by this one."""
    with_key(tmp_path)
    (problem,) = load.check(loaded(tmp_path, LEAST + OMNI + "provider: {id: rack-12}\n"))
    assert "'rack-12', and the key" in problem
    assert "'bm': leave provider.id out, or make a key for it with: omnictl infraprovider create rack-12" in problem


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "cannot read"), (b"", "omnictl infraprovider create"), (b"\xff", "is not text")],
)
def test_unusable_key(tmp_path: Path, content: bytes | None, expected: str) -> None:
    """A key that was copied in half is found out when machines wait."""
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    (problem,) = load.check(loaded(tmp_path, LEAST + OMNI))
    assert problem.startswith("manager.key_file: ")
    assert expected in problem


def test_ca_file_without_a_certificate(tmp_path: Path) -> None:
    """A file in DER, or the wrong one, is a "security handshaker" that failed."""
    with_key(tmp_path)
    (tmp_path / "ca").write_bytes(b"\x30\x82")
    text = LEAST + OMNI.replace("key}", "key, ca_file: ca}")
    (problem,) = load.check(loaded(tmp_path, text))
    assert problem == f"manager.ca_file: {tmp_path / 'ca'} has no certificate in PEM"
    (tmp_path / "ca").write_bytes(b"# our CA\n-----BEGIN CERTIFICATE-----\n")
    assert load.check(loaded(tmp_path, text)) == []


def test_files_of_talos(tmp_path: Path) -> None:
    """A document that would send machines to another Omni, or a CA that is not there, is found out by the first machine."""
    with_key(tmp_path)
    (tmp_path / "extra").write_text("apiVersion: v1alpha1\nkind: SideroLinkConfig\n")
    text = LEAST + OMNI + "talos: {extra_machine_configuration: extra, factory_ca_file: ca}\n"
    first, second = load.check(loaded(tmp_path, text))
    assert first.startswith("talos.factory_ca_file: cannot read")
    assert "SideroLinkConfig makes machines join" in second
    without = text.replace(OMNI, "")
    assert load.check(loaded(tmp_path, without)) == [], "nobody boots Talos there"

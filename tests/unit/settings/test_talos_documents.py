"""Extra documents for Talos, as operators write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from provider.domain.errors import SettingsError
from provider.settings import talos_documents

GOOD = """\
# DNS of the rack
apiVersion: v1alpha1
kind: ResolverConfig
nameservers: [{address: 10.0.0.53}]
---
apiVersion: v1alpha1
kind: KmsgLogConfig
name: ours
url: udp://10.0.0.9:514
"""


def test_good_documents(tmp_path: Path) -> None:
    """What the operator wrote comes out as something else."""
    (tmp_path / "extra.yaml").write_text(GOOD)
    assert talos_documents.load(tmp_path / "extra.yaml") == GOOD


def test_mark_of_the_byte_order(tmp_path: Path) -> None:
    """An editor that begins files with one makes Talos read `---` as a part of a name, and refuse all documents."""
    (tmp_path / "extra.yaml").write_bytes(b"\xef\xbb\xbf---\n" + GOOD.encode())
    assert talos_documents.load(tmp_path / "extra.yaml") == f"---\n{GOOD}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"kind: [", "not YAML"),
        (b"\xff", "not UTF-8"),
        (b"[" * 20_000, "not YAML"),
        (b"a: !!python/name:os.system ", "not YAML"),
        (
            GOOD.encode() + b"---\napiVersion: v1alpha1\nkind: SideroLinkConfig\n",
            r"extra.yaml: .*\ndocument 3: SideroLinkConfig",
        ),
        (b"kind: SideroLinkConfig\nkind: A\napiVersion: v1alpha1\n", "extra.yaml:2: kind is written twice"),
        (b"kind: A\napiVersion: v1alpha1\nurl: {a: 1, b: 2, a: 3}\n", "extra.yaml:3: a is written twice"),
        (b"kind: A\napiVersion: v\n---\nkind: B\nkind: C\nx: 1\nx: 2", r"yaml:5: kind .*\n.*yaml:7: x is written"),
        (b"<<: {kind: A}\napiVersion: v1alpha1\n", "extra.yaml:1: .* merged into it"),
        (b"apiVersion: v1alpha1\nspec: &a {kind: SideroLinkConfig}\n<<: *a\n", "extra.yaml:3: .* merged into it"),
        (b"apiVersion: &k SideroLinkConfig\nkind: *k\n", "document 1: SideroLinkConfig"),
        (b'apiVersion: v1alpha1\n"k\\x69nd": !!str "SideroLink\\x43onfig"\n', "document 1: SideroLinkConfig"),
        (b"apiVersion: v1alpha1\nkind: !!binary U2lkZXJvTGlua0NvbmZpZw==\n", "document 1: .* no apiVersion and kind"),
        (b"apiVersion: v1alpha1\nkind: !Kind SideroLinkConfig\n", "not YAML"),
        (b"{kind: A, apiVersion: v}\r---\r{kind: EventSinkConfig, apiVersion: v}", "document 2: EventSinkConfig"),
        (b"a: &a [*a]", "not YAML|no apiVersion"),
    ],
)
def test_bad_documents(tmp_path: Path, content: bytes, why: str) -> None:
    """Machines boot and join nothing, or join another Omni."""
    (tmp_path / "extra.yaml").write_bytes(content)
    with pytest.raises(SettingsError, match=why):
        talos_documents.load(tmp_path / "extra.yaml")


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there ends in a traceback."""
    with pytest.raises(SettingsError, match="No such file"):
        talos_documents.load(tmp_path / "extra.yaml")

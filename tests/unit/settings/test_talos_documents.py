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

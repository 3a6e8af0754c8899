"""Which distribution this is."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootassets import distributions
from provider.domain.errors import PermanentError


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n', "Debian 12"),
        ('ID=debian\nVERSION_ID="13"\n', "Debian 13"),
        ('NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n', "Ubuntu 24.04"),
    ],
)
def test_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, name: str) -> None:
    """Breaks if a supported system is not recognised, quoted or not."""
    (tmp_path / "os-release").write_text(release)
    monkeypatch.setattr(distributions, "OS_RELEASE", tmp_path / "os-release")
    assert distributions.current().name == name


def test_unknown_system_lists_the_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if somebody on another system learns nothing about what would work."""
    (tmp_path / "os-release").write_text('PRETTY_NAME="Fedora Linux 42"\nID=fedora\nVERSION_ID=42\n')
    monkeypatch.setattr(distributions, "OS_RELEASE", tmp_path / "os-release")
    with pytest.raises(PermanentError, match="Fedora Linux 42") as caught:
        distributions.current()
    assert "Debian 12, Debian 13, Ubuntu 24.04" in caught.value.hint

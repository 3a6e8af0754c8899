"""The manifest: a folder is complete if and only if its checksums fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootassets import manifest
from provider.domain.errors import SettingsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete assets folder."""
    (tmp_path / "x86_64").mkdir()
    (tmp_path / "x86_64/vmlinuz").write_bytes(b"kernel")
    (tmp_path / "x86_64/initramfs.zst").write_bytes(b"initramfs")
    names = ("x86_64/vmlinuz", "x86_64/initramfs.zst")
    manifest.save(
        tmp_path,
        manifest.Manifest(
            built_with={"kernel": "6.1"},
            images={"x86_64": manifest.Image(*names)},
            files={name: manifest.describe(tmp_path / name) for name in names},
            notes=("no firmware",),
        ),
    )
    return tmp_path


def test_saved_manifest_comes_back(folder: Path) -> None:
    """Breaks if what is written is not what is read."""
    loaded = manifest.load(folder)
    assert loaded == manifest.verify(folder)
    assert loaded.image("x86_64").kernel == "x86_64/vmlinuz"
    assert loaded.files["x86_64/vmlinuz"].bytes == 6
    assert loaded.notes == ("no firmware",)


def test_no_image_for_this_architecture(folder: Path) -> None:
    """Breaks if an unknown architecture is a KeyError."""
    with pytest.raises(SettingsError, match="no agent image for aarch64"):
        manifest.load(folder).image("aarch64")


def test_all_damage_is_named_at_once(folder: Path) -> None:
    """Breaks if half a file is served, or an operator learns of one damaged file at a time."""
    (folder / "x86_64/vmlinuz").write_bytes(b"kernem")
    (folder / "x86_64/initramfs.zst").unlink()
    with pytest.raises(SettingsError) as caught:
        manifest.verify(folder)
    assert "vmlinuz: 6 bytes" in str(caught.value)
    assert "initramfs.zst: missing" in str(caught.value)
    assert caught.value.hint == "run: bootwright assets build"


@pytest.mark.parametrize(
    "document",
    ["", "{", "[]", "{}", '{"built_with": 1, "images": {}, "files": {}, "notes": []}',
     '{"built_with": {}, "images": {"x86_64": {}}, "files": {}, "notes": []}',
     '{"built_with": {}, "images": {}, "files": {"a": {"sha256": ""}}, "notes": []}'],
)  # fmt: skip
def test_broken_manifest_is_advice_not_a_traceback(tmp_path: Path, document: str) -> None:
    """Breaks if a torn or foreign manifest.json crashes the daemon."""
    (tmp_path / "manifest.json").write_text(document)
    with pytest.raises(SettingsError) as caught:
        manifest.load(tmp_path)
    assert caught.value.hint == "run: bootwright assets build"


def test_empty_folder(tmp_path: Path) -> None:
    """Breaks if a first start without assets does not say how to get them."""
    with pytest.raises(SettingsError, match="no boot assets"):
        manifest.verify(tmp_path)

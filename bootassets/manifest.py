"""
`manifest.json`: what an assets folder holds and what each file must look like.

It is written last and replaced as a whole: a folder with a manifest whose checksums fit is complete. The daemon
verifies it once at start, so that a machine never boots half a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from provider.domain.errors import SettingsError

FILE_NAME = "manifest.json"
HINT = "run: bootwright assets build"


@dataclass(frozen=True)
class Image:
    """The agent image of one architecture; paths are relative to the assets folder."""

    kernel: str
    initramfs: str


@dataclass(frozen=True)
class AssetFile:
    """Checksum (lower-case hex) and size of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The whole document. `images` is by architecture as in `uname -m`, `files` by path relative to the folder."""

    built_with: Mapping[str, str]
    """For people and for the next build: distribution, kernel, digests of the sources."""
    images: Mapping[str, Image]
    files: Mapping[str, AssetFile]
    notes: tuple[str, ...] = field(default=())
    """What the image lacks and why, a sentence each."""

    def image(self, architecture: str) -> Image:
        """
        Give the agent image for an architecture.

        Raises:
            SettingsError: If none was built.
        """
        if architecture not in self.images:
            raise SettingsError(f"there is no agent image for {architecture}", hint=HINT)
        return self.images[architecture]


def describe(path: Path) -> AssetFile:
    """Measure one file."""
    with path.open("rb") as stream:
        return AssetFile(hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size)


def load(folder: Path) -> Manifest:
    """
    Read the manifest of an assets folder, without looking at the files.

    Raises:
        SettingsError: If there is none or it cannot be read.
    """
    path = folder / FILE_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(
            built_with=dict(document["built_with"]),
            images={name: Image(**image) for name, image in document["images"].items()},
            files={name: AssetFile(**described) for name, described in document["files"].items()},
            notes=tuple(document["notes"]),
        )
    except FileNotFoundError as error:
        raise SettingsError(f"there are no boot assets in {folder}", hint=HINT) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path} cannot be read: {error!r}", hint=HINT) from error


def save(folder: Path, manifest: Manifest) -> None:
    """Put the manifest in its place, durably and at once."""
    path = folder / FILE_NAME
    fresh = path.with_name(f".{FILE_NAME}.new")
    with fresh.open("w", encoding="utf-8") as stream:
        json.dump(asdict(manifest), stream, indent=2, sort_keys=True)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


def verify(folder: Path) -> Manifest:
    """
    Compare every file with the manifest and give the manifest. Reads everything: about 0.1 s.

    Raises:
        SettingsError: Names all files that are missing or differ.
    """
    manifest = load(folder)
    problems = [problem for name, expected in manifest.files.items() if (problem := _problem(folder / name, expected))]
    if problems:
        raise SettingsError(f"the boot assets in {folder} are damaged:\n" + "\n".join(problems), hint=HINT)
    return manifest


def _problem(path: Path, expected: AssetFile) -> str:
    if not path.is_file():
        return f"{path}: missing"
    found = describe(path)
    if found != expected:
        return f"{path}: {_short(found)}, expected {_short(expected)}"
    return ""


def _short(file: AssetFile) -> str:
    return f"{file.bytes} bytes with SHA-256 {file.sha256[:12]}…"

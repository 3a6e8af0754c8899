"""
Build an assets folder: the agent image, the network bootstrap programs, and the manifest.

Nothing is done when the folder is complete and made from the same sources. Otherwise everything is made in a folder of
its own first; then each file is moved over its predecessor, the manifest last. A build that dies before that leaves the
old assets as they were.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bootassets import agent_layer, base_layer, manifest, programs
from bootassets.progress import Progress, silent
from provider.domain.errors import PermanentError, SettingsError

ARCHITECTURES = ("x86_64",)
_FRESH = ".new-"
"""How the names of folders begin in which new assets are made; a build that was killed leaves one behind."""


def build(
    out_dir: Path,
    architecture: str = "x86_64",
    progress: Progress = silent,
    *,
    force: bool = False,
    cache_dir: Path | None = None,
) -> manifest.Manifest:
    """
    Make `out_dir` complete and give its manifest; `force` looks for newer packages even if nothing of ours changed.

    Takes a second if only the agent changed, about a minute the first time. May be called by several processes at once.

    Raises:
        PermanentError: If a program, package or network is missing, or `architecture` is none of ours.
    """
    if architecture not in ARCHITECTURES:
        raise PermanentError(f"no agent image is built for {architecture}", hint=f"known: {', '.join(ARCHITECTURES)}")
    out_dir, cache = out_dir.absolute(), (cache_dir or default_cache()).absolute()
    with _locked(cache):
        sources = {"base": base_layer.digest(architecture), "agent": agent_layer.digest()}
        if not force and (present := _complete(out_dir, sources)):
            return present
        programs.require_all()
        base = None if force else base_layer.find(cache, architecture)
        base = base or base_layer.build(cache, architecture, progress)
        progress("packing the agent", 0.95)
        made = _assemble(out_dir, architecture, base, sources)
        progress("done", 1.0)
        return made


def default_cache() -> Path:
    """Where packages and the base layer are kept between builds: `$XDG_CACHE_HOME/bootwright`, or below `~/.cache`."""
    configured = os.environ.get("XDG_CACHE_HOME")
    return (Path(configured) if configured else Path.home() / ".cache") / "bootwright"


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Let one build at a time use the cache; another waits here and then finds the work done."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _complete(out_dir: Path, sources: dict[str, str]) -> manifest.Manifest | None:
    try:
        present = manifest.verify(out_dir)
    except SettingsError:
        return None
    same = all(present.built_with.get(name) == digest for name, digest in sources.items())
    return present if same else None


def _assemble(
    out_dir: Path, architecture: str, base: base_layer.BaseLayer, sources: dict[str, str]
) -> manifest.Manifest:
    out_dir.mkdir(parents=True, exist_ok=True)
    for abandoned in out_dir.glob(f"{_FRESH}*"):
        shutil.rmtree(abandoned)
    fresh = Path(tempfile.mkdtemp(prefix=_FRESH, dir=out_dir))
    try:
        image = manifest.Image(f"{architecture}/vmlinuz", f"{architecture}/initramfs.zst")
        _write_image(fresh, image, base)
        for nbp in base.nbps:
            _copy(nbp, fresh / "boot" / nbp.name)
        made = _describe(fresh, architecture, image, base, sources)
        _publish(fresh, out_dir, made)
        return made
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_image(fresh: Path, image: manifest.Image, base: base_layer.BaseLayer) -> None:
    _copy(base.kernel, fresh / image.kernel)
    agent = agent_layer.build(base, fresh / "scratch")
    (fresh / image.initramfs).write_bytes(_aligned(base.archive.read_bytes() + agent))
    shutil.rmtree(fresh / "scratch")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _describe(
    fresh: Path, architecture: str, image: manifest.Image, base: base_layer.BaseLayer, sources: dict[str, str]
) -> manifest.Manifest:
    information = base.information()
    files = sorted(path for path in fresh.rglob("*") if path.is_file())
    return manifest.Manifest(
        built_with={**sources, "distribution": information.distribution, "kernel": information.kernel},
        images={architecture: image},
        files={str(path.relative_to(fresh)): manifest.describe(path) for path in files},
        notes=information.notes,
    )


def _publish(fresh: Path, out_dir: Path, made: manifest.Manifest) -> None:
    """Move all files over their predecessors. Until the first move nothing has changed; the moves take no time."""
    for name in made.files:
        _synchronise(fresh / name)
    for name in made.files:
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).replace(out_dir / name)
    manifest.save(out_dir, made)


def _synchronise(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _aligned(initramfs: bytes) -> bytes:
    """
    Pad with zeroes, which the kernel skips, so that a second RAM disk may follow.

    The EFI stub puts several `initrd=` files together byte by byte, and the kernel takes an uncompressed archive only at a
    multiple of four: without this, a UEFI machine boots without what was laid over the image. iPXE on BIOS aligns by itself.
    """
    return initramfs + b"\0" * (-len(initramfs) % 4)

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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootassets import agent_layer, architectures, base_layer, manifest, programs
from bootassets.architectures import Architecture
from bootassets.progress import Progress, silent
from bootassets.userland import Interpreter
from provider.domain.errors import SettingsError

_FRESH = ".new-"
"""How the names of folders begin in which new assets are made; a build that was killed leaves one behind."""


def build(
    out_dir: Path,
    wanted: Collection[str] = (),
    progress: Progress = silent,
    *,
    force: bool = False,
    cache_dir: Path | None = None,
) -> manifest.Manifest:
    """
    Make `out_dir` complete and give its manifest; `force` looks for newer packages even if nothing of ours changed.

    It gets images for the `wanted` architectures and for those that it has already; if that is none, for x86_64. Takes a
    second if only the agent changed, about a minute the first time. May be called by several processes at once.

    Raises:
        PermanentError: If a program, package or network is missing, or an architecture is none of ours.
    """
    asked = {architectures.find(name) for name in wanted}
    out_dir, cache = out_dir.absolute(), (cache_dir or default_cache()).absolute()
    with _locked(cache):
        chosen = _chosen(asked, out_dir)
        sources = {f"{one.name} base": base_layer.digest(one) for one in chosen} | {"agent": agent_layer.digest()}
        if not force and (present := _complete(out_dir, sources)):
            return present
        programs.require_all()
        bases = [_base(cache, one, progress, force=force) for one in chosen]
        progress("packing the agent", 0.95)
        made = _assemble(out_dir, bases, base_layer.interpreter(cache, progress), sources)
        progress("done", 1.0)
        return made


def _chosen(asked: Collection[Architecture], out_dir: Path) -> list[Architecture]:
    """Give what was asked for and what is there, in the order of the table."""
    try:
        there = set(manifest.load(out_dir).images)
    except SettingsError:
        there = set()
    names = there.union(one.name for one in asked) or {architectures.DEFAULT}
    return [one for name, one in architectures.ARCHITECTURES.items() if name in names]


def _base(cache: Path, architecture: Architecture, progress: Progress, *, force: bool) -> base_layer.BaseLayer:
    found = None if force else base_layer.find(cache, architecture)
    return found or base_layer.build(cache, architecture, progress)


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
    out_dir: Path, bases: Sequence[base_layer.BaseLayer], interpreter: Interpreter, sources: Mapping[str, str]
) -> manifest.Manifest:
    out_dir.mkdir(parents=True, exist_ok=True)
    for abandoned in out_dir.glob(f"{_FRESH}*"):
        shutil.rmtree(abandoned)
    fresh = Path(tempfile.mkdtemp(prefix=_FRESH, dir=out_dir))
    try:
        agent = agent_layer.build(interpreter, fresh / "scratch")
        shutil.rmtree(fresh / "scratch")
        for base in bases:
            _write(fresh, base, agent)
        made = _describe(fresh, bases, sources)
        _publish(fresh, out_dir, made)
        return made
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(fresh: Path, base: base_layer.BaseLayer, agent: bytes) -> None:
    """Write the image and the boot files of one architecture."""
    image = _image(base)
    _copy(base.kernel, fresh / image.kernel)
    (fresh / image.initramfs).write_bytes(_aligned(base.archive.read_bytes() + agent))
    for file in base.boot_files:
        _copy(file, fresh / "boot" / file.name)


def _image(base: base_layer.BaseLayer) -> manifest.Image:
    name = base.architecture.name
    return manifest.Image(f"{name}/vmlinuz", f"{name}/initramfs.zst")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _describe(fresh: Path, bases: Sequence[base_layer.BaseLayer], sources: Mapping[str, str]) -> manifest.Manifest:
    about = {base.architecture.name: base.information() for base in bases}
    kernels = {f"{name} kernel": information.kernel for name, information in about.items()}
    distribution = next(iter(about.values())).distribution
    files = sorted(path for path in fresh.rglob("*") if path.is_file())
    return manifest.Manifest(
        built_with={**sources, **kernels, "distribution": distribution},
        images={base.architecture.name: _image(base) for base in bases},
        files={str(path.relative_to(fresh)): manifest.describe(path) for path in files},
        notes=tuple(f"{name}: {note}" for name, information in about.items() for note in information.notes),
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

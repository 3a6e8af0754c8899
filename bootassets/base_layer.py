"""
The base layer of the initramfs: kernel modules, firmware, Python, busybox. Takes seconds to a minute, so it is cached.

The cache keeps, under a digest of all of ours that decides the content: the compressed archive, the kernel image, the
network bootstrap programs, and the unpacked userland, whose Python compiles the agent layer. Which versions of the
packages went in is written down; newer ones are looked for only when somebody asks for a fresh build.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bootassets import architectures, cpio, distributions, modules, packages, userland, zstd
from bootassets.architectures import Architecture
from bootassets.progress import Progress
from provider.domain.errors import PermanentError

_RECIPE = Path(__file__).parent

_SKELETON: Mapping[str, cpio.Entry] = {
    "dev/console": cpio.CharacterDevice(5, 1),  # The kernel opens it for PID 1 before anything is mounted.
    "dev/null": cpio.CharacterDevice(1, 3),
    "proc": cpio.Directory(),
    "sys": cpio.Directory(),
    "run": cpio.Directory(),
    "tmp": cpio.Directory(),
    "etc": cpio.Directory(),
}


@dataclass(frozen=True)
class Information:
    """What a base layer was made of."""

    distribution: str
    kernel: str
    packages: Mapping[str, str]
    """Version by name."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class BaseLayer:
    """A finished base layer in the cache."""

    folder: Path
    architecture: Architecture

    @property
    def kernel(self) -> Path:
        """The kernel image."""
        return self.folder / "vmlinuz"

    @property
    def archive(self) -> Path:
        """The compressed archive."""
        return self.folder / "base.cpio.zst"

    @property
    def userland(self) -> Path:
        """The unpacked packages of the userland."""
        return self.folder / "userland"

    @property
    def boot_files(self) -> list[Path]:
        """The network bootstrap programs."""
        return sorted((self.folder / "boot").iterdir())

    def information(self) -> Information:
        """Read what it was made of."""
        document = json.loads((self.folder / "information.json").read_text(encoding="utf-8"))
        return Information(**{**document, "notes": tuple(document["notes"])})


def digest(architecture: Architecture) -> str:
    """Give the digest of all that decides the base layer, but for the versions of the packages."""
    found = hashlib.sha256(f"{architecture.name} {distributions.current().name}".encode())
    for path in sorted([*_RECIPE.glob("*.py"), *_RECIPE.glob("*.txt")]):
        found.update(path.read_bytes())
    return found.hexdigest()


def find(cache: Path, architecture: Architecture) -> BaseLayer | None:
    """Give the cached base layer that fits, if there is one."""
    folder = _place(cache, architecture)
    return BaseLayer(folder, architecture) if folder.is_dir() else None


def build(cache: Path, architecture: Architecture, progress: Progress) -> BaseLayer:
    """
    Build the base layer from the newest packages and keep it in the cache instead of older ones of its architecture.

    One for another architecture than this system's needs one for this system's first, whose Python compiles for both.

    Raises:
        PermanentError: If a package cannot be had or does not hold what it should.
    """
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    host = architectures.host()
    foreign_interpreter = None if architecture == host else interpreter(cache, progress)
    progress(f"base layer for {architecture.name}", 0.0)
    versions, notes = _unpack_packages(cache, architecture, work, progress)
    python = foreign_interpreter or userland.Interpreter(work / "layer/userland", host)
    progress("choosing drivers", 0.5)
    kernel = modules.Kernel.find(work / "kernel")
    selection = modules.select(kernel, work / "kernel")
    tree = modules.stage(kernel, selection, work / "modules")
    progress("compiling Python", 0.6)
    tree = {**tree, **userland.tree(work / "layer/userland", architecture, python, work / "python"), **_SKELETON}
    progress("compressing", 0.7)
    (work / "layer/base.cpio.zst").write_bytes(zstd.compress(cpio.archive(tree)))
    shutil.copyfile(kernel.image, work / "layer/vmlinuz")
    _copy_boot_files(work / "layer", architecture)
    information = Information(distributions.current().name, kernel.release, versions, (*notes, *_notes(selection)))
    (work / "layer/information.json").write_text(json.dumps(asdict(information), indent=2), encoding="utf-8")
    return BaseLayer(_keep(work, _place(cache, architecture)), architecture)


def interpreter(cache: Path, progress: Progress) -> userland.Interpreter:
    """Give the Python of the base layer for this system's architecture, which is built if there is none."""
    host = architectures.host()
    base = find(cache, host) or build(cache, host, progress)
    return userland.Interpreter(base.userland, host)


def _unpack_packages(
    cache: Path, architecture: Architecture, work: Path, progress: Progress
) -> tuple[dict[str, str], list[str]]:
    """Fetch and unpack everything into `work/kernel` and `work/layer/userland`; give versions, and notes for people."""
    apt = packages.Apt(cache / f"apt-{architecture.debian}", architecture.debian)
    progress("reading the package index", 0.0)
    notes = [] if apt.update() else ["the package sources could not be reached: an older index was used"]
    chosen = _choose(apt.index(), architecture)
    size = sum(package.size for package in chosen.all)
    progress(f"fetching {len(chosen.all)} packages ({size / 1e6:.0f} MB, what is cached is taken from there)", 0.1)
    debs = apt.download(chosen.all)
    progress("unpacking", 0.4)
    (work / "layer").mkdir(parents=True)
    packages.unpack(debs[: len(chosen.kernel)], work / "kernel")
    packages.unpack(debs[len(chosen.kernel) :], work / "layer/userland")
    apt.forget_all_but(chosen.all)
    return {package.name: package.version for package in chosen.all}, notes


@dataclass(frozen=True)
class _Chosen:
    """The packages of one image."""

    kernel: list[packages.Package]
    """With firmware."""
    userland: list[packages.Package]
    """With the network bootstrap programs."""

    @property
    def all(self) -> list[packages.Package]:
        """Kernel first."""
        return [*self.kernel, *self.userland]


def _choose(index: packages.Index, architecture: Architecture) -> _Chosen:
    distribution = distributions.current()
    firmware = [name for name in distribution.firmware if name in index.packages]
    user = (distributions.PYTHON, *distributions.TOOLS)
    return _Chosen(
        kernel=packages.closure(
            index, [distribution.kernel.format(architecture.debian), *firmware], distributions.NOT_FOLLOWED
        ),
        userland=[
            *packages.closure(index, user, distributions.NOT_FOLLOWED),
            *packages.closure(index, {file.package for file in architecture.boot_files}, index.packages),
        ],
    )


def _copy_boot_files(layer: Path, architecture: Architecture) -> None:
    (layer / "boot").mkdir()
    for file in architecture.boot_files:
        found = [path for source in file.sources if (path := _inside(layer / "userland", Path(source))).is_file()]
        if not found:
            raise PermanentError(
                f"the package {file.package} holds no {file.sources[0]}", hint="report the distribution's version"
            )
        shutil.copyfile(found[0], layer / "boot" / file.name)


def _inside(unpacked: Path, name: Path) -> Path:
    """Follow a link as if `unpacked` were the root: Debian 12 has an absolute one from ipxe.efi to /boot."""
    if (unpacked / name).is_symlink():
        return unpacked / ("/" / name.parent / (unpacked / name).readlink()).relative_to("/")
    return unpacked / name


def _notes(selection: modules.Selection) -> list[str]:
    notes = []
    if selection.missing_firmware:
        lost = sorted({request.partition("/")[0] for request in selection.missing_firmware})
        hint = "the distribution has none" if selection.firmware else distributions.current().firmware_hint
        notes.append(f"no firmware files for: {', '.join(lost)} ({hint})")
    if selection.missing:
        notes.append(f"this kernel has no driver: {', '.join(selection.missing)}")
    return notes


def _place(cache: Path, architecture: Architecture) -> Path:
    return cache / f"base-{architecture.debian}-{digest(architecture)[:16]}"


def _keep(work: Path, place: Path) -> Path:
    """Move a finished layer into its place, where only complete ones ever stand; older ones go."""
    shutil.rmtree(work / "layer/userland/usr/share")
    for older in place.parent.glob(f"{place.name.rpartition('-')[0]}-*"):
        shutil.rmtree(older)
    (work / "layer").rename(place)
    shutil.rmtree(work)
    return place

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

from bootassets import cpio, distributions, modules, packages, userland, zstd
from bootassets.progress import Progress

_RECIPE = Path(__file__).parent
_NBPS = ("undionly.kpxe", "snponly.efi", "ipxe.efi")
_NBP_FOLDER = Path("usr/lib/ipxe")
_DEBIAN_ARCHITECTURES = {"x86_64": "amd64"}

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
    def nbps(self) -> list[Path]:
        """The network bootstrap programs."""
        return sorted((self.folder / "boot").iterdir())

    def information(self) -> Information:
        """Read what it was made of."""
        document = json.loads((self.folder / "information.json").read_text(encoding="utf-8"))
        return Information(**{**document, "notes": tuple(document["notes"])})


def digest(architecture: str) -> str:
    """Give the digest of all that decides the base layer, but for the versions of the packages."""
    found = hashlib.sha256(f"{architecture} {distributions.current().name}".encode())
    for path in sorted([*_RECIPE.glob("*.py"), *_RECIPE.glob("*.txt")]):
        found.update(path.read_bytes())
    return found.hexdigest()


def find(cache: Path, architecture: str) -> BaseLayer | None:
    """Give the cached base layer that fits, if there is one."""
    folder = _place(cache, architecture)
    return BaseLayer(folder) if folder.is_dir() else None


def build(cache: Path, architecture: str, progress: Progress) -> BaseLayer:
    """
    Build the base layer from the newest packages and keep it in the cache instead of all others.

    Raises:
        PermanentError: If a package cannot be had or does not hold what it should.
    """
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    versions, notes = _unpack_packages(cache, architecture, work, progress)
    progress("choosing drivers", 0.5)
    kernel = modules.Kernel.find(work / "kernel")
    selection = modules.select(kernel, work / "kernel")
    tree = modules.stage(kernel, selection, work / "modules")
    progress("compiling Python", 0.6)
    tree = {**tree, **userland.tree(work / "layer/userland", work / "python"), **_SKELETON}
    progress("compressing", 0.7)
    (work / "layer/base.cpio.zst").write_bytes(zstd.compress(cpio.archive(tree)))
    shutil.copyfile(kernel.image, work / "layer/vmlinuz")
    _copy_nbps(work / "layer")
    information = Information(distributions.current().name, kernel.release, versions, (*notes, *_notes(selection)))
    (work / "layer/information.json").write_text(json.dumps(asdict(information), indent=2), encoding="utf-8")
    return _keep(work, _place(cache, architecture))


def _unpack_packages(
    cache: Path, architecture: str, work: Path, progress: Progress
) -> tuple[dict[str, str], list[str]]:
    """Fetch and unpack everything into `work/kernel` and `work/layer/userland`; give versions, and notes for people."""
    apt = packages.Apt(cache / "apt")
    progress("reading the package index", 0.0)
    notes = [] if apt.update() else ["the package sources could not be reached: an older index was used"]
    chosen = _choose(apt.index(_DEBIAN_ARCHITECTURES[architecture]))
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


def _choose(index: packages.Index) -> _Chosen:
    distribution = distributions.current()
    firmware = [name for name in distribution.firmware if name in index.packages]
    user = (distributions.PYTHON, *distributions.TOOLS)
    return _Chosen(
        kernel=packages.closure(index, [distribution.kernel, *firmware], distributions.NOT_FOLLOWED),
        userland=[
            *packages.closure(index, user, distributions.NOT_FOLLOWED),
            *packages.closure(index, [distributions.NBP], index.packages),
        ],
    )


def _copy_nbps(layer: Path) -> None:
    (layer / "boot").mkdir()
    for name in _NBPS:
        shutil.copyfile(_inside(layer / "userland", _NBP_FOLDER / name), layer / "boot" / name)


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


def _place(cache: Path, architecture: str) -> Path:
    return cache / f"base-{digest(architecture)[:16]}"


def _keep(work: Path, place: Path) -> BaseLayer:
    """Move a finished layer into its place, where only complete ones ever stand; older ones go."""
    shutil.rmtree(work / "layer/userland/usr/share")
    for older in place.parent.glob("base-*"):
        shutil.rmtree(older)
    (work / "layer").rename(place)
    shutil.rmtree(work)
    return BaseLayer(place)

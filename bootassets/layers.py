"""
The two layers of the initramfs, each a compressed cpio archive, and the folder in which the first is kept.

The base layer comes from packages and takes a minute; it is cached by a digest of all that decides its content. The
agent layer comes from this source tree and takes a second.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import provider
from bootassets import cpio, distributions, modules, packages, programs, userland

Progress = Callable[[str, float], None]
"""Told what is being done, in words, and how much of the build is behind us, 0 to 1."""


def silent(_step: str, _fraction: float) -> None:
    """Tell nobody."""


LEVEL = 10
"""Of zstd, measured on the base layer of Debian 12 (70 MB): 10 gives 19.7 MB in 1 s, 19 gives 17.5 MB in 17 s."""

_SOURCES = Path(provider.__file__).parent
_IMAGE_FOLDER = Path(__file__).parent / "image"
_RECIPE = Path(__file__).parent
_AGENT_PARTS = (
    *("__init__.py", "agent/**/*.py", "domain/**/*.py"),
    *("wire/__init__.py", "wire/agent.py", "kit/__init__.py", "kit/backoff.py"),
)
"""What is packed, below `provider/`; a test runs the agent on these files alone."""

_HOME = "usr/lib/bootwright"
"""Where the agent lies in the image; on PYTHONPATH."""

_NBPS = ("undionly.kpxe", "snponly.efi", "ipxe.efi")
_NBP_FOLDER = "usr/lib/ipxe"
_DEBIAN_ARCHITECTURES = {"x86_64": "amd64"}


@dataclass(frozen=True)
class BaseInformation:
    """What a base layer was made of."""

    distribution: str
    kernel: str
    packages: Mapping[str, str]
    """Version by name."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Base:
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
        """The unpacked packages of the userland; its Python compiles the agent."""
        return self.folder / "userland"

    def nbps(self) -> Iterable[Path]:
        """Give the network bootstrap programs."""
        return sorted((self.folder / "boot").iterdir())

    def information(self) -> BaseInformation:
        """Read what it was made of."""
        document = json.loads((self.folder / "information.json").read_text(encoding="utf-8"))
        return BaseInformation(**{**document, "notes": tuple(document["notes"])})


def base_digest(architecture: str) -> str:
    """Give the digest of all that decides the base layer, but for the versions of the packages."""
    digest = hashlib.sha256(f"{architecture} {distributions.current().name} {LEVEL}".encode())
    for path in sorted([*_RECIPE.glob("*.py"), *_RECIPE.glob("*.txt")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def agent_files() -> dict[str, Path]:
    """Give the files of the agent by their path in the image."""
    sources = sorted(path for part in _AGENT_PARTS for path in _SOURCES.glob(part))
    return {f"{_HOME}/provider/{path.relative_to(_SOURCES)}": path for path in sources}


def agent_digest() -> str:
    """Give the digest of the agent's sources and of the scripts around it."""
    digest = hashlib.sha256()
    files = agent_files() | {path.name: path for path in sorted(_IMAGE_FOLDER.iterdir()) if path.is_file()}
    for name, path in files.items():
        digest.update(f"{name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def build_base(cache: Path, architecture: str, progress: Progress) -> Base:
    """
    Build the base layer into the cache, replacing what is there under the same digest.

    Raises:
        PermanentError: If a package cannot be had or does not hold what it should.
    """
    distribution = distributions.current()
    apt = packages.Apt(cache / "apt")
    progress("reading the package index", 0.0)
    index = apt.index(_DEBIAN_ARCHITECTURES[architecture])
    firmware = [name for name in distribution.firmware if name in index.packages]
    kernel_packages = packages.closure(index, [distribution.kernel, *firmware], distributions.NOT_FOLLOWED)
    user_packages = packages.closure(index, [distributions.PYTHON, *distributions.TOOLS], distributions.NOT_FOLLOWED)
    nbp_packages = packages.closure(index, [distributions.NBP], index.packages)
    everything = [*kernel_packages, *user_packages, *nbp_packages]
    size = sum(package.size for package in everything)
    progress(f"fetching {len(everything)} packages ({size / 1e6:.0f} MB, those in the cache are taken from there)", 0.1)
    apt.download(everything)

    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    progress("unpacking", 0.4)
    packages.unpack(apt.download(kernel_packages), work / "kernel")
    packages.unpack(apt.download([*user_packages, *nbp_packages]), work / "base/userland")
    progress("choosing drivers", 0.5)
    kernel = modules.Kernel.find(work / "kernel")
    selection = modules.select(kernel, work / "kernel")
    tree = modules.stage(kernel, selection, work / "modules")
    progress("compiling Python", 0.6)
    tree = {**tree, **userland.tree(work / "base/userland", work / "python"), **_SKELETON}
    progress("compressing", 0.7)
    compress(tree, work / "base/base.cpio.zst")
    information = BaseInformation(
        distribution=distribution.name,
        kernel=kernel.release,
        packages={package.name: package.version for package in everything},
        notes=_notes(distribution, selection),
    )
    return _keep(work, kernel, information, cache / f"base-{base_digest(architecture)[:16]}")


_SKELETON: dict[str, cpio.Entry] = {
    "dev/console": cpio.CharacterDevice(5, 1),  # The kernel opens it for PID 1 before anything is mounted.
    "dev/null": cpio.CharacterDevice(1, 3),
    "proc": cpio.Directory(),
    "sys": cpio.Directory(),
    "run": cpio.Directory(),
    "tmp": cpio.Directory(),
    "etc": cpio.Directory(),
}


def _notes(distribution: distributions.Distribution, selection: modules.Selection) -> tuple[str, ...]:
    notes = []
    if selection.missing_firmware:
        lost = sorted({request.partition("/")[0] for request in selection.missing_firmware})
        hint = "the distribution has none" if selection.firmware else distribution.firmware_hint
        notes.append(f"no firmware files for: {', '.join(lost)} ({hint})")
    if selection.missing:
        notes.append(f"this kernel has no driver: {', '.join(selection.missing)}")
    return tuple(notes)


def _keep(work: Path, kernel: modules.Kernel, information: BaseInformation, folder: Path) -> Base:
    """Move a finished base layer into its place in the cache; only complete ones ever stand there."""
    fresh = work / "base"
    shutil.copyfile(kernel.image, fresh / "vmlinuz")
    (fresh / "boot").mkdir()
    for name in _NBPS:
        shutil.copyfile(fresh / "userland" / _NBP_FOLDER / name, fresh / "boot" / name)
    (fresh / "information.json").write_text(json.dumps(asdict(information), indent=2), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    shutil.rmtree(work)
    return Base(folder)


def find_base(cache: Path, architecture: str) -> Base | None:
    """Give the cached base layer that fits, if there is one."""
    base = Base(cache / f"base-{base_digest(architecture)[:16]}")
    return base if base.folder.is_dir() else None


def build_agent(base: Base, target: Path, scratch: Path) -> None:
    """Pack the agent and what starts it into `target`; `scratch` is an empty folder."""
    tree: dict[str, cpio.Entry] = {
        "init": cpio.File(_IMAGE_FOLDER / "init.sh", executable=True),
        f"{_HOME}/udhcpc": cpio.File(_IMAGE_FOLDER / "udhcpc.sh", executable=True),
        f"{_HOME}/version": cpio.File(f"{agent_digest()[:12]}\n".encode()),
    }
    compress({**tree, **_compiled(base, agent_files(), scratch)}, target)


def _compiled(base: Base, files: Mapping[str, Path], scratch: Path) -> dict[str, cpio.Entry]:
    """Give sources and byte code: for our own files a traceback shall show the line."""
    for name, source in files.items():
        copy = scratch / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    userland.compile_python(base.userland, scratch / _HOME, base=scratch, beside=False)
    return {str(path.relative_to(scratch)): cpio.File(path) for path in scratch.rglob("*") if path.is_file()}


def compress(tree: cpio.Tree, target: Path) -> None:
    """Write a tree as a zstd-compressed archive. `-T0` gives the same bytes for any number of processors."""
    archive = io.BytesIO()
    cpio.write(tree, archive)
    command = ["zstd", f"-{LEVEL}", "-T0", "--quiet", "--stdout"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(programs.run_binary(command, archive.getvalue()))

"""
The distribution's packages, through apt but beside its state: nothing is installed and no file of the system changes.

apt gets a state and cache folder of its own and an empty list of installed packages; sources, keys, proxies and pins
are the system's. The index is read once, as a whole: `apt-cache depends` would take a second for each package.
Signatures and checksums are checked by apt, and the checksum again by us whenever a cached .deb is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootassets import programs
from provider.domain.errors import PermanentError

_FIELDS = re.compile(
    r"^(Package|Version|Architecture|Depends|Pre-Depends|Provides|Filename|SHA256|Size): (.*)$", re.MULTILINE
)
_UPDATE_HINT = "check the network and /etc/apt/sources.list, then run it again"


@dataclass(frozen=True)
class Package:
    """One package in the version that apt would install."""

    name: str
    version: str
    depends: tuple[tuple[str, ...], ...]
    """Each dependency as its alternatives in order, versions cut off."""
    provides: tuple[str, ...]
    file_name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Index:
    """All packages by name, and who provides each virtual one."""

    packages: Mapping[str, Package]
    providers: Mapping[str, tuple[str, ...]]

    def find(self, name: str) -> Package | None:
        """Give the package of that name, or the first that provides it."""
        if name in self.packages:
            return self.packages[name]
        return self.packages[self.providers[name][0]] if name in self.providers else None


def parse_index(text: str, architecture: str) -> Index:
    """Read what `apt-cache dumpavail` prints; packages of other architectures are left out."""
    packages: dict[str, Package] = {}
    providers: dict[str, list[str]] = {}
    for stanza in text.split("\n\n"):
        fields = dict(_FIELDS.findall(stanza))
        if fields.get("Architecture") in (architecture, "all") and "SHA256" in fields:
            package = _package(fields)
            packages[package.name] = package
            for virtual in package.provides:
                providers.setdefault(virtual, []).append(package.name)
    return Index(packages, {virtual: tuple(sorted(names)) for virtual, names in providers.items()})


def _package(fields: Mapping[str, str]) -> Package:
    groups = [*_groups(fields.get("Pre-Depends", "")), *_groups(fields.get("Depends", ""))]
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        depends=tuple(groups),
        provides=tuple(name for group in _groups(fields.get("Provides", "")) for name in group),
        file_name=fields["Filename"].rpartition("/")[2],
        sha256=fields["SHA256"],
        size=int(fields["Size"]),
    )


def _groups(relation: str) -> Iterable[tuple[str, ...]]:
    """Split `a (>= 1) | b, c:any` into its alternatives (Debian policy 7.1)."""
    for group in filter(None, relation.split(",")):
        yield tuple(re.split(r"[ :(]", alternative.strip(), maxsplit=1)[0] for alternative in group.split("|"))


def closure(index: Index, roots: Iterable[str], not_followed: Collection[str]) -> list[Package]:
    """
    Give `roots` and everything they depend on, sorted by name.

    A dependency whose first alternative is in `not_followed` is left out.

    Raises:
        PermanentError: If a package is in no source.
    """
    chosen: dict[str, Package] = {}
    waiting: list[tuple[str, ...]] = [(root,) for root in roots]
    while waiting:
        alternatives = waiting.pop()
        package = next(filter(None, map(index.find, alternatives)), None)
        if package is None:
            raise PermanentError(f"apt knows no package {' | '.join(alternatives)}", hint=_UPDATE_HINT)
        if package.name not in chosen:
            chosen[package.name] = package
            waiting += [group for group in package.depends if group[0] not in not_followed]
    return sorted(chosen.values(), key=lambda package: package.name)


class Apt:
    """apt for one architecture, with a state of its own below `folder`, which also keeps the downloaded .debs."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self._folder = folder
        self._architecture = architecture
        self._debs = folder / "debs"
        self._configuration = folder / "apt.conf"

    def update(self) -> bool:
        """
        Bring the index up to date; False if a source cannot be reached but there is an older index to go on with.

        Raises:
            PermanentError: If a source cannot be reached and there is none.
        """
        self._prepare()
        try:
            self._run("apt-get", "update", "--error-on=any", "-qq")
        except PermanentError:
            if not any((self._folder / "state/lists").glob("*_InRelease")):
                raise
            return False
        return True

    def index(self) -> Index:
        """Read the index as a whole; a second."""
        return parse_index(self._run("apt-cache", "dumpavail"), self._architecture)

    def download(self, packages: Sequence[Package]) -> list[Path]:
        """
        Give a checked .deb of each package, in order; what is not in the cache is fetched with one call of apt.

        Raises:
            PermanentError: If a download fails or does not have the checksum of the index.
        """
        files = [self._debs / package.file_name for package in packages]
        missing = [package for package, deb in zip(packages, files, strict=True) if not _is_intact(deb, package.sha256)]
        if missing:
            wanted = [f"{package.name}={package.version}" for package in missing]
            self._run("apt-get", "download", "-qq", *wanted, cwd=self._debs)
        for package in missing:
            self._adopt(package)
        return files

    def forget_all_but(self, packages: Iterable[Package]) -> None:
        """Remove older .debs from the cache."""
        wanted = {package.file_name for package in packages}
        for deb in self._debs.iterdir():
            if deb.name not in wanted:
                deb.unlink()

    def _adopt(self, package: Package) -> None:
        """Give a fresh download the name that the index has for it: apt adds the epoch."""
        for fetched in self._debs.glob(f"{package.name}_*"):
            if _is_intact(fetched, package.sha256):
                fetched.replace(self._debs / package.file_name)
                return
        raise PermanentError(
            f"apt downloaded {package.name} {package.version} with another checksum", hint=_UPDATE_HINT
        )

    def _prepare(self) -> None:
        for part in ("state/lists/partial", "cache/archives/partial", "debs"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").write_text("")
        self._configuration.write_text(
            f'APT::Architecture "{self._architecture}";\n'
            "#clear APT::Architectures;\n"
            f'APT::Architectures {{ "{self._architecture}"; }};\n'
            f'Dir::State "{self._folder}/state";\n'
            f'Dir::State::Lists "{self._folder}/state/lists";\n'
            f'Dir::State::status "{self._folder}/status";\n'
            f'Dir::Cache "{self._folder}/cache";\n'
            'APT::Sandbox::User "root";\n'  # _apt may not enter the folder of another user.
            'Acquire::Languages "none";\n'
            "#clear Acquire::IndexTargets::deb::DEP-11;\n"
            "#clear Acquire::IndexTargets::deb::CNF;\n"
            # Hooks of the system tidy the system's own cache: not our business.
            "#clear APT::Update;\n"
            "#clear DPkg::Post-Invoke;\n"
        )

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        return programs.run([program, "-c", str(self._configuration), *arguments], cwd=cwd)


def unpack(debs: Iterable[Path], folder: Path) -> None:
    """Extract the files of all packages into one folder; no maintainer script runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        programs.run(["dpkg-deb", "--extract", deb, folder])


def _is_intact(file: Path, sha256: str) -> bool:
    if not file.exists():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256

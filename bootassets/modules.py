"""
Kernel modules: those that find disks, network cards and the BMC, with everything that they need, and their firmware.

Modules are stored uncompressed whatever the distribution does, because the initramfs is compressed as a whole and does
that better. What a module needs is read from the module itself (.modinfo), not from a modules.dep that only an
installed kernel has.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bootassets import cpio, elf, programs, zstd
from provider.domain.errors import PermanentError

_LIST = Path(__file__).parent / "drivers.txt"

REQUIRED = frozenset({"virtio_net", "virtio_blk", "e1000e", "igb", "tg3", "nvme", "ahci", "sd_mod", "ipmi_si"})
"""Without these it is the wrong kernel (the "cloud" flavours, for example), whatever else it has."""

_FIRMWARE_FOLDERS = ("lib/firmware", "usr/lib/firmware")
_INDEX_FILES = ("modules.order", "modules.builtin", "modules.builtin.modinfo")
_NOT_PACKED = frozenset(
    {"modules.order", "modules.builtin.modinfo", "modules.alias", "modules.symbols", "modules.symbols.bin"}
)
"""Indexes that modprobe does not read, or has in a binary form, too."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: its release, such as `6.1.0-56-amd64`, its image, and the folder with its modules."""

    release: str
    image: Path
    modules: Path

    @classmethod
    def find(cls, unpacked: Path) -> Kernel:
        """
        Look for the one kernel among unpacked packages.

        Raises:
            PermanentError: If there is none, or its modules are missing.
        """
        images = sorted(unpacked.glob("boot/vmlinuz-*"))
        for image in images:
            release = image.name.removeprefix("vmlinuz-")
            for modules in (unpacked / "lib/modules" / release, unpacked / "usr/lib/modules" / release):
                if modules.is_dir():
                    return cls(release, image, modules)
        raise PermanentError(
            "the kernel packages hold no kernel with modules", hint="report the distribution's version"
        )


@dataclass(frozen=True)
class Selection:
    """The modules of one image. `missing` and `missing_firmware` are wishes that nothing fulfils, for the result."""

    modules: Mapping[str, Path]
    firmware: Mapping[str, Path]
    """By the name that the driver asks for."""
    missing: tuple[str, ...]
    missing_firmware: tuple[str, ...]


def select(kernel: Kernel, unpacked: Path) -> Selection:
    """
    Choose the modules and firmware files of the image.

    Raises:
        PermanentError: If the kernel lacks one of REQUIRED.
    """
    available = {_name_of(path): path for path in sorted(kernel.modules.rglob("*.ko*"))}
    built_in = {_name_of(Path(line)) for line in (kernel.modules / "modules.builtin").read_text().split()}
    wanted = _wanted()
    missing = [name for name in wanted if name not in available and name not in built_in]
    if lost := sorted(REQUIRED.intersection(missing)):
        raise PermanentError(
            f"kernel {kernel.release} has no driver {', '.join(lost)}", hint="the generic kernel flavour is needed"
        )
    chosen, requests = _closure(wanted, available)
    files = {request: _find_firmware(unpacked, request) for request in sorted(requests)}
    return Selection(
        modules=dict(sorted(chosen.items())),
        firmware={request: path for request, path in files.items() if path is not None},
        missing=tuple(missing),
        missing_firmware=tuple(request for request, path in files.items() if path is None),
    )


def _closure(wanted: Iterable[str], available: Mapping[str, Path]) -> tuple[dict[str, Path], set[str]]:
    """Give the wanted modules with all that they need, and the names of the firmware files that these ask for."""
    chosen: dict[str, Path] = {}
    requests: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in available and name not in chosen:  # What is not available is built in, or noted as missing.
            chosen[name] = available[name]
            needs, firmware = _needs(read(available[name]))
            requests |= firmware
            waiting += needs
    return chosen, requests


def _wanted() -> list[str]:
    lines = (line.partition("#")[0] for line in _LIST.read_text(encoding="ascii").splitlines())
    return [_spelled(name) for line in lines for name in line.split()]


def read(path: Path) -> bytes:
    """Give the content of a module, or of a firmware file, decompressed."""
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".zst":
            return zstd.decompress(data)
    return data


def _needs(module: bytes) -> tuple[set[str], set[str]]:
    """Give the modules and the firmware files that one module asks for; soft dependencies count."""
    modules: set[str] = set()
    firmware: set[str] = set()
    for key, value in elf.module_information(module):
        if key == "depends":
            modules.update(filter(None, value.split(",")))
        elif key == "softdep":
            modules.update(word for word in value.split() if not word.endswith(":"))
        elif key == "firmware":
            firmware.add(value)
    return {_spelled(name) for name in modules}, firmware


def _find_firmware(unpacked: Path, request: str) -> Path | None:
    for folder in _FIRMWARE_FOLDERS:
        for suffix in ("", ".xz", ".zst"):
            path = unpacked / folder / f"{request}{suffix}"
            if path.exists():
                return path.resolve()
    return None


def stage(kernel: Kernel, selection: Selection, folder: Path) -> cpio.Tree:
    """Lay the chosen modules out below `folder` and let depmod write its indexes; give all of it as a tree."""
    root = folder / "usr/lib/modules" / kernel.release
    for path in selection.modules.values():
        relative = path.relative_to(kernel.modules)
        target = root / relative.with_name(relative.name.removesuffix(".xz").removesuffix(".zst"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read(path))
    for name in _INDEX_FILES:
        source = kernel.modules / name
        if source.exists():
            (root / name).write_bytes(source.read_bytes())
    # depmod looks below /lib or /usr/lib, as its distribution was built.
    (folder / "lib").symlink_to("usr/lib")
    programs.run(["depmod", "--basedir", folder, kernel.release])
    return dict(_tree(folder, root, selection))


def _tree(folder: Path, root: Path, selection: Selection) -> Iterator[tuple[str, cpio.Entry]]:
    for path in _files(root):
        if path.name not in _NOT_PACKED:
            yield str(path.relative_to(folder)), cpio.File(path)
    for request, path in selection.firmware.items():
        yield f"usr/lib/firmware/{request}", cpio.File(read(path))


def _files(root: Path) -> Iterable[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file())


def _name_of(path: Path) -> str:
    return _spelled(path.name.partition(".ko")[0])


def _spelled(name: str) -> str:
    """Give the kernel's own spelling: files have dashes or underscores as their author liked."""
    return name.replace("-", "_")

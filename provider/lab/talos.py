"""
The stand-in for Talos (`lab_talos`) as an Image Factory has it: a kernel and an initial RAM disk for any schematic.

It is the agent image with a layer over it: another /init, the program, the fake agent and its HTTP/2, and the parts of the
standard library that our own agent does without. All of it is compiled by the image's own Python, because an emulated
processor takes a while to compile.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from bootassets import agent_layer, base_layer, build, cpio, zstd
from bootassets.progress import Progress, silent
from provider import lab
from provider.domain.errors import PermanentError
from provider.lab import firmware

KERNEL, RAM_DISK = "kernel-amd64", "initramfs-amd64.xz"
"""As the Image Factory names them; what is in the second is zstd's all the same."""

LIBRARIES = ("grpc_tools", "pysequoia", "h2")
"""What the fake Omni and the stand-in need, and the product does not: the `test` extra."""

_PROGRAM = "provider.lab.lab_talos"
_INIT = f"#!/bin/sh\nexport BOOTWRIGHT_PROGRAM={_PROGRAM}\n. /init.agent\n"
_OURS = (
    *("__init__.py", "lab_installer.py", "lab_ipmi.py", "lab_talos.py", "omni/__init__.py"),
    "omni/talos_agent/*.py",
)
"""What is packed of `provider/lab`."""
_PACKAGES = ("h2", "hpack", "hyperframe")
STANDARD_LIBRARY = ("asyncio", "concurrent")
"""Packages of it that the agent image leaves out."""


def require_libraries() -> None:
    """
    Check that the `test` extra is installed.

    Raises:
        PermanentError: If a library of it is missing.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise PermanentError(
            f"the lab's Omni needs libraries that are not installed: {', '.join(missing)}",
            hint="install the extra `test`: pip install 'bootwright[test]'; `./dev lab` does so by itself",
        )


def build_images(folder: Path, assets: Path, bmcs: Mapping[str, str], progress: Progress = silent) -> None:
    """
    Write both files; `bmcs` has the address of each machine's BMC by its UUID.

    Raises:
        PermanentError: If the base layer is in no cache and cannot be made.
    """
    progress("packing the stand-in for Talos", 0.0)
    folder.mkdir(parents=True, exist_ok=True)
    image = assets / firmware.Q35.architecture
    layer = _layer(build.default_cache(), bmcs, progress)
    shutil.copyfile(image / "vmlinuz", folder / KERNEL)
    (folder / RAM_DISK).write_bytes((image / "initramfs.zst").read_bytes() + zstd.compress(cpio.archive(layer)))


def _layer(cache: Path, bmcs: Mapping[str, str], progress: Progress) -> Mapping[str, cpio.Entry]:
    python = base_layer.interpreter(cache, progress)
    (library,) = python.unpacked.glob("usr/lib/python3.[0-9]*")
    tree: dict[str, cpio.Entry] = {
        "init": cpio.File(_INIT.encode(), executable=True),
        "init.agent": cpio.File(Path(agent_layer.__file__).parent / "image" / "init.sh", executable=True),
        f"{agent_layer.HOME}/lab-bmcs.json": cpio.File(json.dumps(bmcs).encode()),
    }
    with tempfile.TemporaryDirectory(prefix="lab-talos-") as scratch:
        base = Path(scratch)
        for name, source in {**files(), **_standard_library(library)}.items():
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, base / name)
        python.compile(base / "usr", base=base, beside=True)
        compiled = {str(path.relative_to(base)): cpio.File(path.read_bytes()) for path in base.rglob("*.pyc")}
    return {**tree, **compiled}


def files() -> dict[str, Path]:
    """The program, and the libraries that it needs, by their path in the image; all in `agent_layer.HOME`."""
    ours = Path(lab.__file__).parent
    found = {
        f"{agent_layer.HOME}/provider/lab/{path.relative_to(ours)}": path
        for part in _OURS
        for path in sorted(ours.glob(part))
    }
    for package in _PACKAGES:
        found |= _files_of(_place_of(package), f"{agent_layer.HOME}/{package}")
    return found


def _standard_library(library: Path) -> dict[str, Path]:
    """What the image has not yet; `library` is its Python's."""
    found: dict[str, Path] = {}
    for package in STANDARD_LIBRARY:
        found |= _files_of(library / package, f"usr/lib/{library.name}/{package}")
    return found


def _files_of(folder: Path, place: str) -> dict[str, Path]:
    return {f"{place}/{path.relative_to(folder)}": path for path in sorted(folder.rglob("*.py"))}


def _place_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise PermanentError(f"the library {package} is not installed", hint="pip install 'bootwright[test]'")
    return Path(spec.origin).parent

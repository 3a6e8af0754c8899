"""
The agent layer of the initramfs: /init, the agent, and whatever of `provider` it imports. Packed in a second.

The kernel unpacks it after the base layer, into the same tree.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import provider
from bootassets import cpio, userland, zstd

HOME = "usr/lib/bootwright"
"""Where the agent lies in the image; on PYTHONPATH."""

_SOURCES = Path(provider.__file__).parent
_SCRIPTS = Path(__file__).parent / "image"
_PARTS = (
    *("__init__.py", "agent/**/*.py", "domain/**/*.py"),
    *("wire/__init__.py", "wire/agent.py", "kit/__init__.py", "kit/backoff.py"),
)
"""What is packed of `provider/`; a test runs the agent on these files alone."""


def files() -> dict[str, Path]:
    """Give the agent's source files by their path in the image."""
    sources = sorted(path for part in _PARTS for path in _SOURCES.glob(part))
    return {f"{HOME}/provider/{path.relative_to(_SOURCES)}": path for path in sources}


def digest() -> str:
    """Give the digest of everything in the layer."""
    found = hashlib.sha256()
    for name, path in {**files(), **{path.name: path for path in sorted(_SCRIPTS.iterdir())}}.items():
        found.update(f"{name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()


def build(interpreter: userland.Interpreter, scratch: Path) -> bytes:
    """Give the compressed archive, which is the same for all architectures; `scratch` is an empty folder."""
    tree: dict[str, cpio.Entry] = {
        "init": cpio.File(_SCRIPTS / "init.sh", executable=True),
        f"{HOME}/udhcpc": cpio.File(_SCRIPTS / "udhcpc.sh", executable=True),
        f"{HOME}/version": cpio.File(f"{digest()[:12]}\n".encode()),
    }
    return zstd.compress(cpio.archive({**tree, **_compiled(interpreter, files(), scratch)}))


def _compiled(interpreter: userland.Interpreter, sources: Mapping[str, Path], scratch: Path) -> dict[str, cpio.Entry]:
    """Give sources and byte code: for our own files a traceback shall show the line."""
    for name, source in sources.items():
        copy = scratch / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    interpreter.compile(scratch / HOME, base=scratch, beside=False)
    return {str(path.relative_to(scratch)): cpio.File(path) for path in scratch.rglob("*") if path.is_file()}

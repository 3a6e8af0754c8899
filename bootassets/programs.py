"""The host's own programs that a build needs, and how a failed one is reported."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from provider.domain.errors import PermanentError

PACKAGE_OF = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "depmod": "kmod",
    "zstd": "zstd",
}
"""Program to the package of Debian and Ubuntu that holds it."""

_SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# depmod lives in sbin, which is not in the PATH of an ordinary user on Debian.


def require_all() -> None:
    """
    Check that every program is there before anything is downloaded.

    Raises:
        PermanentError: Names all that are missing and the command that installs them.
    """
    missing = [name for name in PACKAGE_OF if shutil.which(name, path=_search_path()) is None]
    if missing:
        packages = " ".join(sorted({PACKAGE_OF[name] for name in missing}))
        raise PermanentError(
            f"the agent image cannot be built without: {', '.join(missing)}", hint=f"run: apt-get install {packages}"
        )


def run(command: Sequence[str | Path], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """
    Run a program to its end and give its standard output.

    Raises:
        PermanentError: If it fails; the message holds the command as for a terminal, and the end of what it said.
    """
    words = [str(word) for word in command]
    surroundings = {**os.environ, "PATH": _search_path(), "LC_ALL": "C.UTF-8", **(environment or {})}
    result = subprocess.run(
        words, cwd=cwd, env=surroundings, capture_output=True, text=True, errors="replace", check=False
    )
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip().splitlines()[-8:]
        raise PermanentError(
            f"a program failed with status {result.returncode}: {shlex.join(words)}\n" + "\n".join(said),
            hint="run it by hand to see all of its output",
        )
    return result.stdout


def run_filter(command: Sequence[str | Path], data: bytes) -> bytes:
    """
    Run a filter: bytes in, bytes out.

    Raises:
        PermanentError: If it fails.
    """
    words = [str(word) for word in command]
    result = subprocess.run(words, input=data, capture_output=True, check=False)
    if result.returncode != 0:
        raise PermanentError(f"{shlex.join(words)} failed: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"

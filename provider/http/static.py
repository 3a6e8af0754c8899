"""
A folder of an operator's files: what installers fetch besides kernel and initial RAM disks.

A path is looked up in the folder and nowhere else. Symbolic links are followed as long as they stay inside; whatever is
hidden (its name begins with a dot), is no regular file, or lies outside, is not there.
"""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path


class StaticFolder:
    """Finds files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def find(self, path: str) -> Path | None:
        """Give the file at a path with `/`; None if there is none that may be served."""
        parts = path.split("/")
        if not all(parts) or any(part.startswith(".") or not part.isprintable() for part in parts):
            return None
        return await asyncio.to_thread(self._look_up, parts)  # The folder may be on a network.

    def _look_up(self, parts: list[str]) -> Path | None:
        try:
            root = self._folder.resolve(strict=True)
            found = root.joinpath(*parts).resolve(strict=True)
            # A FIFO would hold whoever opens it, for ever.
            is_file = stat.S_ISREG(found.stat().st_mode)
        except (OSError, RuntimeError, ValueError):  # Not there, too long, a loop of links, a NUL.
            return None
        return found if is_file and found.is_relative_to(root) else None

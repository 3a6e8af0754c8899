"""How a build tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Told what is being done, in words, and how much of the build is behind us, 0 to 1."""


def silent(_step: str, _fraction: float) -> None:
    """Tell nobody."""

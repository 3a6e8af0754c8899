"""
How the story is shown while it happens: a live table on a terminal, a line for each thing that happens elsewhere.

Both write to standard error; standard output belongs to `--json`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from provider.lab.summary import Row, Summary

_REFRESH_PER_SECOND = 4


class View(Protocol):
    """Where the story tells what happens."""

    def say(self, words: str) -> None:
        """Something that happened."""

    def showing(self, rows: Sequence[Row]) -> contextlib.AbstractContextManager[None]:
        """Show the rows, which change meanwhile, within this block, and their last state after it."""


class Lines:
    """A timestamped line for each thing that happens, and the table at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def say(self, words: str) -> None:
        """Print a line."""
        _print(self._console, self._started, words)

    @contextlib.contextmanager
    def showing(self, rows: Sequence[Row]) -> Iterator[None]:
        """Print the table when the block ends."""
        try:
            yield
        finally:
            self._console.print(Summary(rows))


class LiveTable:
    """The table at the bottom of the terminal, and what happened in lines above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def say(self, words: str) -> None:
        """Print a line above the table."""
        _print(self._console, self._started, words)

    @contextlib.contextmanager
    def showing(self, rows: Sequence[Row]) -> Iterator[None]:
        """Keep the table up to date while the block runs; the last one stays."""

        def picture() -> Group:
            return Group(Text(), Summary(rows), Text(f"{time.monotonic() - self._started:.0f} s", style="dim"))

        with Live(console=self._console, get_renderable=picture, refresh_per_second=_REFRESH_PER_SECOND):
            yield


def for_console(console: Console) -> View:
    """The view that suits the console."""
    return LiveTable(console) if console.is_terminal else Lines(console)


def _print(console: Console, started: float, words: str) -> None:
    console.print(f"{time.monotonic() - started:7.1f} s  {words}", highlight=False, markup=False, soft_wrap=True)

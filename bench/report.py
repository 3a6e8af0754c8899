"""
What was measured, as a table for people or as one JSON object for programs.

A row compares one number of ours with one of a peer, by their ratio, or with a limit of its own where nobody else does the
same. Whether more or less is better follows from the row; a target that is missed is said, and is no error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

_WIDTH = 130


@dataclass(frozen=True)
class Row:
    """One number of ours beside one of a peer; `what` names the unit."""

    what: str
    ours: float
    peer: str | None = None
    theirs: float | None = None
    target: float | None = None
    """What the ratio must reach; without a peer, what `ours` may be at most."""

    @property
    def ratio(self) -> float | None:
        """Ours for each one of theirs; None without a peer, or if it did nothing."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without one."""
        if self.target is None:
            return None
        if self.peer is None:
            return self.ours <= self.target
        return self.ours > 0 if self.ratio is None else self.ratio >= self.target

    def document(self) -> dict[str, object]:
        """For JSON; numbers are rounded to what was really measured."""
        return {
            "what": self.what,
            "ours": _rounded(self.ours),
            "peer": self.peer,
            "theirs": _rounded(self.theirs),
            "ratio": _rounded(self.ratio),
            "target": self.target,
            "met": self.met,
        }


def document(bench: str, rows: Sequence[Row]) -> dict[str, object]:
    """The whole result."""
    return {"bench": bench, "rows": [row.document() for row in rows]}


def show(bench: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """Write the result to standard output."""
    if as_json:
        sys.stdout.write(json.dumps(document(bench, rows)) + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(_table(rows))
    if missed := [row for row in rows if row.met is False]:
        console.print(f"{len(missed)} of {sum(row.met is not None for row in rows)} targets missed")


def _table(rows: Sequence[Row]) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("what")
    for name in ("ours", "theirs", "ratio", "target"):
        drawn.add_column(name, justify="right")
        if name == "ours":
            drawn.add_column("peer")
    drawn.add_column("met")
    for row in rows:
        drawn.add_row(
            row.what,
            shown(row.ours),
            row.peer or "",
            shown(row.theirs),
            shown(row.ratio),
            _target(row),
            {None: "", True: "[green]yes[/]", False: "[bold red]no[/]"}[row.met],
        )
    return drawn


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{'<=' if row.peer is None else '>='} {row.target:g}"


def shown(number: float | None) -> str:
    """For people: three digits that count, and thousands apart."""
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)

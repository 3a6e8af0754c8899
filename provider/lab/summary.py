"""
What became of each machine: the table for people and the JSON object for programs.

All seconds count from the moment at which the lab first pressed the machine's power button.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

STAGES = (
    "DHCPACK",
    "NBP",
    "script",
    "kernel",
    "agent",
    "inventory",
    "accepted",
    "wiped",
    "ready",
    "installed",
    "released",
)
"""In the order in which they come. `inventory` and everything about phases is when the manager knew it."""

OMNI_STAGES = (*STAGES[:4], "joined", "agent", *STAGES[6:], "removed")
"""With Omni, which knows no inventory; machines join it, and leave it."""

_UNLIMITED = 10_000
"""Columns of a terminal that nobody has: rich never asks for more than it may have."""


@dataclass
class Row:
    """One machine; `seconds` by stage, as far as it got."""

    name: str
    firmware: str
    id: str = ""
    phase: str = ""
    doing: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    disks: list[dict[str, Any]] = field(default_factory=list)
    stages: Sequence[str] = STAGES
    """What happens to it; the same for all rows."""

    def note(self, stage: str, seconds: float) -> None:
        """Take the time of a stage; the first one counts."""
        self.seconds.setdefault(stage, round(seconds, 1))

    def time_of(self, stage: str) -> str:
        """Seconds until the stage, for people; a dash if it was not reached."""
        return f"{self.seconds[stage]:.1f}" if stage in self.seconds else "-"


@dataclass(frozen=True)
class Summary:
    """All rows as rich shows them: a line for each machine where that fits, else a column."""

    rows: Sequence[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose by the width that there is."""
        lines = _lines(self.rows)
        needed = console.measure(lines, options=options.update(width=_UNLIMITED)).maximum
        yield lines if needed <= options.max_width else _columns(self.rows)


def _lines(rows: Sequence[Row]) -> Table:
    grid = _grid()
    for heading in ("machine", "id", "firmware"):
        grid.add_column(heading)
    for stage in _stages(rows):
        grid.add_column(stage, justify="right")
    grid.add_column("phase")
    for row in rows:
        grid.add_row(row.name, row.id, row.firmware, *map(row.time_of, row.stages), row.doing or row.phase)
    return grid


def _columns(rows: Sequence[Row]) -> Table:
    grid = _grid()
    grid.add_column("machine")
    for row in rows:
        grid.add_column(row.name, justify="right")
    grid.add_row("id", *(row.id for row in rows))
    grid.add_row("firmware", *(row.firmware for row in rows))
    for stage in _stages(rows):
        grid.add_row(stage, *(row.time_of(stage) for row in rows))
    grid.add_row("phase", *(row.doing or row.phase for row in rows))
    return grid


def _stages(rows: Sequence[Row]) -> Sequence[str]:
    return rows[0].stages if rows else STAGES


def _grid() -> Table:
    return Table(box=None, pad_edge=False, header_style="bold")


def document(rows: Sequence[Row], duration_s: float, failed_stage: str = "", error: str = "") -> dict[str, Any]:
    """The object that `--json` prints; `failed_stage` and `error` are there only when something failed."""
    result: dict[str, Any] = {
        "ok": not failed_stage,
        "machines": [
            {
                "id": row.id,
                "firmware": row.firmware,
                "power_on_to_inventory_s": row.seconds.get("inventory"),
                "power_on_to_ready_s": row.seconds.get("ready"),
                "disks": row.disks,
                "final_phase": row.phase,
                "stages_s": row.seconds,
            }
            for row in rows
        ],
        "duration_s": round(duration_s, 1),
    }
    if failed_stage:
        result |= {"failed_stage": failed_stage, "error": error}
    return result

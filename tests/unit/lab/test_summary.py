"""The summary: the table and the JSON object."""

from __future__ import annotations

import json

from rich.console import Console

from provider.lab import summary
from provider.lab.summary import Row


def _row() -> Row:
    row = Row("LAB-01", "bios", id="m-1", phase="ready")
    row.note("inventory", 41.26)
    row.note("inventory", 99.0)
    row.note("ready", 60.0)
    row.disks = [{"serial": "A", "method": "zero", "verified": True}]
    return row


def test_document_has_what_programs_expect() -> None:
    """A program that reads `--json` finds a key missing."""
    document = json.loads(json.dumps(summary.document([_row()], 123.456)))
    machine = document["machines"][0]
    assert (document["ok"], document["duration_s"]) == (True, 123.5)
    assert machine["id"] == "m-1"
    assert machine["firmware"] == "bios"
    assert machine["power_on_to_inventory_s"] == 41.3, "the first time counts"
    assert machine["power_on_to_ready_s"] == 60.0
    assert machine["disks"] == [{"serial": "A", "method": "zero", "verified": True}]
    assert machine["final_phase"] == "ready"


def test_failure_names_the_stage() -> None:
    """A failed run looks like a good one."""
    document = summary.document([_row()], 1.0, "wiped of LAB-01", "wiped of LAB-01: it did not happen within 0:05:00")
    assert document["ok"] is False
    assert document["failed_stage"] == "wiped of LAB-01"


def _shown(width: int) -> list[list[str]]:
    """The words of each line of the table on a console so wide."""
    console = Console(width=width)
    with console.capture() as captured:
        console.print(summary.Summary([_row(), Row("LAB-02", "uefi", id="m-2", doing="waiting: inventory")]))
    return [line.split() for line in captured.get().splitlines()]


def test_table_marks_what_did_not_happen() -> None:
    """A stage that was never reached shows an old or a made-up time."""
    assert _shown(200)[1] == [
        "LAB-01", "m-1", "bios", "-", "-", "-", "-", "-", "41.3", "-", "-", "60.0", "-", "-", "ready",
    ]  # fmt: skip


def test_stages_with_omni() -> None:
    """Joining Omni and leaving it are in no table."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(summary.Summary([Row("LAB-01", "bios", stages=summary.OMNI_STAGES)]))
    headings = captured.get().splitlines()[0].split()
    assert headings[3:] == [*summary.OMNI_STAGES, "phase"]
    assert {"joined", "removed"} == set(headings) - set(summary.STAGES) - {"machine", "id", "firmware", "phase"}


def test_narrow_terminal_shows_a_column_for_each_machine() -> None:
    """On 60 columns, headings and ids are cut to a letter or two."""
    shown = _shown(60)
    assert shown[0] == ["machine", "LAB-01", "LAB-02"]
    assert shown[1] == ["id", "m-1", "m-2"]
    assert ["inventory", "41.3", "-"] in shown
    assert shown[-1] == ["phase", "ready", "waiting:", "inventory"]

"""What a bench says must be what was measured."""

from __future__ import annotations

import json

import pytest

from bench import report
from bench.report import Row

ROWS = [
    Row("exchanges/s", 4000.0, "Kea", 8000.0, 1.0),
    Row("exchanges/s", 4000.0, "dnsmasq", 160.0, 10.0),
    Row("% dropped", 0.12345, "Kea", 0.0),
    Row("seconds to the last inventory", 42.0, target=60.0),
]


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (Row("more is better", 2.0, "peer", 4.0, 0.5), 0.5, True),
        (Row("more is better", 1.9, "peer", 4.0, 0.5), 0.475, False),
        (Row("no target", 1.0, "peer", 4.0), 0.25, None),
        (Row("the peer did nothing", 1.0, "peer", 0.0, 10.0), None, True),
        (Row("nobody did anything", 0.0, "peer", 0.0, 1.0), None, False),
        (Row("a limit", 60.0, target=60.0), None, True),
        (Row("a limit", 60.1, target=60.0), None, False),
    ],
)
def test_targets(row: Row, ratio: float | None, met: bool | None) -> None:
    """A target is called met that is not."""
    assert row.ratio == ratio
    assert row.met is met


def test_json_is_one_object_of_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that reads the result finds texts, or something else on standard output."""
    report.show("dhcp", ROWS, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == "dhcp"
    assert [list(row) for row in found["rows"]] == [["what", "ours", "peer", "theirs", "ratio", "target", "met"]] * 4
    assert found["rows"][0]["ratio"] == 0.5
    assert found["rows"][0]["met"] is False
    assert found["rows"][2] | {"what": ""} == {
        "what": "", "ours": 0.123, "peer": "Kea", "theirs": 0.0, "ratio": None, "target": None, "met": None
    }  # fmt: skip


def test_table_is_plain_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file is full of colours, or a number is cut off."""
    report.show("dhcp", ROWS, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b" not in "".join(lines)
    assert lines[1].split() == ["exchanges/s", "4,000", "Kea", "8,000", "0.5", ">=", "1", "no"]
    assert lines[4].split()[-4:] == ["42", "<=", "60", "yes"]
    assert lines[5] == "1 of 3 targets missed"

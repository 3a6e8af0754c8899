"""How documents are shown to people."""

from __future__ import annotations

import pytest

from provider.cli import output
from provider.kit.jsontypes import JsonObject


@pytest.mark.parametrize(
    ("document", "lines"),
    [
        ({"id": "m-1", "because": None}, [("id", "m-1"), ("because", "")]),
        ({"identity": {"macs": ["a", "b"], "uuid": "u"}}, [("identity macs", "a b"), ("identity uuid", "u")]),
        ({"times": {"first_seen": "now"}}, [("times first seen", "now")]),
        ({"disks": [{"serial": "A"}], "agent": False}, [("agent", "False")]),
        ({"warnings": [], "deep": {"er": {"still": 1}}}, [("warnings", ""), ("deep er still", "1")]),
    ],
)
def test_flat(document: JsonObject, lines: list[tuple[str, str]]) -> None:
    """Something that the daemon knows is shown to programs only, or as a piece of Python."""
    assert list(output.flat(document)) == lines


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """`explain` tells of wipes with brackets and quotes, as Python would."""
    output.table(("", ""), [("wiped for", ["(first)", "w-2"]), ("reboots", []), ("BMC", None)])
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "wiped for  (first) w-2",
        "reboots",
        "BMC",
    ]

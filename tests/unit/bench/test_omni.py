"""What is said of many machines at Omni is what was seen of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import omni
from bench.omni import Figures

FEW = Figures(
    machines=100,
    accepted=80,
    memory_before=150,
    memory_most=160,
    memory_after=155,
    cpu_to_join=1.5,
    cpu_to_off=2.4,
    cpu_of_tunnels=0.004,
    cpu_at_rest=0.006,
    seconds_to_ready=2.0,
    calls={"Get": 100, "Update": 300},
    under_load=[0.1, 0.2, 0.3],
    at_rest=[0.01, 0.02, 0.03],
    others=[0.001, 0.002, 0.009],
    seconds_to_install=0.1,
)
MANY = replace(FEW, machines=1000, accepted=980, memory_most=250, cpu_to_join=15.0, cpu_to_off=29.4)


@pytest.mark.parametrize(
    ("what", "many", "few"),
    [
        ("KB of memory a machine, at most", 102.4, 102.4),
        ("ms of CPU a machine until it has joined", 15, 15),
        ("ms of CPU a machine from acceptance to off", 30, 30),
        ("calls to Omni a machine, Update", 0.3, 3),
        ("calls to Omni a machine, all", 0.4, 4),
        ("ms from a change to our action, at rest, median", 20, 20),
        ("ms for a stranger's script, under load, at most", 9, 9),
    ],
)
def test_what_a_machine_costs(what: str, many: float, few: float) -> None:
    """The cost of all machines is called that of one, or the few are divided by the number of the many."""
    (row,) = [row for row in omni.rows(FEW, MANY) if row.what == what]
    assert (row.ours, row.theirs) == (pytest.approx(many), pytest.approx(few))
    assert row.peer == "100 machines"

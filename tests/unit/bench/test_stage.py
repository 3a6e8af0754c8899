"""Who gets which CPUs."""

from __future__ import annotations

import pytest

from bench import stage


@pytest.mark.parametrize(
    ("cpus", "servers", "load"),
    [
        ([0, 1, 2, 3], (0, 1), (2, 3)),
        ([2, 3, 4, 5, 6, 7], (2, 3), (4, 5, 6, 7)),
        ([0, 1], (0, 1), (0, 1)),
        ([0], (0,), (0,)),
    ],
)
def test_servers_get_two(cpus: list[int], servers: tuple[int, ...], load: tuple[int, ...]) -> None:
    """Load takes time from the servers where it need not, or has none itself."""
    assert stage.share_out(cpus) == (servers, load)

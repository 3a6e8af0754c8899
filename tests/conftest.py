"""What the whole suite has in common: at its end it says which part took how long."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import PurePosixPath

import pytest


class Parts:
    """Counts tests and seconds by the folder that they are in: lint, unit, integration, e2e."""

    def __init__(self) -> None:
        self._tests: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the time of a test's setup, call or teardown."""
        part = PurePosixPath(report.nodeid).parts[1]
        self._tests[part] += report.when == "call"
        self._seconds[part] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write a line for each part above pytest's closing line."""
        for part, seconds in self._seconds.items():
            terminalreporter.write_line(f"{part:12}{self._tests[part]:5} tests {seconds:7.1f} s")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Parts())

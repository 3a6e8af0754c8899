"""Each test that asks for `capture` runs once with each of them, and has its name in its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.captures import frames
from tests.captures.frames import Frame, Protocol

FOLDER = Path(frames.__file__).parent


@dataclass(frozen=True)
class Capture:
    """One of the files."""

    file: Path

    @property
    def name(self) -> str:
        """What was captured."""
        return self.file.stem

    @cached_property
    def frames(self) -> list[Frame]:
        """All of them."""
        return frames.read(self.file)

    def payloads(self, protocol: Protocol) -> list[bytes]:
        """What one protocol says in it."""
        return [frame.payload for frame, its in frames.sorted_out(self.frames) if its is protocol]


CAPTURES = [Capture(file) for file in sorted(FOLDER.glob("*.pcap"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whoever adds a capture adds no test."""
    if "capture" in metafunc.fixturenames:
        metafunc.parametrize("capture", CAPTURES, ids=lambda capture: capture.name)

"""Which of many inputs are worth keeping: as few as reach all that was reached and that the kept ones do not reach."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import provider
from fuzz import inputs
from fuzz.targets import TARGETS

_PRODUCT = str(Path(provider.__file__).parent)

Step = tuple[CodeType, int, int]
"""From one line of a function to another."""


def reaches_more(name: str, found: Iterable[bytes]) -> Sequence[bytes]:
    """Choose among inputs for the target with this name, the one that adds most first."""
    play = TARGETS[name].play
    reached = set().union(*(_reached(play, data) for data in inputs.corpus(name)))
    left = {data: _reached(play, data) - reached for data in found}
    chosen: list[bytes] = []
    while left:
        best = max(left, key=lambda data: (len(left[data]), -len(data)))
        new = left.pop(best)
        if not new:
            break
        chosen.append(best)
        left = {data: steps - new for data, steps in left.items()}
    return chosen


def _reached(play: Callable[[bytes], None], data: bytes) -> set[Step]:
    """The steps that the product takes when it is given an input."""
    steps: set[Step] = set()
    last: dict[FrameType, int] = {}

    def entered(frame: FrameType, _event: str, _argument: object) -> Any:
        return stepped if frame.f_code.co_filename.startswith(_PRODUCT) else None

    def stepped(frame: FrameType, event: str, _argument: object) -> Any:
        steps.add((frame.f_code, last.get(frame, 0), frame.f_lineno))
        last[frame] = frame.f_lineno
        if event == "return":
            del last[frame]
        return stepped

    sys.settrace(entered)
    try:
        play(data)
    finally:
        sys.settrace(None)
    return steps

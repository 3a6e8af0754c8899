"""Trying again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from provider.agent import patience
from provider.domain.errors import PermanentError, TemporaryError


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the console."""
    lines: list[str] = []
    monkeypatch.setattr(patience, "say", lines.append)
    return lines


def failing(*messages: str) -> Callable[[], str]:
    """An attempt that fails with each message in turn, then succeeds."""
    left = list(messages)

    def attempt() -> str:
        if left:
            raise TemporaryError(left.pop(0), retry_after=timedelta(seconds=1))
        return "done"

    return attempt


def test_pauses_grow_and_stop_growing(said: list[str]) -> None:
    """Breaks if a provider that is down for an hour is hammered, or its return is noticed only after ages."""
    pauses: list[float] = []
    assert patience.until_done(failing(*["away"] * 9), sleep=pauses.append) == "done"
    assert 0.75 <= pauses[0] <= 1
    assert 1.5 <= pauses[1] <= 2
    assert 22.5 <= pauses[-1] <= 30
    assert len(pauses) == 9


def test_each_new_message_is_said_once(said: list[str]) -> None:
    """Breaks if the screen fills with one line over and over, or stays silent when the trouble changes."""
    patience.until_done(failing("no route", "no route", "refused", "refused"), sleep=lambda seconds: None)
    assert [line.partition(";")[0] for line in said] == ["no route", "refused"]


def test_gives_up_in_the_end(said: list[str]) -> None:
    """Breaks if a machine that can never enrol sits there for ever instead of starting anew."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(patience.GaveUpError, match="away"):
        patience.until_done(failing(*["away"] * 999), at_most_seconds=100, sleep=sleep, clock=lambda: now[0])
    assert 100 <= now[0] < 140


def test_other_errors_pass(said: list[str]) -> None:
    """Breaks if something that will never work is tried for ever."""

    def refused() -> None:
        raise PermanentError("wrong ticket")

    with pytest.raises(PermanentError):
        patience.until_done(refused)

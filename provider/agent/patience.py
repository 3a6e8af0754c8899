"""Trying again, for ever if need be: a provider may be away for hours, and the machine has nothing better to do."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from provider.agent.console import say
from provider.domain.errors import TemporaryError
from provider.kit import backoff

T = TypeVar("T")

_FIRST_PAUSE = timedelta(seconds=1)
_LONGEST_PAUSE = timedelta(seconds=30)


class GaveUpError(Exception):
    """It did not work for as long as we were told to try; the message is that of the last failure."""


def until_done(
    attempt: Callable[[], T],
    *,
    at_most_seconds: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """
    Call `attempt` until it does not raise TemporaryError, pausing 1, 2, 4 ... 30 s; says each new kind of failure.

    The pauses differ a little from machine to machine, so that a rack does not come back to its provider as one.

    Raises:
        GaveUpError: After `at_most_seconds` of failures.
    """
    deadline = None if at_most_seconds is None else clock() + at_most_seconds
    failures, said = 0, ""
    while True:
        try:
            return attempt()
        except TemporaryError as error:
            if deadline is not None and clock() >= deadline:
                raise GaveUpError(str(error)) from error
            if str(error) != said:
                said = str(error)
                say(f"{said}{_in_brackets(error.hint)}; trying again")
            failures += 1
            spread = random.random()  # noqa: S311 - no secret.
            sleep(backoff.delay(failures, _FIRST_PAUSE, _LONGEST_PAUSE, spread).total_seconds())


def _in_brackets(hint: str) -> str:
    return f" ({hint})" if hint else ""

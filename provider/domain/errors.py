"""
The four kinds of failure, and who acts on each.

| Error | Whose fault | What happens |
|---|---|---|
| `MalformedPacketError` | a peer sent bytes that are not a message | the packet is dropped and logged |
| `TemporaryError` | the world is busy, slow or away | the worker comes back after `retry_after` |
| `PermanentError` | nothing changes until a person does | the plan stops, the machine waits for an operator |
| any other exception | ours | traceback; only the machine's own worker is throttled |

A message says what happened and why; `hint` says what to do about it, where we know.
"""

from __future__ import annotations

from datetime import timedelta


class BootwrightError(Exception):
    """Base of all errors that we raise on purpose; `str(error)` is the message alone."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class MalformedPacketError(BootwrightError):
    """
    A peer's bytes are not a valid message.

    `field` names the part that is wrong and `offset` is its place in the message, in bytes.
    """

    def __init__(self, message: str, *, field: str, offset: int) -> None:
        super().__init__(f"{message} ({field} at byte {offset})")
        self.field = field
        self.offset = offset


class TemporaryError(BootwrightError):
    """It did not work now and may work later: come back after `retry_after`."""

    def __init__(self, message: str, *, retry_after: timedelta, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class UnderWayError(TemporaryError):
    """Nothing is wrong: it is being made, and takes longer than one wants to wait."""


class PermanentError(BootwrightError):
    """It will not work until somebody changes something; `hint` says what."""


class SettingsError(PermanentError):
    """The configuration cannot be used; the message holds all problems, one a line."""


class NotFoundError(PermanentError):
    """Nobody knows the thing that was asked for."""


class RefusedError(PermanentError):
    """The request is understood and is not allowed in this state or for this caller."""

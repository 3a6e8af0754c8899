"""A string that cannot slip into a log line, a repr or an API answer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Secret:
    """Holds a password or a token; only `reveal()` gives it away, so each use can be searched for."""

    _value: str = field(repr=False)

    def reveal(self) -> str:
        """Give the secret text itself, to be handed to the one who needs it and to nobody else."""
        return self._value

    def __str__(self) -> str:
        return "********"

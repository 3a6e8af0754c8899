"""Something that happened to one machine, kept in the store for `machine events` and sent to the manager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

DISCOVERED = "machine.discovered"
"""The first event of a machine."""

FORGOTTEN = "machine.forgotten"
"""The last, for the manager alone: the machine is gone, and what comes by its id later is a new one."""


@dataclass(frozen=True)
class Event:
    """`name` is `area.past_tense` as in the logs (`boot.script_served`); `data` holds JSON scalars, never a secret."""

    id: int
    """Counts up over all machines of this provider."""
    machine_id: str
    at: datetime
    name: str
    data: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

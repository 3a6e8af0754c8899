"""
How each machine is sent to its disk: as the settings say, else as was learned (`planning.hand_off`).

A way that was learned is kept with the machine. What is being tried is not, and is tried again after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from provider.domain.mac import MacAddress
from provider.domain.machine import BootMode, HandOff, Machine
from provider.planning import hand_off
from provider.planning.hand_off import HandedOver
from provider.store.machines import Edit


class HandOffs:
    """Answers `way` when a machine is to boot its disk. `default` None means: learn."""

    def __init__(self, *, default: HandOff | None, chosen: Mapping[MacAddress, HandOff]) -> None:
        self._default = default
        self._chosen = chosen
        self._last: dict[str, HandedOver] = {}
        """By machine; only of those whose last script sent them to their disk."""

    def way(
        self, machine: Machine, mode: BootMode, mac: MacAddress, system_heard_at: datetime | None, now: datetime
    ) -> HandedOver | None:
        """How a machine goes to its disk, None if that is not where its script sends it; call `remember` once it is told."""
        if mode is not BootMode.DISK:
            return None
        fixed = next((self._chosen[each] for each in machine.identity.macs if each in self._chosen), self._default)
        if fixed is not None:
            return HandedOver(fixed, mac, now)
        facts = machine.facts
        known_times = (system_heard_at, facts.last_reboot_at, facts.last_power_on_at)
        excused_at = max((at for at in known_times if at is not None), default=None)
        before = self._last.get(machine.id)
        return hand_off.way(before, facts.hand_off, facts.firmware, mac, now, excused_at=excused_at)

    def remember(self, machine_id: str, handed: HandedOver | None) -> None:
        """Take note of what a machine was told."""
        if handed is None:
            self._last.pop(machine_id, None)
        else:
            self._last[machine_id] = handed


def learn(edit: Edit, way: HandOff) -> None:
    """Keep a way with its machine; an event tells of a change."""
    before = edit.row.hand_off or HandOff.EXIT.value
    if way.value != before:
        edit.row.hand_off = way.value
        reason = f"{before} brought it back here {hand_off.PATIENCE} times within minutes, and no system was heard"
        edit.note("hand_off.changed", before=before, now=way.value, reason=reason)

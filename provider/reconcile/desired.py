"""The manager's desk: desired state comes in, and the observed state of everything goes out again on request."""

from __future__ import annotations

from dataclasses import replace

import structlog

from provider.domain.machine import Desired
from provider.reconcile.machines import Machines
from provider.store.machines import Edit

log = structlog.get_logger()


class ManagerDesk:
    """What `manager.link` calls."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    async def desire(self, machine_id: str, revision: int, desired: Desired) -> bool:
        """
        Take the whole desired state of one machine; False if it is not newer than what we have.

        Raises:
            NotFoundError: If we have no such machine.
        """
        applied = False

        def edit(edit: Edit) -> None:
            nonlocal applied
            applied = revision > edit.machine.desired.revision
            if not applied:
                return
            wanted = replace(desired, revision=revision)
            edit.desire(wanted)
            edit.note("desired.changed", by="manager", revision=revision, **difference(edit.machine.desired, wanted))

        await self._machines.change(machine_id, edit)
        return applied

    async def resync(self) -> None:
        """Tell the manager everything again."""
        log.info("manager.resync_started")
        await self._machines.store.resync()


def difference(old: Desired, new: Desired) -> dict[str, str]:
    """The fields that differ, as text, for the event."""
    found = {}
    for name in ("acceptance", "cordoned", "preferred_power", "wipe_id", "reboot_id", "power_off_id", "install_event"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            found[name] = str(after)
    if old.allocation != new.allocation:
        found["allocation"] = "none" if new.allocation is None else new.allocation.profile
    return found

"""
What our status of a machine at Omni bears witness of: the last wipe, and the last reboot that was asked for.

A store that is put back from yesterday's backup, or made anew after a disk died, knows nothing of the wipes since, and machines
that were taken into use after them would be wiped. But Omni gives nobody a machine that our status does not call ready, and the
status that calls it ready says in the same write which wipe that was for. So who has the status need not wipe again.

It holds for one life of the machine (`planning.lives`): the status of an earlier one says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from provider.domain.machine import Facts, Record, RecordKind
from provider.planning import lifecycle, lives
from provider.wire import omni as wire

ANNOTATION = "bootwright/wiped"

_BY = "remembered by Omni, where our store did not know it"


@dataclass(frozen=True)
class Witness:
    """Our status as it is at Omni, and what its annotation says."""

    status: wire.InfraMachineStatus
    statement: str = ""


def statement(wipe: Record | None, made: datetime | None) -> str:
    """What the annotation is to say of the last wipe of the life whose resource was made then; empty if there was none."""
    if wipe is None or made is None:
        return ""
    said = {"life": lives.mark(made), "wipe_id": wipe.request_id, "install_event": wipe.install_event}
    return json.dumps(said, sort_keys=True)


def recalled(
    witness: Witness, made: datetime | None, facts: Facts, now: datetime, *, seal: Callable[[str], str]
) -> Iterator[Record]:
    """The records that we lack of the life whose resource was made then; `seal` seals the token that was wiped."""
    match _read(witness.statement):
        case {"life": str(life), "wipe_id": str(wipe_id), "install_event": int(event)}:
            if made is None or life != lives.mark(made):
                return
        case _:
            return
    status = witness.status
    if not lifecycle.is_answered(facts, RecordKind.WIPE, wipe_id):
        token = seal(status.wiped_node_unique_token)
        yield Record(RecordKind.WIPE, wipe_id, now, detail=_BY, install_event=event, manager_token=token)
    if status.last_reboot_id and not lifecycle.is_answered(facts, RecordKind.REBOOT, status.last_reboot_id):
        yield Record(RecordKind.REBOOT, status.last_reboot_id, status.last_reboot_timestamp or now, detail=_BY)


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

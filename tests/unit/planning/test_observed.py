"""What the manager gets to see of a machine."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from provider.domain.machine import Acceptance, Allocation, Desired, Facts, Identity, Machine, Record, RecordKind
from provider.domain.operation import Operation, OperationKind, OperationState
from provider.planning import lifecycle, observed

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
POLICY = lifecycle.Policy(
    poll_interval=timedelta(minutes=1),
    minimum_reboot_interval=timedelta(minutes=15),
    boot_timeout=timedelta(minutes=10),
    install_timeout=timedelta(hours=4),
    wipe_attempts=3,
    wipe_retry_after=timedelta(minutes=1),
)
SECRET = "sealed-token"
RECORD = Record(RecordKind.WIPE, "w", NOW, install_event=3, manager_token=SECRET, wipe_id="x")
OPERATION = Operation("o", "m-1", OperationKind.WIPE, "w", OperationState.DONE, NOW, manager_token=SECRET)
DESIRED = Desired(acceptance=Acceptance.ACCEPTED, wipe_id="w", install_event=3, manager_token=SECRET)
MACHINE = Machine(Identity("m-1"), DESIRED, Facts(first_seen=NOW, operation=OPERATION, records=(RECORD,)))


def document(machine: Machine) -> dict[str, object]:
    return observed.document(machine, lifecycle.decide("m-1", machine.desired, machine.facts, NOW, POLICY))


def test_token_is_in_no_document() -> None:
    """What only the manager's link may know stands in what goes to consoles, tools and logs."""
    assert SECRET not in json.dumps(document(MACHINE))
    for shown in (MACHINE, DESIRED, RECORD, OPERATION, MACHINE.facts):
        assert SECRET not in repr(shown)


def test_document_is_as_it_was() -> None:
    """A manager that knows nothing of Omni gets each machine once more after an update, for fields that mean nothing to it."""
    found = document(replace(MACHINE, desired=replace(DESIRED, allocation=Allocation("debian"))))
    assert found["records"] == [
        {"kind": "wipe", "request_id": "w", "at": NOW.isoformat(), "outcome": "done", "detail": ""}
    ]
    assert found["allocation"] == {"profile": "debian", "version": "", "arguments": [], "configuration": ""}
    assert found["agent"] == {"connected": False}
    assert "install_event" not in found


def test_extensions_are_told() -> None:
    """Nobody can see what is built into an image."""
    allocated = replace(DESIRED, allocation=Allocation("talos", extensions=("siderolabs/gvisor",)))
    allocation = document(replace(MACHINE, desired=allocated))["allocation"]
    assert isinstance(allocation, dict)
    assert allocation["extensions"] == ["siderolabs/gvisor"]

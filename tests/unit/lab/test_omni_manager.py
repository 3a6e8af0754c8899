"""A machine of the fake Omni's desk in the words of the lab."""

from __future__ import annotations

from typing import Any

import pytest

from provider.lab import omni_manager


@pytest.mark.parametrize(
    ("wanted", "status", "phase"),
    [
        ({}, {}, "pending"),
        ({"acceptance_status": "REJECTED"}, {}, "rejected"),
        ({"acceptance_status": "ACCEPTED"}, {}, "preparing"),
        ({"acceptance_status": "ACCEPTED"}, {"ready_to_use": True}, "ready"),
        ({"acceptance_status": "ACCEPTED", "cluster_talos_version": "1.13.7"}, {"ready_to_use": True}, "installing"),
        (
            {"acceptance_status": "ACCEPTED", "cluster_talos_version": "1.13.7"},
            {"ready_to_use": True, "installed": True, "power_state": "ON"},
            "installed",
        ),
    ],
)
def test_phase(wanted: dict[str, Any], status: dict[str, Any], phase: str) -> None:
    """The story waits for something that Omni never says."""
    spec = {"acceptance_status": "PENDING", "cluster_talos_version": "", **wanted}
    state = omni_manager.state({"infra": {"phase": "running", "spec": spec}, "status": {"spec": status}})
    assert (state["phase"], state["power"]["state"]) == (phase, status.get("power_state", "").lower())


def test_a_machine_on_its_way_out() -> None:
    """A machine that is being removed, or has only a link, is taken for one that can be used."""
    assert omni_manager.state({"infra": None, "status": None})["phase"] == "removed"
    assert omni_manager.state({"infra": {"phase": "tearingDown", "spec": {"x": 1}}})["phase"] == "removed"

"""The daemon beside an Omni that is slow, and beside a second daemon with its id."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.omni_machine import SimulatedMachine
from tests.integration.omni_process import OmniProcess, eventually, omni_process
from tests.integration.provider_process import ProviderProcess
from tests.integration.test_omni_daemon import events, operator, serving
from tests.integration.test_serve import Daemon, configuration
from tests.integration.test_serve import serving as serving_at
from tests.integration.wires import wire

pytestmark = pytest.mark.timeout(180)

SLOW = 5.0
"""Seconds that Omni takes for each call."""


def accept(omni: OmniProcess, machine: SimulatedMachine) -> None:
    """Wait until the machine has joined, and accept it."""
    eventually(
        lambda: (
            "bm.InfraMachineStatusController"
            in ((omni.machine(machine.uuid) or {}).get("infra") or {}).get("finalizers", ())
        )
    )
    omni.do("set_bmc", machine=machine.uuid, address=machine.power_api, api=True)
    omni.do("accept", machine=machine.uuid)


def is_ready(omni: OmniProcess, machine: SimulatedMachine) -> bool:
    status = omni.machine(machine.uuid)["status"]
    return bool(status and status["spec"].get("ready_to_use"))


def test_omni_that_takes_its_time(tmp_path: Path) -> None:
    """A slow Omni holds up boots, agents, wipes, or whoever asks how we are."""
    with omni_process(tmp_path / "omni") as omni, serving(tmp_path, omni) as provider:
        early, late = SimulatedMachine(provider, omni, 1), SimulatedMachine(provider, omni, 3)
        with early.plugged_in(), late.plugged_in():
            early.command("poweron")
            accept(omni, early)
            eventually(lambda: early.did["connected"])
            eventually(lambda: operator(provider, "/v1/status")["manager"]["connected"])
            omni.do("faults/delay", seconds=SLOW)
            begun = time.monotonic()
            late.command("poweron")
            eventually(lambda: late.did["connected"])
            eventually(lambda: early.did["wipe done"])
            assert operator(provider, f"/v1/machines/{late.uuid}")["agent"]["connected"]
            assert time.monotonic() - begun < SLOW, "it waited for Omni"
            accept(omni, late)
            eventually(lambda: is_ready(omni, early) and is_ready(omni, late))
            assert (early.did["wipe begun"], late.did["wipe begun"]) == (1, 1)
            assert operator(provider, "/v1/status")["manager"]["connected"]


@contextlib.contextmanager
def other_daemon(
    folder: Path, provider: ProviderProcess, omni: OmniProcess
) -> Iterator[tuple[Daemon, ProviderProcess]]:
    """A second one with the same key, on another network and with a state folder of its own."""
    folder.mkdir()
    manager = {
        "kind": "omni",
        "endpoint": omni.where["endpoint"],
        "key_file": str(provider.folder / "key"),
    }
    config = configuration(
        folder,
        provider.assets,
        provider={"state_dir": str(folder / "state")},
        network={"interfaces": [{"name": "other-ours", "dhcp": "off"}]},
        manager=manager,
    )
    with wire("10.78.0.1/24", "other") as cable, serving_at(config) as daemon:
        yield daemon, ProviderProcess(folder, provider.assets, cable, daemon)


def test_two_providers_with_one_id(tmp_path: Path) -> None:
    """Both act on the same machines; or the second one does as soon as the first is away, and wipes what is in use."""
    with omni_process(tmp_path / "omni") as omni, serving(tmp_path, omni) as provider:
        machine = SimulatedMachine(provider, omni, 1)
        eventually(lambda: operator(provider, "/v1/status")["manager"]["connected"])
        with machine.plugged_in(), other_daemon(tmp_path / "second", provider, omni) as (_, second):

            def said() -> str:
                return str(operator(second, "/v1/status")["manager"]["last_error"])

            eventually(lambda: "another Bootwright is at work as provider 'bm'" in said())
            machine.command("poweron")
            accept(omni, machine)
            eventually(lambda: is_ready(omni, machine))
            provider.daemon.kill()
            provider.daemon.start()
            eventually(lambda: operator(provider, "/v1/status")["manager"]["connected"])
            assert operator(second, "/v1/machines")["machines"] == []
            assert "omni.disconnected" in (second.folder / "provider.log").read_text()
        assert machine.did["wipe begun"] == 1
        assert len(events(provider, machine.uuid, "wipe.finished")) == 1

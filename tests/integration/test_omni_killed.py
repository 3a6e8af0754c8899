"""
The story of machines with Omni, from their first boot to their removal, with somebody killed at one step of it.

Daemon, Omni and agents are processes; the machines do by themselves what machines do. Whoever is killed is started again at
once, and the story has to end as if nothing had been: each machine wiped as often as Omni asked for it, nothing left behind.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.omni_machine import SimulatedMachine
from tests.integration.omni_process import OmniProcess, eventually, omni_process
from tests.integration.provider_process import ProviderProcess
from tests.integration.test_omni_daemon import events, operator, serving

pytestmark = pytest.mark.timeout(180)

QUICK = {"poll_interval": "1s", "minimum_reboot_interval": "1s"}

STEPS = ("pending", "accepted", "wiping", "wiped", "allocated", "installed", "released", "going", "gone")

VICTIMS = ("omni", "provider")


class Story:
    """One machine goes all the way; another stays in use from the middle on, and is not to notice any of it."""

    def __init__(self, omni: OmniProcess, provider: ProviderProcess, victim: str, at: str) -> None:
        self.omni, self.provider = omni, provider
        self.victim: OmniProcess | Any = omni if victim == "omni" else provider.daemon
        self.at = at
        self.machine, self.neighbour = (SimulatedMachine(provider, omni, number) for number in (1, 2))

    @contextlib.contextmanager
    def plugged_in(self) -> Iterator[None]:
        with self.machine.plugged_in(), self.neighbour.plugged_in():
            yield

    def reached(self, step: str) -> None:
        """Kill whom it is to hit here, and start it again."""
        if step == self.at:
            self.victim.kill()
            self.victim.start()
            self.omni.do("faults/delay", seconds=0)

    def slowly(self, step: str) -> None:
        """Let Omni take its time, if somebody is to be killed while it does."""
        if step == self.at:
            self.omni.do("faults/delay", seconds=2)

    def infra(self, machine: SimulatedMachine) -> Any:
        found = self.omni.machine(machine.uuid)
        return {} if found is None else found["infra"] or {}

    def status(self, machine: SimulatedMachine) -> Any:
        found = self.omni.machine(machine.uuid)
        return {} if found is None or found["status"] is None else found["status"]["spec"]

    def tell(self) -> None:
        """From the first boot to the end."""
        both = (self.machine, self.neighbour)
        self.begin(both)
        self.wipe(both)
        self.install(both)
        boots = self.neighbour.did.copy()
        self.release()
        self.remove()
        assert self.neighbour.did == boots, "it was booted, or wiped, and nobody had asked for it"
        assert (boots["agent"], boots["wipe done"], boots["install"], boots["disk"]) == (1, 1, 1, 0)
        assert self.status(self.neighbour)["installed"]
        assert self.status(self.neighbour)["ready_to_use"]

    def begin(self, both: tuple[SimulatedMachine, ...]) -> None:
        for each in both:
            each.command("poweron")
        for each in both:
            eventually(lambda each=each: "bm.InfraMachineStatusController" in self.infra(each).get("finalizers", ()))
        self.reached("pending")

    def wipe(self, both: tuple[SimulatedMachine, ...]) -> None:
        assert not any(each.did["wipe begun"] for each in both)
        for each in both:
            self.omni.do("set_bmc", machine=each.uuid, address=each.power_api, api=True)
            self.omni.do("accept", machine=each.uuid)
        self.reached("accepted")
        eventually(lambda: self.machine.did["wipe begun"])
        self.slowly("wiped")
        self.reached("wiping")
        eventually(lambda: events(self.provider, self.machine.uuid, "wipe.finished"))
        assert self.at != "wiped" or not self.status(self.machine).get("ready_to_use")
        self.reached("wiped")

    def install(self, both: tuple[SimulatedMachine, ...]) -> None:
        for each in both:
            eventually(lambda each=each: self.status(each).get("ready_to_use"))
            self.omni.do("allocate", machine=each.uuid)
        self.reached("allocated")
        for each in both:
            eventually(lambda each=each: self.status(each).get("installed"))
        self.reached("installed")

    def release(self) -> None:
        self.omni.do("release", machine=self.machine.uuid)
        self.reached("released")
        eventually(lambda: not self.infra(self.machine)["spec"]["cluster_talos_version"])
        eventually(lambda: self.machine.did["wipe done"] == 2)
        eventually(lambda: self.status(self.machine).get("ready_to_use"))

    def remove(self) -> None:
        self.slowly("going")
        self.omni.do("remove", machine=self.machine.uuid)
        self.reached("going")
        eventually(lambda: self.omni.machine(self.machine.uuid) is None)
        self.reached("gone")
        assert operator(self.provider, f"/v1/machines/{self.machine.uuid}")["phase"] == "discovered"


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("step", STEPS)
def test_killed(tmp_path: Path, step: str, victim: str) -> None:
    """A machine is wiped twice, or never, or rebooted while it is in use; or Omni keeps what nobody will ever remove."""
    with omni_process(tmp_path / "omni") as omni, serving(tmp_path, omni, power=QUICK) as provider:
        story = Story(omni, provider, victim, step)
        with story.plugged_in():
            story.tell()
        broken = (step, victim) == ("wiping", "provider")
        assert (story.machine.did["wipe done"], story.machine.did["wipe broken"]) == (2, int(broken))
        assert complaints(tmp_path) == []
        eventually(lambda: not waiting_in_outbox(tmp_path))
    assert left_at_omni(tmp_path, story.machine.uuid) == []


def complaints(folder: Path) -> list[Any]:
    """What the daemon logged beyond news, but that somebody is away who was killed."""
    lines = map(json.loads, (folder / "provider.log").read_text().splitlines())
    bad = [line for line in lines if line["level"] != "info"]
    return [line for line in bad if line["level"] == "error" or "cannot be reached" not in line["error"]]


def waiting_in_outbox(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "state" / "bootwright.db")) as database:
        (count,) = database.execute("SELECT count(*) FROM outbox").fetchone()
    return int(count)


def left_at_omni(folder: Path, uuid: str) -> list[Any]:
    """Resources of the machine, and whatever we keep in our private namespace."""
    with contextlib.closing(sqlite3.connect(folder / "omni" / "omni.db")) as database:
        query = "SELECT namespace, type FROM resource WHERE id = ? OR namespace LIKE 'infra-provider:%'"
        return database.execute(query, (uuid,)).fetchall()

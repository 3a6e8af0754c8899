"""What the fake Omni shows, and does as far as it stands in for what only a real machine would bring about."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from provider.lab.omni import join, names
from provider.lab.omni.join import JoinRequest
from provider.lab.omni.resources import CallError
from tests.integration.omni_client import SPECS, made
from tests.integration.omni_sites import TALOS, FakeSite, served


async def say(here: FakeSite, **spec: Any) -> None:
    await here.say_status(**spec)
    await here.omni.desk.settled()


def test_join_token_vector() -> None:
    """The token of the facts, byte for byte."""
    assert join.provider_token("1234", "bm1") == (
        "v2:eyJleHRyYV9kYXRhIjp7Im9tbmkuc2lkZXJvLmRldi9pbmZyYS1wcm92aWRlci1pZCI6ImJtMSJ9LCJzaWduYXR1cmUiOiJ2RVJMeCtM"
        "YlI4UFE4RVBGTWJIcElvUG45QWdreW5oc0lpbDZoS0xpcHVFPSJ9"
    )


def test_another_join_token() -> None:
    """After a rotation the old one is no good."""

    async def use(here: FakeSite) -> None:
        old = await here.join_token()
        await here.omni.desk.rotate_join_token("bm")
        assert await here.join_token() != old
        with pytest.raises(CallError, match="unauthorized"):
            await here.join(token=old)
        await here.join()

    served(use)


def test_an_installed_talos_is_tied_to_its_token() -> None:
    """What its provider says it wiped away unties it."""

    async def use(here: FakeSite) -> None:
        async def provision(unique: str = "", installed: bool = False) -> Any:
            return await here.omni.desk.provision(JoinRequest(here.machine, token, unique, TALOS, installed))

        token = await here.join_token()
        pending = await provision()
        assert pending.pending
        unique = pending.unique_token
        assert not (await provision(unique, installed=True)).pending
        fresh = json.dumps({"Fingerprint": json.loads(unique)["Fingerprint"], "Token": "fresh"})
        with pytest.raises(CallError, match="unauthorized"):
            await provision(fresh)
        await say(here, wiped_node_unique_token=unique)
        assert not (await provision(fresh)).pending

    served(use)


def test_what_omni_knows_may_be_off() -> None:
    """Until Omni has collected what the machine is, it is to stay on."""

    async def use(here: FakeSite) -> None:
        await here.join()
        await here.infra_machine(lambda _resource, spec: spec.preferred_power_state == SPECS.InfraMachineSpec.ON)
        await here.accepted()
        await here.infra_machine(lambda _resource, spec: spec.preferred_power_state == SPECS.InfraMachineSpec.OFF)
        await here.omni.desk.prefer_power(here.machine, "ON")
        await here.infra_machine(lambda _resource, spec: spec.preferred_power_state == SPECS.InfraMachineSpec.ON)

    served(use)


def test_a_release_waits_for_the_reset() -> None:
    """The machine is the cluster's until its Talos was reset; a power-off request goes at once."""

    async def use(here: FakeSite) -> None:
        desk = here.omni.desk
        await here.accepted()
        await desk.allocate(here.machine, "c1", "1.14.0", "worker", ["siderolabs/gvisor"])
        resource, spec = await here.infra_machine()
        assert (spec.cluster_talos_version, list(spec.extensions)) == ("1.14.0", ["siderolabs/gvisor"])
        assert resource.metadata.labels[names.WORKER_LABEL] == ""
        await desk.upgrade("c1", "1.14.1")
        await desk.power_off(here.machine)
        spec = (await here.infra_machine())[1]
        assert (spec.cluster_talos_version, bool(spec.power_off_request_id)) == ("1.14.1", True)
        await desk.release(here.machine, reset=False)
        spec = (await here.infra_machine())[1]
        assert (spec.cluster_talos_version, bool(spec.power_off_request_id)) == ("1.14.1", False)
        await desk.reset_done(here.machine)
        assert (await here.infra_machine())[1].cluster_talos_version == ""

    served(use)


def test_only_accepted_machines_are_allocated() -> None:
    """Omni has no Machine of others."""

    async def use(here: FakeSite) -> None:
        await here.join()
        with pytest.raises(CallError, match="doesn't exist"):
            await here.omni.desk.allocate(here.machine)

    served(use)


def test_when_a_configuration_is_applied() -> None:
    """Not before the provider says ready, and not while Omni sees the disk of before the wipe."""

    async def use(here: FakeSite) -> None:
        desk = here.omni.desk

        def refusal() -> object:
            return desk.machine(here.machine)["config_refusal"]

        await here.accepted()
        assert refusal() == "the machine is not in a cluster"
        await desk.allocate(here.machine)
        assert "status is not found" in str(refusal())
        await say(here, power_state=2)
        assert "not ready to use" in str(refusal())
        await say(here, power_state=2, ready_to_use=True)
        assert refusal() == ""
        await desk.see_system_disk(here.machine, "/dev/sda")
        assert "stale system disk" in str(refusal())
        await say(here, power_state=2, ready_to_use=True, installed=True)
        assert desk.machine(here.machine)["applies_config"]
        await desk.connect(here.machine, connected=False)
        assert refusal() == "the machine is not connected"

    served(use)


def test_what_omni_shows_of_machines_that_are_off() -> None:
    """A known power state spares them "disconnected"; ready and in no cluster they can be chosen for one."""

    async def use(here: FakeSite) -> None:
        desk = here.omni.desk

        def seen() -> set[str]:
            status: Any = desk.machine(here.machine)["seen"]
            shown = (names.CONNECTED_LABEL, names.DISCONNECTED_LABEL, names.READY_LABEL)
            return {name.rpartition("/")[2] for name in status["labels"] if name in shown}

        await here.accepted()
        assert seen() == {"connected", "ready-to-use"}
        await desk.connect(here.machine, connected=False)
        assert seen() == {"disconnected"}
        await say(here, power_state=1)
        assert seen() == set()
        assert desk.machine(here.machine)["power_stage"] == "powered off"
        await say(here, power_state=1, ready_to_use=True)
        assert seen() == {"ready-to-use"}
        await desk.allocate(here.machine)
        assert seen() == set()
        assert desk.machine(here.machine)["power_stage"] == "powering on"
        await say(here, power_state=1, last_power_off_id="x")
        assert desk.machine(here.machine)["power_stage"] == "powered off"
        await say(here, power_state=2)
        assert desk.machine(here.machine)["power_stage"] == ""

    served(use)


def test_health() -> None:
    """Connected as long as the last beat is younger than 31 seconds; an error is shown."""

    async def use(here: FakeSite) -> None:
        def health() -> tuple[object, object]:
            (found,) = here.omni.desk.providers()
            return found["connected"], found["error"]

        assert health() == (False, "")
        spec = SPECS.InfraProviderHealthStatusSpec(last_heartbeat_timestamp=datetime.now(UTC), error="too hot")
        owner = "bm.ProviderHealthStatusController"
        await here.bm.create(made(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm", spec), owner)
        assert health() == (True, "too hot")
        here.omni.faults.skew = timedelta(seconds=29)
        assert health() == (True, "too hot")
        here.omni.faults.skew = timedelta(seconds=32)
        assert health() == (False, "too hot")

    served(use)

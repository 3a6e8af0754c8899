"""What the fake Omni makes of joins, wishes and events: the transitions that a provider lives by."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from provider.lab.omni import join, names
from provider.lab.omni.fake import Options
from provider.lab.omni.join import JoinMode, JoinRequest
from provider.lab.omni.resources import CallError
from tests.integration.omni_client import MACHINE, SPECS, Site, made, refused, served

OURS = "bm.Ours"
TALOS = "1.13.7"


async def accepted(here: Site) -> None:
    await here.join()
    await here.omni.desk.accept(MACHINE)


def labels_of(resource: Any) -> dict[str, str]:
    return dict(resource.metadata.labels)


# --- joining ------------------------------------------------------------------------------------------------------------


def test_join_token_vector() -> None:
    """The token of the facts, byte for byte."""
    assert join.provider_token("1234", "bm1") == (
        "v2:eyJleHRyYV9kYXRhIjp7Im9tbmkuc2lkZXJvLmRldi9pbmZyYS1wcm92aWRlci1pZCI6ImJtMSJ9LCJzaWduYXR1cmUiOiJ2RVJMeCtM"
        "YlI4UFE4RVBGTWJIcElvUG45QWdreW5oc0lpbDZoS0xpcHVFPSJ9"
    )


def test_every_provider_gets_a_join_config() -> None:
    """Documents, arguments and a token of its own, with its label; another token after a rotation."""

    async def use(here: Site) -> None:
        resource = await here.bm.get(names.INFRA, names.JOIN_CONFIG, "bm")
        assert resource.metadata.owner == names.JOIN_CONFIG_OWNER
        assert labels_of(resource) == {names.PROVIDER_LABEL: "bm"}
        spec = SPECS.ProviderJoinConfigSpec.FromString(resource.spec.proto_spec)
        assert [each.partition("=")[0] for each in spec.config.kernel_args] == [
            "siderolink.api",
            "talos.events.sink",
            "talos.logging.kernel",
        ]
        assert spec.config.config.count("apiVersion: v1alpha1") == 3
        old = here.join_token()
        await here.omni.desk.rotate_join_token("bm")
        assert here.join_token() != old
        with pytest.raises(CallError, match="unauthorized"):
            await here.omni.desk.provision(JoinRequest(uuid=MACHINE, token=old))
        await here.join()

    served(use)


def test_a_machine_joins_and_is_pending() -> None:
    """An InfraMachine with the label of pending ones appears; it is to stay on, and Omni has no Machine of it."""

    async def use(here: Site) -> None:
        watch = here.bm.watch(names.INFRA, names.INFRA_MACHINE, bootstrap_contents=True)
        assert await watch.events(1) == ["BOOTSTRAPPED"]
        await here.join()
        assert await watch.events(1) == [f"CREATED {MACHINE}"]
        resource, spec = await here.infra_machine()
        assert resource.metadata.owner == names.INFRA_MACHINE_OWNER
        assert labels_of(resource) == {names.PROVIDER_LABEL: "bm", names.PENDING_LABEL: ""}
        assert (spec.acceptance_status, spec.preferred_power_state) == (SPECS.PENDING, SPECS.InfraMachineSpec.ON)
        assert (spec.wipe_id, spec.install_event_id, spec.cluster_talos_version) == ("", 0, "")
        assert await here.bm.list(names.DEFAULT, names.MACHINE) == []

    served(use)


def test_without_the_static_label_no_machine_appears() -> None:
    """The link is there, and that is all; the label makes the difference at once."""

    async def use(here: Site) -> None:
        other = await here.provider("other")
        await other.announce(static=False)
        await here.omni.desk.provision(JoinRequest(uuid=MACHINE, token=here.join_token("other")))
        assert here.omni.desk.machine(MACHINE)["infra"] is None
        status = await other.get(names.INFRA, names.PROVIDER_STATUS, "other")
        status.metadata.labels[names.STATIC_LABEL] = ""
        await other.update(status)
        await here.omni.desk.settled()
        assert here.omni.desk.machine(MACHINE)["infra"] is not None
        await other.channel.close()

    served(use)


def test_joins_are_refused() -> None:
    """Foreign tokens, spoiled ones, and those of a provider that is not there or is going."""

    async def use(here: Site) -> None:
        for token, text in (
            ("", "unauthorized"),
            ("plain", "unauthorized"),
            (join.provider_token("wrong", "bm"), "unauthorized"),
            (join.provider_token("wrong", "nobody"), "unauthorized"),
            ("v2:%%%", "invalid join token"),
            ("v2:e30=", "invalid join token"),
        ):
            with pytest.raises(CallError, match=text) as caught:
                await here.omni.desk.provision(JoinRequest(uuid=MACHINE, token=token))
            assert caught.value.code.name == "PERMISSION_DENIED"
        await here.join()
        await here.bm.set_finalizers((await here.infra_machine())[0], [OURS])
        await here.omni.desk.remove(MACHINE)
        with pytest.raises(CallError, match="in the tearing down phase") as caught:
            await here.join()
        assert caught.value.code.name == "ALREADY_EXISTS"

    served(use)


def test_a_machine_with_a_recent_talos_comes_back_with_a_token() -> None:
    """It is pending until it shows what it was given; the InfraMachine has that token."""

    async def use(here: Site) -> None:
        pending = await here.join(talos_version=TALOS)
        assert pending.pending
        with pytest.raises(CallError, match="there is no machine"):
            here.omni.desk.machine(MACHINE)
        joined = await here.join(talos_version=TALOS, unique_token=pending.unique_token)
        assert not joined.pending
        assert (await here.infra_machine())[1].node_unique_token == pending.unique_token

    served(use)


def test_a_wiped_machine_joins_anew_if_its_provider_says_so() -> None:
    """Installed Talos ties the machine to its token; wiped_node_unique_token unties it; another machine is a conflict."""

    async def use(here: Site) -> None:
        token = (await here.join(talos_version=TALOS)).unique_token
        await here.join(talos_version=TALOS, unique_token=token, installed=True)
        fresh = json.dumps({"Fingerprint": json.loads(token)["Fingerprint"], "Token": "fresh"})
        with pytest.raises(CallError, match="unauthorized"):
            await here.join(talos_version=TALOS, unique_token=fresh)
        stranger = json.dumps({"Fingerprint": "other", "Token": "other"})
        assert (await here.join(talos_version=TALOS, unique_token=stranger)).conflict
        await here.say_status(wiped_node_unique_token=token)
        assert not (await here.join(talos_version=TALOS, unique_token=fresh)).pending
        assert (await here.infra_machine())[1].node_unique_token == fresh

    served(use)


def test_strict_mode_wants_a_recent_talos() -> None:
    """Old ones are told so."""

    async def use(here: Site) -> None:
        with pytest.raises(CallError, match="is not supported on this Omni instance") as caught:
            await here.join(talos_version="1.5.0")
        assert caught.value.code.name == "FAILED_PRECONDITION"
        assert (await here.join(talos_version=TALOS)).pending

    served(use, Options(join_mode=JoinMode.STRICT))


# --- what the user wants ------------------------------------------------------------------------------------------------


def test_acceptance() -> None:
    """The label goes, the status comes, Omni gets to know the machine, and then it may be off."""

    async def use(here: Site) -> None:
        await accepted(here)
        resource, spec = await here.infra_machine()
        assert names.PENDING_LABEL not in labels_of(resource)
        assert spec.acceptance_status == SPECS.ACCEPTED
        assert spec.preferred_power_state == SPECS.InfraMachineSpec.OFF
        (machine,) = await here.bm.list(names.DEFAULT, names.MACHINE)
        assert labels_of(machine)[names.PROVIDER_LABEL] == "bm"
        with pytest.raises(CallError, match="an accepted machine cannot be rejected"):
            await here.omni.desk.reject(MACHINE)

    served(use)


def test_rejection_can_change_and_outlives_the_machine() -> None:
    """A rejected machine stays rejected when it comes back, until somebody accepts it."""

    async def use(here: Site) -> None:
        await here.join()
        await here.omni.desk.reject(MACHINE)
        assert (await here.infra_machine())[1].acceptance_status == SPECS.REJECTED
        await here.omni.desk.remove(MACHINE)
        assert here.omni.desk.machines() == []
        await here.join()
        assert (await here.infra_machine())[1].acceptance_status == SPECS.REJECTED
        await here.omni.desk.accept(MACHINE)
        assert (await here.infra_machine())[1].acceptance_status == SPECS.ACCEPTED

    served(use)


def test_wishes_are_copied() -> None:
    """Cordon, reboot id, preferred power and arguments stand on the InfraMachine a moment later."""

    async def use(here: Site) -> None:
        await accepted(here)
        desk = here.omni.desk
        await desk.cordon(MACHINE)
        await desk.reboot(MACHINE, "again")
        await desk.prefer_power(MACHINE, "ON")
        await desk.set_arguments(MACHINE, "console=ttyS1  quiet")
        spec = (await here.infra_machine())[1]
        assert (spec.cordoned, spec.requested_reboot_id, spec.preferred_power_state) == (True, "again", 1)
        assert spec.extra_kernel_args == "console=ttyS1  quiet"
        await desk.cordon(MACHINE, cordoned=False)
        assert not (await here.infra_machine())[1].cordoned

    served(use)


def test_bmc_config_of_the_user() -> None:
    """The provider reads the credentials that an administrator typed, as long as they are there."""

    async def use(here: Site) -> None:
        await accepted(here)
        await here.omni.desk.set_bmc(MACHINE, "10.0.0.7", 0, "u", "p")
        resource = await here.bm.get(names.INFRA, names.BMC_CONFIG, MACHINE)
        spec = SPECS.BMCConfigSpec.FromString(resource.spec.proto_spec)
        assert resource.metadata.owner == names.BMC_CONFIG_OWNER
        assert (spec.config.ipmi.address, spec.config.ipmi.port, spec.config.ipmi.password) == ("10.0.0.7", 0, "p")
        await here.omni.desk.set_bmc(MACHINE, "10.0.0.8:1", api=True)
        resource = await here.bm.get(names.INFRA, names.BMC_CONFIG, MACHINE)
        assert not SPECS.BMCConfigSpec.FromString(resource.spec.proto_spec).config.HasField("ipmi")
        await here.omni.desk.clear_bmc(MACHINE)
        assert await here.bm.list(names.INFRA, names.BMC_CONFIG) == []

    served(use)


# --- clusters -----------------------------------------------------------------------------------------------------------


def test_allocation_and_release() -> None:
    """Version, extensions and labels come with the cluster; a new wipe id takes their place when Talos has been reset."""

    async def use(here: Site) -> None:
        await accepted(here)
        desk = here.omni.desk
        await desk.allocate(MACHINE, "c1", "1.14.0", "worker", ["siderolabs/gvisor"])
        resource, spec = await here.infra_machine()
        assert (spec.cluster_talos_version, list(spec.extensions)) == ("1.14.0", ["siderolabs/gvisor"])
        assert labels_of(resource) == {
            names.PROVIDER_LABEL: "bm",
            names.CLUSTER_LABEL: "c1",
            names.MACHINE_SET_LABEL: "c1-workers",
            names.WORKER_LABEL: "",
        }
        assert spec.wipe_id == ""
        await desk.upgrade("c1", "1.14.1")
        assert (await here.infra_machine())[1].cluster_talos_version == "1.14.1"
        await desk.release(MACHINE, reset=False)
        assert (await here.infra_machine())[1].cluster_talos_version == "1.14.1"
        await desk.reset_done(MACHINE)
        resource, spec = await here.infra_machine()
        assert labels_of(resource) == {names.PROVIDER_LABEL: "bm"}
        assert (spec.cluster_talos_version, list(spec.extensions)) == ("", [])
        first = spec.wipe_id
        assert first
        await desk.allocate(MACHINE, "c1", role="controlplane")
        assert (await here.infra_machine())[1].wipe_id == first
        assert names.CONTROL_PLANE_LABEL in labels_of((await here.infra_machine())[0])
        await desk.release(MACHINE)
        assert (await here.infra_machine())[1].wipe_id not in ("", first)

    served(use)


def test_only_accepted_machines_are_allocated() -> None:
    """Omni has no Machine of others."""

    async def use(here: Site) -> None:
        await here.join()
        with pytest.raises(CallError, match="doesn't exist"):
            await here.omni.desk.allocate(MACHINE)

    served(use)


def test_power_off_requests_hold_while_allocated() -> None:
    """Omni clears the request for a machine that is in no cluster, and when it leaves one."""

    async def use(here: Site) -> None:
        desk = here.omni.desk
        await here.join()
        with pytest.raises(CallError, match="config not found"):
            await desk.power_off(MACHINE)
        await desk.accept(MACHINE)
        await desk.power_off(MACHINE)
        assert (await here.infra_machine())[1].power_off_request_id == ""
        await desk.allocate(MACHINE)
        request = (await here.infra_machine())[1].power_off_request_id
        assert request
        await desk.release(MACHINE, reset=False)
        assert (await here.infra_machine())[1].power_off_request_id == ""
        await desk.reset_done(MACHINE)
        await desk.allocate(MACHINE)
        assert (await here.infra_machine())[1].power_off_request_id == request  # The old one: only the wipe id tells.
        await desk.power_on(MACHINE)
        assert (await here.infra_machine())[1].power_off_request_id == ""

    served(use)


def test_install_events_count_boots() -> None:
    """An event of a configured boot or of a finished installation raises the number by one; others do not."""

    async def use(here: Site) -> None:
        desk = here.omni.desk
        await here.join()
        with pytest.raises(CallError, match="doesn't exist"):
            await desk.sequence_event(MACHINE, "boot", "START")
        await desk.accept(MACHINE)
        events = (("boot", "START", ""), ("install", "NOOP", "error: unix.Reboot"), ("boot", "START", ""))
        for number, event in enumerate(events, 1):
            assert await desk.sequence_event(MACHINE, *event)
            assert (await here.infra_machine())[1].install_event_id == number
        for event in (
            ("boot", "STOP", ""),
            ("install", "START", ""),
            ("install", "NOOP", "no disk"),
            ("reset", "START", ""),
        ):
            assert not await desk.sequence_event(MACHINE, *event)
        assert (await here.infra_machine())[1].install_event_id == 3
        await desk.cordon(MACHINE)
        assert (await here.infra_machine())[1].install_event_id == 3

    served(use)


def test_when_a_configuration_is_applied() -> None:
    """Not before the provider says ready, and not while Omni sees the disk of before the wipe."""

    async def use(here: Site) -> None:
        desk = here.omni.desk

        def refusal() -> object:
            return desk.machine(MACHINE)["config_refusal"]

        await accepted(here)
        assert refusal() == "the machine is not in a cluster"
        await desk.allocate(MACHINE)
        assert "status is not found" in str(refusal())
        await here.say_status(power_state=2)
        assert "not ready to use" in str(refusal())
        await here.say_status(power_state=2, ready_to_use=True)
        assert refusal() == ""
        await desk.see_system_disk(MACHINE, "/dev/sda")
        assert "stale system disk" in str(refusal())
        await here.say_status(power_state=2, ready_to_use=True, installed=True)
        assert desk.machine(MACHINE)["applies_config"]
        await desk.connect(MACHINE, connected=False)
        assert refusal() == "the machine is not connected"

    served(use)


def test_what_omni_shows_of_machines_that_are_off() -> None:
    """A known power state spares them "disconnected"; ready and in no cluster they can be chosen for one."""

    async def use(here: Site) -> None:
        desk = here.omni.desk

        def seen() -> set[str]:
            status: Any = desk.machine(MACHINE)["seen"]
            shown = (names.CONNECTED_LABEL, names.DISCONNECTED_LABEL, names.READY_LABEL)
            return {name.rpartition("/")[2] for name in status["labels"] if name in shown}

        await accepted(here)
        assert seen() == {"connected", "ready-to-use"}
        await desk.connect(MACHINE, connected=False)
        assert seen() == {"disconnected"}
        await here.say_status(power_state=1)
        assert seen() == set()
        assert desk.machine(MACHINE)["power_stage"] == "powered off"
        await here.say_status(power_state=1, ready_to_use=True)
        assert seen() == {"ready-to-use"}
        await desk.allocate(MACHINE)
        assert seen() == set()
        assert desk.machine(MACHINE)["power_stage"] == "powering on"
        await here.say_status(power_state=1, last_power_off_id="x")
        assert desk.machine(MACHINE)["power_stage"] == "powered off"
        await here.say_status(power_state=2)
        assert desk.machine(MACHINE)["power_stage"] == ""

    served(use)


def test_labels_of_the_provider_are_copied() -> None:
    """Users select by them: rack=7 of provider bm becomes a label of the machine's status."""

    async def use(here: Site) -> None:
        await accepted(here)
        await here.bm.create(made(names.INFRA, names.INFRA_MACHINE_STATUS, MACHINE, rack="7"))
        await here.omni.desk.settled()
        seen: Any = here.omni.desk.machine(MACHINE)["seen"]
        assert seen["labels"]["omni.sidero.dev/infra-provider/bm/rack"] == "7"

    served(use)


# --- the end ------------------------------------------------------------------------------------------------------------


def test_removal_waits_for_the_providers_finalizers() -> None:
    """tearingDown first; when the provider has let go, InfraMachine, link and all that belongs to it are gone."""

    async def use(here: Site) -> None:
        await accepted(here)
        await here.bm.set_finalizers((await here.infra_machine())[0], [OURS])
        await here.omni.desk.remove(MACHINE)
        resource = (await here.infra_machine())[0]
        assert resource.metadata.phase == "tearingDown"
        assert here.omni.desk.machine(MACHINE)["link"] == "tearingDown"
        with refused("FAILED_PRECONDITION"):
            stale = await here.bm.get(names.INFRA, names.INFRA_MACHINE, MACHINE)
            stale.metadata.version = "1"
            await here.bm.set_finalizers(stale, [])
        await here.bm.set_finalizers(resource, [])
        await here.omni.desk.settled()
        assert here.omni.desk.machines() == []
        assert await here.bm.list(names.DEFAULT, names.MACHINE) == []
        await here.join()
        assert (await here.infra_machine())[1].acceptance_status == SPECS.PENDING

    served(use)


def test_users_remove_a_link_by_grpc() -> None:
    """The call stays open until the provider has let go."""

    async def use(here: Site) -> None:
        await accepted(here)
        await here.bm.set_finalizers((await here.infra_machine())[0], [OURS])
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(here.admin.end("TeardownAndDestroy", names.DEFAULT, names.LINK, MACHINE))
            watch = here.bm.watch(names.INFRA, names.INFRA_MACHINE, MACHINE)
            while (await here.infra_machine())[0].metadata.phase != "tearingDown":
                await watch.response()
            assert not ending.done()
            await here.bm.set_finalizers((await here.infra_machine())[0], [])
        assert here.omni.desk.machines() == []

    served(use)


def test_a_provider_that_goes_leaves_nothing() -> None:
    """Omni strips the finalizers of its machines, and removes links, statuses, account and join config."""

    async def use(here: Site) -> None:
        await here.join()
        await here.bm.set_finalizers((await here.infra_machine())[0], [OURS])
        await here.bm.create(made(names.INFRA, names.INFRA_MACHINE_STATUS, MACHINE), "me")
        await here.omni.desk.remove_provider("bm")
        assert here.omni.desk.providers() == []
        assert here.omni.desk.machines() == []
        for kind in (names.PROVIDER_STATUS, names.JOIN_CONFIG, names.INFRA_MACHINE_STATUS):
            assert await here.admin.list(names.INFRA, kind) == []
        with refused("UNAUTHENTICATED"):
            await here.bm.list(names.INFRA, names.INFRA_MACHINE)

    served(use)


def test_health() -> None:
    """Connected as long as the last beat is younger than 31 seconds; an error is shown."""

    async def use(here: Site) -> None:
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

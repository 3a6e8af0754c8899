"""What Omni makes of wishes and events: the transitions that a provider lives by."""

from __future__ import annotations

import asyncio
from typing import Any

from provider.lab.omni import names
from tests.integration.omni_client import SPECS, made, refused
from tests.integration.omni_sites import Omni, Site, until
from tests.integration.real_omni import TALOS

# --- what the user wants ------------------------------------------------------------------------------------------------


def test_acceptance(omni: Omni) -> None:
    """The label goes, a Machine comes, and there is no way back."""

    async def use(here: Site) -> None:
        resource, _ = await here.accepted()
        assert dict(resource.metadata.labels) == {names.PROVIDER_LABEL: here.id}
        machine = await until(lambda: here.bm.find(names.DEFAULT, names.MACHINE, here.machine))
        assert machine.metadata.labels[names.PROVIDER_LABEL] == here.id
        assert names.MANAGED_LABEL in machine.metadata.labels
        for status in (SPECS.REJECTED, SPECS.PENDING):
            with refused("INVALID_ARGUMENT", "failed to validate: 1 error occurred:\n\t* an accepted machine"):
                await here.users.configure(here.machine, acceptance_status=status)

    omni.served(use)


def test_rejection_can_change_and_outlives_the_machine(omni: Omni) -> None:
    """A rejected machine stays rejected when it comes back, until somebody accepts it."""

    async def use(here: Site) -> None:
        await here.join()
        await here.users.configure(here.machine, acceptance_status=SPECS.REJECTED)
        resource, _ = await here.infra_machine(lambda _, spec: spec.acceptance_status == SPECS.REJECTED)
        assert names.PENDING_LABEL not in resource.metadata.labels
        await here.users.remove(here.machine)
        await here.gone()
        await here.gone(names.LINK, namespace=names.DEFAULT)
        await here.join()
        await here.infra_machine(lambda _, spec: spec.acceptance_status == SPECS.REJECTED)
        await here.users.configure(here.machine, acceptance_status=SPECS.ACCEPTED)
        await here.infra_machine(lambda _, spec: spec.acceptance_status == SPECS.ACCEPTED)

    omni.served(use)


def test_wishes_are_copied(omni: Omni) -> None:
    """Cordon, reboot id and arguments stand on the InfraMachine a moment later; a power-off request needs a cluster."""

    async def use(here: Site) -> None:
        await here.accepted()
        wishes: dict[str, Any] = {"requested_reboot_id": "again", "extra_kernel_args": "console=ttyS1  quiet"}
        await here.users.configure(here.machine, cordoned=True, power_off_request_id="off", **wishes)
        _, spec = await here.infra_machine(lambda _, spec: spec.cordoned)
        assert (spec.requested_reboot_id, spec.extra_kernel_args) == tuple(wishes.values())
        assert spec.power_off_request_id == ""
        await here.users.configure(here.machine, cordoned=False, extra_kernel_args="")
        await here.infra_machine(lambda _, spec: not spec.cordoned and not spec.extra_kernel_args)

    omni.served(use)


def test_bmc_config_of_the_user(omni: Omni) -> None:
    """The provider reads the credentials that an administrator typed, as long as they are there."""

    async def use(here: Site) -> None:
        async def config() -> Any:
            resource = await here.bm.find(names.INFRA, names.BMC_CONFIG, here.machine)
            return resource and SPECS.BMCConfigSpec.FromString(resource.spec.proto_spec).config

        async def is_api() -> bool:
            return (await config()).HasField("api")

        await here.accepted()
        await here.users.set_bmc(here.machine, ipmi={"address": "10.0.0.7", "username": "u", "password": "p"})
        found = await until(config)
        assert (found.ipmi.address, found.ipmi.port, found.ipmi.password) == ("10.0.0.7", 0, "p")
        resource = await here.bm.get(names.INFRA, names.BMC_CONFIG, here.machine)
        assert resource.metadata.owner == names.BMC_CONFIG_OWNER
        assert dict(resource.metadata.labels) == {names.PROVIDER_LABEL: here.id}
        await here.users.set_bmc(here.machine, api={"address": "10.0.0.8:1"})
        await until(is_api)
        assert not (await config()).HasField("ipmi")
        await here.admin.end("Teardown", names.DEFAULT, names.USER_BMC_CONFIG, here.machine)
        await here.gone(names.USER_BMC_CONFIG, namespace=names.DEFAULT)
        await here.gone(names.BMC_CONFIG)

    omni.served(use)


# --- clusters -----------------------------------------------------------------------------------------------------------


def test_allocation_and_release(omni: Omni) -> None:
    """Version and labels come with the cluster; a new wipe id takes their place when Talos has been reset."""

    async def use(here: Site) -> None:
        await here.accepted()
        wipes = [""]
        for cluster in (f"{here.id}-one", f"{here.id}-two"):
            await here.allocate(cluster)
            resource, spec = await here.infra_machine(lambda _, spec: spec.cluster_talos_version)
            assert (spec.cluster_talos_version, spec.wipe_id) == (TALOS, wipes[-1])
            assert dict(resource.metadata.labels) == {
                names.PROVIDER_LABEL: here.id,
                names.CLUSTER_LABEL: cluster,
                names.MACHINE_SET_LABEL: f"{cluster}-control-planes",
                names.CONTROL_PLANE_LABEL: "",
            }
            await here.users.configure(here.machine, power_off_request_id="off")
            await here.infra_machine(lambda _, spec: spec.power_off_request_id == "off")
            await here.release(cluster)
            resource, spec = await here.infra_machine(lambda _, spec: not spec.cluster_talos_version)
            assert dict(resource.metadata.labels) == {names.PROVIDER_LABEL: here.id}
            assert (list(spec.extensions), spec.power_off_request_id) == ([], "")
            assert spec.wipe_id not in wipes
            wipes.append(spec.wipe_id)

    omni.served(use)


def test_install_events_count_boots(omni: Omni) -> None:
    """An event of a configured boot or of a finished installation raises the number by one; others do not."""

    async def use(here: Site) -> None:
        await here.accepted()
        await until(lambda: here.bm.find(names.DEFAULT, names.MACHINE, here.machine))
        events = (("boot", "START", ""), ("install", "NOOP", "error: unix.Reboot"), ("boot", "START", ""))
        for number, event in enumerate(events, 1):
            await here.event(*event)
            await here.infra_machine(lambda _, spec, number=number: spec.install_event_id == number)
        for event in (
            ("boot", "STOP", ""),
            ("install", "START", ""),
            ("install", "NOOP", "no"),
            ("reset", "START", ""),
        ):
            await here.event(*event)
        await here.event("boot", "START", "")
        await here.infra_machine(lambda _, spec: spec.install_event_id == 4)
        await here.users.configure(here.machine, cordoned=True)
        _, spec = await here.infra_machine(lambda _, spec: spec.cordoned)
        assert spec.install_event_id == 4

    omni.served(use)


def test_labels_of_the_provider_are_copied(omni: Omni) -> None:
    """Users select by them: rack=7 becomes a label of the machine's status; what begins as Omni's own do does not."""

    async def use(here: Site) -> None:
        async def copied() -> dict[str, str]:
            status = await here.admin.find(names.DEFAULT, names.MACHINE_STATUS, here.machine)
            labels = dict(status.metadata.labels) if status else {}
            return {name: value for name, value in labels.items() if name.startswith(names.COPIED_LABEL_PREFIX)}

        await here.accepted()
        prefix, owner = f"{names.COPIED_LABEL_PREFIX}{here.id}", "me"
        labels = {"rack": "7", "a/b c": "ä", "": "x"}
        del labels[""]
        status = made(names.INFRA, names.INFRA_MACHINE_STATUS, here.machine, **labels)
        status.metadata.labels[f"{names.COPIED_LABEL_PREFIX}other/x"] = "forged"
        status.metadata.labels["omni.sidero.dev/mine"] = "x"
        status = await here.bm.create(status, owner)
        assert await until(copied) == {f"{prefix}/rack": "7", f"{prefix}/a/b c": "ä"}
        status.metadata.labels["rack"] = "8"
        del status.metadata.labels["a/b c"]
        await here.bm.update(status, owner)

        async def are_new() -> bool:
            return await copied() == {f"{prefix}/rack": "8"}

        await until(are_new)

    omni.served(use)


# --- the end ------------------------------------------------------------------------------------------------------------


def test_removal_waits_for_the_providers_finalizers(omni: Omni) -> None:
    """tearingDown first; when the provider has let go, InfraMachine, link and all that belongs to it are gone."""

    async def use(here: Site) -> None:
        await here.accepted()
        await until(lambda: here.bm.find(names.DEFAULT, names.MACHINE, here.machine))
        await here.bm.set_finalizers((await here.infra_machine())[0], ["ours"])
        await here.users.remove(here.machine)
        await here.infra_machine(lambda resource, _: resource.metadata.phase == "tearingDown")
        link = await here.admin.get(names.DEFAULT, names.LINK, here.machine)
        assert link.metadata.phase == "tearingDown"
        resource, _ = await here.infra_machine()
        await here.bm.set_finalizers(resource, [])
        await here.gone()
        for kind in (names.LINK, names.MACHINE, names.USER_CONFIG):
            await here.gone(kind, namespace=names.DEFAULT)
        await here.join()
        await here.infra_machine(lambda _, spec: spec.acceptance_status == SPECS.PENDING)

    omni.served(use)


def test_users_remove_a_link_by_grpc(omni: Omni) -> None:
    """The call stays open until the provider has let go."""

    async def use(here: Site) -> None:
        await here.accepted()
        await here.bm.set_finalizers((await here.infra_machine())[0], ["ours"])
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(here.admin.end("TeardownAndDestroy", names.DEFAULT, names.LINK, here.machine))
            resource, _ = await here.infra_machine(lambda resource, _: resource.metadata.phase == "tearingDown")
            assert not ending.done()
            await here.bm.set_finalizers(resource, [])
        await here.gone()

    omni.served(use)


def test_a_provider_that_goes_leaves_nothing(omni: Omni) -> None:
    """Omni strips the finalizers of its machines, and removes links, statuses, account and join config."""

    async def use(here: Site) -> None:
        await here.join()
        await here.bm.set_finalizers((await here.infra_machine())[0], ["ours"])
        await here.bm.create(made(names.INFRA, names.INFRA_MACHINE_STATUS, here.machine), "me")
        await here.users.remove_provider(here.id)
        await here.gone()
        await here.gone(names.LINK, namespace=names.DEFAULT)
        await here.gone(names.INFRA_MACHINE_STATUS)
        await here.gone(names.PROVIDER_STATUS, here.id)
        await here.gone(names.JOIN_CONFIG, here.id)
        with refused("UNAUTHENTICATED"):
            await here.bm.list(names.INFRA, names.INFRA_MACHINE)

    omni.served(use)

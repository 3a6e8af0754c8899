"""How machines come into an Omni, by their tokens; in each of its join modes."""

from __future__ import annotations

import json

import pytest

from provider.lab.omni import join, names
from provider.lab.omni.join import JoinMode
from tests.integration.omni_client import SPECS, refused
from tests.integration.omni_sites import TALOS, Omni, Site, in_mode, unique_token


async def known_token(here: Site) -> str:
    """The token that Omni holds the machine to have."""
    return str((await here.infra_machine())[1].node_unique_token)


async def has_joined(here: Site) -> bool:
    return await here.admin.find(names.DEFAULT, names.LINK, here.machine) is not None


def test_every_provider_gets_a_join_config(omni: Omni) -> None:
    """Documents, arguments and a token of its own, with its label."""

    async def use(here: Site) -> None:
        await here.join_token()
        resource = await here.bm.get(names.INFRA, names.JOIN_CONFIG, here.id)
        assert resource.metadata.owner == names.JOIN_CONFIG_OWNER
        assert dict(resource.metadata.labels) == {names.PROVIDER_LABEL: here.id}
        spec = SPECS.ProviderJoinConfigSpec.FromString(resource.spec.proto_spec)
        assert [each.partition("=")[0] for each in spec.config.kernel_args] == [
            "siderolink.api",
            "talos.events.sink",
            "talos.logging.kernel",
        ]
        assert spec.config.config.count("apiVersion: v1alpha1") == 3
        assert "\n---\napiVersion: v1alpha1\nkind: KmsgLogConfig\nname: omni-kmsg\nurl: tcp://[" in spec.config.config
        assert await here.join_token() == join.provider_token(spec.join_token, here.id)

    omni.served(use)


def test_a_machine_joins_and_is_pending(omni: Omni) -> None:
    """An InfraMachine with the label of pending ones appears; it is to stay on, and Omni has no Machine of it."""

    async def use(here: Site) -> None:
        watch = here.bm.watch(names.INFRA, names.INFRA_MACHINE, bootstrap_contents=True)
        assert await watch.events(1) == ["BOOTSTRAPPED"]
        await here.join()
        assert await watch.events(1) == [f"CREATED {here.machine}"]
        resource, spec = await here.infra_machine()
        assert resource.metadata.owner == names.INFRA_MACHINE_OWNER
        assert dict(resource.metadata.labels) == {names.PROVIDER_LABEL: here.id, names.PENDING_LABEL: ""}
        assert (spec.acceptance_status, spec.preferred_power_state) == (SPECS.PENDING, SPECS.InfraMachineSpec.ON)
        assert (spec.wipe_id, spec.install_event_id, spec.cluster_talos_version) == ("", 0, "")
        assert await here.bm.find(names.DEFAULT, names.MACHINE, here.machine) is None

    omni.served(use)


def test_without_the_static_label_no_machine_appears(omni: Omni) -> None:
    """The link is there, and that is all; the label makes the difference at once."""

    async def use(here: Site) -> None:
        other = await here.provider()
        await other.announce(static=False)
        await here.join(token=await here.join_token(other.provider))
        assert await has_joined(here)
        assert await other.list(names.INFRA, names.INFRA_MACHINE) == []
        status = await other.get(names.INFRA, names.PROVIDER_STATUS, other.provider)
        status.metadata.labels[names.STATIC_LABEL] = ""
        await other.update(status)
        await here.appears(other)

    omni.served(use)


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("", "unauthorized"),
        ("plain", "unauthorized"),
        (join.provider_token("wrong", "bm"), "unauthorized"),
        ("v2:%%%", "invalid join token"),
        ("v2:e30=", "unauthorized"),
        ("v2:W10=", "invalid join token"),
        ("v3:e30=", "unauthorized"),
    ],
)
def test_joins_with_bad_tokens_are_refused(omni: Omni, token: str, text: str) -> None:
    """Foreign tokens, and spoiled ones."""

    async def use(here: Site) -> None:
        with refused("PERMISSION_DENIED", text):
            await here.join(token=token)

    omni.served(use)


def test_a_machine_that_is_going_does_not_join(omni: Omni) -> None:
    """First its provider lets go."""

    async def use(here: Site) -> None:
        await here.join()
        await here.bm.set_finalizers((await here.infra_machine())[0], ["ours"])
        await here.users.remove(here.machine)
        await here.infra_machine(lambda resource, _spec: resource.metadata.phase == "tearingDown")
        with refused(
            "ALREADY_EXISTS", "the machine with the same UUID is already registered in Omni and is in the tearing"
        ):
            await here.join()

    omni.served(use)


def test_a_recent_talos_comes_back_with_a_token(omni: Omni) -> None:
    """It is in limbo until it shows a token, which the InfraMachine then has."""

    async def use(here: Site) -> None:
        await here.join(talos=TALOS)
        assert not await has_joined(here)
        unique = unique_token(here.machine)
        await here.join(talos=TALOS, unique=unique)
        assert await known_token(here) == unique

    omni.served(use)


def test_a_machine_that_lost_its_token_shows_another(omni: Omni) -> None:
    """Nothing is installed on it, so its fingerprint is enough; another machine with its UUID stays in limbo."""

    async def use(here: Site) -> None:
        await here.join(talos=TALOS, unique=unique_token(here.machine))
        fresh = unique_token(here.machine)
        await here.join(talos=TALOS, unique=fresh)
        await here.infra_machine(lambda _resource, spec: spec.node_unique_token == fresh)
        await here.join(talos=TALOS, unique=json.dumps({"Fingerprint": "other", "Token": "other"}))
        assert await known_token(here) == fresh
        with refused("PERMISSION_DENIED", "unauthorized"):  # As an old Talos it would have no token at all.
            await here.join()
        await here.join(token="", talos=TALOS, unique=fresh)  # Its own token is enough.

    omni.served(use)


def test_a_wiped_machine_joins_anew(omni: Omni) -> None:
    """Its provider told which token it wiped away."""

    async def use(here: Site) -> None:
        unique = unique_token(here.machine)
        await here.join(talos=TALOS, unique=unique)
        await here.infra_machine()
        await here.say_status(wiped_node_unique_token=unique)
        fresh = unique_token(here.machine)
        await here.join(talos=TALOS, unique=fresh)
        await here.infra_machine(lambda _resource, spec: spec.node_unique_token == fresh)

    omni.served(use)


@in_mode(JoinMode.STRICT)
def test_strict_mode_wants_a_recent_talos(omni: Omni) -> None:
    """Old ones are told so; recent ones join as elsewhere."""

    async def use(here: Site) -> None:
        with refused("FAILED_PRECONDITION", "Talos version v1.5.0 is not supported on this Omni instance"):
            await here.join(talos="1.5.0")
        with refused("FAILED_PRECONDITION", "Talos version  is not supported on this Omni instance"):
            await here.join()
        await here.join(talos=TALOS)
        assert not await has_joined(here)
        unique = unique_token(here.machine)
        await here.join(talos=TALOS, unique=unique)
        assert await known_token(here) == unique

    omni.served(use)


@in_mode(JoinMode.LEGACY)
def test_legacy_mode_wants_no_tokens(omni: Omni) -> None:
    """Machines join at once, recent or not, and with whatever token; it is kept."""

    async def use(here: Site) -> None:
        await here.join(talos=TALOS)
        assert await known_token(here) == ""
        unique = unique_token(here.machine)
        await here.join(talos=TALOS, unique=unique)
        await here.infra_machine(lambda _resource, spec: spec.node_unique_token == unique)
        await here.join()

    omni.served(use)

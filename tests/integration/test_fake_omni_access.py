"""The fake Omni's gate-keeping: signatures, keys and accounts, what a provider may do, what users may do."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pysequoia
import pytest

from provider.lab.omni import keys, names, protos
from provider.lab.omni.fake import Options
from tests.integration.omni_client import COSI, SPECS, Client, made, refused
from tests.integration.omni_sites import FakeSite, Omni, Site, served, until
from tests.integration.omni_users import MANAGEMENT

GET = "/cosi.resource.State/Get"
DEFINITION = COSI.GetRequest(namespace="meta", type=names.DEFINITION, id=names.JOIN_CONFIG.lower())


# --- signatures ---------------------------------------------------------------------------------------------------------


def test_a_signed_call_is_let_in(omni: Omni) -> None:
    """The timestamp may be four minutes off either way; absent headers may be left out, or be null."""

    async def use(here: Site) -> None:
        for seconds in (0, -240, 240):
            await here.bm.call("Get", DEFINITION, metadata=here.bm.sign(GET, seconds))
        stamp = here.bm.sign(GET)[0][1]
        nulls = {"x-sidero-timestamp": [stamp], "nodes": None, "cluster": None}
        await here.bm.call("Get", DEFINITION, metadata=here.bm.sign(GET, headers=nulls))
        await here.bm.call("Get", DEFINITION, metadata=here.bm.sign(GET, cluster="signed"))
        signed = here.bm.sign(GET)
        for _ in range(2):  # There is no protection against replays.
            await here.bm.call("Get", DEFINITION, metadata=[*signed, ("user-agent-of-ours", "x")])

    omni.served(use)


def test_bad_signatures_are_refused_alike(omni: Omni) -> None:
    """Whatever is wrong, the caller is told "invalid signature" and no more."""

    async def use(here: Site) -> None:
        good = here.bm.sign(GET)
        fields = good[-1][1].split(" ")
        stamp = good[0][1]
        armored = fields[3][:-8]
        spoiled = {
            "not found: x-sidero-signature": good[:-1],
            "timestamp is outside": here.bm.sign(GET, -360),
            "timestamp is outside of": here.bm.sign(GET, 360),
            "payload method": here.bm.sign("/cosi.resource.State/List"),
            "payload header does not match: cluster": [*good, ("cluster", "unsigned")],
            "payload header does not match: nodes": here.bm.sign(
                GET, headers={"x-sidero-timestamp": [stamp], "nodes": []}
            ),
            "payload header does not match: x-sidero-timestamp": here.bm.sign(GET, headers={}),
            "unsupported signature version": [*good[:-1], ("x-sidero-signature", " ".join(["siderov2", *fields[1:]]))],
            "the key is not registered": [
                *good[:-1],
                ("x-sidero-signature", " ".join([*fields[:2], "ab" * 20, fields[3]])),
            ],
            "": [*good[:-1], ("x-sidero-signature", " ".join([*fields[:3], armored]))],
            "bad signature": [good[0], ("x-sidero-payload", good[1][1] + " "), good[2]],
        }
        for reason, metadata in spoiled.items():
            with refused("UNAUTHENTICATED", "invalid signature"):
                await here.bm.call("Get", DEFINITION, metadata=metadata)
            why = here.why_refused()
            assert why is None or reason in why, why

    omni.served(use)


def test_armored_signatures_are_refused(omni: Omni) -> None:
    """An easy mistake that Sequoia alone would forgive."""

    async def use(here: Site) -> None:
        *rest, (name, value) = here.bm.sign(GET)
        *fields, raw = value.split(" ")
        armored = str(pysequoia.Sig.from_bytes(base64.b64decode(raw))).encode()
        with refused("UNAUTHENTICATED"):
            metadata = [*rest, (name, " ".join([*fields, base64.b64encode(armored).decode()]))]
            await here.bm.call("Get", DEFINITION, metadata=metadata)
        assert "armored" in (here.why_refused() or "armored")

    omni.served(use)


def test_clock_skew_key_expiry_and_revocation() -> None:
    """A skewed server refuses good signatures; so does one whose key has ended or was taken away."""

    async def use(here: FakeSite) -> None:
        here.omni.faults.skew = timedelta(minutes=6)
        with refused("UNAUTHENTICATED"):
            await here.bm.call("Get", DEFINITION)
        here.omni.faults.skew = timedelta()
        short = Client(here.omni.endpoint, await here.omni.desk.renew_key("bm", timedelta(minutes=3)))
        await short.call("Get", DEFINITION)
        here.omni.faults.skew = timedelta(minutes=4)
        with refused("UNAUTHENTICATED"):
            await short.call("Get", DEFINITION)
        assert here.omni.signatures.why == "public key expired"
        await here.bm.call("Get", DEFINITION)  # Several keys may be valid at once.
        await here.omni.desk.revoke_keys("bm")
        with refused("UNAUTHENTICATED"):
            await here.bm.call("Get", DEFINITION)
        again = Client(here.omni.endpoint, await here.omni.desk.renew_key("bm"))
        await again.call("Get", DEFINITION)
        await short.channel.close()
        await again.channel.close()

    served(use)


def test_eula_and_suspension() -> None:
    """Before the EULA is accepted nothing works; a suspended account reads only."""

    async def use(here: FakeSite) -> None:
        here.omni.signatures.eula_accepted = False
        with refused("FAILED_PRECONDITION", "EULA has not been accepted"):
            await here.bm.call("Get", DEFINITION)
        here.omni.signatures.eula_accepted = True
        await here.omni.desk.suspend()
        assert len(await here.bm.list(names.INFRA, names.PROVIDER_STATUS)) == 1
        with refused("PERMISSION_DENIED", "users are not allowed to modify"):
            await here.bm.create(made(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm"))

    served(use)


def test_streams_are_checked_when_they_open(omni: Omni) -> None:
    """A watch without a good signature is refused, too."""

    async def use(here: Site) -> None:
        with refused("UNAUTHENTICATED"):
            await here.bm.stream("Watch", COSI.WatchRequest(), metadata=here.bm.sign(GET)).read()

    omni.served(use)


# --- accounts -----------------------------------------------------------------------------------------------------------


def test_accounts_are_made_by_administrators(omni: Omni) -> None:
    """Roles and names have to fit, keys have to be public and to end within a year, providers cannot renew theirs."""
    messages = protos.load().management

    async def use(here: Site) -> None:
        name, mail = f"{here.namespace}-two", f"{here.id}-two@infra-provider.serviceaccount.omni.sidero.dev"

        async def create(client: Client, name: str, role: str, armored: str) -> str:
            request = messages.CreateServiceAccountRequest(name=name, role=role, armored_pgp_public_key=armored)
            answer = await client.call("CreateServiceAccount", request, MANAGEMENT)
            return str(answer.public_key_id)

        good = keys.generate(name, mail)
        with refused("PERMISSION_DENIED"):
            await create(here.bm, name, "InfraProvider", good.public)
        with refused("UNKNOWN", "infra-provider service accounts must have the role"):
            await create(here.admin, name, "Admin", good.public)
        with refused("UNKNOWN", "service accounts with role"):
            await create(here.admin, f"{here.id}-two", "InfraProvider", good.public)
        long = keys.generate(name, mail, timedelta(days=366))
        for armored, text in (
            (good.armored, "PGP key contains private key"),
            (long.public, "key lifetime is too long"),
            ("no key", "gopenpgp: error in reading key ring"),
        ):
            with refused("UNKNOWN", text):
                await create(here.admin, name, "InfraProvider", armored)
        assert await create(here.admin, name, "InfraProvider", good.public) == good.fingerprint
        with refused("ALREADY_EXISTS"):
            await create(here.admin, name, "InfraProvider", good.public)
        renewal = messages.RenewServiceAccountRequest(name=here.namespace, armored_pgp_public_key=good.public)
        with refused("PERMISSION_DENIED"):
            await here.bm.call("RenewServiceAccount", renewal, MANAGEMENT)
        two = here.client(good.service_account_key())
        with refused("PERMISSION_DENIED", f'infra provider with name "{two.provider}" is not registered in the system'):
            await two.list(names.INFRA, names.INFRA_MACHINE)
        await two.call("Get", DEFINITION)
        await here.admin.create(made(names.INFRA, names.PROVIDER, two.provider))
        assert await two.list(names.INFRA, names.INFRA_MACHINE) == []
        await here.users.destroy_account(name)
        with refused("UNAUTHENTICATED"):
            await two.list(names.INFRA, names.INFRA_MACHINE)

    omni.served(use)


def test_several_keys_of_an_account_are_good_at_once(omni: Omni) -> None:
    """A key is renewed while the old one is in use; all end with the account."""

    async def use(here: Site) -> None:
        again = here.client(await here.users.renew_key(here.id))
        for client in (here.bm, again):
            await client.call("Get", DEFINITION)
        await here.users.destroy_account(here.namespace)
        for client in (here.bm, again):
            with refused("UNAUTHENTICATED", "invalid signature"):
                await client.call("Get", DEFINITION)

    omni.served(use)


def test_keys_are_like_omnictls() -> None:
    """Base64 of JSON; the primary key signs, ends after a year and has the address of its account."""
    key = keys.generate("infra-provider:bm", "bm@infra-provider.serviceaccount.omni.sidero.dev")
    account = json.loads(base64.b64decode(key.service_account_key()))
    assert account["name"] == "infra-provider:bm"
    cert = pysequoia.Tsk.from_bytes(account["pgp_key"].encode()).extract_certificate()
    assert [str(each) for each in cert.user_ids] == [
        "bm (linux/amd64) <bm@infra-provider.serviceaccount.omni.sidero.dev>"
    ]
    packets = [each.tag.__repr__() for each in pysequoia.packet.PacketPile.from_bytes(bytes(cert))]
    assert packets == ["Tag.PublicKey", "Tag.UserID", "Tag.Signature", "Tag.PublicSubkey", "Tag.Signature"]
    signature = pysequoia.Sig.from_bytes(key.signer()(b"data"))
    assert signature.issuer_fingerprint == key.fingerprint == cert.fingerprint


# --- what a provider may do ---------------------------------------------------------------------------------------------


async def with_machine(here: Site) -> object:
    await here.join()
    return (await here.infra_machine())[0]


def test_a_provider_changes_nothing_but_finalizers_of_what_omni_writes(omni: Omni) -> None:
    """Spec, phase, owner, labels and annotations of an InfraMachine have to come back as they were."""

    async def use(here: Site) -> None:
        await with_machine(here)
        text = (
            f'infra providers are not allowed to update "{names.INFRA_MACHINE}" resources other than setting finalizers'
        )
        spoils = (
            lambda it: setattr(it.spec, "proto_spec", SPECS.InfraMachineSpec(wipe_id="x").SerializeToString()),
            lambda it: setattr(it.spec, "proto_spec", it.spec.proto_spec + b"\xa2\x06\x01x"),  # field 100, unknown
            lambda it: setattr(it.metadata, "phase", "tearingDown"),
            lambda it: setattr(it.metadata, "owner", ""),
            lambda it: it.metadata.labels.clear(),
            lambda it: it.metadata.labels.update(more=""),
            lambda it: it.metadata.annotations.update(more=""),
        )
        for spoil in spoils:
            resource = (await here.infra_machine())[0]
            spoil(resource)
            with refused("PERMISSION_DENIED", text):
                await here.bm.update(resource, names.INFRA_MACHINE_OWNER)
        resource = (await here.infra_machine())[0]
        with refused("PERMISSION_DENIED", "failed to update: resource"):  # is owned by
            await here.bm.update(resource)
        held = await here.bm.set_finalizers(resource, ["ours"])
        assert list(held.metadata.finalizers) == ["ours"]
        resource.metadata.finalizers.append("late")
        with refused("FAILED_PRECONDITION"):
            await here.bm.update(resource, names.INFRA_MACHINE_OWNER)
        with refused("PERMISSION_DENIED", "infra providers are not allowed to destroy"):
            await here.bm.end("Destroy", names.INFRA, names.INFRA_MACHINE, here.machine, names.INFRA_MACHINE_OWNER)
        with refused("PERMISSION_DENIED", text):
            await here.bm.end("Teardown", names.INFRA, names.INFRA_MACHINE, here.machine, names.INFRA_MACHINE_OWNER)

    omni.served(use)


@pytest.mark.parametrize(
    "kind",
    [names.INFRA_MACHINE, names.BMC_CONFIG, names.JOIN_CONFIG, names.MACHINE_REQUEST, names.MACHINE_REGISTRATION],
)
def test_a_provider_creates_nothing_of_omnis(omni: Omni, kind: str) -> None:
    """What Omni writes, Omni writes."""

    async def use(here: Site) -> None:
        with refused("PERMISSION_DENIED", f'infra providers are not allowed to create "{kind}" resources'):
            await here.bm.create(made(names.INFRA, kind, "x"))

    omni.served(use)


def test_own_resources_get_the_label_and_are_named_as_the_provider(omni: Omni) -> None:
    """The server sets the label, again on each update; status and health have the provider's id."""

    async def use(here: Site) -> None:
        status = await here.bm.get(names.INFRA, names.PROVIDER_STATUS, here.id)
        assert status.metadata.labels[names.PROVIDER_LABEL] == here.id
        status.metadata.labels.clear()
        status = await here.bm.update(status)
        assert status.metadata.labels[names.PROVIDER_LABEL] == here.id
        for namespace, kind in ((names.INFRA, names.PROVIDER_STATUS), (names.INFRA_EPHEMERAL, names.HEALTH_STATUS)):
            with refused("INVALID_ARGUMENT", f'resource ID must match the infra provider ID "{here.id}"'):
                await here.bm.create(made(namespace, kind, "other"))
        made_status = await here.bm.create(
            made(names.INFRA, names.INFRA_MACHINE_STATUS, here.machine, owner_of_label="x"), "me"
        )
        assert made_status.metadata.labels[names.PROVIDER_LABEL] == here.id
        await here.bm.end("TeardownAndDestroy", names.INFRA, names.INFRA_MACHINE_STATUS, here.machine, "me")

    omni.served(use)


def test_providers_do_not_see_each_other(omni: Omni) -> None:
    """Get of another's is NOT_FOUND, lists and watches leave it out, nothing of it can be changed."""

    async def use(here: Site) -> None:
        other = await here.provider()
        await other.announce()
        await with_machine(here)
        everywhere = other.watch(names.INFRA, names.INFRA_MACHINE, bootstrap_contents=True)
        assert await everywhere.events(1) == ["BOOTSTRAPPED"]
        single = other.watch(names.INFRA, names.INFRA_MACHINE, here.machine)
        assert await single.response() == []
        together = other.watch(names.INFRA, names.INFRA_MACHINE, aggregated=True)
        assert await together.response() == []
        with refused("NOT_FOUND", "not found"):
            await other.get(names.INFRA, names.INFRA_MACHINE, here.machine)
        assert await other.list(names.INFRA, names.INFRA_MACHINE) == []
        resource = (await here.infra_machine())[0]
        with refused("NOT_FOUND", "not found"):
            await other.set_finalizers(resource, ["other"])
        await here.bm.create(made(names.INFRA, names.INFRA_MACHINE_STATUS, here.machine))
        with refused("NOT_FOUND", "not found"):
            await other.end("Destroy", names.INFRA, names.INFRA_MACHINE_STATUS, here.machine)
        await here.bm.set_finalizers((await here.infra_machine())[0], ["bm"])
        assert await together.response() == []  # An answer whose events were all another's.
        assert await everywhere.quiet()
        assert await single.quiet()

    omni.served(use)


def test_a_single_watch_in_shared_namespaces_says_nothing_of_what_is_missing(omni: Omni) -> None:
    """The tombstone has no label, so it is filtered out: kind watches are better."""

    async def use(here: Site) -> None:
        watch = here.bm.watch(names.INFRA, names.INFRA_MACHINE, here.machine)
        assert await watch.response() == []
        await here.join()
        assert await watch.events(1) == [f"CREATED {here.machine}"]

    omni.served(use)


def test_namespaces_of_a_provider(omni: Omni) -> None:
    """Its own is free, if the type has its suffix; others' and all the rest are closed."""

    async def use(here: Site) -> None:
        await here.bm.create(made(here.namespace, here.kind, "a", b"\xff\xff whatever"), "anybody")
        assert (await here.bm.get(here.namespace, here.kind, "a")).spec.proto_spec == b"\xff\xff whatever"
        await here.bm.end("TeardownAndDestroy", here.namespace, here.kind, "a", "anybody")
        with refused("INVALID_ARGUMENT", f'resources in namespace "{here.namespace}" must have a type suffix'):
            await here.bm.create(made(here.namespace, "Thing.other.infraprovider.sidero.dev", "a"))
        with refused(
            "PERMISSION_DENIED", "namespace not allowed, must be one of: infra-provider, infra-provider-ephemeral"
        ):
            await here.bm.list(f"{here.namespace}-other", here.kind)
        with refused("PERMISSION_DENIED", "failed to validate: "):
            await here.bm.list(names.INFRA, "Others.omni.sidero.dev")
        with refused("PERMISSION_DENIED", "internal error: resource"):
            await here.bm.list(names.INFRA, names.MACHINE)

    omni.served(use)


def test_nobody_guards_infra_kinds_elsewhere(omni: Omni) -> None:
    """In the default namespace they are anybody's, and mean nothing there."""

    async def use(here: Site) -> None:
        await here.bm.create(made(names.DEFAULT, names.INFRA_MACHINE, here.machine))
        await here.bm.end("Destroy", names.DEFAULT, names.INFRA_MACHINE, here.machine)
        with refused("NOT_FOUND"):
            await here.bm.get(names.DEFAULT, names.INFRA_MACHINE, here.machine)

    omni.served(use)


def test_what_else_a_provider_reads(omni: Omni) -> None:
    """Machines and connection parameters; descriptions and features with any good signature; nothing of those is written."""

    async def use(here: Site) -> None:
        assert (await here.bm.call("Get", DEFINITION)).resource.metadata.version == "1"
        for kind, identity in (
            (names.CONNECTION_PARAMS, names.SIDEROLINK),
            (names.API_CONFIG, names.SIDEROLINK),
            (names.FEATURES, names.FEATURES_ID),
        ):
            resource = await here.bm.get(names.DEFAULT, kind, identity)
            with refused("PERMISSION_DENIED", "failed to validate: "):
                await here.bm.update(resource)
        await here.bm.list(names.DEFAULT, names.MACHINE)
        for kind in (
            names.LINK,
            names.USER_CONFIG,
            names.MACHINE_STATUS,
            names.CLUSTER,
            names.USER_BMC_CONFIG,
            names.PUBLIC_KEY,
        ):
            with refused("PERMISSION_DENIED", "failed to validate: "):
                await here.bm.list(names.DEFAULT, kind)

    omni.served(use)


def test_specs_of_known_kinds_have_to_be_such(omni: Omni) -> None:
    """Bytes that are no InfraMachineStatus are refused; the YAML of one is not given back."""

    async def use(here: Site) -> None:
        with refused("UNKNOWN"):
            await here.bm.create(made(names.INFRA, names.INFRA_MACHINE_STATUS, here.machine, b"\xff"))

    omni.served(use)


# --- what users may do --------------------------------------------------------------------------------------------------


def test_users_read_infra_kinds_and_modify_none(omni: Omni) -> None:
    """An administrator reads everything, others all but BMC credentials; nobody forges a machine or its status."""

    async def use(here: Site) -> None:
        reader = await here.account("eyes", "Reader")
        await with_machine(here)
        await here.users.set_bmc(here.machine, ipmi={"address": "10.0.0.7", "username": "u", "password": "p"})
        await reader.get(names.INFRA, names.INFRA_MACHINE, here.machine)
        await until(lambda: here.admin.find(names.INFRA, names.BMC_CONFIG, here.machine))
        with refused("PERMISSION_DENIED", "only admins are allowed to read"):
            await reader.list(names.INFRA, names.BMC_CONFIG)
        for kind in (names.INFRA_MACHINE, names.INFRA_MACHINE_STATUS, names.PROVIDER_STATUS):
            with refused("PERMISSION_DENIED", f'users are not allowed to modify "{kind}" resources'):
                await here.admin.create(made(names.INFRA, kind, "x"))
        config = made(names.DEFAULT, names.USER_CONFIG, here.machine)
        with refused("PERMISSION_DENIED", "failed to validate: "):
            await reader.create(config)
        with refused("INVALID_ARGUMENT", "failed to validate: "):
            await here.admin.create(made(names.INFRA, names.PROVIDER, "No_Label"))

    omni.served(use)


def test_users_configurations_are_validated(omni: Omni) -> None:
    """Lengths, control characters, and: accepted is accepted, as long as the machine is linked."""

    async def use(here: Site) -> None:
        operator = await here.account("hands", "Operator")
        await here.join()
        for spec in (
            SPECS.InfraMachineConfigSpec(requested_reboot_id="x" * 129),
            SPECS.InfraMachineConfigSpec(power_off_request_id="x\n"),
            SPECS.InfraMachineConfigSpec(extra_kernel_args="x" * 4097),
        ):
            with refused("INVALID_ARGUMENT", "failed to validate: "):
                await operator.create(made(names.DEFAULT, names.USER_CONFIG, here.machine, spec))
        rejected = SPECS.InfraMachineConfigSpec(acceptance_status=SPECS.REJECTED)
        config = await operator.create(made(names.DEFAULT, names.USER_CONFIG, here.machine, rejected))
        config.spec.proto_spec = SPECS.InfraMachineConfigSpec(acceptance_status=SPECS.ACCEPTED).SerializeToString()
        config = await operator.update(config)
        await here.infra_machine(lambda _resource, spec: spec.acceptance_status == SPECS.ACCEPTED)
        config.spec.proto_spec = rejected.SerializeToString()
        with refused("INVALID_ARGUMENT", "failed to validate: "):
            await operator.update(config)
        for verb in ("Destroy", "Teardown", "TeardownAndDestroy"):
            with refused("INVALID_ARGUMENT", "failed to validate: "):
                await operator.end(verb, names.DEFAULT, names.USER_CONFIG, here.machine)

    omni.served(use)


def test_a_provider_with_machines_is_not_deleted(omni: Omni) -> None:
    """First its machines go."""

    async def use(here: Site) -> None:
        await here.accepted()
        await until(lambda: here.admin.find(names.DEFAULT, names.MACHINE, here.machine))
        with refused("INVALID_ARGUMENT", "failed to validate: "):
            await here.admin.end("TeardownAndDestroy", names.INFRA, names.PROVIDER, here.id)

    omni.served(use)


def test_an_old_omni_has_no_join_configs() -> None:
    """Providers find that out by the missing description, and read the parameters of connections."""

    async def use(here: FakeSite) -> None:
        with refused("NOT_FOUND"):
            await here.bm.call("Get", DEFINITION)
        assert await here.bm.list(names.INFRA, names.JOIN_CONFIG) == []
        found = await here.bm.get(names.DEFAULT, names.CONNECTION_PARAMS, names.SIDEROLINK)
        assert SPECS.ConnectionParamsSpec.FromString(found.spec.proto_spec).join_token

    served(use, Options(old=True))

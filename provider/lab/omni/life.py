"""
What Omni's controllers make of providers, links, users' wishes and machines' events.

One task looks at what changed and brings it in order, as the controllers do: a moment later, never in the same instant. Each look
starts from the state alone, so the fake may be killed between any two.
After omni:internal/backend/runtime/omni/controllers/omni/infra_machine.go, bmc_config.go, provider_join_config.go,
infra_provider_cleanup.go, machine.go and machine/status.go.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from provider.kit.jsontypes import JsonObject
from provider.kit.signal import Signal
from provider.lab.omni import join, names, protos, resources
from provider.lab.omni.accounts import Accounts
from provider.lab.omni.protos import Message
from provider.lab.omni.resources import Resource
from provider.lab.omni.state import State

HEALTHY_FOR = timedelta(seconds=31)

_OF_MACHINES = frozenset(
    {
        names.LINK,
        names.UNIQUE_TOKEN,
        names.INFRA_MACHINE,
        names.USER_CONFIG,
        names.USER_BMC_CONFIG,
        names.EXTENSIONS,
        names.CLUSTER_MACHINE,
        names.MACHINE,
        names.MACHINE_STATUS,
        names.INFRA_MACHINE_STATUS,
    }
)
"""Kinds whose id is that of a machine."""


class Life:
    """The controllers, and what can be read off the state."""

    def __init__(
        self, state: State, accounts: Accounts, machine_api: str, now: Callable[[], datetime], *, old: bool
    ) -> None:
        """`old`: make no ProviderJoinConfigs."""
        self._state = state
        self._accounts = accounts
        self._machine_api = machine_api
        self._now = now
        self._old = old
        self._dirty: dict[str, None] = {}
        self._rang = Signal()
        self._idle = Signal()
        state.listeners.append(self._changed)
        for kind in (names.PROVIDER, names.LINK, names.INFRA_MACHINE, names.USER_BMC_CONFIG):
            for namespace in (names.INFRA, names.DEFAULT):
                for resource in state.list(namespace, kind):
                    self._changed(resource)

    async def run(self) -> None:
        """Bring in order what changed, for ever; ends with the fake if it fails."""
        while True:
            while not self._dirty:
                self._idle.ring()
                await self._rang.ticket().wait()
            await asyncio.sleep(0)  # Others have their turn between any two.
            key = next(iter(self._dirty))
            del self._dirty[key]
            kind, _, identity = key.partition(" ")
            if kind == "provider":
                self._provider(identity)
            else:
                self._machine(identity)

    async def settled(self) -> None:
        """Wait until nothing is left to bring in order."""
        while self._dirty:
            await self._idle.ticket().wait()

    # --- what changed ------------------------------------------------------------------------------------------------

    def _changed(self, resource: Resource) -> None:
        if resource.type in _OF_MACHINES:
            self._look_at("machine", resource.id)
        elif resource.type == names.CLUSTER:
            for machine in self._state.list(names.DEFAULT, names.CLUSTER_MACHINE):
                if machine.labels.get(names.CLUSTER_LABEL) == resource.id:
                    self._look_at("machine", machine.id)
        elif resource.type in (names.PROVIDER, names.PROVIDER_STATUS):
            self._look_at("provider", resource.id)
            for link in self._links(resource.id):
                self._look_at("machine", link.id)
        provider = resource.labels.get(names.PROVIDER_LABEL, "")
        if provider and not self._provider_stays(provider):
            self._look_at("provider", provider)

    def _look_at(self, kind: str, identity: str) -> None:
        self._dirty[f"{kind} {identity}"] = None
        self._rang.ring()

    def _links(self, provider: str) -> list[Resource]:
        def match(link: Resource) -> bool:
            return link.labels.get(names.PROVIDER_LABEL) == provider

        return self._state.list(names.DEFAULT, names.LINK, match)

    # --- providers ---------------------------------------------------------------------------------------------------

    def _provider(self, identity: str) -> None:
        provider = self._state.find(names.INFRA, names.PROVIDER, identity)
        if provider is None:
            return
        if provider.tearing_down:
            self._remove_provider(provider)
            return
        self._finalize(provider, names.CLEANUP_OWNER)
        if self._old:
            return
        found = self._state.find(names.INFRA, names.JOIN_CONFIG, identity)
        plain = resources.spec_of(found).join_token if found else secrets.token_urlsafe(32)
        spec = join.join_config(self._machine_api, plain, identity)

        def change(config: Resource) -> Resource:
            return resources.relabelled(resources.with_spec(config, spec), {names.PROVIDER_LABEL: identity})

        self._state.modify(Resource(names.INFRA, names.JOIN_CONFIG, identity), change, names.JOIN_CONFIG_OWNER)

    def _remove_provider(self, provider: Resource) -> None:
        account = f"{names.PRIVATE_PREFIX}{provider.id}"
        if self._accounts.exists(account):
            self._accounts.destroy(account)
        for link in self._links(provider.id):
            self._state.teardown(names.DEFAULT, names.LINK, link.id, link.owner)
        gone = [
            self._remove(names.INFRA, names.PROVIDER_STATUS, provider.id),
            self._remove(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, provider.id),
            self._remove(names.INFRA, names.JOIN_CONFIG, provider.id),
        ]
        gone += [
            self._remove(names.INFRA, names.INFRA_MACHINE_STATUS, status.id)
            for status in self._state.list(names.INFRA, names.INFRA_MACHINE_STATUS)
            if status.labels.get(names.PROVIDER_LABEL) == provider.id
        ]
        if all(gone):
            self._release(provider, names.CLEANUP_OWNER)
            self._remove(names.INFRA, names.PROVIDER, provider.id)

    # --- machines ----------------------------------------------------------------------------------------------------

    def _machine(self, identity: str) -> None:
        for kind in (names.USER_CONFIG, names.USER_BMC_CONFIG):  # What users tear down, Omni destroys.
            if (wish := self._state.find(names.DEFAULT, kind, identity)) is not None and wish.tearing_down:
                self._remove(names.DEFAULT, kind, identity)
        link = self._state.find(names.DEFAULT, names.LINK, identity)
        if link is None or link.tearing_down:
            self._remove_machine(identity, link)
            return
        provider = link.labels.get(names.PROVIDER_LABEL)
        status = self._state.find(names.INFRA, names.PROVIDER_STATUS, provider or "")
        if provider is None or status is None or names.STATIC_LABEL not in status.labels:
            return
        self._finalize(link, names.INFRA_MACHINE_OWNER)
        existing = self._state.find(names.INFRA, names.INFRA_MACHINE, identity)
        if existing is not None and existing.tearing_down:
            return
        self._state.modify(
            Resource(names.INFRA, names.INFRA_MACHINE, identity),
            lambda machine: self._infra_machine(machine, provider),
            names.INFRA_MACHINE_OWNER,
        )
        self._cluster_machine(identity)
        self._bmc_config(identity, provider)
        self._omni_machine(identity, link, provider)

    def _infra_machine(self, machine: Resource, provider: str) -> Resource:
        """The InfraMachine that link, user and cluster make."""
        spec = resources.spec_of(machine)
        machine = resources.relabelled(machine, {names.PROVIDER_LABEL: provider})
        machine = self._with_user_config(machine, spec)
        token = self._state.find(names.DEFAULT, names.UNIQUE_TOKEN, machine.id)
        if token is not None:
            spec.node_unique_token = resources.spec_of(token).token
        member = self._state.find(names.DEFAULT, names.CLUSTER_MACHINE, machine.id)
        if member is None:
            spec.power_off_request_id = ""
            return resources.with_spec(machine, spec)
        machine = resources.relabelled(machine, {name: member.labels.get(name) for name in names.ALLOCATION_LABELS})
        if not member.tearing_down:
            spec.cluster_talos_version = self._cluster_version(member)
            extensions = self._state.find(names.DEFAULT, names.EXTENSIONS, machine.id)
            spec.extensions[:] = [] if extensions is None else resources.spec_of(extensions).extensions
            return resources.with_spec(machine, spec)
        spec.power_off_request_id = ""
        if names.RESET_OWNER not in member.finalizers:
            if spec.cluster_talos_version:
                spec.wipe_id = str(uuid.uuid4())
            spec.cluster_talos_version = ""
            spec.extensions[:] = []
            machine = resources.relabelled(machine, dict.fromkeys(names.ALLOCATION_LABELS))
        return resources.with_spec(machine, spec)

    def _with_user_config(self, machine: Resource, spec: Message) -> Resource:
        """Copy what the user wants; without a configuration acceptance, cordon and reboot id stay as they were."""
        kinds = protos.load().specs
        spec.preferred_power_state = kinds.InfraMachineSpec.OFF
        spec.extra_kernel_args = spec.power_off_request_id = ""
        config = self._state.find(names.DEFAULT, names.USER_CONFIG, machine.id)
        if config is not None:
            wanted = resources.spec_of(config)
            spec.requested_reboot_id = wanted.requested_reboot_id
            spec.acceptance_status = wanted.acceptance_status
            spec.cordoned = wanted.cordoned
            spec.extra_kernel_args = wanted.extra_kernel_args
            spec.power_off_request_id = wanted.power_off_request_id
            if wanted.power_state == kinds.InfraMachineConfigSpec.ON:
                spec.preferred_power_state = kinds.InfraMachineSpec.ON
        pending = config is None or spec.acceptance_status == kinds.PENDING
        if not self._is_known(machine.id):
            spec.preferred_power_state = kinds.InfraMachineSpec.ON
        return resources.relabelled(machine, {names.PENDING_LABEL: "" if pending else None})

    def _is_known(self, machine: str) -> bool:
        """Whether Omni has collected the machine's information: until then it is to stay on."""
        status = self._state.find(names.DEFAULT, names.MACHINE_STATUS, machine)
        return status is not None and resources.spec_of(status).HasField("security_state")

    def _cluster_version(self, member: Resource) -> str:
        cluster = self._state.find(names.DEFAULT, names.CLUSTER, member.labels.get(names.CLUSTER_LABEL, ""))
        return "" if cluster is None else str(resources.spec_of(cluster).talos_version)

    def _cluster_machine(self, identity: str) -> None:
        """Hold a member of a cluster until what it was is cleared from its InfraMachine."""
        member = self._state.find(names.DEFAULT, names.CLUSTER_MACHINE, identity)
        if member is None:
            return
        if not member.tearing_down:
            self._finalize(member, names.INFRA_MACHINE_OWNER)
        elif names.RESET_OWNER not in member.finalizers:
            self._release(member, names.INFRA_MACHINE_OWNER)
            self._remove(names.DEFAULT, names.CLUSTER_MACHINE, identity)

    def _bmc_config(self, identity: str, provider: str) -> None:
        wanted = self._state.find(names.DEFAULT, names.USER_BMC_CONFIG, identity)
        if wanted is None:
            self._remove(names.INFRA, names.BMC_CONFIG, identity)
            return
        spec = protos.load().specs.BMCConfigSpec(config=resources.spec_of(wanted))

        def change(config: Resource) -> Resource:
            return resources.relabelled(resources.with_spec(config, spec), {names.PROVIDER_LABEL: provider})

        self._state.modify(Resource(names.INFRA, names.BMC_CONFIG, identity), change, names.BMC_CONFIG_OWNER)

    def _omni_machine(self, identity: str, link: Resource, provider: str) -> None:
        """Of an accepted machine Omni keeps a Machine and its status."""
        infra = self._state.find(names.INFRA, names.INFRA_MACHINE, identity)
        if infra is None or resources.spec_of(infra).acceptance_status != protos.load().specs.ACCEPTED:
            return
        connection = resources.spec_of(link)
        labels: dict[str, str | None] = {names.PROVIDER_LABEL: provider, names.MANAGED_LABEL: ""}

        def machine(resource: Resource) -> Resource:
            spec = resources.spec_of(resource)
            spec.management_address = connection.node_subnet.partition("/")[0]
            spec.connected = connection.connected
            return resources.relabelled(resources.with_spec(resource, spec), labels)

        self._state.modify(Resource(names.DEFAULT, names.MACHINE, identity), machine, names.MACHINE_OWNER)
        self._state.modify(
            Resource(names.DEFAULT, names.MACHINE_STATUS, identity),
            lambda resource: self._machine_status(resource, connection, provider),
            names.MACHINE_STATUS_OWNER,
        )

    def _machine_status(self, resource: Resource, connection: Message, provider: str) -> Resource:
        spec = resources.spec_of(resource)
        spec.connected = connection.connected
        if connection.connected and not spec.HasField("security_state"):
            spec.security_state.SetInParent()
        member = self._state.find(names.DEFAULT, names.CLUSTER_MACHINE, resource.id)
        spec.cluster = "" if member is None else member.labels.get(names.CLUSTER_LABEL, "")
        found = self._state.find(names.INFRA, names.INFRA_MACHINE_STATUS, resource.id)
        switchable = found is not None and resources.spec_of(found).power_state != 0
        ready = switchable and found is not None and resources.spec_of(found).ready_to_use and not spec.cluster
        kept = {
            name: value for name, value in resource.labels.items() if not name.startswith(names.COPIED_LABEL_PREFIX)
        }
        copied = {} if found is None else _copied_labels(found, provider)
        labels: dict[str, str | None] = {
            names.PROVIDER_LABEL: provider,
            names.MANAGED_LABEL: "",
            names.CONNECTED_LABEL: "" if spec.connected else None,
            names.DISCONNECTED_LABEL: None if spec.connected or switchable else "",
            names.READY_LABEL: "" if spec.connected or ready else None,
        }
        return resources.relabelled(resources.with_spec(replace(resource, labels=kept | copied), spec), labels)

    def _remove_machine(self, identity: str, link: Resource | None) -> None:
        """The way out: cluster first, then the InfraMachine when its provider has let go, then the link."""
        member = self._state.find(names.DEFAULT, names.CLUSTER_MACHINE, identity)
        if member is not None:
            if not member.tearing_down:
                self._state.teardown(names.DEFAULT, names.CLUSTER_MACHINE, identity, member.owner)
                return
            if names.RESET_OWNER in member.finalizers:
                return
            self._release(member, names.INFRA_MACHINE_OWNER)
            self._remove(names.DEFAULT, names.CLUSTER_MACHINE, identity)
        if link is not None:
            self._clean_up(identity)
        machine = self._state.find(names.INFRA, names.INFRA_MACHINE, identity)
        if machine is not None and not self._provider_stays(machine.labels.get(names.PROVIDER_LABEL, "")):
            self._state.update(replace(machine, finalizers=()), machine.owner)
        if not self._remove(names.INFRA, names.INFRA_MACHINE, identity) or link is None:
            return
        self._release(link, names.INFRA_MACHINE_OWNER)
        self._remove(names.DEFAULT, names.LINK, identity)

    def _clean_up(self, identity: str) -> None:
        """What goes with a link. A user's configuration goes with the Machine, so that a rejected machine stays rejected."""
        if self._state.find(names.DEFAULT, names.MACHINE, identity) is not None:
            self._remove(names.DEFAULT, names.USER_CONFIG, identity)
            self._remove(names.DEFAULT, names.USER_BMC_CONFIG, identity)
        for kind in (names.MACHINE_STATUS, names.MACHINE, names.EXTENSIONS, names.UNIQUE_TOKEN):
            self._remove(names.DEFAULT, kind, identity)
        self._remove(names.INFRA, names.BMC_CONFIG, identity)

    def _provider_stays(self, provider: str) -> bool:
        found = self._state.find(names.INFRA, names.PROVIDER, provider)
        return found is not None and not found.tearing_down

    # --- events ------------------------------------------------------------------------------------------------------

    def installed(self, machine: str) -> None:
        """Raise the install event id of a machine that is not going; others have none."""
        current = self._state.find(names.INFRA, names.INFRA_MACHINE, machine)
        if current is None or current.tearing_down:
            return
        spec = resources.spec_of(current)
        spec.install_event_id += 1
        self._state.update(resources.with_spec(current, spec), current.owner)

    # --- what can be read off ----------------------------------------------------------------------------------------

    def config_refusal(self, machine: str) -> str:
        """Why a machine's configuration would not be applied now; empty if it would."""
        status = self._state.find(names.DEFAULT, names.MACHINE_STATUS, machine)
        if self._state.find(names.DEFAULT, names.CLUSTER_MACHINE, machine) is None or status is None:
            return "the machine is not in a cluster"
        seen = resources.spec_of(status)
        if not seen.connected:
            return "the machine is not connected"
        found = self._state.find(names.INFRA, names.INFRA_MACHINE_STATUS, machine)
        if found is None:
            return "machine is managed by a static infra provider but the infra machine status is not found"
        spec = resources.spec_of(found)
        if not spec.ready_to_use:
            return "machine is managed by static infra provider but is not ready to use"
        if not spec.installed and any(disk.system_disk for disk in seen.hardware.blockdevices):
            return "machine was wiped but still reports a stale system disk"
        return ""

    def power_stage(self, machine: str) -> str:
        """What Omni's interface shows of a machine that is off, else empty."""
        found = self._state.find(names.INFRA, names.INFRA_MACHINE_STATUS, machine)
        kinds = protos.load().specs.InfraMachineStatusSpec
        if found is None or resources.spec_of(found).power_state != kinds.OFF:
            return ""
        allocated = self._state.find(names.DEFAULT, names.CLUSTER_MACHINE, machine) is not None
        honoured = bool(resources.spec_of(found).last_power_off_id)
        return "powering on" if allocated and not honoured else "powered off"

    def health(self, provider: str) -> JsonObject:
        """Whether a provider is there, as the combined status says it."""
        status = self._state.find(names.INFRA, names.PROVIDER_STATUS, provider)
        beat = self._state.find(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, provider)
        spec = None if beat is None else resources.spec_of(beat)
        last = None if spec is None else spec.last_heartbeat_timestamp.ToDatetime(UTC)
        return {
            "initialized": status is not None,
            "static": status is not None and names.STATIC_LABEL in status.labels,
            "connected": last is not None and self._now() - last < HEALTHY_FOR,
            "last_heartbeat": None if last is None else last.isoformat(),
            "error": "" if spec is None else spec.error,
        }

    # --- in small ----------------------------------------------------------------------------------------------------

    def _finalize(self, resource: Resource, finalizer: str) -> None:
        current = self._state.get(resource.namespace, resource.type, resource.id)
        if finalizer not in current.finalizers:
            self._state.update(replace(current, finalizers=(*current.finalizers, finalizer)), current.owner)

    def _release(self, resource: Resource, finalizer: str) -> None:
        current = self._state.get(resource.namespace, resource.type, resource.id)
        if finalizer in current.finalizers:
            rest = tuple(each for each in current.finalizers if each != finalizer)
            self._state.update(replace(current, finalizers=rest), current.owner)

    def _remove(self, namespace: str, kind: str, identity: str) -> bool:
        """Tear down and destroy; whether it is gone."""
        current = self._state.find(namespace, kind, identity)
        if current is None:
            return True
        if not self._state.teardown(namespace, kind, identity, current.owner):
            return False
        self._state.destroy(namespace, kind, identity, current.owner)
        return True


def _copied_labels(status: Resource, provider: str) -> dict[str, str]:
    """Labels that the provider gave its status, as users can select by them."""
    own = {name: value for name, value in status.labels.items() if not name.startswith("omni.sidero.dev/")}
    return {f"{names.COPIED_LABEL_PREFIX}{provider}/{name}": value for name, value in own.items()}

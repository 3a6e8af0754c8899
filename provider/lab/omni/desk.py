"""
What users do, and what machines say, as methods: the tests call them, `desk_http` and `machine_port` offer them to others.

Each writes the resource that Omni's interface would write, and returns when the controllers have done their part.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Literal

import grpc

from provider.kit.jsontypes import JsonObject
from provider.lab.omni import accounts, keys, management, names, protos, resources
from provider.lab.omni.accounts import Accounts, Role
from provider.lab.omni.faults import Faults
from provider.lab.omni.join import Joined, JoinRequest, Joins
from provider.lab.omni.life import Life
from provider.lab.omni.resources import CallError, Resource
from provider.lab.omni.service import Calls
from provider.lab.omni.state import State
from provider.lab.omni.storage import Storage

_ACCEPTED = 1
_REJECTED = 2


class Desk:
    """Users' and machines' side of a fake Omni."""

    def __init__(
        self, state: State, storage: Storage, people: Accounts, joins: Joins, life: Life, calls: Calls, faults: Faults
    ):
        self.state = state
        self.faults = faults
        self._storage = storage
        self._accounts = people
        self._joins = joins
        self._life = life
        self._calls = calls

    # --- providers and accounts --------------------------------------------------------------------------------------

    async def create_provider(self, provider: str, lifetime: timedelta = keys.LIFETIME) -> str:
        """
        `omnictl infraprovider create`; gives the key string.

        Raises:
            CallError: If there is one of that id, or the id is no DNS label.
        """
        if not accounts.is_dns_label(provider):
            raise CallError(grpc.StatusCode.INVALID_ARGUMENT, f'invalid infra provider name: "{provider}"')
        self.state.create(Resource(names.INFRA, names.PROVIDER, provider))
        key = await self.create_account(f"{names.PRIVATE_PREFIX}{provider}", "InfraProvider", lifetime)
        return key.service_account_key()

    async def create_account(self, name: str, role: Role, lifetime: timedelta = keys.LIFETIME) -> keys.KeyPair:
        """An account for a person or a program, with its first key."""
        key = keys.generate(name, accounts.identity_of(name), lifetime)
        self._accounts.create(name, role, key.public)
        await self._life.settled()
        return key

    async def renew_key(self, provider: str, lifetime: timedelta = keys.LIFETIME) -> str:
        """A further key for a provider; gives the key string."""
        name = f"{names.PRIVATE_PREFIX}{provider}"
        key = keys.generate(name, accounts.identity_of(name), lifetime)
        self._accounts.renew(name, key.public)
        return key.service_account_key()

    async def revoke_keys(self, provider: str) -> None:
        """Take all keys of a provider away; the account stays."""
        identity = accounts.identity_of(f"{names.PRIVATE_PREFIX}{provider}")
        for key in self.state.list(names.DEFAULT, names.PUBLIC_KEY):
            if resources.spec_of(key).identity.email == identity:
                self.state.destroy(key.namespace, key.type, key.id)

    async def suspend(self, suspended: bool = True) -> None:
        """Suspend Omni's account: all callers become readers."""
        self._accounts.suspended = suspended

    async def remove_provider(self, provider: str) -> None:
        """Tear a provider down; Omni destroys it, and its links go with it."""
        self.state.teardown(names.INFRA, names.PROVIDER, provider)
        await self._life.settled()

    async def rotate_join_token(self, provider: str) -> None:
        """Give a provider's machines another join token: old ones can no longer join with theirs."""
        config = self.state.get(names.INFRA, names.JOIN_CONFIG, provider)
        spec = resources.spec_of(config)
        spec.join_token = uuid.uuid4().hex
        self.state.update(resources.with_spec(config, spec), config.owner)
        self.state.modify(self.state.get(names.INFRA, names.PROVIDER, provider), _touched)
        await self._life.settled()

    # --- what users want of machines ---------------------------------------------------------------------------------

    async def accept(self, machine: str) -> None:
        """The machine is ours: from now on it may be wiped."""
        await self.configure(machine, acceptance_status=_ACCEPTED)

    async def reject(self, machine: str) -> None:
        """
        The machine is none of ours.

        Raises:
            CallError: INVALID_ARGUMENT, if it was accepted.
        """
        await self.configure(machine, acceptance_status=_REJECTED)

    async def cordon(self, machine: str, cordoned: bool = True) -> None:
        """Leave the machine alone, or do so no longer."""
        await self.configure(machine, cordoned=cordoned)

    async def reboot(self, machine: str, request: str = "") -> str:
        """Ask for a reboot; gives the id of the request."""
        request = request or str(uuid.uuid4())
        await self.configure(machine, requested_reboot_id=request)
        return request

    async def prefer_power(self, machine: str, power: Literal["DEFAULT", "OFF", "ON"]) -> None:
        """What the machine is to do while nobody uses it."""
        await self.configure(machine, power_state=power)

    async def set_arguments(self, machine: str, arguments: str) -> None:
        """Further kernel arguments."""
        await self.configure(machine, extra_kernel_args=arguments)

    async def power_off(self, machine: str) -> None:
        """The management call; raises CallError as it does."""
        management.request_power_off(self.state, machine)
        await self._life.settled()

    async def power_on(self, machine: str) -> None:
        """Take a power-off request back."""
        await self.configure(machine, power_off_request_id="")

    async def configure(self, machine: str, **changes: object) -> None:
        """
        Write the user's configuration of a machine.

        Raises:
            CallError: INVALID_ARGUMENT for what Omni does not take.
        """
        empty = Resource(names.DEFAULT, names.USER_CONFIG, machine)
        current = self.state.find(names.DEFAULT, names.USER_CONFIG, machine)
        spec = resources.spec_of(current or empty)
        if spec.acceptance_status == _ACCEPTED and changes.get("acceptance_status", _ACCEPTED) != _ACCEPTED:
            text = "failed to validate: an accepted machine cannot be rejected or set back to pending acceptance"
            raise CallError(grpc.StatusCode.INVALID_ARGUMENT, text)
        for name, value in changes.items():
            setattr(spec, name, value)
        self.state.modify(empty, lambda resource: resources.with_spec(resource, spec))
        await self._life.settled()

    async def set_bmc(
        self, machine: str, address: str, port: int = 0, username: str = "", password: str = "", *, api: bool = False
    ) -> None:
        """Say how the machine's BMC is reached; `api`: `address` is that of a power API of tests."""
        kind = protos.load().specs.InfraMachineBMCConfigSpec
        ipmi = kind.IPMI(address=address, port=port, username=username, password=password)
        spec = kind(api=kind.API(address=address)) if api else kind(ipmi=ipmi)
        empty = Resource(names.DEFAULT, names.USER_BMC_CONFIG, machine)
        self.state.modify(empty, lambda resource: resources.with_spec(resource, spec))
        await self._life.settled()

    async def clear_bmc(self, machine: str) -> None:
        """Take that back."""
        self.state.destroy(names.DEFAULT, names.USER_BMC_CONFIG, machine)
        await self._life.settled()

    async def allocate(
        self,
        machine: str,
        cluster: str = "lab",
        version: str = "1.13.7",
        role: Literal["controlplane", "worker"] = "controlplane",
        extensions: Sequence[str] = (),
    ) -> None:
        """
        Put a machine into a cluster, which is made if there is none.

        Raises:
            CallError: NOT_FOUND if there is no accepted machine, ALREADY_EXISTS if it is in a cluster.
        """
        self.state.get(names.DEFAULT, names.MACHINE, machine)
        specs = protos.load().specs
        if self.state.find(names.DEFAULT, names.CLUSTER, cluster) is None:
            made = Resource(names.DEFAULT, names.CLUSTER, cluster)
            self.state.create(resources.with_spec(made, specs.ClusterSpec(talos_version=version)))
        wanted = specs.MachineExtensionsSpec(extensions=extensions)
        empty = Resource(names.DEFAULT, names.EXTENSIONS, machine)
        self.state.modify(empty, lambda resource: resources.with_spec(resource, wanted))
        is_worker = role == "worker"
        member_labels = {
            names.CLUSTER_LABEL: cluster,
            names.MACHINE_SET_LABEL: f"{cluster}-{'workers' if is_worker else 'control-planes'}",
            names.WORKER_LABEL if is_worker else names.CONTROL_PLANE_LABEL: "",
        }
        member = Resource(names.DEFAULT, names.CLUSTER_MACHINE, machine, labels=member_labels)
        self.state.create(replace(member, finalizers=(names.RESET_OWNER,)))
        await self._life.settled()

    async def upgrade(self, cluster: str, version: str) -> None:
        """Another Talos version for a cluster."""
        current = self.state.get(names.DEFAULT, names.CLUSTER, cluster)
        spec = resources.spec_of(current)
        spec.talos_version = version
        self.state.update(resources.with_spec(current, spec))
        await self._life.settled()

    async def release(self, machine: str, reset: bool = True) -> None:
        """Take a machine out of its cluster; `reset`: Omni resets its Talos at once, else at `reset_done`."""
        self.state.teardown(names.DEFAULT, names.CLUSTER_MACHINE, machine)
        if reset:
            await self.reset_done(machine)
        await self._life.settled()

    async def reset_done(self, machine: str) -> None:
        """Talos was reset on a machine that is being released."""
        current = self.state.get(names.DEFAULT, names.CLUSTER_MACHINE, machine)
        rest = tuple(each for each in current.finalizers if each != names.RESET_OWNER)
        self.state.update(replace(current, finalizers=rest))
        await self._life.settled()

    async def remove(self, machine: str) -> None:
        """Delete a machine's link; all of it is gone when its provider has let go."""
        self.state.teardown(names.DEFAULT, names.LINK, machine)
        await self._life.settled()

    # --- what machines say -------------------------------------------------------------------------------------------

    async def provision(self, request: JoinRequest) -> Joined:
        """A machine joins; raises CallError as Omni refuses it."""
        joined = self._joins.provision(request)
        await self._life.settled()
        return joined

    async def sequence_event(self, machine: str, sequence: str, action: str, fatal: str = "") -> bool:
        """
        Talos tells where it is; whether Omni takes it for an installation. `fatal` is the text of a fatal error.

        Raises:
            CallError: NOT_FOUND, if Omni has no Machine of it (it was not accepted).
        """
        self.state.get(names.DEFAULT, names.MACHINE, machine)
        rebooting = sequence == "install" and action == "NOOP" and "unix.Reboot" in fatal
        if not rebooting and (sequence, action) != ("boot", "START"):
            return False
        self._life.installed(machine)
        await self._life.settled()
        return True

    async def connect(self, machine: str, connected: bool) -> None:
        """WireGuard comes or goes."""
        current = self.state.get(names.DEFAULT, names.LINK, machine)
        spec = resources.spec_of(current)
        spec.connected = connected
        self.state.modify(current, lambda resource: resources.with_spec(resource, spec))
        await self._life.settled()

    async def see_system_disk(self, machine: str, disk: str) -> None:
        """Omni sees on which disk Talos is (such as `/dev/sda`), or on none."""
        current = self.state.get(names.DEFAULT, names.MACHINE_STATUS, machine)
        spec = resources.spec_of(current)
        del spec.hardware.blockdevices[:]
        if disk:
            spec.hardware.blockdevices.add(linux_name=disk, system_disk=True)
        self.state.update(resources.with_spec(current, spec), current.owner)
        await self._life.settled()

    # --- looking -----------------------------------------------------------------------------------------------------

    def providers(self) -> list[JsonObject]:
        """All providers, with status and health."""
        found = self.state.list(names.INFRA, names.PROVIDER)
        return [
            {
                "id": each.id,
                "phase": each.phase,
                **self._life.health(each.id),
                "status": self._plain(names.INFRA, names.PROVIDER_STATUS, each.id),
                "join": self._plain(names.INFRA, names.JOIN_CONFIG, each.id),
                "open_streams": self._calls.open_streams[accounts.identity_of(f"{names.PRIVATE_PREFIX}{each.id}")],
            }
            for each in found
        ]

    def machines(self) -> list[JsonObject]:
        """All machines that have a link or an InfraMachine: see `machine`."""
        found = [*self.state.list(names.DEFAULT, names.LINK), *self.state.list(names.INFRA, names.INFRA_MACHINE)]
        return [self.machine(identity) for identity in sorted({each.id for each in found})]

    def machine(self, machine: str) -> JsonObject:
        """
        Everything about a machine.

        Raises:
            CallError: NOT_FOUND.
        """
        link = self.state.find(names.DEFAULT, names.LINK, machine)
        infra = self.state.find(names.INFRA, names.INFRA_MACHINE, machine)
        if link is None and infra is None:
            raise CallError(grpc.StatusCode.NOT_FOUND, f"there is no machine {machine}")
        status = self.state.find(names.INFRA, names.INFRA_MACHINE_STATUS, machine)
        seen = self.state.find(names.DEFAULT, names.MACHINE_STATUS, machine)
        refusal = self._life.config_refusal(machine)
        return {
            "id": machine,
            "link": None if link is None else link.phase,
            "infra": None if infra is None else resources.view(infra),
            "status": None if status is None else resources.view(status),
            "config": self._plain(names.DEFAULT, names.USER_CONFIG, machine),
            "bmc": self._plain(names.INFRA, names.BMC_CONFIG, machine),
            "seen": None if seen is None else resources.view(seen),
            "applies_config": not refusal,
            "config_refusal": refusal,
            "power_stage": self._life.power_stage(machine),
        }

    def log(self, after: int = 0, limit: int = 100_000) -> list[JsonObject]:
        """What callers wrote, in order, also before a restart."""
        return self._storage.log(after, limit)

    def calls(self) -> list[JsonObject]:
        """How many calls ended, by caller, method and code, since the start."""
        return [
            {"caller": caller, "method": method, "code": code, "count": count}
            for (caller, method, code), count in sorted(self._calls.counts.items())
        ]

    def count(self, method: str, code: str = "OK") -> int:
        """Calls of a method that ended with a code."""
        return sum(number for (_, name, end), number in self._calls.counts.items() if (name, end) == (method, code))

    async def settled(self) -> None:
        """Wait until the controllers have nothing left to do."""
        await self._life.settled()

    def _plain(self, namespace: str, kind: str, identity: str) -> JsonObject | None:
        found = self.state.find(namespace, kind, identity)
        return None if found is None else resources.plain(resources.spec_of(found))


def _touched(resource: Resource) -> Resource:
    return replace(resource, annotations={**resource.annotations, "touched": uuid.uuid4().hex})

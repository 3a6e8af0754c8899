"""
Who may do what: the state as a caller sees it.

Infra kinds follow omni:internal/backend/runtime/omni/infraprovider/state.go, all others state_access.go. What has no rule is
refused, as there. Refusals of others than infra kinds begin "failed to validate: ", because Omni counts them as validations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import grpc

from provider.lab.omni import accounts, metadata, names, resources
from provider.lab.omni.accounts import Caller, Role
from provider.lab.omni.history import Event, Watch
from provider.lab.omni.queries import Match
from provider.lab.omni.resources import CallError, Resource
from provider.lab.omni.state import State

Verb = Literal["get", "list", "watch", "create", "update", "destroy"]
Filter = Callable[[Resource], bool]

_READS: tuple[Verb, ...] = ("get", "list", "watch")
_DENIED = grpc.StatusCode.PERMISSION_DENIED
_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_LONGEST_ID = 128  # bytes
_LONGEST_ARGUMENTS = 4096  # bytes


@dataclass(frozen=True, slots=True)
class InfraKind:
    """Rules of an infra kind."""

    read_only: bool = False
    """For providers, save finalizers."""
    own_id: bool = False
    """A provider creates only the one that is named as itself."""
    admin_reads: bool = False


INFRA_KINDS = {
    names.MACHINE_REGISTRATION: InfraKind(read_only=True),
    names.MACHINE_REQUEST: InfraKind(read_only=True),
    names.JOIN_CONFIG: InfraKind(read_only=True),
    names.MACHINE_REQUEST_STATUS: InfraKind(),
    names.INFRA_MACHINE: InfraKind(read_only=True),
    names.INFRA_MACHINE_STATUS: InfraKind(),
    names.PROVIDER_STATUS: InfraKind(own_id=True),
    names.HEALTH_STATUS: InfraKind(own_id=True),
    names.PROVIDER: InfraKind(own_id=True),
    names.CONFIG_PATCH_REQUEST: InfraKind(),
    names.BMC_CONFIG: InfraKind(read_only=True, admin_reads=True),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """Rules of any other kind: which role reads, which writes, and what may be written at all."""

    reader: Role
    writer: Role = "Admin"
    writes: tuple[Verb, ...] = ()


_USER_WRITES: tuple[Verb, ...] = ("create", "update", "destroy")
_SIGNED = Kind("None")
"""Any valid signature reads it, nobody writes it."""
OTHER_KINDS = {
    names.MACHINE: Kind("InfraProvider", "InfraProvider"),
    names.API_CONFIG: Kind("InfraProvider", "InfraProvider"),
    names.CONNECTION_PARAMS: Kind("InfraProvider", "InfraProvider"),
    names.DEFINITION: _SIGNED,
    names.NAMESPACES: _SIGNED,
    names.FEATURES: _SIGNED,
    "TalosVersions.omni.sidero.dev": _SIGNED,
    "SysVersions.system.sidero.dev": _SIGNED,
    names.AUTH_CONFIG: _SIGNED,
    names.EULA: Kind("None", "None", ("create",)),
    names.USER_CONFIG: Kind("Reader", "Operator", _USER_WRITES),
    names.USER_BMC_CONFIG: Kind("Admin", "Admin", _USER_WRITES),
    names.CLUSTER: Kind("Reader", "Operator", _USER_WRITES),
    names.LINK: Kind("Reader", "Operator", ("destroy",)),
    names.CLUSTER_MACHINE: Kind("Reader", "Operator"),
    names.MACHINE_STATUS: Kind("Reader", "Operator"),
    names.EXTENSIONS: Kind("Reader", "Operator"),
    names.IDENTITY: Kind("Admin"),
    names.USER: Kind("Admin"),
}


class Access:
    """The operations of the state service, each for a caller."""

    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, caller: Caller, namespace: str, kind: str, identity: str) -> Resource:
        """Raises CallError, as all of these do."""
        seen = self._seen(caller, namespace, kind, "get")
        resource = self._state.get(namespace, kind, identity)
        if not seen(resource):
            raise CallError(grpc.StatusCode.NOT_FOUND, "not found")
        return resource

    def list(self, caller: Caller, namespace: str, kind: str, match: Match) -> list[Resource]:
        """Those that the caller sees."""
        seen = self._seen(caller, namespace, kind, "list")
        return [resource for resource in self._state.list(namespace, kind, match) if seen(resource)]

    def watch(self, caller: Caller, namespace: str, kind: str, watch: Callable[[], Watch]) -> tuple[Watch, Filter]:
        """A watch, and which of its events the caller sees: see `shown`."""
        seen = self._seen(caller, namespace, kind, "watch")
        return watch(), seen

    def create(self, caller: Caller, resource: Resource, owner: str) -> Resource:
        """Add a resource; in a shared namespace it gets the provider's label."""
        metadata.check(resource, None)
        if not self._is_infra(resource.namespace):
            _check_other(caller, resource.type, "create")
            self._validate(None, resource)
            return self._state.create(resource, owner)
        provider, rules = self._infra(caller, resource.namespace, resource.type, "create")
        if not provider:
            self._validate(None, resource)
            return self._state.create(resource, owner)
        if rules.read_only:
            raise CallError(_DENIED, f'infra providers are not allowed to create "{resource.type}" resources')
        if rules.own_id and resource.id != provider:
            raise CallError(_INVALID, f'resource ID must match the infra provider ID "{provider}"')
        return self._state.create(resources.relabelled(resource, {names.PROVIDER_LABEL: provider}), owner)

    def update(self, caller: Caller, resource: Resource, owner: str, expected_phase: str | None) -> Resource:
        """Replace a resource; of a read-only kind a provider changes finalizers alone."""
        metadata.check(resource, self._state.find(resource.namespace, resource.type, resource.id))
        if not self._is_infra(resource.namespace):
            _check_other(caller, resource.type, "update")
            current = self._state.get(resource.namespace, resource.type, resource.id)
            if resource.tearing_down:
                _check_other(caller, resource.type, "destroy")
            self._validate(current, resource)
            return self._state.update(resource, owner, expected_phase)
        provider, rules = self._infra(caller, resource.namespace, resource.type, "update")
        current = self._state.get(resource.namespace, resource.type, resource.id)
        if provider:
            if rules.read_only and not _differ_in_finalizers_alone(current, resource):
                text = f'infra providers are not allowed to update "{resource.type}" resources other than setting finalizers'
                raise CallError(_DENIED, text)
            if current.labels.get(names.PROVIDER_LABEL) != provider:
                raise CallError(grpc.StatusCode.NOT_FOUND, "not found")
            resource = resources.relabelled(resource, {names.PROVIDER_LABEL: provider})
        return self._state.update(resource, owner, expected_phase)

    def destroy(self, caller: Caller, namespace: str, kind: str, identity: str, owner: str) -> None:
        """Remove a resource."""
        self._check_destroy(caller, namespace, kind, identity)
        self._state.destroy(namespace, kind, identity, owner)

    def teardown(self, caller: Caller, namespace: str, kind: str, identity: str, owner: str) -> bool:
        """Tear down: of infra kinds a provider's Update of the phase, of others a user's Destroy."""
        if not self._is_infra(namespace):
            self._check_destroy(caller, namespace, kind, identity)
            return self._state.teardown(namespace, kind, identity, owner)
        current = self.get(caller, namespace, kind, identity)
        if not current.tearing_down:
            if kind == names.PROVIDER:
                self._validate_provider_destroy(identity)
            going = replace(current, phase=resources.TEARING_DOWN)
            current = self.update(caller, going, owner, resources.RUNNING)
        return not current.finalizers

    async def teardown_and_destroy(self, caller: Caller, namespace: str, kind: str, identity: str, owner: str) -> None:
        """Tear down, wait for the finalizers, destroy."""
        self.teardown(caller, namespace, kind, identity, owner)
        self._check_destroy(caller, namespace, kind, identity)
        await self._state.teardown_and_destroy(namespace, kind, identity, owner)

    def _check_destroy(self, caller: Caller, namespace: str, kind: str, identity: str) -> None:
        if not self._is_infra(namespace):
            _check_other(caller, kind, "destroy")
            self._validate_destroy(self._state.get(namespace, kind, identity))
            return
        provider, rules = self._infra(caller, namespace, kind, "destroy")
        current = self._state.get(namespace, kind, identity)
        if kind == names.PROVIDER:
            self._validate_provider_destroy(identity)
        if provider and rules.read_only:
            raise CallError(_DENIED, f'infra providers are not allowed to destroy "{kind}" resources')
        if provider and current.labels.get(names.PROVIDER_LABEL) != provider:
            raise CallError(grpc.StatusCode.NOT_FOUND, "not found")

    def _seen(self, caller: Caller, namespace: str, kind: str, verb: Verb) -> Filter:
        if not self._is_infra(namespace):
            _check_other(caller, kind, verb)
            return lambda _resource: True
        provider, _ = self._infra(caller, namespace, kind, verb)
        return lambda resource: not provider or resource.labels.get(names.PROVIDER_LABEL) == provider

    @staticmethod
    def _is_infra(namespace: str) -> bool:
        return namespace in (names.INFRA, names.INFRA_EPHEMERAL) or namespace.startswith(names.PRIVATE_PREFIX)

    def _infra(self, caller: Caller, namespace: str, kind: str, verb: Verb) -> tuple[str, InfraKind]:
        """The provider whose label decides (empty: none does) and the rules of the kind."""
        rules = InfraKind() if namespace.startswith(names.PRIVATE_PREFIX) else INFRA_KINDS.get(kind)
        if rules is None:
            _check_other(caller, kind, verb)
            text = f'internal error: resource "{kind}" is not an infra provider managed resource'
            raise CallError(_DENIED, text)
        _check_role(caller, "InfraProvider")
        if caller.role == "InfraProvider":
            if self._state.find(names.INFRA, names.PROVIDER, caller.provider) is None:
                text = f'infra provider with name "{caller.provider}" is not registered in the system'
                raise CallError(_DENIED, text)
            return _label_that_decides(caller.provider, namespace, kind), rules
        if verb not in _READS and kind not in (names.PROVIDER, names.MACHINE_REQUEST):
            raise CallError(_DENIED, f'users are not allowed to modify "{kind}" resources')
        if verb not in _READS and kind == names.MACHINE_REQUEST and not caller.has("Operator"):
            raise CallError(_DENIED, f'only operators and admins are allowed to modify "{kind}" resources')
        if rules.admin_reads and caller.role != "Admin":
            raise CallError(_DENIED, f'only admins are allowed to read "{kind}" resources')
        return "", rules

    def _validate(self, current: Resource | None, resource: Resource) -> None:
        """What Omni asks of what users write."""
        if resource.type == names.PROVIDER and not accounts.is_dns_label(resource.id):
            raise metadata.invalid(f'invalid infra provider name: "{resource.id}" is not a DNS-1123 label')
        if resource.type != names.USER_CONFIG:
            return
        spec = resources.spec_of(resource)
        if current is not None:
            before = resources.spec_of(current)
            if before.acceptance_status == 1 and spec.acceptance_status != 1:
                raise metadata.invalid("an accepted machine cannot be rejected or set back to pending acceptance")
        _check_text("requested reboot ID", spec.requested_reboot_id, _LONGEST_ID)
        _check_text("power-off request ID", spec.power_off_request_id, _LONGEST_ID)
        _check_text("extra kernel args", spec.extra_kernel_args, _LONGEST_ARGUMENTS)
        if current is not None and resource.tearing_down:
            self._validate_destroy(current)

    def _validate_destroy(self, current: Resource) -> None:
        if current.type != names.USER_CONFIG or resources.spec_of(current).acceptance_status != 1:
            return
        if self._state.find(names.DEFAULT, names.LINK, current.id):
            raise metadata.invalid(
                "cannot delete the config for an already accepted machine config while it is linked to a machine"
            )

    def _validate_provider_destroy(self, provider: str) -> None:
        machines = [
            machine.id
            for machine in self._state.list(names.DEFAULT, names.MACHINE)
            if machine.labels.get(names.PROVIDER_LABEL) == provider and not machine.tearing_down
        ]
        if machines:
            text = f'cannot delete the infra provider "{provider}", as there are {len(machines)} running machines'
            raise metadata.invalid(f"{text} managed by it: [{' '.join(machines)}]")


def shown(event: Event, seen: Filter) -> bool:
    """Whether an event of a watch gets through to a caller."""
    if event.resource is None or event.kind in ("NOOP", "BOOTSTRAPPED", "ERRORED"):
        return True
    return seen(event.resource)


def _label_that_decides(provider: str, namespace: str, kind: str) -> str:
    if namespace in (names.INFRA, names.INFRA_EPHEMERAL):
        return provider
    own = f"{names.PRIVATE_PREFIX}{provider}"
    if namespace != own:
        text = f"namespace not allowed, must be one of: {names.INFRA}, {names.INFRA_EPHEMERAL}, {own}"
        raise CallError(_DENIED, text)
    suffix = f".{provider}{names.PRIVATE_TYPE_SUFFIX}"
    if not kind.endswith(suffix):
        raise CallError(_INVALID, f'resources in namespace "{namespace}" must have a type suffix "{suffix}"')
    return ""


def _differ_in_finalizers_alone(current: Resource, new: Resource) -> bool:
    def rest(resource: Resource) -> Resource:
        return replace(resource, version=0, finalizers=(), created=None, updated=None, spec=b"", yaml="")

    if rest(current) != rest(new):
        return False
    if current.type not in names.SPECS:
        return current.spec == new.spec
    one, two = (resources.spec_of(each).SerializeToString(deterministic=True) for each in (current, new))
    return bool(one == two)


def _check_other(caller: Caller, kind: str, verb: Verb) -> None:
    if kind in INFRA_KINDS:  # Where nobody looks for them, nobody guards them.
        return
    rules = OTHER_KINDS.get(kind)
    if rules is None:
        raise _refused("no access is permitted")
    reading = verb in _READS
    role = rules.reader if reading else rules.writer
    if not caller.has(role):
        raise _refused(f'access denied: insufficient role: "{caller.role}"')
    if not reading and verb not in rules.writes:
        raise _refused("only read access is permitted")


def _check_role(caller: Caller, role: Role) -> None:
    if not caller.has(role):
        raise CallError(_DENIED, f'access denied: insufficient role: "{caller.role}"')


def _check_text(what: str, text: str, longest: int) -> None:
    if len(text.encode()) > longest:
        raise metadata.invalid(f"{what} is longer than {longest} bytes")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise metadata.invalid(f"{what} contains control characters")


def _refused(text: str) -> CallError:
    return CallError(
        _DENIED, f"failed to validate: 1 error occurred:\n\t* rpc error: code = PermissionDenied desc = {text}\n\n"
    )

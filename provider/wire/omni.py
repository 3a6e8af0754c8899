"""
What an infrastructure provider and Omni tell each other: resource types, namespaces, labels, and the messages in them.

The messages are those of siderolabs/omni, `client/api/omni/specs` (infra.proto, omni.proto, siderolink.proto), and, where a
former provider's own state is read, of siderolabs/omni-infra-provider-bare-metal, `api/specs/specs.proto`. They go as bytes
in `wire/cosi.py`'s resources. Fields that no static provider needs are left out.

A machine's resources all have its SMBIOS UUID as their id, in small letters with dashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

from provider.wire import siderolink
from provider.wire.cosi import Kind
from provider.wire.protobuf import proto

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

DEFAULT_NAMESPACE = "default"
INFRA_NAMESPACE = "infra-provider"
"""Shared: a provider sees what is labelled with its own id."""
EPHEMERAL_NAMESPACE = "infra-provider-ephemeral"
"""The same, in Omni's memory: empty after each start of Omni."""

LABEL_PREFIX = siderolink.LABEL_PREFIX
"""Of Omni's labels alone: a provider's own ones have any other."""
LABEL_PROVIDER_ID = "omni.sidero.dev/infra-provider-id"
LABEL_STATIC_PROVIDER = "omni.sidero.dev/is-static-infra-provider"
"""A flag, as all without another word: its value is empty. Without it on our status, Omni makes no machines for us."""
LABEL_ACCEPT_PENDING = "omni.sidero.dev/accept-pending"
LABEL_CLUSTER = "omni.sidero.dev/cluster"
"""The name of the cluster that a machine is allocated to."""
LABEL_MACHINE_SET = "omni.sidero.dev/machine-set"
"""The name of the machine set in it."""
LABEL_CONTROL_PLANE = "omni.sidero.dev/role-controlplane"
LABEL_WORKER = "omni.sidero.dev/role-worker"

MIRRORED_LABELS = (LABEL_CLUSTER, LABEL_MACHINE_SET, LABEL_CONTROL_PLANE, LABEL_WORKER)
"""What a machine's status repeats of the machine's labels."""


# --- what Omni says ---------------------------------------------------------------------------------------------------


class PreferredPower(IntEnum):
    """What Omni wishes for a machine that is not in use. Not the numbers of `PowerState`."""

    OFF = 0
    ON = 1


class Acceptance(IntEnum):
    """Somebody's word that a machine is ours."""

    PENDING = 0
    ACCEPTED = 1
    REJECTED = 2


@dataclass(frozen=True, slots=True)
class InfraMachine:
    """What is wanted of a machine. A provider changes nothing in it but finalizers, and gives back the bytes it got."""

    preferred_power_state: PreferredPower = proto(1, PreferredPower.OFF)
    acceptance_status: Acceptance = proto(2, Acceptance.PENDING)
    cluster_talos_version: str = proto(3, "")
    """Without `v`; the machine is allocated if it is not empty."""
    extensions: tuple[str, ...] = proto(4, ())
    wipe_id: str = proto(5, "")
    extra_kernel_args: str = proto(6, "")
    requested_reboot_id: str = proto(7, "")
    cordoned: bool = proto(8, False)
    install_event_id: int = proto(9, 0, wire="uint64")
    """Grows with each start of an installed Talos, not only with an installation."""
    node_unique_token: str = proto(10, "", secret=True)
    power_off_request_id: str = proto(11, "")


@dataclass(frozen=True, slots=True)
class Ipmi:
    """How a BMC is reached; port 0 is 623."""

    address: str = proto(1, "")
    port: int = proto(2, 0, wire="uint32")
    username: str = proto(3, "")
    password: str = proto(4, "", secret=True)


@dataclass(frozen=True, slots=True)
class PowerApi:
    """A power API over HTTP, as the test helper of the Go provider has it."""

    address: str = proto(1, "")


@dataclass(frozen=True, slots=True)
class BmcAccess:
    """How a machine's power is controlled."""

    ipmi: Ipmi | None = proto(1, None)
    api: PowerApi | None = proto(2, None)


@dataclass(frozen=True, slots=True)
class BmcConfig:
    """An administrator's word on a machine's BMC; there is none where nobody said anything."""

    config: BmcAccess = proto(1, BmcAccess())


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """What makes a Talos machine call Omni: kernel arguments, or YAML documents that say the same. A token is in both."""

    kernel_args: tuple[str, ...] = proto(1, (), secret=True)
    config: str = proto(2, "", secret=True)


@dataclass(frozen=True, slots=True)
class ProviderJoinConfig:
    """The join documents of a provider's machines."""

    config: JoinConfig = proto(1, JoinConfig())
    join_token: str = proto(2, "", secret=True)


@dataclass(frozen=True, slots=True)
class InfraProvider:
    """An administrator's word that there is this provider."""


@dataclass(frozen=True, slots=True)
class ConnectionParams:
    """How machines join, from a server that knows no `ProviderJoinConfig`."""

    args: str = proto(1, "", secret=True)
    api_endpoint: str = proto(2, "")
    wireguard_endpoint: str = proto(3, "")
    join_token: str = proto(4, "", secret=True)
    use_grpc_tunnel: bool = proto(5, False)
    events_port: int = proto(9, 0, wire="int32")
    logs_port: int = proto(10, 0, wire="int32")


@dataclass(frozen=True, slots=True)
class SiderolinkApiConfig:
    """Where machines join."""

    machine_api_advertised_url: str = proto(1, "")
    wireguard_advertised_endpoint: str = proto(2, "")
    enforce_grpc_tunnel: bool = proto(3, False)
    events_port: int = proto(4, 0, wire="int32")
    logs_port: int = proto(5, 0, wire="int32")


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """Which Image Factory an Omni uses; the rest of its features is left out."""

    image_factory_base_url: str = proto(5, "")
    image_factory_pxe_base_url: str = proto(9, "")
    is_enterprise_image_factory: bool = proto(11, False)
    secondary_image_factory_base_url: str = proto(13, "")
    secondary_image_factory_pxe_base_url: str = proto(14, "")


INFRA_MACHINES = Kind("InfraMachines.omni.sidero.dev", INFRA_NAMESPACE, InfraMachine)
BMC_CONFIGS = Kind("BMCConfigs.omni.sidero.dev", INFRA_NAMESPACE, BmcConfig)
PROVIDER_JOIN_CONFIGS = Kind("ProviderJoinConfigs.omni.sidero.dev", INFRA_NAMESPACE, ProviderJoinConfig)
"""Its id is the provider's, as are those of the next and of all that a provider writes on itself."""
INFRA_PROVIDERS = Kind("InfraProviders.omni.sidero.dev", INFRA_NAMESPACE, InfraProvider)
CONNECTION_PARAMS = Kind("ConnectionParams.omni.sidero.dev", DEFAULT_NAMESPACE, ConnectionParams)
SIDEROLINK_API_CONFIGS = Kind("SiderolinkAPIConfigs.omni.sidero.dev", DEFAULT_NAMESPACE, SiderolinkApiConfig)
SIDEROLINK_CONFIG_ID = "siderolink-config"
"""The one of these two."""
FEATURES_CONFIGS = Kind("FeaturesConfigs.omni.sidero.dev", DEFAULT_NAMESPACE, FeaturesConfig)
FEATURES_CONFIG_ID = "features-config"


# --- what a provider says ---------------------------------------------------------------------------------------------


class PowerState(IntEnum):
    """What the BMC says. Not the numbers of `PreferredPower`."""

    UNKNOWN = 0
    OFF = 1
    ON = 2


@dataclass(frozen=True, slots=True)
class InfraProviderStatus:
    """Who a provider is; `icon` is an SVG in base64 without padding."""

    schema: str = proto(1, "")
    name: str = proto(2, "")
    description: str = proto(3, "")
    icon: str = proto(4, "")
    version: str = proto(5, "")


@dataclass(frozen=True, slots=True)
class InfraProviderHealthStatus:
    """A provider's heartbeat. Omni takes one that is 31 s old for a lost connection."""

    last_heartbeat_timestamp: datetime | None = proto(1, None)
    error: str = proto(2, "")


@dataclass(frozen=True, slots=True)
class InfraMachineStatus:
    """How a machine is."""

    power_state: PowerState = proto(1, PowerState.UNKNOWN)
    ready_to_use: bool = proto(2, False)
    """Nothing to be wiped, and the BMC is known."""
    last_reboot_id: str = proto(3, "")
    last_reboot_timestamp: datetime | None = proto(4, None)
    installed: bool = proto(5, False)
    wiped_node_unique_token: str = proto(6, "", secret=True)
    """The token that the machine had when it was wiped: Omni lets it join again without."""
    last_power_off_id: str = proto(7, "")
    """The request to stay off that is being honoured."""


PROVIDER_STATUSES = Kind("InfraProviderStatuses.omni.sidero.dev", INFRA_NAMESPACE, InfraProviderStatus)
PROVIDER_HEALTH_STATUSES = Kind(
    "InfraProviderHealthStatuses.omni.sidero.dev", EPHEMERAL_NAMESPACE, InfraProviderHealthStatus
)
MACHINE_STATUSES = Kind("InfraMachineStatuses.omni.sidero.dev", INFRA_NAMESPACE, InfraMachineStatus)


# --- what Sidero's own provider keeps in Omni -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BmcConfiguration:
    """The BMC access that it works with."""

    ipmi: Ipmi | None = proto(1, None)
    api: PowerApi | None = proto(2, None)
    manually_configured: bool = proto(3, False)


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """What it last saw of a machine."""

    agent_accessible: bool = proto(1, False)
    power_state: PowerState = proto(2, PowerState.UNKNOWN)
    initialized: bool = proto(4, False)


@dataclass(frozen=True, slots=True)
class PowerOperation:
    """What it last did to a machine's power."""

    last_power_operation: PowerState = proto(1, PowerState.UNKNOWN)
    last_power_on_timestamp: datetime | None = proto(2, None)
    last_power_off_id: str = proto(3, "")
    wipe_id_at_power_off: str = proto(4, "")


@dataclass(frozen=True, slots=True)
class WipeStatus:
    """What it last wiped."""

    last_wipe_id: str = proto(1, "")
    last_wipe_install_event_id: int = proto(2, 0, wire="uint64")
    initial_wipe_done: bool = proto(3, False)
    wiped_node_unique_token: str = proto(4, "", secret=True)


@dataclass(frozen=True, slots=True)
class RebootStatus:
    """When it last rebooted a machine, and for which request."""

    last_reboot_id: str = proto(1, "")
    last_reboot_timestamp: datetime | None = proto(2, None)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Its certificate authority."""

    ca_cert: str = proto(1, "")
    ca_key: str = proto(2, "", secret=True)


TLS_CONFIG_ID = "tls-config"

_PRIVATE_NAMES: dict[type[DataclassInstance], str] = {
    BmcConfiguration: "BMCConfiguration",
    MachineStatus: "MachineStatus",
    PowerOperation: "PowerOperation",
    WipeStatus: "WipeStatus",
    RebootStatus: "RebootStatus",
    TlsConfig: "TLSConfig",
}

CONTROLLERS = (
    "BMCConfigurationController",
    "InfraMachineStatusController",
    "MachineStatusController",
    "PowerOperationController",
    "RebootStatusController",
    "WipeStatusController",
)
"""Its controllers, each of which puts `owner(provider_id, name)` as a finalizer on the machines."""

STATUS_CONTROLLER = "InfraMachineStatusController"
"""Owner of the InfraMachineStatuses, of Sidero's provider and of ours alike: so each can go on where the other stopped."""

HEALTH_CONTROLLER = "ProviderHealthStatusController"


def private_kind(provider_id: str, spec: type[S]) -> Kind[S]:
    """The resources in a provider's own namespace that hold `spec`, one of the six messages above."""
    name = f"{_PRIVATE_NAMES[spec]}.{provider_id}.infraprovider.sidero.dev"
    return Kind(name, f"{INFRA_NAMESPACE}:{provider_id}", spec)


def owner(provider_id: str, controller: str) -> str:
    """What a controller of Sidero's provider calls itself, as owner and as finalizer."""
    return f"{provider_id}.{controller}"

"""Omni's names: namespaces, types with their specs, labels, and the owners that its controllers write under."""

from __future__ import annotations

DEFAULT = "default"
META = "meta"
INFRA = "infra-provider"
INFRA_EPHEMERAL = "infra-provider-ephemeral"
EPHEMERAL = "ephemeral"
PRIVATE_PREFIX = "infra-provider:"
"""Of the namespace that is a provider's own; the short names of provider accounts begin so, too."""
PRIVATE_TYPE_SUFFIX = ".infraprovider.sidero.dev"

IN_MEMORY = frozenset({EPHEMERAL, INFRA_EPHEMERAL, META})
"""Namespaces that a restart empties."""

INFRA_MACHINE = "InfraMachines.omni.sidero.dev"
INFRA_MACHINE_STATUS = "InfraMachineStatuses.omni.sidero.dev"
PROVIDER = "InfraProviders.omni.sidero.dev"
PROVIDER_STATUS = "InfraProviderStatuses.omni.sidero.dev"
HEALTH_STATUS = "InfraProviderHealthStatuses.omni.sidero.dev"
BMC_CONFIG = "BMCConfigs.omni.sidero.dev"
JOIN_CONFIG = "ProviderJoinConfigs.omni.sidero.dev"
MACHINE_REQUEST = "MachineRequests.omni.sidero.dev"
MACHINE_REQUEST_STATUS = "MachineRequestStatuses.omni.sidero.dev"
MACHINE_REGISTRATION = "InfraMachineRegistrations.omni.sidero.dev"
CONFIG_PATCH_REQUEST = "ConfigPatchRequests.omni.sidero.dev"

USER_CONFIG = "InfraMachineConfigs.omni.sidero.dev"
USER_BMC_CONFIG = "InfraMachineBMCConfigs.omni.sidero.dev"
LINK = "Links.omni.sidero.dev"
UNIQUE_TOKEN = "NodeUniqueTokens.omni.sidero.dev"  # noqa: S105 - a type
MACHINE = "Machines.omni.sidero.dev"
MACHINE_STATUS = "MachineStatuses.omni.sidero.dev"
CLUSTER = "Clusters.omni.sidero.dev"
CLUSTER_MACHINE = "ClusterMachines.omni.sidero.dev"
EXTENSIONS = "MachineExtensions.omni.sidero.dev"
CONNECTION_PARAMS = "ConnectionParams.omni.sidero.dev"
API_CONFIG = "SiderolinkAPIConfigs.omni.sidero.dev"
FEATURES = "FeaturesConfigs.omni.sidero.dev"
PUBLIC_KEY = "PublicKeys.omni.sidero.dev"
USER = "Users.omni.sidero.dev"
IDENTITY = "Identities.omni.sidero.dev"
AUTH_CONFIG = "AuthConfigs.omni.sidero.dev"
EULA = "EulaAcceptances.omni.sidero.dev"
NAMESPACES = "Namespaces.meta.cosi.dev"
DEFINITION = "ResourceDefinitions.meta.cosi.dev"

SPECS = {
    INFRA_MACHINE: "InfraMachineSpec",
    INFRA_MACHINE_STATUS: "InfraMachineStatusSpec",
    PROVIDER: "InfraProviderSpec",
    PROVIDER_STATUS: "InfraProviderStatusSpec",
    HEALTH_STATUS: "InfraProviderHealthStatusSpec",
    BMC_CONFIG: "BMCConfigSpec",
    JOIN_CONFIG: "ProviderJoinConfigSpec",
    USER_CONFIG: "InfraMachineConfigSpec",
    USER_BMC_CONFIG: "InfraMachineBMCConfigSpec",
    LINK: "SiderolinkSpec",
    UNIQUE_TOKEN: "NodeUniqueTokenSpec",
    MACHINE: "MachineSpec",
    MACHINE_STATUS: "MachineStatusSpec",
    CLUSTER: "ClusterSpec",
    CLUSTER_MACHINE: "ClusterMachineSpec",
    EXTENSIONS: "MachineExtensionsSpec",
    CONNECTION_PARAMS: "ConnectionParamsSpec",
    API_CONFIG: "SiderolinkAPIConfigSpec",
    FEATURES: "FeaturesConfigSpec",
    PUBLIC_KEY: "PublicKeySpec",
    USER: "UserSpec",
    IDENTITY: "IdentitySpec",
    DEFINITION: "ResourceDefinitionSpec",
}
"""Types whose specs the server decodes, and the messages of them; specs of other types are kept as they come."""

_LABEL = "omni.sidero.dev/"
PROVIDER_LABEL = f"{_LABEL}infra-provider-id"
STATIC_LABEL = f"{_LABEL}is-static-infra-provider"
PENDING_LABEL = f"{_LABEL}accept-pending"
CLUSTER_LABEL = f"{_LABEL}cluster"
MACHINE_SET_LABEL = f"{_LABEL}machine-set"
CONTROL_PLANE_LABEL = f"{_LABEL}role-controlplane"
WORKER_LABEL = f"{_LABEL}role-worker"
MANAGED_LABEL = f"{_LABEL}is-managed-by-static-infra-provider"
READY_LABEL = f"{_LABEL}ready-to-use"
CONNECTED_LABEL = f"{_LABEL}connected"
DISCONNECTED_LABEL = f"{_LABEL}disconnected"
COPIED_LABEL_PREFIX = f"{_LABEL}infra-provider/"
USER_ID_LABEL = "user-id"

ALLOCATION_LABELS = (CLUSTER_LABEL, MACHINE_SET_LABEL, CONTROL_PLANE_LABEL, WORKER_LABEL)

INFRA_MACHINE_OWNER = "InfraMachineController"
BMC_CONFIG_OWNER = "BMCConfigController"
JOIN_CONFIG_OWNER = "ProviderJoinConfigController"
CLEANUP_OWNER = "InfraProviderCleanupController"
MACHINE_OWNER = "MachineController"
MACHINE_STATUS_OWNER = "MachineStatusController"
RESET_OWNER = "ClusterMachineConfigController"
"""Its finalizer on a ClusterMachine that is torn down: Talos has not been reset yet."""

SIDEROLINK = "siderolink-config"
FEATURES_ID = "features-config"

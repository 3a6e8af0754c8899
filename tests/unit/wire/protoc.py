"""
A second opinion on our messages: their `.proto` as they stand in the repositories of others, compiled by grpcio-tools.

Only what we use is here, word for word otherwise; `IN_PROTO` says which of our classes is which of their messages.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import cache
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc
from hypothesis import strategies as st

from provider.wire import cosi, omni, protobuf, talos_agent, tunnel

# --- the files --------------------------------------------------------------------------------------------------------

RESOURCE = """
syntax = "proto3";
package cosi.resource;
import "google/protobuf/timestamp.proto";

message Metadata {
    string namespace = 1;
    string type = 2;
    string id = 3;
    string version = 4;
    string owner = 5;
    string phase = 6;
    google.protobuf.Timestamp created = 7;
    google.protobuf.Timestamp updated = 8;
    repeated string finalizers = 9;
    map<string, string> annotations = 11;
    map<string, string> labels = 10;
}
message Spec { bytes proto_spec = 1; string yaml_spec = 2; }
message Resource { Metadata metadata = 1; Spec spec = 2; }
message LabelTerm {
    enum Operation {
        EXISTS = 0; EQUAL = 1; NOT_EXISTS = 2 [deprecated=true]; IN = 3; LT = 4; LTE = 5; LT_NUMERIC = 6; LTE_NUMERIC = 7;
    }
    string key = 1;
    Operation op = 2;
    repeated string value = 3;
    bool invert = 5;
}
message LabelQuery { repeated LabelTerm terms = 1; }
message IDQuery { string regexp = 1; }
"""

STATE = """
syntax = "proto3";
package cosi.resource;
import "v1alpha1/resource.proto";

enum EventType { CREATED = 0; UPDATED = 1; DESTROYED = 2; BOOTSTRAPPED = 3; ERRORED = 4; NOOP = 5; }
message Event {
    Resource resource = 1;
    Resource old = 3;
    optional string error = 4;
    EventType event_type = 2;
    optional bytes bookmark = 5;
}
service State {
    rpc Get(GetRequest) returns (GetResponse);
    rpc List(ListRequest) returns (stream ListResponse);
    rpc Create(CreateRequest) returns (CreateResponse);
    rpc Update(UpdateRequest) returns (UpdateResponse);
    rpc Destroy(DestroyRequest) returns (DestroyResponse);
    rpc Watch(WatchRequest) returns (stream WatchResponse);
    rpc Teardown(TeardownRequest) returns (TeardownResponse);
    rpc TeardownAndDestroy(TeardownAndDestroyRequest) returns (TeardownAndDestroyResponse);
}
message GetRequest { string namespace = 1; string type = 2; string id = 3; GetOptions options = 4; }
message GetOptions {}
message GetResponse { resource.Resource resource = 1; }
message ListRequest { string namespace = 1; string type = 2; ListOptions options = 3; }
message ListOptions { repeated resource.LabelQuery label_query = 1; resource.IDQuery id_query = 2; }
message ListResponse { resource.Resource resource = 1; }
message CreateRequest { resource.Resource resource = 1; CreateOptions options = 2; }
message CreateOptions { string owner = 1; }
message CreateResponse { resource.Resource resource = 1; }
message UpdateRequest {
    reserved 1;
    reserved "current_version";
    resource.Resource new_resource = 2;
    UpdateOptions options = 3;
}
message UpdateOptions { string owner = 1; optional string expected_phase = 2; }
message UpdateResponse { resource.Resource resource = 1; }
message DestroyRequest { string namespace = 1; string type = 2; string id = 3; DestroyOptions options = 4; }
message DestroyOptions { string owner = 1; }
message DestroyResponse {}
message WatchRequest {
    string namespace = 1;
    string type = 2;
    optional string id = 3;
    WatchOptions options = 4;
    int32 api_version = 5;
}
message WatchOptions {
    bool bootstrap_contents = 1;
    int32 tail_events = 2;
    repeated resource.LabelQuery label_query = 3;
    resource.IDQuery id_query = 4;
    bool aggregated = 5;
    optional bytes start_from_bookmark = 6;
    bool bootstrap_bookmark = 7;
}
message WatchResponse { repeated Event event = 1; }
message TeardownRequest { string namespace = 1; string type = 2; string id = 3; TeardownOptions options = 4; }
message TeardownOptions { string owner = 1; }
message TeardownResponse { bool destroy_ready = 1; }
message TeardownAndDestroyRequest {
    string namespace = 1;
    string type = 2;
    string id = 3;
    TeardownAndDestroyOptions options = 4;
}
message TeardownAndDestroyOptions { string owner = 1; }
message TeardownAndDestroyResponse {}
"""

META = """
syntax = "proto3";
package cosi.resource.meta;

message ResourceDefinitionSpec {
    string resource_type = 1;
    string display_type = 2;
    string default_namespace = 3;
    repeated string aliases = 4;
    repeated string all_aliases = 5;
    message PrintColumn { string name = 1; string json_path = 2; }
    repeated PrintColumn print_columns = 6;
    enum Sensitivity { NON_SENSITIVE = 0; SENSITIVE = 1; }
    Sensitivity sensitivity = 7;
}
"""

OMNI = """
syntax = "proto3";
package specs;
import "google/protobuf/timestamp.proto";

message InfraMachineSpec {
    enum MachinePowerState { POWER_STATE_OFF = 0; POWER_STATE_ON = 1; }
    MachinePowerState preferred_power_state = 1;
    InfraMachineConfigSpec.AcceptanceStatus acceptance_status = 2;
    string cluster_talos_version = 3;
    repeated string extensions = 4;
    string wipe_id = 5;
    string extra_kernel_args = 6;
    string requested_reboot_id = 7;
    bool cordoned = 8;
    uint64 install_event_id = 9;
    string node_unique_token = 10;
    string power_off_request_id = 11;
}
message InfraMachineStatusSpec {
    enum MachinePowerState { POWER_STATE_UNKNOWN = 0; POWER_STATE_OFF = 1; POWER_STATE_ON = 2; }
    MachinePowerState power_state = 1;
    bool ready_to_use = 2;
    string last_reboot_id = 3;
    google.protobuf.Timestamp last_reboot_timestamp = 4;
    bool installed = 5;
    string wiped_node_unique_token = 6;
    string last_power_off_id = 7;
}
message InfraProviderSpec {}
message InfraProviderStatusSpec {
    string schema = 1;
    string name = 2;
    string description = 3;
    string icon = 4;
    string version = 5;
}
message InfraProviderHealthStatusSpec { google.protobuf.Timestamp last_heartbeat_timestamp = 1; string error = 2; }
message BMCConfigSpec { InfraMachineBMCConfigSpec config = 1; }
message InfraMachineConfigSpec { enum AcceptanceStatus { PENDING = 0; ACCEPTED = 1; REJECTED = 2; } }
message InfraMachineBMCConfigSpec {
    message IPMI { string address = 1; uint32 port = 2; string username = 3; string password = 4; }
    message API { string address = 1; }
    IPMI ipmi = 1;
    API api = 2;
}
message FeaturesConfigSpec {
    string image_factory_base_url = 5;
    string image_factory_pxe_base_url = 9;
    bool is_enterprise_image_factory = 11;
    string secondary_image_factory_base_url = 13;
    string secondary_image_factory_pxe_base_url = 14;
}
message ConnectionParamsSpec {
    string args = 1;
    string api_endpoint = 2;
    string wireguard_endpoint = 3;
    string join_token = 4;
    bool use_grpc_tunnel = 5;
    int32 events_port = 9;
    int32 logs_port = 10;
}
message JoinConfig { repeated string kernel_args = 1; string config = 2; }
message SiderolinkAPIConfigSpec {
    string machine_api_advertised_url = 1;
    string wireguard_advertised_endpoint = 2;
    bool enforce_grpc_tunnel = 3;
    int32 events_port = 4;
    int32 logs_port = 5;
}
message ProviderJoinConfigSpec { JoinConfig config = 1; string join_token = 2; }
"""

PROVIDER = """
syntax = "proto3";
package baremetalproviderspecs;
import "google/protobuf/timestamp.proto";

enum PowerState { POWER_STATE_UNKNOWN = 0; POWER_STATE_OFF = 1; POWER_STATE_ON = 2; }
message PowerOperationSpec {
    PowerState last_power_operation = 1;
    google.protobuf.Timestamp last_power_on_timestamp = 2;
    string last_power_off_id = 3;
    string wipe_id_at_power_off = 4;
}
message BMCConfigurationSpec {
    message IPMI { string address = 1; uint32 port = 2; string username = 3; string password = 4; }
    message API { string address = 1; }
    IPMI ipmi = 1;
    API api = 2;
    bool manually_configured = 3;
}
message MachineStatusSpec { bool agent_accessible = 1; PowerState power_state = 2; reserved 3; bool initialized = 4; }
message WipeStatusSpec {
    string last_wipe_id = 1;
    uint64 last_wipe_install_event_id = 2;
    bool initial_wipe_done = 3;
    string wiped_node_unique_token = 4;
}
message RebootStatusSpec { string last_reboot_id = 1; google.protobuf.Timestamp last_reboot_timestamp = 2; }
message TLSConfigSpec { string ca_cert = 1; string ca_key = 2; }
"""

AGENT = """
syntax = "proto3";
package management;

message HelloRequest {}
message HelloResponse {}
message GetPowerManagementRequest {
    message IPMI { string check_username = 1; }
    message API {}
    IPMI ipmi = 1;
    API api = 2;
}
message GetPowerManagementResponse {
    message IPMI { string address = 1; uint32 port = 2; bool user_exists = 3; }
    message API {}
    IPMI ipmi = 1;
    API api = 2;
}
message SetPowerManagementRequest {
    message IPMI { string username = 1; string password = 2; }
    message API {}
    IPMI ipmi = 1;
    API api = 2;
}
message SetPowerManagementResponse {}
message RebootRequest {}
message RebootResponse {}
message WipeDisksRequest { bool zeroes = 1; }
message WipeDisksResponse {}
service AgentService {
    rpc Hello(HelloRequest) returns (HelloResponse);
    rpc GetPowerManagement(GetPowerManagementRequest) returns (GetPowerManagementResponse);
    rpc SetPowerManagement(SetPowerManagementRequest) returns (SetPowerManagementResponse);
    rpc Reboot(RebootRequest) returns (RebootResponse);
    rpc WipeDisks(WipeDisksRequest) returns (WipeDisksResponse);
}
"""

STATUS = """
syntax = "proto3";
package google.rpc;
import "google/protobuf/any.proto";

message Status { int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3; }
"""

TUNNEL = """
syntax = "proto3";
package grpctunnel.v1;
import "google/protobuf/empty.proto";
import "google/rpc/status.proto";

service TunnelService {
    rpc OpenTunnel(stream ClientToServer) returns (stream ServerToClient);
    rpc OpenReverseTunnel(stream ServerToClient) returns (stream ClientToServer);
}
message ClientToServer {
    int64 stream_id = 1;
    oneof frame {
        NewStream new_stream = 2;
        MessageData request_message = 3;
        bytes more_request_data = 4;
        google.protobuf.Empty half_close = 5;
        google.protobuf.Empty cancel = 6;
        uint32 window_update = 7;
    }
}
message ServerToClient {
    int64 stream_id = 1;
    oneof frame {
        Settings settings = 6;
        Metadata response_headers = 2;
        MessageData response_message = 3;
        bytes more_response_data = 4;
        CloseStream close_stream = 5;
        uint32 window_update = 7;
    }
}
message Settings { repeated ProtocolRevision supported_protocol_revisions = 1; uint32 initial_window_size = 2; }
message NewStream {
    string method_name = 1;
    Metadata request_headers = 2;
    uint32 initial_window_size = 3;
    ProtocolRevision protocol_revision = 4;
}
message MessageData { uint32 size = 1; bytes data = 2; }
message CloseStream { Metadata response_trailers = 1; google.rpc.Status status = 2; }
message Metadata {
    message Values { repeated string val = 1; }
    map<string, Values> md = 1;
}
enum ProtocolRevision { REVISION_ZERO = 0; REVISION_ONE = 1; }
"""

FILES = {
    "v1alpha1/resource.proto": RESOURCE,
    "v1alpha1/state.proto": STATE,
    "v1alpha1/meta.proto": META,
    "omni/specs.proto": OMNI,
    "provider/specs.proto": PROVIDER,
    "agent/agent.proto": AGENT,
    "google/rpc/status.proto": STATUS,
    "grpctunnel/v1/tunnel.proto": TUNNEL,
}

# --- which of ours is which of theirs ---------------------------------------------------------------------------------

IN_PROTO: list[tuple[type[Any], str]] = [
    (cosi.Metadata, "cosi.resource.Metadata"),
    (cosi.Spec, "cosi.resource.Spec"),
    (cosi.Resource, "cosi.resource.Resource"),
    (cosi.LabelTerm, "cosi.resource.LabelTerm"),
    (cosi.LabelQuery, "cosi.resource.LabelQuery"),
    (cosi.IdQuery, "cosi.resource.IDQuery"),
    (cosi.Event, "cosi.resource.Event"),
    (cosi.GetRequest, "cosi.resource.GetRequest"),
    (cosi.ResourceResponse, "cosi.resource.GetResponse"),
    (cosi.ListRequest, "cosi.resource.ListRequest"),
    (cosi.ListOptions, "cosi.resource.ListOptions"),
    (cosi.ResourceResponse, "cosi.resource.ListResponse"),
    (cosi.CreateRequest, "cosi.resource.CreateRequest"),
    (cosi.OwnerOptions, "cosi.resource.CreateOptions"),
    (cosi.ResourceResponse, "cosi.resource.CreateResponse"),
    (cosi.UpdateRequest, "cosi.resource.UpdateRequest"),
    (cosi.UpdateOptions, "cosi.resource.UpdateOptions"),
    (cosi.ResourceResponse, "cosi.resource.UpdateResponse"),
    (cosi.DestroyRequest, "cosi.resource.DestroyRequest"),
    (cosi.OwnerOptions, "cosi.resource.DestroyOptions"),
    (protobuf.Empty, "cosi.resource.DestroyResponse"),
    (cosi.WatchRequest, "cosi.resource.WatchRequest"),
    (cosi.WatchOptions, "cosi.resource.WatchOptions"),
    (cosi.WatchResponse, "cosi.resource.WatchResponse"),
    (cosi.DestroyRequest, "cosi.resource.TeardownRequest"),
    (cosi.OwnerOptions, "cosi.resource.TeardownOptions"),
    (cosi.TeardownResponse, "cosi.resource.TeardownResponse"),
    (cosi.DestroyRequest, "cosi.resource.TeardownAndDestroyRequest"),
    (cosi.OwnerOptions, "cosi.resource.TeardownAndDestroyOptions"),
    (protobuf.Empty, "cosi.resource.TeardownAndDestroyResponse"),
    (cosi.ResourceDefinition, "cosi.resource.meta.ResourceDefinitionSpec"),
    (omni.InfraMachine, "specs.InfraMachineSpec"),
    (omni.BmcConfig, "specs.BMCConfigSpec"),
    (omni.BmcAccess, "specs.InfraMachineBMCConfigSpec"),
    (omni.Ipmi, "specs.InfraMachineBMCConfigSpec.IPMI"),
    (omni.PowerApi, "specs.InfraMachineBMCConfigSpec.API"),
    (omni.JoinConfig, "specs.JoinConfig"),
    (omni.ProviderJoinConfig, "specs.ProviderJoinConfigSpec"),
    (omni.InfraProvider, "specs.InfraProviderSpec"),
    (omni.ConnectionParams, "specs.ConnectionParamsSpec"),
    (omni.SiderolinkApiConfig, "specs.SiderolinkAPIConfigSpec"),
    (omni.FeaturesConfig, "specs.FeaturesConfigSpec"),
    (omni.InfraProviderStatus, "specs.InfraProviderStatusSpec"),
    (omni.InfraProviderHealthStatus, "specs.InfraProviderHealthStatusSpec"),
    (omni.InfraMachineStatus, "specs.InfraMachineStatusSpec"),
    (omni.BmcConfiguration, "baremetalproviderspecs.BMCConfigurationSpec"),
    (omni.MachineStatus, "baremetalproviderspecs.MachineStatusSpec"),
    (omni.PowerOperation, "baremetalproviderspecs.PowerOperationSpec"),
    (omni.WipeStatus, "baremetalproviderspecs.WipeStatusSpec"),
    (omni.RebootStatus, "baremetalproviderspecs.RebootStatusSpec"),
    (omni.TlsConfig, "baremetalproviderspecs.TLSConfigSpec"),
    (protobuf.Empty, "management.HelloRequest"),
    (protobuf.Empty, "management.HelloResponse"),
    (talos_agent.GetPowerManagementRequest, "management.GetPowerManagementRequest"),
    (talos_agent.IpmiQuestion, "management.GetPowerManagementRequest.IPMI"),
    (talos_agent.GetPowerManagementResponse, "management.GetPowerManagementResponse"),
    (talos_agent.Ipmi, "management.GetPowerManagementResponse.IPMI"),
    (talos_agent.SetPowerManagementRequest, "management.SetPowerManagementRequest"),
    (talos_agent.IpmiUser, "management.SetPowerManagementRequest.IPMI"),
    (protobuf.Empty, "management.SetPowerManagementResponse"),
    (protobuf.Empty, "management.RebootRequest"),
    (protobuf.Empty, "management.RebootResponse"),
    (talos_agent.WipeDisksRequest, "management.WipeDisksRequest"),
    (protobuf.Empty, "management.WipeDisksResponse"),
    (tunnel.ClientToServer, "grpctunnel.v1.ClientToServer"),
    (tunnel.ServerToClient, "grpctunnel.v1.ServerToClient"),
    (tunnel.Settings, "grpctunnel.v1.Settings"),
    (tunnel.NewStream, "grpctunnel.v1.NewStream"),
    (tunnel.MessageData, "grpctunnel.v1.MessageData"),
    (tunnel.CloseStream, "grpctunnel.v1.CloseStream"),
    (tunnel.Status, "google.rpc.Status"),
    (tunnel.Metadata, "grpctunnel.v1.Metadata"),
    (tunnel.Values, "grpctunnel.v1.Metadata.Values"),
]

LEFT_OUT = {
    "cosi.resource.GetRequest": {"options"},
    "cosi.resource.meta.ResourceDefinitionSpec": {"print_columns", "sensitivity"},
    "google.rpc.Status": {"details"},
}
"""Fields that our classes do not have."""

# --- using them -------------------------------------------------------------------------------------------------------


def compile_files(files: Mapping[str, str]) -> descriptor_pool.DescriptorPool:
    """Let protoc read `.proto` files; it says on standard error what is wrong with them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
        known = resources.files("grpc_tools") / "_proto"
        done = protoc.main(
            [
                "protoc",
                f"-I{folder}",
                f"-I{known}",
                "--include_imports",
                f"--descriptor_set_out={folder / 'set'}",
                *files,
            ]
        )
        assert done == 0
        found = descriptor_pb2.FileDescriptorSet.FromString((folder / "set").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.Add(file)
    return pool


@cache
def pool() -> descriptor_pool.DescriptorPool:
    return compile_files(FILES)


@cache
def theirs(name: str) -> type[Any]:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def plain(value: Any) -> Any:
    """What the constructor of their message takes for a value of ours."""
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, datetime):
        since = value - datetime(1970, 1, 1, tzinfo=UTC)
        return {"seconds": since // timedelta(seconds=1), "nanos": since.microseconds * 1000}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return int(value) if isinstance(value, IntEnum) else value


@cache
def messages(kind: type[Any]) -> st.SearchStrategy[Any]:
    """All messages of a class."""
    return st.builds(_built, st.just(kind), st.fixed_dictionaries(dict(_field_values(kind))))


def _built(kind: type[Any], values: dict[str, Any]) -> Any:
    """Make a message, with the first only of what is one of several."""
    seen = set()
    for each in fields(kind):
        oneof = each.metadata[protobuf._DECLARED].oneof
        if oneof and values[each.name] is not None:
            if oneof in seen:
                values[each.name] = None
            seen.add(oneof)
    return kind(**values)


def _field_values(kind: type[Any]) -> Iterator[tuple[str, st.SearchStrategy[Any]]]:
    hints = get_type_hints(kind)
    for each in fields(kind):
        declared = each.metadata[protobuf._DECLARED]
        hint, arguments = hints[each.name], get_args(hints[each.name])
        if get_origin(hint) is tuple:
            yield each.name, st.lists(_values(arguments[0], declared.wire), max_size=3).map(tuple)
        elif get_origin(hint) is Mapping:
            yield each.name, st.dictionaries(_TEXTS, _values(arguments[1], declared.wire), max_size=3)
        elif NoneType in arguments:
            yield each.name, st.none() | _values(arguments[0], declared.wire)
        else:
            yield each.name, _values(hint, declared.wire)


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

_INTEGERS = {
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "uint32": st.integers(0, (1 << 32) - 1),
    "uint64": st.integers(0, (1 << 64) - 1),
}

_SCALARS: dict[type, st.SearchStrategy[Any]] = {
    str: _TEXTS,
    bytes: st.binary(max_size=40),
    bool: st.booleans(),
    datetime: st.datetimes(timezones=st.just(UTC)),
}


def _values(hint: Any, wire: str | None) -> st.SearchStrategy[Any]:
    if hint is int:
        return _INTEGERS[wire or "int64"]
    if hint in _SCALARS:
        return _SCALARS[hint]
    return st.sampled_from(hint) if issubclass(hint, IntEnum) else st.deferred(lambda: messages(hint))

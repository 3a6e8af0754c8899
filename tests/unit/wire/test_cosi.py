"""Resources of a kind: how they are made, read and given back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provider.domain.errors import MalformedPacketError
from provider.wire import cosi, omni, protobuf


def test_a_new_resource_is_one_that_the_server_takes() -> None:
    """An empty version, an empty phase or an absent spec is refused as unparsable."""
    new = omni.INFRA_PROVIDERS.new("bm", omni.InfraProvider(), labels={omni.LABEL_STATIC_PROVIDER: ""})
    assert new.metadata.version == "undefined"
    assert new.metadata.phase == "running"
    assert (new.metadata.namespace, new.metadata.type) == ("infra-provider", "InfraProviders.omni.sidero.dev")
    assert new.metadata.labels == {"omni.sidero.dev/is-static-infra-provider": ""}
    assert protobuf.encode(new).endswith(b"\x12\x00"), "the empty spec is there"


def test_a_spec_goes_back_as_it_came() -> None:
    """A manager newer than we are has fields that we do not know: an update without them changes what only it may change."""
    newer = protobuf.encode(omni.InfraMachine(wipe_id="w1")) + b"\xfa\x07\x03new"
    resource = replace(omni.INFRA_MACHINES.new("id", omni.InfraMachine()), spec=cosi.Spec(newer))
    received = protobuf.decode(cosi.Resource, protobuf.encode(resource))
    assert omni.INFRA_MACHINES.read(received).wipe_id == "w1"
    sent = replace(received, metadata=replace(received.metadata, finalizers=("bm.us",)))
    assert protobuf.decode(cosi.Resource, protobuf.encode(sent)).spec.proto_spec == newer


def test_a_resource_of_another_kind_is_not_read() -> None:
    """Many messages are readable as each other: a status taken for a machine could say ACCEPTED."""
    status = omni.MACHINE_STATUSES.new("id", omni.InfraMachineStatus(ready_to_use=True))
    with pytest.raises(MalformedPacketError, match=r"InfraMachineStatuses.* where InfraMachines"):
        omni.INFRA_MACHINES.read(status)


def test_a_spec_that_is_no_message_is_malformed() -> None:
    """It is one resource that is dropped then, not the watch."""
    broken = replace(omni.INFRA_MACHINES.new("id", omni.InfraMachine()), spec=cosi.Spec(b"\x0a"))
    with pytest.raises(MalformedPacketError, match="InfraMachine"):
        omni.INFRA_MACHINES.read(broken)


def test_what_may_hold_keys_is_in_no_repr() -> None:
    """Specs have passwords and join tokens, and resources are logged."""
    config = omni.BmcConfig(omni.BmcAccess(omni.Ipmi("10.0.0.7", 623, "ops", "hunter2")))
    join = omni.ProviderJoinConfig(omni.JoinConfig(("siderolink.api=hunter2",), "hunter2"), "hunter2")
    for told in (config, join, omni.BMC_CONFIGS.new("id", config), omni.TlsConfig("ca", "hunter2")):
        assert "hunter2" not in repr(told)


def test_an_update_says_which_phase_it_expects_or_none() -> None:
    """An expected phase that is empty is one that no resource has: finalizers could never be removed."""
    assert b"running" in protobuf.encode(cosi.UpdateOptions("me", cosi.RUNNING))
    assert protobuf.encode(cosi.UpdateOptions("me")) == b"\x0a\x02me"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (omni.BmcConfiguration, "BMCConfiguration.bm.infraprovider.sidero.dev"),
        (omni.MachineStatus, "MachineStatus.bm.infraprovider.sidero.dev"),
        (omni.PowerOperation, "PowerOperation.bm.infraprovider.sidero.dev"),
        (omni.WipeStatus, "WipeStatus.bm.infraprovider.sidero.dev"),
        (omni.RebootStatus, "RebootStatus.bm.infraprovider.sidero.dev"),
        (omni.TlsConfig, "TLSConfig.bm.infraprovider.sidero.dev"),
    ],
)
def test_the_private_state_of_a_former_provider_is_found(spec: type[omni.WipeStatus], name: str) -> None:
    """Under another name there is nothing, and every machine would be wiped again."""
    kind = omni.private_kind("bm", spec)
    assert (kind.name, kind.namespace) == (name, "infra-provider:bm")


def test_a_former_providers_controllers_are_named_as_it_names_them() -> None:
    """A finalizer that is not taken away keeps a removed machine for ever."""
    assert omni.owner("bm", omni.CONTROLLERS[0]) == "bm.BMCConfigurationController"

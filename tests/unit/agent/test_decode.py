"""The provider's JSON: newer providers, broken providers."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.agent import decode
from provider.domain.errors import MalformedPacketError
from provider.domain.operation import DiskWipe, OperationKind, RefusedDisk, WipeMethod, WipePlan
from provider.wire import agent as wire

PLAN = WipePlan(
    machine_id="m-1",
    wipe_id="w-1",
    disks=(DiskWipe("S1", "naa.5", "/dev/sda", 1 << 30, WipeMethod.DISCARD_AND_ZERO, "it supports discard"),),
    refused=(RefusedDisk("/dev/sdb", "", "no name"),),
)
WORK = wire.Work("op-1", "m-1", OperationKind.WIPE, PLAN)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
)
work_like = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("op") | json_values,
        "machine_id": json_values,
        "kind": st.sampled_from(["wipe", "reboot"]) | json_values,
        "wipe_plan": json_values
        | st.fixed_dictionaries({"machine_id": json_values, "wipe_id": json_values, "disks": json_values}),
    },
)


plans = st.builds(
    WipePlan,
    machine_id=st.text(),
    wipe_id=st.text(),
    disks=st.lists(
        st.builds(DiskWipe, st.text(), st.text(), st.text(), st.integers(0), st.sampled_from(WipeMethod), st.text())
    ).map(tuple),
    refused=st.lists(st.builds(RefusedDisk, st.text(), st.text(), st.text())).map(tuple),
)
any_work = st.builds(wire.Work, st.text(), st.text(), st.sampled_from(OperationKind), st.none() | plans)


@given(any_work)
def test_work_comes_back(work: wire.Work) -> None:
    """Breaks if a plan changes on its way from the provider to the disk."""
    assert decode.work(json.loads(json.dumps(asdict(work)))) == work


def test_wipe_of_everything_is_refused() -> None:
    """Breaks if this agent takes a plan that names no disk for one of a machine that has none."""
    plan = WipePlan("m-1", "w-1", (), everything=True)
    with pytest.raises(decode.UnknownWorkError, match="by name"):
        decode.work(asdict(wire.Work("op-1", "m-1", OperationKind.WIPE, plan)))


@given(st.builds(wire.Enrolled, st.text(), st.text()))
def test_enrolment_comes_back(enrolled: wire.Enrolled) -> None:
    """Breaks if the agent goes on with another token than it was given."""
    assert decode.enrolled(json.loads(json.dumps(asdict(enrolled)))) == enrolled


def test_unknown_fields_are_passed_over() -> None:
    """Breaks if a newer provider strands an older agent."""
    document = json.loads(json.dumps(asdict(WORK)))
    document["deadline"] = 5
    document["wipe_plan"]["priority"] = "high"
    document["wipe_plan"]["disks"][0]["color"] = "red"
    assert decode.work(document) == WORK


@pytest.mark.parametrize("change", [{"kind": "dance"}, {"wipe_plan": {"machine_id": "m-1"}}, {"wipe_plan": [1]}])
def test_unknown_work_can_be_answered(change: dict[str, object]) -> None:
    """Breaks if work that this agent cannot do is met with silence, so that the provider waits for ever."""
    document = {**json.loads(json.dumps(asdict(WORK))), **change}
    with pytest.raises(decode.UnknownWorkError) as caught:
        decode.work(document)
    assert caught.value.operation_id == "op-1"


def test_unknown_method_wipes_nothing() -> None:
    """Breaks if a method that this agent does not know is taken for one that it knows."""
    document = json.loads(json.dumps(asdict(WORK)))
    document["wipe_plan"]["disks"][0]["method"] = "laser"
    with pytest.raises(decode.UnknownWorkError):
        decode.work(document)


@given(json_values | work_like)
def test_any_json(document: object) -> None:
    """Breaks if any JSON is answered with anything but work or MalformedPacketError."""
    for read in (decode.work, decode.enrolled):
        with contextlib.suppress(MalformedPacketError):
            read(document)

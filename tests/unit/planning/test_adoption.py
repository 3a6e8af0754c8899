"""Moving over from Sidero's own provider: each row of what it left, and that no machine is touched because of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerReading, PowerState
from provider.domain.machine import (
    Acceptance,
    AgentKind,
    AgentPresence,
    BmcFacts,
    Desired,
    Facts,
    Identity,
    Machine,
    Record,
    RecordKind,
)
from provider.domain.operation import OperationKind
from provider.domain.secret import Secret
from provider.planning import adoption, lifecycle
from provider.planning.adoption import Adoption, FoundBmc, Left
from provider.planning.lifecycle import Operate, SetPower
from provider.planning.omni import Seen
from provider.wire import omni as wire
from tests.unit.planning.omni_world import (
    ACCEPTED,
    ALLOCATED,
    CORDONED,
    INSTALLED,
    INTERVAL,
    NOW,
    PENDING,
    POLICY,
    REJECTED,
    ago,
    removed,
    wiped,
)

NEW = Facts(first_seen=NOW)
NOTHING = Desired()
WIPED_AT = ago(days=40)
WIPED = wire.WipeStatus("", 3, True, "old-token")
IPMI = wire.Ipmi("10.0.0.7", 0, "talos-agent", "pw")
BMC = wire.BmcConfiguration(IPMI)
ON, OFF = wire.PowerState.ON, wire.PowerState.OFF
WHOLE = Left(
    BMC,
    wire.MachineStatus(False, ON, True),
    wire.PowerOperation(ON, ago(days=2), "off-1", ""),
    ago(days=2),
    WIPED,
    WIPED_AT,
    wire.RebootStatus("r-1", ago(days=1)),
)


def machine(known: Facts = NEW, desired: Desired = NOTHING) -> Machine:
    return Machine(Identity("m-1"), desired, known)


def adopt(
    spec: wire.InfraMachine, left: Left, known: Facts = NEW, before: Desired = NOTHING, *, tearing_down: bool = False
) -> Adoption:
    seen = Seen(spec, created=ago(days=50), tearing_down=tearing_down)
    token = before.manager_token or "sealed-new"
    return adoption.adopt(seen, left, machine(known, before), token=token, seal=lambda plain: f"sealed-{plain}")


WIPE = Record(
    RecordKind.WIPE,
    "",
    WIPED_AT,
    detail="by the provider before us",
    install_event=3,
    manager_token="sealed-old-token",
)


def test_all_that_it_left() -> None:
    """A part of its memory is not taken over, or not as our planner reads it."""
    taken = adopt(INSTALLED, WHOLE)
    by = "by the provider before us"
    assert taken.records == (
        WIPE,
        Record(RecordKind.REBOOT, "r-1", ago(days=1), detail=by),
        Record(RecordKind.POWER_OFF, "off-1", ago(days=2), detail=by, wipe_id=""),
    )
    assert taken.bmc == FoundBmc(Bmc("10.0.0.7", "talos-agent", Secret("pw"), 623, "either"), is_configured=False)
    assert (taken.last_reboot_at, taken.last_power_on_at, taken.power) == (ago(days=1), ago(days=2), PowerState.ON)
    assert taken.desired is not None
    assert (taken.desired.acceptance, taken.desired.revision) == (Acceptance.ACCEPTED, 1)
    assert (taken.desired.install_event, taken.desired.manager_token) == (4, "sealed-new")
    assert taken.remarks == ()
    assert "pw" not in repr(taken)
    assert "token" not in repr(taken).replace("sealed-old-token", "")


def same(**changes: object) -> Left:
    return replace(WHOLE, **changes)


def kinds(taken: Adoption) -> list[RecordKind]:
    return [record.kind for record in taken.records]


ALL_KINDS = [RecordKind.WIPE, RecordKind.REBOOT, RecordKind.POWER_OFF]


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        pytest.param(WHOLE, ALL_KINDS, id="all"),
        pytest.param(Left(), [], id="nothing"),
        pytest.param(same(wipe=None), ALL_KINDS[1:], id="never wiped"),
        pytest.param(same(wipe=wire.WipeStatus("", 0, False)), ALL_KINDS[1:], id="initial wipe not done"),
        pytest.param(same(wipe=wire.WipeStatus("w-1", 3, False)), ALL_KINDS[1:], id="not even with an id"),
        pytest.param(
            same(reboot=wire.RebootStatus("", ago(days=1))), [RecordKind.WIPE, RecordKind.POWER_OFF], id="by mode"
        ),
        pytest.param(same(power=wire.PowerOperation(ON, ago(days=2))), ALL_KINDS[:2], id="no power-off"),
    ],
)
def test_records(left: Left, expected: list[RecordKind]) -> None:
    """A wipe that was never done counts as done, or the empty id as a request (facts 4.2, 4.4, 4.5)."""
    assert kinds(adopt(ACCEPTED, left)) == expected


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        pytest.param(wire.BmcConfiguration(replace(IPMI, port=6230)), ("10.0.0.7:6230", "either", False), id="port"),
        pytest.param(wire.BmcConfiguration(IPMI, None, True), ("10.0.0.7:623", "either", True), id="configured"),
        pytest.param(
            wire.BmcConfiguration(IPMI, wire.PowerApi("10.0.0.1:9000")), ("10.0.0.1:9000", "api", False), id="both"
        ),
        pytest.param(
            wire.BmcConfiguration(None, wire.PowerApi("10.0.0.1:9000")), ("10.0.0.1:9000", "api", False), id="api"
        ),
        pytest.param(wire.BmcConfiguration(None, wire.PowerApi("qemu")), ("qemu:80", "api", False), id="api, no port"),
        pytest.param(wire.BmcConfiguration(), None, id="empty"),
        pytest.param(None, None, id="none"),
    ],
)
def test_bmc(left: wire.BmcConfiguration | None, expected: tuple[str, str, bool] | None) -> None:
    """The BMC is reached elsewhere, or an administrator's word is taken for something that we found out."""
    found = adopt(ACCEPTED, same(bmc=left)).bmc
    assert (None if found is None else (found.bmc.name, found.bmc.kind, found.is_configured)) == expected


HAS_BMC = replace(NEW, bmc=BmcFacts("10.0.0.9:623"))
NOT_WIPED = same(wipe=None)


@pytest.mark.parametrize(
    ("spec", "left", "known", "remark"),
    [
        pytest.param(PENDING, Left(), NEW, "nobody has accepted it", id="pending"),
        pytest.param(
            PENDING, Left(), NEW, "will be wiped once accepted: Sidero's provider has not", id="pending, not wiped"
        ),
        pytest.param(REJECTED, WHOLE, NEW, "it is rejected", id="rejected"),
        pytest.param(CORDONED, WHOLE, NEW, "it is cordoned", id="cordoned"),
        pytest.param(ACCEPTED, NOT_WIPED, NEW, "will be wiped: Sidero's provider has not wiped it yet", id="not wiped"),
        pytest.param(INSTALLED, Left(), NEW, "but a system was installed on it", id="in use and not wiped"),
        pytest.param(
            replace(ACCEPTED, wipe_id="w-2"), WHOLE, NEW, "will be wiped: Omni asks for a wipe", id="released"
        ),
        pytest.param(ACCEPTED, same(bmc=None), NEW, "no BMC is known", id="no BMC"),
        pytest.param(
            ACCEPTED,
            same(bmc=wire.BmcConfiguration(None, wire.PowerApi("h:1"))),
            NEW,
            "the power API of a test",
            id="api",
        ),
        pytest.param(ACCEPTED, same(status=wire.MachineStatus(True)), NEW, "an agent of Sidero's provider", id="agent"),
        pytest.param(ACCEPTED, WHOLE, HAS_BMC, "its BMC stays 10.0.0.9:623", id="another BMC"),
        pytest.param(ACCEPTED, WHOLE, replace(NEW, records=(wiped("w-9"),)), "we have wiped it ourselves", id="ours"),
        pytest.param(
            ACCEPTED,
            WHOLE,
            replace(NEW, records=(removed(days=45), removed(days=30))),
            "it has to be removed",
            id="outlived",
        ),
    ],
)
def test_remarks(spec: wire.InfraMachine, left: Left, known: Facts, remark: str) -> None:
    """Nobody is told of what will happen to the machine, or has to be looked at."""
    assert remark in "; ".join(adopt(spec, left, known).remarks)


def test_nothing_of_a_machine_that_goes() -> None:
    """A machine that is removed, or was, is bound to us again."""
    assert not adopt(INSTALLED, WHOLE, tearing_down=True)
    assert not adopt(INSTALLED, WHOLE, replace(NEW, records=(removed(days=1),)))


def test_wipe_of_another_life() -> None:
    """
    A machine that was removed under us and joined again counts as wiped, because Sidero's provider left its old record: it
    would be handed on with somebody's data.
    """
    known = replace(NEW, records=(wiped(days=39), removed(days=20)))
    seen = Seen(ACCEPTED, created=ago(days=10))
    taken = adoption.adopt(seen, WHOLE, machine(known), token="", seal=str)
    assert RecordKind.WIPE not in kinds(taken)
    now = adoption.after(machine(known), taken)
    assert lifecycle.requires_wipe(now.desired, now.facts)


def test_our_newer_answers_win() -> None:
    """A wipe of ours is forgotten, or its install event, because an older one is written after it."""
    ours = wiped("w-2", event=5, days=3)
    known = replace(NEW, records=(ours,))
    taken = adopt(replace(ALLOCATED, wipe_id="w-2", install_event_id=5), same(reboot=None, power=None), known)
    assert taken.records == (WIPE, ours), "both are answered, and ours is the last"
    now = adoption.after(machine(known), taken)
    assert lifecycle.last_wipe(now.facts) == ours
    assert not lifecycle.is_installed(now.desired, now.facts)
    assert lifecycle.is_answered(now.facts, RecordKind.WIPE, "")


def test_its_newer_answers_win() -> None:
    """It went on after a first try with us: what it wiped since would be wiped again."""
    known = replace(NEW, records=(wiped("w-2", event=5, days=50),))
    taken = adopt(replace(ALLOCATED, wipe_id=""), same(reboot=None, power=None), known)
    assert taken.records == (WIPE,)


@pytest.mark.parametrize("days", [0.5, 3])
def test_later_times_win(days: float) -> None:
    """The minimum interval between reboots counts from the wrong one."""
    known = replace(NEW, last_reboot_at=ago(days=days), last_power_on_at=ago(days=days))
    now = adoption.after(machine(known), adopt(ACCEPTED, WHOLE, known)).facts
    assert now.last_reboot_at == max(ago(days=1), ago(days=days))
    assert now.last_power_on_at == max(ago(days=2), ago(days=days))


# --- the wall --------------------------------------------------------------------------------------------------------

# Two ids, and mostly what makes both sides act: else few of the examples would tell one from the other.
times = st.none() | st.integers(0, 3600).map(lambda s: NOW - timedelta(seconds=s))
ids = st.sampled_from(["x", ""])
mostly = st.sampled_from([True] * 7 + [False])
specs = st.builds(
    wire.InfraMachine,
    preferred_power_state=st.integers(0, 1),
    acceptance_status=st.sampled_from([1] * 9 + [0, 2, 3]),
    cluster_talos_version=st.sampled_from(["", "1.13.7"]),
    wipe_id=ids,
    requested_reboot_id=ids,
    power_off_request_id=ids,
    cordoned=mostly.map(lambda is_so: not is_so),
    install_event_id=st.integers(0, 1),
)
lefts = st.builds(
    Left,
    bmc=mostly.map(lambda has: BMC if has else None),
    status=st.builds(wire.MachineStatus, st.booleans()),
    power=st.none() | st.builds(wire.PowerOperation, st.sampled_from(wire.PowerState), times, ids, ids),
    power_at=times,
    wipe=st.none() | st.builds(wire.WipeStatus, ids, st.integers(0, 1), mostly),
    wipe_at=times,
    reboot=st.none() | st.builds(wire.RebootStatus, ids, times),
)
agents = st.sampled_from([True, False])
powers = st.sampled_from([PowerState.ON, PowerState.OFF])


class Sidero:
    """What Sidero's provider would do with a machine: facts 4.2 to 4.6, in its own words."""

    def __init__(self, spec: wire.InfraMachine, left: Left, *, is_on: bool) -> None:
        agent = left.status is not None and left.status.agent_accessible
        wipe = left.wipe or wire.WipeStatus()
        power = left.power or wire.PowerOperation()
        reboot = left.reboot or wire.RebootStatus()
        self.acts = spec.acceptance_status == wire.Acceptance.ACCEPTED and not spec.cordoned
        self.needs_wipe = left.wipe is None or not wipe.initial_wipe_done or spec.wipe_id != wipe.last_wipe_id
        installed = spec.install_event_id > wipe.last_wipe_install_event_id
        allocated = spec.cluster_talos_version != ""
        needs_power = allocated or installed or self.needs_wipe
        boots_agent = not allocated or left.bmc is None or self.needs_wipe
        boots_talos = not boots_agent and not installed
        noted = (spec.power_off_request_id, spec.wipe_id)
        if spec.power_off_request_id in ("", power.last_power_off_id):
            noted = (power.last_power_off_id, power.wipe_id_at_power_off)
        kept_off = noted[0] != "" and noted == (spec.power_off_request_id, spec.wipe_id)
        up = max(filter(None, (power.last_power_on_timestamp, reboot.last_reboot_timestamp)), default=None)
        rested = up is None or NOW - up >= INTERVAL
        prefers_on = spec.preferred_power_state == wire.PreferredPower.ON
        has_bmc = self.acts and left.bmc is not None
        misplaced = (boots_agent and not agent) or (boots_talos and agent)
        asked = reboot.last_reboot_id != spec.requested_reboot_id
        self.wipes = self.acts and self.needs_wipe
        self.switches_on = has_bmc and not is_on and not kept_off and (needs_power or prefers_on)
        self.switches_off = has_bmc and is_on and not needs_power and not prefers_on and rested
        self.reboots = has_bmc and rested and ((needs_power and misplaced) or asked)


@settings(max_examples=1500)
@given(specs, lefts, agents, powers)
def test_nothing_happens_that_it_would_not_have_done(
    spec: wire.InfraMachine, left: Left, comes: bool, state: PowerState
) -> None:
    """
    A machine is wiped, rebooted or switched by the change of providers alone.

    Each has a machine status, which it makes as soon as a machine asks for a boot script. If an agent waited for it, that one
    comes to us or does not; for a wipe that is due, a machine may have to boot again.
    """
    comes = comes and left.status is not None and left.status.agent_accessible
    adopted = adoption.after(machine(), adopt(spec, left))
    sidero = Sidero(spec, left, is_on=state is PowerState.ON)
    presence = AgentPresence(comes, ago(seconds=5) if comes else None, AgentKind.TALOS)
    facts = replace(adopted.facts, power=PowerReading(state, NOW, "bmc"), agent=presence)
    assert lifecycle.requires_wipe(adopted.desired, facts) == (
        sidero.needs_wipe and adopted.desired.acceptance is Acceptance.ACCEPTED
    )
    plan = lifecycle.decide("m-1", adopted.desired, facts, NOW, POLICY)
    match plan.step:
        case Operate(OperationKind.WIPE):
            assert sidero.wipes
        case Operate(OperationKind.REBOOT | OperationKind.POWER_OFF):
            raise AssertionError(plan)
        case SetPower(PowerAction.CYCLE):
            assert sidero.reboots or (sidero.wipes and not comes)
        case SetPower(PowerAction.OFF):
            assert sidero.switches_off
        case SetPower(PowerAction.ON):
            assert sidero.switches_on


@given(specs, lefts, st.lists(st.sampled_from([wiped("x"), wiped("y", days=9), removed(days=70)]), max_size=3))
def test_second_time(spec: wire.InfraMachine, left: Left, known: list[Record]) -> None:
    """Another run, after a crash or by mistake, writes something again."""
    before = machine(replace(NEW, records=tuple(sorted(known, key=lambda each: each.at))))
    once = adoption.after(before, adopt(spec, left, before.facts, before.desired))
    assert not adopt(spec, left, once.facts, once.desired)
    answered = {(each.kind, each.request_id) for each in lifecycle.this_life(before.facts)}
    assert answered <= {(each.kind, each.request_id) for each in lifecycle.this_life(once.facts)}


def test_machine_that_waited_in_its_agent() -> None:
    """One that is allocated to a cluster waits for ever in an agent that calls nobody."""
    left = same(status=wire.MachineStatus(True, ON), power=None)
    adopted = adoption.after(machine(), adopt(ALLOCATED, left))
    facts = replace(adopted.facts, power=PowerReading(PowerState.ON, NOW, "bmc"))
    plan = lifecycle.decide("m-1", adopted.desired, facts, NOW, POLICY)
    assert plan.step == SetPower(PowerAction.CYCLE, NextBoot.NETWORK, None)
    otherwise = replace(facts, last_script_mode=None)
    assert lifecycle.decide("m-1", adopted.desired, otherwise, NOW, POLICY).step is None


def test_summary() -> None:
    """Nobody sees what was taken over."""
    assert list(adoption.summary(adopt(INSTALLED, WHOLE))) == [
        "the initial wipe",
        "reboot r-1",
        "power-off off-1",
        "BMC 10.0.0.7:623",
        "last reboot 2026-01-01 12:00 UTC",
        "last power-on 2025-12-31 12:00 UTC",
        "what Omni wants",
    ]


# --- it is ahead of us ----------------------------------------------------------------------------------------------------


def wipe_record(request_id: str, *, event: int = 3, at: int = 40) -> Record:
    return Record(RecordKind.WIPE, request_id, ago(days=at), install_event=event, manager_token="sealed-token")


REMOVED = Record(RecordKind.REMOVED, "x", ago(days=1))
WIPED_ONLY = Left(wipe=WIPED, wipe_at=WIPED_AT)
REBOOTED = Left(reboot=wire.RebootStatus("r-1", ago(days=1)))
KEPT_OFF = Left(power=wire.PowerOperation(OFF, None, "off-1", "w-1"))


@pytest.mark.parametrize(
    ("left", "records", "expected"),
    [
        pytest.param(WIPED_ONLY, (wipe_record(""),), False, id="taken over"),
        pytest.param(WIPED_ONLY, (), True, id="never taken over"),
        pytest.param(Left(), (), False, id="nothing done"),
        pytest.param(Left(wipe=wire.WipeStatus("w-1", 3, False)), (), False, id="not wiped to the end"),
        pytest.param(Left(wipe=wire.WipeStatus("w-2", 5, True)), (wipe_record(""),), True, id="wiped since, by it"),
        pytest.param(
            Left(wipe=wire.WipeStatus("", 0, True)), (wipe_record(""),), True, id="wiped since, in a new life"
        ),
        pytest.param(WIPED_ONLY, (wipe_record(""), wipe_record("w-2", event=5, at=2)), False, id="wiped since, by us"),
        pytest.param(WIPED_ONLY, (wipe_record(""), REMOVED), False, id="of a life that ended here"),
        pytest.param(REBOOTED, (), True, id="rebooted"),
        pytest.param(REBOOTED, (Record(RecordKind.REBOOT, "r-1", ago(days=1)),), False, id="rebooted, and we know"),
        pytest.param(KEPT_OFF, (), True, id="kept off"),
        pytest.param(
            KEPT_OFF, (Record(RecordKind.POWER_OFF, "off-1", NOW, wipe_id="w-1"),), False, id="kept off, and we know"
        ),
    ],
)
def test_what_we_know_nothing_of(left: Left, records: tuple[Record, ...], expected: bool) -> None:
    """Sidero's provider was at work again after a way back, and we wipe once more what it has wiped; or we never start."""
    assert adoption.is_ahead(left, replace(NEW, records=records)) is expected

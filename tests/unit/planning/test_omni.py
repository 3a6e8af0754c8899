"""Omni's resources and our words for them, and table 4.9: what is written at Omni, and when."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.bmc import PowerReading
from provider.domain.inventory import Cpu, Disk, FirmwareKind, Inventory, System
from provider.domain.mac import MacAddress
from provider.domain.machine import (
    Acceptance,
    Allocation,
    Attachment,
    BmcFacts,
    Desired,
    Facts,
    Identity,
    Machine,
    PreferredPower,
    Record,
    RecordKind,
)
from provider.planning import lifecycle, lives, omni, witness
from provider.planning.omni import Seen, Teardown
from provider.wire import omni as wire
from tests.unit.planning.omni_world import (
    ACCEPTED,
    ALLOCATED,
    CORDONED,
    INSTALLED,
    NOW,
    OFF,
    ON,
    PENDING,
    POLICY,
    REJECTED,
    UNKNOWN,
    agent,
    ago,
    desired,
    facts,
    machine,
    powered_off,
    rebooted,
    removed,
    wiped,
    with_agent,
)

FULL = wire.InfraMachine(
    preferred_power_state=1,
    acceptance_status=1,
    cluster_talos_version="1.13.7",
    extensions=("siderolabs/gvisor",),
    wipe_id="w",
    extra_kernel_args="  console=ttyS1  debug ",
    requested_reboot_id="r",
    cordoned=True,
    install_event_id=7,
    node_unique_token="plain",
    power_off_request_id="p",
)


# --- from Omni -------------------------------------------------------------------------------------------------------


def test_every_field_arrives() -> None:
    """A field of Omni's is lost on its way, or the token comes in by another way than sealed."""
    arguments = ("console=ttyS1", "debug")
    assert desired(FULL, facts()) == Desired(
        acceptance=Acceptance.ACCEPTED,
        cordoned=True,
        allocation=Allocation("talos", "1.13.7", arguments, extensions=("siderolabs/gvisor",)),
        preferred_power=PreferredPower.ON,
        wipe_id="w",
        reboot_id="r",
        power_off_id="p",
        revision=1,
        install_event=7,
        manager_token="sealed",
        agent_arguments=arguments,
    )


@pytest.mark.parametrize(
    ("number", "acceptance"),
    [
        (0, Acceptance.PENDING),
        (1, Acceptance.ACCEPTED),
        (2, Acceptance.REJECTED),
        (3, Acceptance.PENDING),
        (-1, Acceptance.PENDING),
    ],
)
def test_unknown_acceptance_is_none(number: int, acceptance: Acceptance) -> None:
    """A newer Omni's number opens the door to the disks."""
    before = Desired(acceptance=Acceptance.ACCEPTED)
    assert desired(replace(ACCEPTED, acceptance_status=number), facts(), before).acceptance is acceptance


@pytest.mark.parametrize(("number", "power"), [(0, "off"), (1, "on"), (2, "off"), (-1, "off")])
def test_unknown_power_is_no_wish(number: int, power: str) -> None:
    """A newer Omni's number switches machines on."""
    before = Desired(preferred_power=PreferredPower.ON)
    assert desired(replace(ACCEPTED, preferred_power_state=number), facts(), before).preferred_power == power


def test_revision_counts_changes() -> None:
    """Omni's version starts at 1 again when a resource is made anew, and its news are dropped as old."""
    first = desired(ACCEPTED, facts())
    assert desired(ACCEPTED, facts(), first) == first
    assert desired(ALLOCATED, facts(), first).revision == first.revision + 1


def test_huge_install_event_fits_the_database() -> None:
    """A uint64 breaks the store, and with it the link."""
    assert desired(replace(ACCEPTED, install_event_id=2**64 - 1), facts()).install_event == 2**63 - 1


@pytest.mark.parametrize(
    ("seen", "records", "acceptance"),
    [
        pytest.param(Seen(INSTALLED, tearing_down=True), (), Acceptance.PENDING, id="torn down"),
        pytest.param(Seen(INSTALLED, created=ago(hours=2)), (removed(hours=1),), Acceptance.PENDING, id="outlived"),
        pytest.param(Seen(INSTALLED), (removed(hours=1),), Acceptance.PENDING, id="outlived, perhaps"),
        pytest.param(
            Seen(INSTALLED, created=ago(minutes=9)), (removed(hours=1),), Acceptance.ACCEPTED, id="joined again"
        ),
        pytest.param(Seen(INSTALLED, created=ago(hours=2)), (), Acceptance.ACCEPTED, id="never removed"),
    ],
)
def test_who_wants_nothing(seen: Seen | None, records: tuple[Record, ...], acceptance: Acceptance) -> None:
    """A machine is touched for a resource that is gone, or that a backup brought back after the machine was given up."""
    before = desired(INSTALLED, facts())
    now = omni.desired(seen, before, facts(ON, *records), token="sealed")
    assert replace(now, revision=0) == replace(before, acceptance=acceptance, revision=0)


@pytest.mark.parametrize("spec", [INSTALLED, REJECTED, CORDONED])
def test_gone_machine_is_a_stranger(spec: wire.InfraMachine) -> None:
    """4.3 "no M": a machine that was rejected or cordoned stays silent after Omni forgot it, and can never join again."""
    before = desired(spec, facts())
    now = omni.desired(None, before, facts(), token="")
    assert now == replace(before, acceptance=Acceptance.PENDING, cordoned=False, revision=before.revision + 1)
    assert omni.desired(None, now, facts(), token="") == now


def test_rejected_machine_stays_silent_when_it_is_removed() -> None:
    """4.3: rejection comes before everything else."""
    before = desired(REJECTED, facts())
    assert omni.desired(Seen(REJECTED, tearing_down=True), before, facts(), token="") == before


# --- to Omni, 4.9 ----------------------------------------------------------------------------------------------------

STATIC = {"site": "ams1", "omni.sidero.dev/cluster": "forged"}
READY = facts(OFF, wiped(event=3, token="sealed-old"))


def status(spec: wire.InfraMachine, known: Facts, seen: Seen | None = None) -> wire.InfraMachineStatus | None:
    found = omni.status(machine(spec, known), seen or Seen(spec), STATIC)
    return None if found is None else found[0]


@pytest.mark.parametrize(
    ("spec", "known", "told"),
    [
        pytest.param(ACCEPTED, facts(OFF), {"power_state": wire.PowerState.OFF}, id="accepted: there is a status"),
        pytest.param(ACCEPTED, facts(ON), {"power_state": wire.PowerState.ON}, id="power polled"),
        pytest.param(ACCEPTED, facts(UNKNOWN), {"power_state": wire.PowerState.UNKNOWN}, id="BMC does not answer"),
        # Theirs says unknown: a machine whose agent talks to us is on.
        pytest.param(
            ACCEPTED,
            with_agent(power=PowerReading()),
            {"power_state": wire.PowerState.ON},
            id="differs: the agent is there",
        ),
        pytest.param(
            replace(ACCEPTED, install_event_id=3), READY, {"ready_to_use": True}, id="BMC known and wipe done"
        ),
        pytest.param(replace(ACCEPTED, install_event_id=3), replace(READY, bmc=None), {}, id="wipe done, no BMC"),
        pytest.param(replace(ALLOCATED, wipe_id="w2"), READY, {}, id="wipe_id changed: not ready until wiped"),
        pytest.param(INSTALLED, READY, {"ready_to_use": True, "installed": True}, id="install event beyond the wipe's"),
        pytest.param(
            replace(INSTALLED, requested_reboot_id="r2"),
            replace(
                READY,
                records=(*READY.records, rebooted("r0", hours=2), rebooted("r", hours=1)),
                last_reboot_at=ago(hours=1),
            ),
            {
                "ready_to_use": True,
                "installed": True,
                "last_reboot_id": "r",
                "last_reboot_timestamp": ago(hours=1),
            },
            id="reboot done",
        ),
        pytest.param(
            replace(INSTALLED, power_off_request_id="p"),
            replace(READY, records=(*READY.records, powered_off("p"))),
            {"ready_to_use": True, "installed": True, "last_power_off_id": "p"},
            id="power-off honoured",
        ),
        pytest.param(
            replace(INSTALLED, power_off_request_id="p"),
            replace(READY, records=(*READY.records, powered_off("p", "w0"))),
            {"ready_to_use": True, "installed": True, "last_power_off_id": ""},
            id="power-off stale",
        ),
    ],
)
def test_status(spec: wire.InfraMachine, known: Facts, told: dict[str, object]) -> None:
    """4.9: Omni is told something else than is, and configures, or does not, a machine."""
    usual: dict[str, object] = {"power_state": wire.PowerState.OFF}
    if any(record.kind is RecordKind.WIPE for record in known.records):
        usual["wiped_node_unique_token"] = "sealed-old"
    assert status(spec, known) == wire.InfraMachineStatus(**{**usual, **told})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "seen"),
    [
        pytest.param(PENDING, Seen(PENDING), id="pending: not yet"),
        pytest.param(REJECTED, Seen(REJECTED), id="rejected"),
        pytest.param(CORDONED, Seen(CORDONED), id="cordoned: it freezes"),
        pytest.param(ACCEPTED, Seen(CORDONED), id="cordoned a moment ago"),
        pytest.param(CORDONED, Seen(ACCEPTED), id="not cordoned since a moment ago"),
        pytest.param(ACCEPTED, Seen(ACCEPTED, tearing_down=True), id="tearingDown"),
    ],
)
def test_status_is_left_alone(spec: wire.InfraMachine, seen: Seen) -> None:
    """4.9: a status is made for a machine that nobody accepted, or comes back while the machine is given up."""
    assert status(spec, READY, seen) is None


def test_status_of_an_older_wish_is_not_ready() -> None:
    """4.9: between a new wipe id and our taking note of it, Omni configures a machine that is about to be wiped."""
    told = status(INSTALLED, READY, Seen(replace(INSTALLED, wipe_id="w2")))
    assert told is not None
    assert not told.ready_to_use


def test_token_is_that_of_the_wipe() -> None:
    """4.6: the token of a later life is reported as wiped, or one of an earlier, and the machine may not join any more."""
    known = facts(OFF, wiped(token="first", hours=3), wiped("w2", token="second"))
    told = status(replace(ACCEPTED, wipe_id="w2"), known)
    assert told is not None
    assert told.wiped_node_unique_token == "second"


def test_status_bears_witness() -> None:
    """A machine is called ready, and nothing at Omni says which wipe that was for when our store is lost."""
    seen = Seen(replace(ACCEPTED, install_event_id=3), created=ago(days=1))
    told = omni.status(machine(seen.spec, READY), seen, {})
    assert told is not None
    assert told.spec.ready_to_use
    assert told.statement == witness.statement(READY.records[-1], ago(days=1)) != ""


def test_status_labels() -> None:
    """4.9: labels of the allocation are not mirrored, stay after it, or are forged by the site's."""
    prefix = "omni.sidero.dev/"
    mirrored = {prefix + "cluster": "c", prefix + "machine-set": "c-workers", prefix + "role-worker": ""}
    infra = {**mirrored, prefix + "infra-provider-id": "bm1", "other": "x"}
    found = omni.status(machine(INSTALLED, READY), Seen(INSTALLED, infra), STATIC)
    assert found is not None
    assert found[1] == {"site": "ams1", **mirrored}
    found = omni.status(machine(ACCEPTED, READY), Seen(ACCEPTED), STATIC)
    assert found is not None
    assert found[1] == {"site": "ams1"}


# --- labels for machine classes --------------------------------------------------------------------------------------


def test_labels() -> None:
    """Machine classes cannot tell a small machine from a big one, or where it stands."""
    inventory = Inventory(
        System(manufacturer="Dell Inc.", product="PowerEdge R650"),
        FirmwareKind.UEFI,
        "x86_64",
        Cpu(model="Intel(R) Xeon(R) Gold 6338", cores=64, threads=128),
        memory_bytes=(256 << 30) - 12345,
        disks=(
            Disk("/dev/sda", 480 * 10**9),
            Disk("/dev/nvme0n1", 3840 * 10**9),
            Disk("/dev/sdb", 8 * 10**9, removable=True),
        ),
    )
    attachments = {
        MacAddress("52:54:00:00:00:02"): Attachment("eth0", "10.0.0.1", "ge-0/0/7", "leaf 3"),
        MacAddress("52:54:00:00:00:01"): Attachment("eth0"),
    }
    assert omni.labels(inventory, attachments, {"site": "ams1", "model": "r650"}) == {
        "vendor": "Dell-Inc",
        "model": "r650",
        "cpu-model": "Intel-R-Xeon-R-Gold-6338",
        "cores": "64",
        "threads": "128",
        "memory": "256GiB",
        "disks": "2",
        "disk-smallest": "480GB",
        "disk-largest": "3840GB",
        "disk-total": "4320GB",
        "switch": "leaf-3",
        "port": "ge-0-0-7",
        "site": "ams1",
    }
    assert omni.labels(None, {}, {}) == {}


_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_MULTIPLES |= {f"{unit}i": 2**power for unit, power in zip("kmgtp", (10, 20, 30, 40, 50), strict=True)}


def number(value: str) -> int | None:
    """How Omni reads a label that it compares by `<` or `>` (cosi-project/runtime, pkg/resource/internal/compare)."""
    found = re.match(r"\s*([0-9-]+)\s*([a-z]?i?)", value.lower())
    return None if found is None else int(found[1]) * _MULTIPLES[found[2]]


@pytest.mark.parametrize("gibibytes", [1, 16, 255, 256, 3072])
def test_sizes_are_numbers_to_omni(gibibytes: int) -> None:
    """`memory >= 256GiB` or `cores >= 16` finds no machine, because Omni does not take our labels for numbers."""
    disks = (Disk("/dev/sda", 480 * 10**9), Disk("/dev/sdb", 3840 * 10**9))
    cpu = Cpu(cores=16, threads=32)
    memory = (gibibytes << 30) - (100 << 20)
    inventory = Inventory(System(), FirmwareKind.UEFI, "x86_64", cpu, memory, disks=disks)
    read = {key: number(value) for key, value in omni.labels(inventory, {}, {}).items()}
    assert read == {
        "cores": 16,
        "threads": 32,
        "memory": gibibytes << 30,
        "disks": 2,
        "disk-smallest": 480 * 10**9,
        "disk-largest": 3840 * 10**9,
        "disk-total": 4320 * 10**9,
    }


def test_long_names_are_cut() -> None:
    """A name as long as firmware likes it makes a label that no list can show, or ends in the middle of a separator."""
    assert omni.label_value("x" * 62 + " of a kind") == "x" * 62
    assert omni.label_value("y" * 99) == "y" * 63


@given(st.text())
def test_label_values_are_plain(text: str) -> None:
    """What some firmware calls itself breaks a selector."""
    value = omni.label_value(text)
    assert len(value) <= 63
    assert not set(value) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


# --- finalizers ------------------------------------------------------------------------------------------------------

OURS = "bm1.InfraMachineStatusController"
FORMER = "bm1.Bootwright"
THEIRS = tuple(
    f"bm1.{name}Controller"
    for name in (
        "BMCConfiguration",
        "MachineStatus",
        "PowerOperation",
        "RebootStatus",
        "WipeStatus",
    )
)
"""Its other ones."""


@pytest.mark.parametrize(
    ("spec", "present", "tearing_down", "add", "remove"),
    [
        pytest.param(PENDING, (), False, (OURS,), (), id="seen, phase running, even while pending"),
        pytest.param(ACCEPTED, (OURS,), False, (), (), id="there already"),
        pytest.param(ACCEPTED, THEIRS, False, (OURS,), (), id="inherited ones stay: somebody may go back"),
        pytest.param(ACCEPTED, (OURS,), True, (), (OURS,), id="tearingDown"),
        pytest.param(ACCEPTED, (), True, (), (), id="tearingDown, never ours"),
        pytest.param(ACCEPTED, (*THEIRS, OURS), True, (), (*THEIRS, OURS), id="tearingDown: all six of theirs"),
        pytest.param(ACCEPTED, (FORMER,), True, (), (FORMER,), id="tearingDown: what ours was called before"),
        pytest.param(ACCEPTED, (OURS, "x", "bm2.Bootwright"), True, (), (OURS,), id="never anybody else's"),
    ],
)
def test_finalizers(
    spec: wire.InfraMachine, present: tuple[str, ...], tearing_down: bool, add: tuple[str, ...], remove: tuple[str, ...]
) -> None:
    """4.9: a machine is gone before we know, or stays in Omni for ever."""
    seen = Seen(spec, finalizers=present, tearing_down=tearing_down)
    assert omni.finalizers_to_add("bm1", seen) == add
    assert omni.finalizers_to_remove("bm1", seen) == remove


# --- 4.9 tearingDown -------------------------------------------------------------------------------------------------

DYING = Seen(INSTALLED, finalizers=(OURS,), created=ago(days=9), tearing_down=True)


class World:
    """What is stored at Omni and here while a machine is given up; a crash loses nothing of it."""

    def __init__(self, seen: Seen, known: Facts) -> None:
        self.seen = seen
        self.machine = Machine(Identity("m-1"), desired(INSTALLED, facts()), known)
        self.has_status = True
        self.now = NOW
        self.done: list[Teardown] = []

    def next(self) -> Teardown | None:
        return omni.teardown("bm1", self.seen, self.machine, has_status=self.has_status, now=self.now, policy=POLICY)

    def perform(self, step: Teardown) -> None:
        self.done.append(step)
        known = self.machine.facts
        match step:
            case Teardown.WITHDRAW:
                known = replace(known, records=(*known.records, Record(RecordKind.REMOVED, "", self.now)))
                self.machine = Machine(Identity("m-1"), omni.withdrawn(self.machine.desired), known)
            case Teardown.REBOOT:
                self.machine = replace(self.machine, facts=replace(known, last_reboot_at=self.now))
            case Teardown.DELETE_STATUS:
                self.has_status = False
            case Teardown.RELEASE:
                self.seen = replace(self.seen, finalizers=())


ALL = [Teardown.WITHDRAW, Teardown.REBOOT, Teardown.DELETE_STATUS, Teardown.RELEASE]
NO_REBOOT = [step for step in ALL if step is not Teardown.REBOOT]


@pytest.mark.parametrize(
    ("known", "seen", "steps"),
    [
        pytest.param(facts(ON, wiped()), DYING, ALL, id="runs: one reboot into agent mode"),
        pytest.param(facts(UNKNOWN, wiped()), DYING, ALL, id="perhaps"),
        pytest.param(with_agent(wiped()), DYING, NO_REBOOT, id="agent accessible"),
        pytest.param(facts(ON, wiped(), bmc=None), DYING, NO_REBOOT, id="no BMC"),
        pytest.param(facts(ON, wiped(), bmc=BmcFacts("b", failures=1)), DYING, NO_REBOOT, id="its BMC is silent"),
        # Theirs reboots those too: an off machine comes to us by itself when it is switched on, a cordoned one is left alone,
        # and the interval between reboots is a promise that holds until the end.
        pytest.param(facts(OFF, wiped()), DYING, NO_REBOOT, id="differs: off"),
        pytest.param(facts(ON, wiped()), replace(DYING, spec=CORDONED), NO_REBOOT, id="differs: cordoned"),
        pytest.param(
            facts(ON, wiped(), last_reboot_at=ago(minutes=9)), DYING, NO_REBOOT, id="differs: rebooted just now"
        ),
        pytest.param(facts(ON), replace(DYING, spec=PENDING), NO_REBOOT, id="never accepted"),
    ],
)
def test_teardown(known: Facts, seen: Seen, steps: list[Teardown]) -> None:
    """4.9: a machine is given up in an order in which something is lost."""
    world = World(seen, known)
    while step := world.next():
        world.perform(step)
    assert world.done == steps


def test_life_without_a_wish_ends_too() -> None:
    """A machine that was only pending leaves no mark of its end, and a backup that brings it back is taken for news."""
    known = facts(ON, Record(RecordKind.JOINED, lives.mark(ago(days=9)), ago(days=9)))
    pending = Machine(Identity("m-1"), Desired(), known)
    step = omni.teardown("bm1", DYING, pending, has_status=False, now=NOW, policy=POLICY)
    assert step is Teardown.WITHDRAW


def test_teardown_of_a_stranger() -> None:
    """A resource whose machine we never saw, or forgot, stays in Omni for ever."""
    assert omni.teardown("bm1", DYING, None, has_status=True, now=NOW, policy=POLICY) is Teardown.DELETE_STATUS
    assert omni.teardown("bm1", DYING, None, has_status=False, now=NOW, policy=POLICY) is Teardown.RELEASE
    assert (
        omni.teardown("bm1", replace(DYING, tearing_down=False), None, has_status=True, now=NOW, policy=POLICY) is None
    )


@given(st.lists(st.booleans(), max_size=12))
def test_teardown_survives_crashes(crashes: list[bool]) -> None:
    """A crash before or after a step repeats the reboot, or leaves something behind when the finalizer is gone."""
    world = World(DYING, facts(ON, wiped()))
    hits = iter(crashes)
    while step := world.next():
        if next(hits, False):
            continue  # Before the step: nothing happened.
        if step is Teardown.REBOOT and next(hits, False):
            # Between the note of the reboot and the command.
            world.perform(step)
            continue
        world.perform(step)
    assert world.done == ALL
    assert world.machine.desired.acceptance is Acceptance.PENDING
    assert not world.has_status


@pytest.mark.parametrize("step", [step for step in ALL if step is not Teardown.WITHDRAW])
def test_nothing_is_wiped_after_withdrawal(step: Teardown) -> None:
    """A machine that is being given up is wiped, or its operation goes on."""
    world = World(DYING, with_agent(wiped(), agent=agent()))
    world.perform(Teardown.WITHDRAW)
    world.perform(step)
    plan = lifecycle.decide("m-1", world.machine.desired, world.machine.facts, NOW, POLICY)
    assert (plan.rule, plan.step) == ("pending", None)


def test_next_life() -> None:
    """A machine that was removed and joins again is called wiped because of what was erased in its last life."""
    world = World(DYING, facts(ON, wiped(), rebooted("r", hours=1)))
    while step := world.next():
        world.perform(step)
    later = Seen(ACCEPTED, created=NOW + timedelta(minutes=9))
    known = world.machine.facts
    wanted = omni.desired(later, world.machine.desired, known, token="new")
    assert lifecycle.requires_wipe(wanted, known)
    found = omni.status(Machine(Identity("m-1"), wanted, known), later, {})
    assert found is not None
    told = found[0]
    assert (told.ready_to_use, told.wiped_node_unique_token, told.last_reboot_id) == (False, "", "")

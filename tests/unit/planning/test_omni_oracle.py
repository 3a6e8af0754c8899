"""
The planner beside a second, plain reading of what Sidero's provider does (`internal/provider/machine` and `controllers` of
siderolabs/omni-infra-provider-bare-metal), over every combination of what both look at. All that differs is named below.

Their controllers work side by side, and ours takes one step at a time: it has to be one of theirs, and none where they do none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from provider.domain.bmc import NextBoot, PowerAction, PowerState
from provider.domain.machine import Facts, Record, RecordKind
from provider.domain.operation import OperationKind
from provider.planning import lifecycle, omni
from provider.planning.lifecycle import Answer, Operate, SetPower, Step
from provider.planning.omni import Seen
from provider.wire import omni as wire
from tests.unit.planning.omni_world import (
    ACCEPTED,
    INTERVAL,
    NOW,
    OFF,
    ON,
    PENDING,
    POLICY,
    REJECTED,
    UNKNOWN,
    ago,
    desired,
    facts,
    powered_off,
    rebooted,
    wiped,
    with_agent,
)

ACCEPTANCES = {"pending": PENDING, "accepted": ACCEPTED, "rejected": REJECTED}
WIPES: dict[str, tuple[str, tuple[Record, ...]]] = {
    "never": ("", ()),
    "never, and one is asked for": ("w2", ()),
    "done": ("", (wiped(),)),
    "another is asked for": ("w2", (wiped(),)),
    "an old one is asked for": ("w1", (wiped("w1"), wiped("w2"))),
}
REBOOTS: dict[str, tuple[str, tuple[Record, ...]]] = {
    "none": ("", ()),
    "asked for": ("r2", (rebooted("r1", hours=2),)),
    "done": ("r1", (rebooted("r1", hours=2),)),
    "an old one is asked for": ("r1", (rebooted("r1", hours=3), rebooted("r2", hours=2))),
    "withdrawn": ("", (rebooted("r1", hours=2),)),
}
OFFS = ("none", "new", "in force", "stale")


@dataclass(frozen=True)
class Case:
    """One situation."""

    acceptance: str = "accepted"
    cordoned: bool = False
    phase: str = "running"
    allocated: bool = False
    booted: bool = False
    """Omni saw a system boot since the last wipe."""
    wipe: str = "done"
    bmc: bool = True
    agent: bool = False
    power: PowerState = ON
    reboot: str = "none"
    off: str = "none"
    elapsed: timedelta | None = None
    """Since the last power-on; None: there was none."""
    prefers_on: bool = False

    @property
    def allowed(self) -> bool:
        """Somebody accepted it, and it is there."""
        return self.phase == "running" and self.acceptance == "accepted" and not self.cordoned


@dataclass(frozen=True)
class Outcome:
    """What it boots, and what may be done now."""

    mode: str
    steps: frozenset[str] = frozenset()

    def but(self, *steps: str) -> Outcome:
        """The same, with these steps in place of the others."""
        return replace(self, steps=frozenset(steps))

    def without(self, *steps: str) -> Outcome:
        """The same without these."""
        return replace(self, steps=self.steps - set(steps))


# --- theirs ----------------------------------------------------------------------------------------------------------


def needs_wipe(case: Case) -> bool:
    return case.wipe != "done"


def needs_power(case: Case) -> bool:
    return case.allocated or case.booted or needs_wipe(case)


def their_mode(case: Case) -> str:
    if case.phase == "gone":
        return "agent"
    if case.cordoned or case.acceptance == "rejected":
        return "nothing"
    strange = case.phase != "running" or case.acceptance == "pending"
    if strange or not case.allocated or not case.bmc or needs_wipe(case):
        return "agent"
    return "disk" if case.booted else "install"


def their_steps(case: Case, mode: str) -> Iterator[str]:
    rested = case.elapsed is None or case.elapsed >= INTERVAL
    pxe = "" if mode == "disk" else "+pxe"
    if case.agent and needs_wipe(case):
        yield "wipe"
    if case.agent and not case.bmc:
        yield "bmc"
    if not case.bmc:
        return
    if case.off == "new":
        yield "note"
    is_kept_off = case.off in ("new", "in force")
    if case.power is OFF and not is_kept_off and (needs_power(case) or case.prefers_on):
        yield "on" + pxe
    if case.power is ON and not needs_power(case) and not case.prefers_on and rested:
        yield "off"
    mismatch = (mode == "agent" and not case.agent) or (mode == "install" and case.agent)
    if rested and needs_power(case) and mismatch:
        yield "cycle+pxe"
    if rested and case.reboot not in ("none", "done"):
        yield "cycle" + pxe


def theirs(case: Case) -> Outcome:
    mode = their_mode(case)
    return Outcome(mode, frozenset(their_steps(case, mode)) if case.allowed else frozenset())


# --- what differs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sight:
    """A difference that we want: where it applies, we see another situation."""

    why: str
    applies: Callable[[Case], bool]
    instead: Callable[[Case], Case]


@dataclass(frozen=True)
class Deed:
    """A difference that we want: where it applies, we do something else."""

    why: str
    applies: Callable[[Case, Outcome], bool]
    instead: Callable[[Outcome], Outcome]


def is_idle(case: Case) -> bool:
    return case.allowed and case.bmc and not case.allocated and not needs_wipe(case)


CYCLES = ("cycle", "cycle+pxe")
SIGHTS = {
    "a wipe that was answered stays answered": Sight(
        "a backup of Omni brings old ids back: they would wipe a machine that is in use",
        lambda case: case.wipe == "an old one is asked for",
        lambda case: replace(case, wipe="done"),
    ),
    "a reboot that was answered stays answered": Sight(
        "likewise; and a request that is withdrawn asks for nothing",
        lambda case: case.reboot in ("an old one is asked for", "withdrawn"),
        lambda case: replace(case, reboot="done"),
    ),
    "an agent proves that the machine is on": Sight(
        "theirs has it as unknown until the BMC answers",
        lambda case: case.power is UNKNOWN and case.agent,
        lambda case: replace(case, power=ON),
    ),
}
DEEDS = {
    "an installed machine without BMC boots its disk": Deed(
        "a member of a cluster must not drop out because the configuration of its BMC was removed; one that waits in an agent"
        " gets its BMC first",
        lambda case, _: (
            case.allowed and case.allocated and case.booted and not needs_wipe(case) and not case.bmc and not case.agent
        ),
        lambda outcome: replace(outcome, mode="disk"),
    ),
    "an idle machine that runs a system is not rebooted": Deed(
        "Omni shows no version for a moment while it does not find the cluster",
        lambda case, _: is_idle(case) and case.booted and case.reboot != "asked for",
        lambda outcome: outcome.without(*CYCLES),
    ),
    "a reboot of an idle machine that is off is answered": Deed(
        "theirs cycles it, which switches it on, and waits to switch it off again",
        lambda case, _: is_idle(case) and case.power is OFF and case.reboot == "asked for",
        lambda outcome: outcome.but("answer"),
    ),
    "a machine that is off is switched on, not cycled": Deed(
        "theirs sends both, one after the other; many BMCs refuse to cycle what is off",
        lambda case, _: case.power is OFF,
        lambda outcome: outcome.without(*CYCLES),
    ),
    "what is to be kept off is not cycled either": Deed(
        "theirs cuts off a machine while Omni shuts it down; the reboot waits for the end of the request",
        lambda case, _: case.off == "in force" and (needs_power(case) or case.prefers_on),
        lambda outcome: outcome.without(*CYCLES),
    ),
    "a power-off request is noted at once": Deed(
        "theirs notes it when there is a BMC, and does other things beside it",
        lambda case, _: case.allowed and case.off == "new",
        lambda outcome: outcome.but("note"),
    ),
    "unknown power is no reason to reboot": Deed(
        "their reboot does not ask for the power state; the BMC that did not tell it will not obey either",
        lambda case, _: case.power is UNKNOWN and their_mode(case) != "disk",
        lambda outcome: outcome.without(*CYCLES),
    ),
    "the BMC is set up before the wipe": Deed(
        "without it the machine could not be brought back if the wipe fails",
        lambda _, outcome: {"bmc", "wipe"} <= outcome.steps,
        lambda outcome: outcome.without("wipe"),
    ),
    "a wipe comes before everything else": Deed(
        "theirs cuts a wipe off when somebody asks for a reboot",
        lambda _, outcome: "wipe" in outcome.steps,
        lambda outcome: outcome.but("wipe"),
    ),
    "a requested reboot comes before the rest": Deed(
        "theirs does both at once",
        lambda _, outcome: "off" in outcome.steps and bool(outcome.steps & set(CYCLES)),
        lambda outcome: outcome.without("off"),
    ),
}


def expected(case: Case) -> tuple[Outcome, set[str]]:
    """What we are to do, and which differences make it another outcome than theirs."""
    told: set[str] = set()
    for name, sight in SIGHTS.items():
        if sight.applies(case):
            before, case = case, sight.instead(case)
            told |= {name} if theirs(before) != theirs(case) else set()
    outcome = theirs(case)
    for name, deed in DEEDS.items():
        if deed.applies(case, outcome):
            done, outcome = outcome, deed.instead(outcome)
            told |= {name} if outcome != done else set()
    return outcome, told


# --- ours ------------------------------------------------------------------------------------------------------------


def ours(case: Case) -> Outcome:
    wipe_id, wipes = WIPES[case.wipe]
    reboot_id, reboots = REBOOTS[case.reboot]
    spec = replace(
        ACCEPTANCES[case.acceptance],
        cordoned=case.cordoned,
        cluster_talos_version="1.13.7" if case.allocated else "",
        preferred_power_state=wire.PreferredPower.ON if case.prefers_on else wire.PreferredPower.OFF,
        install_event_id=(3 if wipes else 0) + case.booted,
        wipe_id=wipe_id,
        requested_reboot_id=reboot_id,
        power_off_request_id="" if case.off == "none" else "p",
    )
    noted = {
        "in force": (powered_off("p", wipe_id),),
        "stale": (powered_off("p", "another"),),
    }.get(case.off, ())
    known = _known(case, (*wipes, *reboots, *noted))
    wanted = desired(spec, known)
    if case.phase != "running":
        seen = None if case.phase == "gone" else Seen(spec, created=ago(days=1), tearing_down=True)
        wanted = omni.desired(seen, wanted, known, token="sealed")
    plan = lifecycle.decide("m-1", wanted, known, NOW, POLICY)
    return Outcome(plan.boot_mode.value, frozenset(filter(None, [_named(plan.step)])))


def _known(case: Case, records: tuple[Record, ...]) -> Facts:
    up = None if case.elapsed is None else NOW - case.elapsed
    changes: dict[str, object] = {"last_power_on_at": up} if case.bmc else {"last_power_on_at": up, "bmc": None}
    if not case.agent:
        return facts(case.power, *records, **changes)
    return with_agent(*records, power=facts(case.power).power, **changes)


def _named(step: Step | None) -> str:
    match step:
        case None:
            return ""
        case SetPower(action, next_boot, _):
            name = {PowerAction.ON: "on", PowerAction.OFF: "off", PowerAction.CYCLE: "cycle"}[action]
            return name + ("+pxe" if next_boot is NextBoot.NETWORK else "")
        case Operate(OperationKind.WIPE, _, _, _):
            return "wipe"
        case Operate(OperationKind.SET_UP_BMC, _, _, _):
            return "bmc"
        case Answer(RecordKind.POWER_OFF, _, _):
            return "note"
        case Answer(RecordKind.REBOOT, _, _):
            return "answer"
    return repr(step)


# --- side by side ----------------------------------------------------------------------------------------------------

BOTH = (False, True)
STRANGE = [
    Case(acceptance=acceptance, cordoned=cordoned, phase=phase)
    for acceptance, cordoned, phase in itertools.product(ACCEPTANCES, BOTH, ("running", "torn down", "gone"))
    if not Case(acceptance=acceptance, cordoned=cordoned, phase=phase).allowed
]
TIMES = (None, timedelta(minutes=5), timedelta(minutes=14, seconds=59), INTERVAL)


def cases(base: Case, times: tuple[timedelta | None, ...] = TIMES) -> Iterator[Case]:
    """All situations of an acceptance; an agent on a machine that is off there is not."""
    of_machine = itertools.product(BOTH, BOTH, WIPES, BOTH, BOTH, (ON, OFF, UNKNOWN))
    for allocated, booted, wipe, bmc, agent, power in of_machine:
        if agent and power is OFF:
            continue
        for reboot, off, elapsed, prefers_on in itertools.product(REBOOTS, OFFS, times, BOTH):
            yield replace(
                base,
                allocated=allocated,
                booted=booted,
                wipe=wipe,
                bmc=bmc,
                agent=agent,
                power=power,
                reboot=reboot,
                off=off,
                elapsed=elapsed,
                prefers_on=prefers_on,
            )


def check(case: Case, used: set[str]) -> None:
    wanted, differences = expected(case)
    used.update(differences)
    found = ours(case)
    assert found.mode == wanted.mode, (case, differences)
    assert found.steps <= wanted.steps, (case, found, wanted, differences)
    assert bool(found.steps) is bool(wanted.steps), (case, found, wanted, differences)


def test_accepted_machines() -> None:
    """Somewhere in 32,000 situations we do what Sidero's provider would not, or do not what it would, and nobody knows."""
    used: set[str] = set()
    for case in cases(Case()):
        check(case, used)
    assert used == {*SIGHTS, *DEEDS}, "a difference that is none any more"


@pytest.mark.parametrize(
    "base", STRANGE, ids=lambda base: f"{base.acceptance}{' cordoned' * base.cordoned} {base.phase}"
)
def test_other_machines(base: Case) -> None:
    """A machine that is not ours, or not any more, is touched."""
    for case in itertools.islice(cases(base, times=(INTERVAL,)), None, None, 7):
        check(case, set())
        assert not ours(case).steps

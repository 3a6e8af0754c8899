"""A clock that was years ahead when something was done, and is right now: what waits for that time waits for ever."""

from __future__ import annotations

from datetime import timedelta

import pytest

from provider.domain.bmc import NextBoot, PowerAction, PowerReading
from provider.domain.machine import BmcFacts, BootMode, Facts, RecordKind
from provider.domain.operation import OperationKind
from provider.planning.lifecycle import MOST_AHEAD, Operate, ReadPower, SetPower
from provider.wire import omni as wire
from tests.unit.planning.omni_world import ACCEPTED, NOW, OFF, ON, agent, decide, facts, failed, wiped, with_agent

AHEAD = -365.0 * 24
"""Hours ago."""
LATER = NOW + timedelta(days=365)
IDLE = wire.InfraMachine(acceptance_status=wire.Acceptance.ACCEPTED, install_event_id=3)
CYCLE = SetPower(PowerAction.CYCLE, NextBoot.NETWORK)


@pytest.mark.parametrize(
    ("spec", "known", "step"),
    [
        pytest.param(ACCEPTED, facts(ON, last_reboot_at=LATER), CYCLE, id="rebooted"),
        pytest.param(ACCEPTED, facts(ON, last_power_on_at=LATER), CYCLE, id="switched on"),
        pytest.param(
            ACCEPTED, facts(OFF, last_power_on_at=LATER), SetPower(PowerAction.ON, NextBoot.NETWORK), id="on, in vain"
        ),
        pytest.param(
            IDLE, with_agent(wiped(), last_power_off_at=LATER), SetPower(PowerAction.OFF), id="switched off, in vain"
        ),
        pytest.param(
            ACCEPTED,
            facts(ON, last_script_at=LATER, last_script_mode=BootMode.AGENT),
            CYCLE,
            id="told what to boot",
        ),
        pytest.param(ACCEPTED, facts(ON, power=PowerReading(ON, LATER, "bmc")), ReadPower(), id="power was read"),
        pytest.param(
            ACCEPTED,
            facts(ON, power=PowerReading(ON, NOW + MOST_AHEAD, "bmc")),
            ReadPower(),
            id="power was read just now",
        ),
        pytest.param(ACCEPTED, facts(ON, bmc=BmcFacts("b", 1, "dead", LATER)), CYCLE, id="the BMC was left in peace"),
        pytest.param(
            ACCEPTED,
            with_agent(failed(RecordKind.SET_UP_BMC, hours=AHEAD), bmc=None),
            Operate(OperationKind.SET_UP_BMC, ""),
            id="BMC set-up failed",
        ),
    ],
)
def test_nothing_waits_for_years(spec: wire.InfraMachine, known: Facts, step: object) -> None:
    """After a battery or a time server was changed, a rack stands still."""
    assert decide(spec, known).step == step


def test_failed_wipe() -> None:
    """Likewise: the wipe is not tried again."""
    step = decide(ACCEPTED, with_agent(failed(RecordKind.WIPE, hours=AHEAD))).step
    assert isinstance(step, Operate)
    assert step.kind is OperationKind.WIPE


def test_small_steps_do_not_cause_reboots() -> None:
    """A time server sets the clock back by seconds, just after a reboot, and the machine is rebooted at once again."""
    for ahead in (timedelta(seconds=1), MOST_AHEAD):
        known = facts(ON, last_reboot_at=NOW + ahead)
        assert decide(ACCEPTED, known).step is None
    assert decide(ACCEPTED, with_agent(agent=agent(seconds=-5))).step is not None

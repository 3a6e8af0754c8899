"""
One serial worker per machine: look, decide, perform one step, look again. What a change left is a look, for some seconds.

The step's result becomes a fact in the store before anything else happens, so the daemon may be killed between any two
lines: the next start makes the plan from the facts and carries on. A worker sleeps until its machine's bell rings or
until time alone may change the plan. Workers know nothing of each other; one that fails is logged and throttled alone.
"""

from __future__ import annotations

import asyncio
import functools
import random
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from structlog.contextvars import bound_contextvars

from provider.bmc.base import Power
from provider.domain.bmc import Bmc, PowerAction, PowerState
from provider.domain.errors import BootwrightError, NotFoundError, PermanentError, TemporaryError
from provider.domain.machine import Machine, Outcome, RecordKind
from provider.domain.operation import Operation, OperationKind, OperationState
from provider.kit import backoff
from provider.planning import lifecycle
from provider.planning.lifecycle import Answer, Interrupt, Operate, Plan, ReadPower, SetPower
from provider.reconcile.agents import drop_agent, interrupt
from provider.reconcile.machines import Machines
from provider.store.bmcs import BmcStore
from provider.store.machines import Edit

log = structlog.get_logger()

LONGEST_SLEEP = timedelta(minutes=5)
"""A worker looks at its machine at least this often, whatever it was told."""

FIRST_BACKOFF = timedelta(seconds=5)
MOST_BACKOFF = timedelta(minutes=10)
"""Pauses between calls to a BMC that does not answer, and between tries of a worker that failed."""


class Powers(Protocol):
    """Where a worker gets the way to a BMC from; `bmc.pool.BmcPool` is one."""

    def power(self, bmc: Bmc) -> Power: ...


class Workers:
    """Runs one worker for each machine, those that appear later included."""

    def __init__(self, machines: Machines, bmcs: BmcStore, powers: Powers, *, clock: Callable[[], datetime]) -> None:
        self._machines = machines
        self._bmcs = bmcs
        self._powers = powers
        self._clock = clock

    async def run(self) -> None:
        """For ever; ends the daemon only if it fails itself, never because a machine's worker did."""
        working: set[str] = set()

        async def work(machine_id: str) -> None:
            await self._work(machine_id)
            working.discard(machine_id)
            self._machines.arrived.ring()  # It may be back already.

        async with asyncio.TaskGroup() as group:
            while True:
                arrived = self._machines.arrived.ticket()
                for machine_id in self._machines.ids() - working:
                    working.add(machine_id)
                    group.create_task(work(machine_id), name=f"worker {machine_id}")
                await arrived.wait()

    async def command(self, machine: Machine, step: SetPower) -> None:
        """Do what no plan asks for, as a plan's step is done: with its time on disk first, and a failure as a fact of the BMC."""
        await self._with_bmc(machine, functools.partial(self._set_power, step))

    async def _work(self, machine_id: str) -> None:
        """The worker of one machine. Its failures are its own; it ends when the machine is gone."""
        failures = 0
        with bound_contextvars(machine=machine_id):
            while True:
                ring = self._machines.bell(machine_id).ticket()
                try:
                    pause = await self._step(machine_id)
                    failures = 0
                except NotFoundError:
                    return
                except TemporaryError as error:
                    failures += 1
                    pause = error.retry_after
                    log.warning("worker.postponed", error=str(error), hint=error.hint, elapsed_s=pause.total_seconds())
                except Exception:
                    failures += 1
                    pause = backoff.delay(failures, FIRST_BACKOFF, MOST_BACKOFF, random.random())  # noqa: S311 - jitter
                    log.exception("worker.failed", attempt=failures)
                await _sleep(ring, pause)

    async def _step(self, machine_id: str) -> timedelta:
        """Perform the next step, if there is one; gives the time until the next look."""
        machine, plan = await self._machines.look(machine_id)
        if plan.step is None:
            return self._until(plan.wake_at)
        log.info("step.performed", step=type(plan.step).__name__, rule=plan.rule, reason=plan.because)
        await self._perform(machine, plan)
        return timedelta(0)

    def _until(self, wake_at: datetime | None) -> timedelta:
        if wake_at is None:
            return LONGEST_SLEEP
        return min(LONGEST_SLEEP, max(timedelta(0), wake_at - self._clock()))

    async def _perform(self, machine: Machine, plan: Plan) -> None:
        step = plan.step
        if isinstance(step, ReadPower):
            await self._with_bmc(machine, self._read_power)
        elif isinstance(step, SetPower):
            await self._with_bmc(machine, functools.partial(self._set_power, step))
        elif isinstance(step, Operate):
            await self._machines.change(machine.id, functools.partial(_operate, step))
        elif isinstance(step, Interrupt):
            await self._machines.change(machine.id, functools.partial(_interrupt, step))
        elif isinstance(step, Answer):
            await self._machines.advance(machine.id, functools.partial(_answer, step))

    async def _with_bmc(self, machine: Machine, use: Callable[[Machine, Power], Awaitable[None]]) -> None:
        """Use the machine's BMC; what goes wrong is a fact of the BMC, and the machine's other work goes on."""
        bmc = await self._bmcs.of(machine.id)
        if bmc is None:
            return
        try:
            await use(machine, self._powers.power(bmc))
        except (TemporaryError, PermanentError) as error:
            failure = error
        else:
            return
        await self._machines.advance(machine.id, lambda edit: _bmc_failed(edit, failure))

    async def _read_power(self, machine: Machine, power: Power) -> None:
        state = await power.read()
        await self._machines.advance(machine.id, lambda edit: _power_read(edit, state))

    async def _set_power(self, step: SetPower, machine: Machine, power: Power) -> None:
        """The command's time is on disk before the command: a crash in between costs a wait, never a second reboot."""
        await self._machines.advance(machine.id, lambda edit: _power_commanded(edit, step))
        if step.next_boot is not None:
            try:
                await power.set_next_boot(step.next_boot, machine.facts.firmware)
            except PermanentError as error:
                # Machines boot from the network by their own order often enough; power is worth more than the override.
                log.warning("power.override_refused", error=str(error), hint=error.hint)
        await power.act(step.action)
        await self._machines.advance(machine.id, lambda edit: _power_obeyed(edit, step))


async def _sleep(ring: asyncio.Event, pause: timedelta) -> None:
    try:
        async with asyncio.timeout(pause.total_seconds()):
            await ring.wait()
    except TimeoutError:
        return


def _power_read(edit: Edit, state: PowerState) -> None:
    row = edit.row
    if row.power_state != state.value:
        edit.note("power.changed", state=state.value)
    row.power_state, row.power_at, row.power_source = state.value, edit.now, "bmc"
    if state is PowerState.OFF:
        drop_agent(edit, "the machine is off")
    bmc = edit.bmc
    if bmc is not None:
        bmc.failures, bmc.last_error, bmc.retry_at = 0, "", None


def _power_commanded(edit: Edit, step: SetPower) -> None:
    match step.action:
        case PowerAction.ON:
            edit.row.last_power_on_at = edit.now
        case PowerAction.CYCLE | PowerAction.RESET:
            edit.row.last_reboot_at = edit.now
        case PowerAction.OFF | PowerAction.SOFT_OFF:
            edit.row.last_power_off_at = edit.now
    edit.note("power.commanded", action=step.action.value, next_boot=step.next_boot.value if step.next_boot else None)


def _power_obeyed(edit: Edit, step: SetPower) -> None:
    """The BMC took the command; the reading is void, and whatever agent there was is gone."""
    edit.row.power_at = None
    drop_agent(edit, f"power {step.action.value}")
    if step.answers is not None:
        edit.record(*step.answers, wipe_id=_wipe_id(step.answers[0], edit))


def _bmc_failed(edit: Edit, error: BootwrightError) -> None:
    bmc = edit.bmc
    if bmc is None:
        return
    bmc.failures += 1
    if bmc.last_error != str(error):
        edit.note("bmc.failed", error=str(error), hint=error.hint)
    bmc.last_error = str(error)
    pause = backoff.delay(bmc.failures, FIRST_BACKOFF, MOST_BACKOFF, random.random())  # noqa: S311 - jitter
    if isinstance(error, PermanentError):
        pause = MOST_BACKOFF
    bmc.retry_at = edit.now + pause
    edit.row.power_state, edit.row.power_at, edit.row.power_source = PowerState.UNKNOWN.value, None, "none"


def _operate(step: Operate, edit: Edit) -> None:
    """Create the operation, unless the machine changed since the plan was made."""
    if lifecycle.active_operation(edit.machine.facts) is not None:
        return
    operation = Operation(
        id=f"{step.kind.value}-{secrets.token_hex(6)}",
        machine_id=edit.row.id,
        kind=step.kind,
        request_id=step.request_id,
        state=OperationState.PLANNED,
        created_at=edit.now,
        wipe_plan=step.wipe_plan,
        attempt=step.attempt,
        install_event=edit.machine.desired.install_event,
        manager_token=edit.machine.desired.manager_token,
    )
    if not lifecycle.is_wanted(operation, edit.machine.desired):
        return
    edit.begin(operation)
    disks = 0 if step.wipe_plan is None else len(step.wipe_plan.disks)
    edit.note(f"{step.kind.value}.planned", operation=operation.id, disks=disks, attempt=step.attempt)


def _wipe_id(answered: RecordKind, edit: Edit) -> str:
    """A power-off request ends with the wipe id that it was written down under."""
    return edit.row.wipe_id if answered is RecordKind.POWER_OFF else ""


def _interrupt(step: Interrupt, edit: Edit) -> None:
    if edit.is_over(step.operation_id):
        return
    row = edit.operation(step.operation_id)
    interrupt(edit, row.id, step.why)
    if row.kind == OperationKind.SET_UP_BMC.value:
        edit.record(RecordKind.SET_UP_BMC, row.request_id, Outcome.FAILED, step.why)


def _answer(step: Answer, edit: Edit) -> None:
    edit.record(step.kind, step.request_id, detail=step.detail, wipe_id=_wipe_id(step.kind, edit))

"""
The agents' desk: enrolment, inventory, work, progress, results.

A token is bound to one machine and dies when the machine is switched off, boots again, or another agent enrols for it.
The time of the last sign of life is kept in memory only: after a restart every agent has the whole `lost_after` to be
heard again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from provider.domain import mac as macs
from provider.domain.errors import BootwrightError, NotFoundError, RefusedError
from provider.domain.inventory import FirmwareKind, Inventory
from provider.domain.machine import AgentKind, Evidence, Machine, Outcome, RecordKind
from provider.domain.operation import Operation, OperationKind, OperationState
from provider.planning import agents, identity, lifecycle, wipe
from provider.reconcile.machines import Machines
from provider.store import rows, tickets
from provider.store.machines import Edit
from provider.store.tickets import ShownTicket, TicketRefusedError, TicketStore
from provider.wire.agent import Enrolled, Enrolment, Installed, Progress, Result, Work

log = structlog.get_logger()


class AgentDesk:
    """What `http.agents` calls; one method a request."""

    def __init__(
        self, machines: Machines, ticket_store: TicketStore, *, lost_after: timedelta, clock: Callable[[], datetime]
    ) -> None:
        self._machines = machines
        self._tickets = ticket_store
        self._lost_after = lost_after
        self._clock = clock
        self._tokens: dict[str, str] = {}
        """Machine of each token that is good, as far as we know."""
        self._token_of: dict[str, str] = {}
        self._last_seen: dict[str, datetime] = {}

    async def load(self) -> None:
        """Remember the tokens of agents that were connected when the daemon stopped."""
        now = self._clock()
        for machine_id, token_sha256 in await self._machines.store.agent_tokens():
            self._tokens[token_sha256], self._token_of[machine_id] = machine_id, token_sha256
            self._last_seen[machine_id] = now

    async def watch(self) -> None:
        """Notice agents that fell silent; for ever. A failure of the store is logged and tried again."""
        while True:
            await asyncio.sleep(min(5.0, self._lost_after.total_seconds() / 4))
            silent_since = self._clock() - self._lost_after
            for machine_id in [key for key, seen in self._last_seen.items() if seen < silent_since]:
                try:
                    await self._machines.change(machine_id, _lost)
                except NotFoundError:
                    self._tokens.pop(self._token_of.pop(machine_id, ""), None)
                    log.debug("agent.forgotten", machine=machine_id)
                except BootwrightError as error:
                    log.warning("agent.loss_unrecorded", machine=machine_id, error=str(error))
                    continue
                del self._last_seen[machine_id]

    async def enrol(self, enrolment: Enrolment, source: str) -> Enrolled:
        """
        Exchange a ticket for a token.

        Raises:
            RefusedError: If the ticket is not good, or its machine is not the one that shows it.
        """
        token = secrets.token_urlsafe(32)
        token_sha256 = tickets.digest(token)
        try:
            machine, _ = await self._machines.identify(
                _evidence(enrolment),
                lambda edit: enrolled(edit, AgentKind.BOOTWRIGHT, token_sha256, version=enrolment.agent_version),
                ticket=ShownTicket(tickets.AGENT, enrolment.ticket, enrolment.nonce),
            )
        except TicketRefusedError as error:
            await self._refused(error.machine_id, str(error), source)
            raise
        self.displace(machine.id)
        self._tokens[token_sha256], self._token_of[machine.id] = machine.id, token_sha256
        self._last_seen[machine.id] = self._clock()
        log.info("agent.enrolled", machine=machine.id, source=source)
        return Enrolled(token=token, machine_id=machine.id)

    def displace(self, machine_id: str) -> None:
        """Another agent speaks for the machine from now on: the token of an earlier one is worth nothing."""
        self._tokens.pop(self._token_of.pop(machine_id, ""), None)
        self._last_seen.pop(machine_id, None)

    async def machine_of(self, token: str) -> str:
        """
        Whose token this is; a sign of life.

        Raises:
            RefusedError: If it is nobody's, or no longer good.
        """
        token_sha256 = tickets.digest(token)
        machine_id = self._tokens.get(token_sha256)
        if machine_id is None:
            raise RefusedError("the token is not good", hint="boot the machine again: it gets a new one")
        if machine_id not in self._last_seen and not await self._returned(machine_id, token_sha256):
            self._tokens.pop(token_sha256, None)  # Unless an agent that enrolled meanwhile has replaced it.
            raise RefusedError("the token is no longer good", hint="boot the machine again: it gets a new one")
        self._last_seen[machine_id] = self._clock()
        return machine_id

    async def inventory(self, machine_id: str, inventory: Inventory) -> None:
        """Take the agent's report."""

        def edit(edit: Edit) -> None:
            edit.row.inventory = rows.dump(rows.INVENTORY, inventory)
            edit.row.inventory_at = edit.now
            edit.row.firmware = inventory.firmware.value
            edit.note("agent.inventory_reported", disks=len(inventory.disks), nics=len(inventory.nics))

        await self._machines.change(machine_id, edit)

    async def next_work(self, machine_id: str, wait: float, by: AgentKind = AgentKind.BOOTWRIGHT) -> Work | None:
        """The operation that an agent of this kind should perform, waiting up to `wait` seconds for one."""
        ring = self._machines.bell(machine_id).ticket()
        work = await self._work(machine_id, by)  # Before any deadline: `wait` may be 0.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while work is None:
                    await ring.wait()
                    ring = self._machines.bell(machine_id).ticket()
                    work = await self._work(machine_id, by)
        return work

    async def _work(self, machine_id: str, by: AgentKind) -> Work | None:
        """
        What is to be done now, after a last look at whether it still may be: the wall before the one door. It counts as
        started before the agent hears of it.
        """
        operation = await self._machines.store.operation_to_do(machine_id)
        if operation is None or not agents.can_perform(by, operation):
            return None
        await self._start(machine_id, operation.id)
        return Work(id=operation.id, machine_id=machine_id, kind=operation.kind, wipe_plan=operation.wipe_plan)

    async def progress(self, machine_id: str, operation_id: str, progress: Progress) -> None:
        """
        Note how far an operation is.

        Raises:
            NotFoundError: If it is not under way any more: the agent must stop it.
        """

        def edit(edit: Edit) -> None:
            row = edit.operation(operation_id)
            before = row.percent
            row.state = OperationState.RUNNING.value
            row.started_at = row.started_at or edit.now
            row.percent = max(0, min(100, progress.percent))
            if row.kind == OperationKind.WIPE.value and row.percent // 10 != before // 10:
                edit.note("wipe.progressed", percent=row.percent, doing=progress.doing)

        await self._machines.quietly_change(machine_id, edit)

    async def result(
        self, machine_id: str, operation_id: str, result: Result, by: AgentKind = AgentKind.BOOTWRIGHT
    ) -> None:
        """
        Take the end of an operation. One that is over already was reported twice: nothing happens. Nor does it for a wipe
        that is no longer wanted, whatever its end: it is being interrupted.

        Raises:
            NotFoundError: If the machine never had it.
        """

        def edit(edit: Edit) -> None:
            if edit.is_over(operation_id):
                return
            operation = rows.operation(edit.operation(operation_id))
            if operation.kind is OperationKind.WIPE and not lifecycle.is_wanted(operation, edit.machine.desired):
                return
            _finished(edit, operation_id, result, by)

        await self._machines.change(machine_id, edit)

    async def installed(self, installed: Installed, source: str) -> None:
        """
        Take an installer's word.

        Raises:
            RefusedError: If its ticket is not good.
        """
        try:
            machine_id = await self._tickets.redeem(ShownTicket(tickets.INSTALL, installed.ticket, "installer"))
        except TicketRefusedError as error:
            await self._refused(error.machine_id, str(error), source)
            raise

        def edit(edit: Edit) -> None:
            if installed.error:
                edit.note("install.failed", error=installed.error)
                return
            request_id = tickets.digest(installed.ticket)[:16]
            if lifecycle.is_answered(edit.machine.facts, RecordKind.INSTALL, request_id):
                return
            profile = edit.machine.desired.allocation
            edit.record(RecordKind.INSTALL, request_id, detail="" if profile is None else profile.profile)
            edit.note("install.reported", profile="" if profile is None else profile.profile)

        await self._machines.change(machine_id, edit)

    async def _start(self, machine_id: str, operation_id: str) -> None:
        def edit(edit: Edit) -> None:
            row = edit.operation(operation_id)
            if row.state == OperationState.RUNNING.value:
                return
            row.state = OperationState.RUNNING.value
            row.started_at = edit.now
            if row.kind == OperationKind.WIPE.value:
                edit.note("wipe.started", operation=operation_id, attempt=row.attempt)

        await self._machines.quietly_change(machine_id, edit)

    async def _returned(self, machine_id: str, token_sha256: str) -> bool:
        """Take back an agent that was silent for too long, if nothing has replaced it."""

        def edit(edit: Edit) -> None:
            if edit.row.agent_token_sha256 != token_sha256:
                raise RefusedError("the token was replaced")
            if not edit.row.agent_connected:
                edit.row.agent_connected = True
                edit.note("agent.returned")

        try:
            await self._machines.change(machine_id, edit)
        except (RefusedError, NotFoundError):
            return False
        return True

    async def _refused(self, machine_id: str | None, reason: str, source: str) -> None:
        log.warning("ticket.refused", machine=machine_id, reason=reason, source=source)
        if machine_id is not None:
            await self._machines.store.note(machine_id, "ticket.refused", reason=reason, source=source)


def drop_agent(edit: Edit, reason: str) -> None:
    """Forget the agent of a machine that is off or boots again; its token is worth nothing from now on."""
    edit.row.agent_token_sha256 = None
    if edit.row.agent_connected:
        edit.row.agent_connected = False
        edit.note("agent.lost", reason=reason)


def interrupt(edit: Edit, operation_id: str, why: str) -> None:
    """Close an operation that nobody performs any more."""
    row = edit.operation(operation_id)
    row.state, row.error, row.finished_at = OperationState.INTERRUPTED.value, why, edit.now
    edit.note(f"{row.kind}.interrupted", operation=row.id, reason=why)


def _lost(edit: Edit) -> None:
    """Silent for too long. The token stays good: the agent may only have been cut off."""
    if edit.row.agent_connected and edit.row.agent_kind == AgentKind.BOOTWRIGHT.value:
        edit.row.agent_connected = False
        edit.note("agent.lost", reason="no sign of life")


def enrolled(edit: Edit, kind: AgentKind, token_sha256: str | None, **told: str) -> None:
    """Hold the machine to be on, with this agent and no other."""
    edit.row.agent_token_sha256 = token_sha256
    edit.row.agent_connected = True
    edit.row.agent_kind = kind.value
    edit.row.enrolled_at = edit.now
    edit.row.power_state, edit.row.power_at, edit.row.power_source = "on", edit.now, "agent"
    edit.note("agent.enrolled", kind=kind.value, **told)


def due(machine: Machine, by: AgentKind) -> Work | None:
    """What is to be done, after a last look at whether it still may be: the wall before the one door."""
    operation = lifecycle.active_operation(machine.facts)
    if operation is None or not lifecycle.is_wanted(operation, machine.desired):
        return None
    if not agents.can_perform(by, operation):
        return None
    return Work(id=operation.id, machine_id=machine.id, kind=operation.kind, wipe_plan=operation.wipe_plan)


def _finished(edit: Edit, operation_id: str, result: Result, by: AgentKind) -> None:
    row = edit.operation(operation_id)
    operation = rows.operation(row)
    error = result.error or wipe.unproved(operation, result.wipe_report, by)
    row.state = (OperationState.FAILED if error else OperationState.DONE).value
    row.error = error
    row.finished_at = edit.now
    row.wipe_report = rows.dump(rows.WIPE_REPORT, result.wipe_report)
    if operation.kind is not OperationKind.WIPE:
        edit.note(f"{operation.kind.value}.{'failed' if error else 'finished'}", error=error)
        _followed(edit, operation, error)
        return
    outcome = Outcome.FAILED if error else Outcome.DONE
    edit.record(
        RecordKind.WIPE,
        operation.request_id,
        outcome,
        error,
        install_event=operation.install_event,
        manager_token=operation.manager_token,
    )
    if error:
        edit.note("wipe.failed", operation=operation_id, attempt=operation.attempt, error=error)
        return
    row.percent = 100
    disks = 0 if result.wipe_report is None else len(result.wipe_report.disks)
    edit.note("wipe.finished", operation=operation_id, attempt=operation.attempt, disks=disks)


def _followed(edit: Edit, operation: Operation, error: str) -> None:
    """What comes of an operation that is no wipe."""
    if operation.kind is OperationKind.SET_UP_BMC:
        edit.record(RecordKind.SET_UP_BMC, operation.request_id, Outcome.FAILED if error else Outcome.DONE, error)
        return
    if error:
        return
    if operation.kind is OperationKind.REBOOT:
        edit.row.last_reboot_at = edit.now
        if operation.request_id not in ("", lifecycle.NEXT_AGENT):
            edit.record(RecordKind.REBOOT, operation.request_id)
    drop_agent(edit, operation.kind.value)


def _evidence(enrolment: Enrolment) -> Evidence:
    addresses = []
    for text in enrolment.macs:
        try:
            addresses.append(macs.parse(text))
        except ValueError:
            log.warning("agent.mac_ignored", mac=text)
    if not addresses:
        raise RefusedError(
            "the agent shows no MAC address", hint="the agent image may lack a driver for its network card"
        )
    return Evidence(
        macs=tuple(addresses),
        uuid=identity.believable_uuid(enrolment.uuid),
        serial=enrolment.serial,
        board_serial=enrolment.board_serial,
        chassis_serial=enrolment.chassis_serial,
        firmware=FirmwareKind(enrolment.firmware) if enrolment.firmware in ("bios", "uefi") else None,
    )

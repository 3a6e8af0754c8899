"""The boot desk: who asks for a script, what it is told, and what it fetched."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from provider.domain.machine import BootMode, Evidence
from provider.planning import boot
from provider.planning.boot import BootDecision
from provider.reconcile.machines import Machines
from provider.store import tickets
from provider.store.machines import Edit
from provider.store.tickets import TicketStore

log = structlog.get_logger()


class BootDesk:
    """Answers each request for a script from the machine's plan, and remembers what it answered before it answers."""

    def __init__(
        self,
        machines: Machines,
        ticket_store: TicketStore,
        *,
        profiles: frozenset[str],
        ticket_lifetime: timedelta,
        install_ticket_lifetime: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._machines = machines
        self._tickets = ticket_store
        self._profiles = profiles
        self._lifetimes = {BootMode.AGENT: ticket_lifetime, BootMode.INSTALL: install_ticket_lifetime}
        self._clock = clock

    async def decide(self, evidence: Evidence) -> BootDecision:
        """
        Decide what the machine with this evidence boots.

        Raises:
            RefusedError: If the evidence is of several machines at once.
            TemporaryError: If the store does not answer.
        """
        machine = await self._machines.identify(evidence)
        machine, plan = await self._machines.plan(machine.id)
        decision = boot.decide(machine.id, plan, machine.desired, self._profiles)
        decision = await self._with_ticket(decision)
        await self._machines.change(machine.id, lambda edit: _served(edit, decision))
        log.info("boot.script_served", machine=machine.id, mode=decision.mode.value, rule=decision.rule)
        return decision

    def note_file(self, machine_id: str, file: str, bytes_: int, seconds: float) -> None:
        """A boot file was fetched on behalf of a machine; an unknown id is ignored."""
        if machine_id in self._machines.ids():
            self._machines.note_machine(
                machine_id, "boot.file_served", file=file, bytes=bytes_, seconds=round(seconds, 3)
            )

    async def _with_ticket(self, decision: BootDecision) -> BootDecision:
        lifetime = self._lifetimes.get(decision.mode)
        if lifetime is None:
            return decision
        purpose = tickets.INSTALL if decision.mode is BootMode.INSTALL else tickets.AGENT
        ticket = await self._tickets.mint(purpose, decision.machine_id, lifetime)
        return BootDecision(
            decision.machine_id,
            decision.mode,
            decision.rule,
            decision.because,
            ticket=ticket,
            profile=decision.profile,
            arguments=decision.arguments,
        )


def _served(edit: Edit, decision: BootDecision) -> None:
    """
    A machine that asks for a script is on.

    It does not end the agent's session: anybody on the network can ask for a script in another machine's name, and must
    not be able to interrupt a wipe with it. A machine that really booted again enrols again, and that does.
    """
    edit.row.last_script_at = edit.now
    edit.row.last_script_mode = decision.mode.value
    edit.row.power_state, edit.row.power_at, edit.row.power_source = "on", edit.now, "boot"
    edit.note("boot.script_served", mode=decision.mode.value, rule=decision.rule)

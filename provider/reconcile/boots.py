"""The boot desk: who asks for a script, what it is told, and what it fetched."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import structlog

from provider.domain.errors import PermanentError
from provider.domain.mac import MacAddress
from provider.domain.machine import BootMode, Evidence
from provider.planning import boot
from provider.planning.boot import BootDecision
from provider.planning.hand_off import HandedOver
from provider.reconcile import hand_offs
from provider.reconcile.hand_offs import HandOffs
from provider.reconcile.machines import Machines
from provider.store import tickets
from provider.store.machines import Edit

log = structlog.get_logger()


class BootDesk:
    """Answers each request for a script from the machine's plan, and remembers what it answered before it answers."""

    def __init__(
        self,
        machines: Machines,
        ways: HandOffs,
        *,
        profiles: frozenset[str],
        installs_talos: bool = False,
        ticket_lifetime: timedelta,
        install_ticket_lifetime: timedelta,
    ) -> None:
        self._machines = machines
        self._ways = ways
        self._profiles = profiles
        self._installs_talos = installs_talos
        self._lifetimes = {BootMode.AGENT: ticket_lifetime, BootMode.INSTALL: install_ticket_lifetime}

    async def decide(self, evidence: Evidence, *, again: bool = False) -> BootDecision:
        """
        Decide what the machine with this evidence boots; who asks `again`, because it was told to wait, is no news.

        Raises:
            RefusedError: If the evidence is of several machines at once.
            TemporaryError: If the store does not answer.
        """
        machine, (decision, handed) = await self._machines.identify(
            evidence, lambda edit: self._serve(edit, evidence.macs[0], again=again)
        )
        self._ways.remember(machine.id, handed)
        (log.debug if again else log.info)(
            "boot.script_served", machine=machine.id, mode=decision.mode.value, rule=decision.rule
        )
        return decision

    def note_file(self, machine_id: str, file: str, bytes_: int, seconds: float) -> None:
        """A boot file was fetched on behalf of a machine; an unknown id is ignored."""
        if self._machines.knows(machine_id):
            self._machines.note_machine(
                machine_id, "boot.file_served", file=file, bytes=bytes_, seconds=round(seconds, 3)
            )

    def note_waiting(self, machine_id: str, reason: str) -> None:
        """A machine was told to wait for what it is to boot."""
        self._machines.note_machine(machine_id, "boot.postponed", reason=reason)

    def note_impossible(self, machine_id: str, error: PermanentError) -> None:
        """No script can be made for what a machine should boot: an operator has to mend something."""
        log.error("boot.script_impossible", machine=machine_id, error=str(error), hint=error.hint)
        self._machines.note_machine(machine_id, "boot.script_impossible", error=str(error), hint=error.hint)

    def note_failure(self, mac: MacAddress, stage: str, error: str) -> None:
        """A script told us that it failed, before it went on to the next boot device."""
        self._machines.note(mac, "boot.failed", step=stage, error=error)

    def _serve(self, edit: Edit, mac: MacAddress, *, again: bool) -> tuple[BootDecision, HandedOver | None]:
        """Decide, and write it down. In the thread of the store: it looks at what the desk knows, and changes none of it."""
        machine = edit.machine
        decision = boot.decide(
            machine.id, edit.plan, machine.desired, self._profiles, installs_talos=self._installs_talos
        )
        heard_at = self._machines.system_heard_at(machine.id)
        handed = self._ways.way(machine, decision.mode, mac, heard_at, edit.now)
        if handed is not None:
            decision = replace(decision, hand_off=handed.way)
        lifetime = self._lifetimes.get(decision.mode)
        if lifetime is not None and not decision.runs_talos:
            purpose = tickets.INSTALL if decision.mode is BootMode.INSTALL else tickets.AGENT
            decision = replace(decision, ticket=edit.mint(purpose, lifetime))
        _served(edit, decision, again=again)
        return decision, handed


def _served(edit: Edit, decision: BootDecision, *, again: bool) -> None:
    """
    A machine that asks for a script is on.

    It does not end the agent's session: anybody on the network can ask for a script in another machine's name, and must
    not be able to interrupt a wipe with it. A machine that really booted again enrols again, and that does.
    """
    edit.row.last_script_at = edit.now
    edit.row.last_script_mode = decision.mode.value
    edit.row.power_state, edit.row.power_at, edit.row.power_source = "on", edit.now, "boot"
    if not again:
        edit.note("boot.script_served", mode=decision.mode.value, rule=decision.rule)
    if decision.mode is BootMode.DISK:
        hand_offs.learn(edit, decision.hand_off)

"""
The operators' desk: what the command line and the console may see and do.

With a manager configured, desired state is the manager's alone; a person who wants to change it does so there. Power
commands go straight to the BMC; the plan may bring the machine back to where the desired state wants it, and the
answer says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from provider.domain.bmc import PowerAction
from provider.domain.errors import NotFoundError, PermanentError, RefusedError
from provider.domain.event import Event
from provider.domain.machine import Acceptance, Desired, Machine, RecordKind
from provider.domain.operation import Operation
from provider.kit.jsontypes import JsonObject
from provider.planning import lifecycle, observed
from provider.planning.lifecycle import Plan
from provider.reconcile.desired import difference
from provider.reconcile.machines import Machines
from provider.reconcile.worker import Powers
from provider.store.bmcs import BmcStore
from provider.store.machines import Edit

_ACTIONS = {"on": PowerAction.ON, "off": PowerAction.OFF, "cycle": PowerAction.CYCLE}


@dataclass(frozen=True)
class Decides:
    """The manager that decides in an operator's place, and how one gets it to."""

    where: str
    hint: str


class OperatorDesk:
    """What `http.operators` calls; results are JSON values."""

    def __init__(
        self,
        machines: Machines,
        bmcs: BmcStore,
        powers: Powers,
        *,
        decides: Decides | None,
        status: Callable[[], JsonObject],
    ) -> None:
        self._machines = machines
        self._bmcs = bmcs
        self._powers = powers
        self._decides = decides
        self._status = status

    async def status(self) -> JsonObject:
        """The daemon itself."""
        machines = await self._machines.store.all()
        return {**self._status(), "machines": len(machines)}

    async def machines(self) -> list[JsonObject]:
        """One summary a machine."""
        summaries = []
        for machine in await self._machines.store.all():
            with contextlib.suppress(NotFoundError):  # Forgotten meanwhile.
                summaries.append(_summary(*await self._machines.plan(machine.id)))
        return summaries

    async def machine(self, wanted: str) -> JsonObject:
        """
        All about one machine, by id, unambiguous beginning of an id, MAC address, UUID or serial.

        Raises:
            NotFoundError: If there is none, or more than one.
        """
        machine, plan = await self._machines.plan(await self._find(wanted))
        return {"id": machine.id, **observed.document(machine, plan), **_times(machine)}

    async def explain(self, wanted: str) -> JsonObject:
        """Why the machine is where it is: facts, the rule that decided, and the next step."""
        machine, plan = await self._machines.plan(await self._find(wanted))
        return {
            "id": machine.id,
            "phase": plan.phase.value,
            "rule": plan.rule,
            "because": plan.because,
            "boot_mode": plan.boot_mode.value,
            "power": "left alone" if plan.power is None else plan.power.value,
            "next_step": _step(plan),
            "wake_at": observed.plain(plan.wake_at),
            "facts": [list(fact) for fact in _facts(machine)],
        }

    async def events(self, wanted: str | None, after: int, limit: int, wait: float) -> list[JsonObject]:
        """Events after an id, waiting up to `wait` seconds for the first."""
        machine_id = None if wanted is None else await self._find(wanted)
        store = self._machines.store
        found = await store.events(machine_id, after, limit)  # Before any deadline: `wait` may be 0.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while not found:
                    ring = store.events_rang.ticket()
                    found = await store.events(machine_id, after, limit)
                    if not found:
                        await ring.wait()
        return [_event(event) for event in found]

    async def accept(self, wanted: str) -> JsonObject:
        """
        Say that the machine is ours; from now on its disks may be wiped.

        Raises:
            RefusedError: If a manager decides that.
        """
        return await self._desire(wanted, lambda desired: replace(desired, acceptance=Acceptance.ACCEPTED))

    async def wipe(self, wanted: str) -> JsonObject:
        """
        Ask for a new wipe of an accepted machine; whatever ran there is over.

        Raises:
            RefusedError: If a manager decides that, or the machine is not accepted.
        """

        def new_wipe(desired: Desired) -> Desired:
            if desired.acceptance is not Acceptance.ACCEPTED:
                raise RefusedError(
                    "the machine is not accepted, so no disk of it may be touched",
                    hint="accept it first: bootwright machine accept ID",
                )
            return replace(desired, wipe_id=f"operator-{secrets.token_hex(4)}")

        return await self._desire(wanted, new_wipe)

    async def power(self, wanted: str, action: str) -> JsonObject:
        """
        Read or command the chassis power at once.

        Raises:
            PermanentError: If the machine has no BMC, or the BMC refuses.
            TemporaryError: If the BMC does not answer.
        """
        machine_id = await self._find(wanted)
        bmc = await self._bmcs.of(machine_id)
        if bmc is None:
            raise PermanentError(
                f"machine {machine_id} has no BMC that we know", hint="add it to `bmcs` in the configuration file"
            )
        power = self._powers.power(bmc)
        if action != "status":
            if action not in _ACTIONS:
                raise PermanentError(f"there is no power action {action!r}", hint="use status, on, off or cycle")
            await power.act(_ACTIONS[action])
            await self._machines.change(machine_id, lambda edit: _commanded_by_hand(edit, action))
        state = await power.read()
        machine, plan = await self._machines.plan(machine_id)
        return {"id": machine.id, "state": state.value, "wanted": None if plan.power is None else plan.power.value}

    async def _desire(self, wanted: str, change: Callable[[Desired], Desired]) -> JsonObject:
        if self._decides is not None:
            raise RefusedError(
                f"the manager at {self._decides.where} decides what happens to machines", hint=self._decides.hint
            )

        def edit(edit: Edit) -> None:
            new = change(edit.machine.desired)
            edit.desire(new)
            edit.note("desired.changed", by="operator", **difference(edit.machine.desired, new))

        changed = await self._machines.change(await self._find(wanted), edit)
        return _summary(changed.machine, changed.plan)

    async def _find(self, wanted: str) -> str:
        lowered = wanted.strip().lower()
        if not lowered:
            raise NotFoundError("no machine is named", hint="list them with: bootwright machine list")
        matching = [
            machine.id
            for machine in await self._machines.store.all()
            if machine.id.startswith(lowered)
            or lowered.replace("-", ":") in machine.identity.macs
            or lowered in (machine.identity.uuid, machine.identity.serial.lower())
        ]
        if len(matching) == 1:
            return matching[0]
        if not matching:
            raise NotFoundError(f"there is no machine {wanted!r}", hint="list them with: bootwright machine list")
        raise NotFoundError(f"{wanted!r} may be any of {', '.join(matching)}", hint="write more of the id")


def _commanded_by_hand(edit: Edit, action: str) -> None:
    edit.row.power_at = None
    if action == "cycle":
        edit.row.last_reboot_at = edit.now
    edit.note("power.commanded", action=action, by="operator")


def _summary(machine: Machine, plan: Plan) -> JsonObject:
    facts = machine.facts
    operation = facts.operation
    active = operation is not None and operation.state.value in ("planned", "running")
    inventory = facts.inventory
    return {
        "id": machine.id,
        "phase": plan.phase.value,
        "because": plan.because,
        "power": facts.power.state.value,
        "agent": facts.agent.connected,
        "macs": list(machine.identity.macs),
        "serial": machine.identity.serial,
        "product": "" if inventory is None else f"{inventory.system.manufacturer} {inventory.system.product}".strip(),
        "allocation": None if machine.desired.allocation is None else machine.desired.allocation.profile,
        "percent": operation.percent if active and operation is not None else None,
        "warnings": list(facts.warnings),
    }


def _times(machine: Machine) -> JsonObject:
    facts = machine.facts
    names = ("first_seen", "inventory_at", "last_power_on_at", "last_power_off_at", "last_reboot_at", "last_script_at")
    times = {name: observed.plain(getattr(facts, name)) for name in names}
    return {"times": {**times, "power_at": observed.plain(facts.power.at)}}


def _facts(machine: Machine) -> list[tuple[str, object]]:
    desired, facts = machine.desired, machine.facts
    script = facts.last_script_mode
    return [
        ("acceptance", desired.acceptance.value),
        ("cordoned", desired.cordoned),
        ("allocation", None if desired.allocation is None else desired.allocation.profile),
        ("wipe id", desired.wipe_id or "(first)"),
        ("wiped for", [record.request_id or "(first)" for record in lifecycle.records_of(facts, RecordKind.WIPE)]),
        ("installs", len(lifecycle.records_of(facts, RecordKind.INSTALL))),
        ("power", facts.power.state.value),
        ("power read at", observed.plain(facts.power.at)),
        ("agent connected", facts.agent.connected),
        ("BMC", None if facts.bmc is None else facts.bmc.name),
        ("BMC error", None if facts.bmc is None else facts.bmc.last_error),
        ("operation", None if facts.operation is None else _operation(facts.operation)),
        ("last script", None if script is None else script.value),
        ("last script at", observed.plain(facts.last_script_at)),
        ("last power-on by us", observed.plain(facts.last_power_on_at)),
        ("last reboot by us", observed.plain(facts.last_reboot_at)),
    ]


def _operation(operation: Operation) -> str:
    return f"{operation.kind.value} {operation.state.value} {operation.percent} %"


def _step(plan: Plan) -> object:
    if plan.step is None:
        return None
    fields = {key: observed.plain(value) for key, value in asdict(plan.step).items() if value not in (None, "", ())}
    return {"step": type(plan.step).__name__, **fields}


def _event(event: Event) -> JsonObject:
    return {
        "id": event.id,
        "machine": event.machine_id,
        "at": event.at.isoformat(),
        "name": event.name,
        "data": dict(event.data),
    }

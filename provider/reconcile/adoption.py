"""
Writes down what Sidero's own provider left of our machines (`planning.adoption`), each machine in one transaction.

It works on the store alone, while no daemon does. Cut short at any point, it is begun again: what was written is found, and what
was not is written then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from provider.domain.errors import RefusedError
from provider.domain.machine import BootMode, Evidence, Machine
from provider.planning import adoption as planning
from provider.planning.adoption import Adoption, FoundBmc, Left
from provider.planning.identity import believable_uuid
from provider.planning.lifecycle import Plan
from provider.planning.omni import Seen
from provider.reconcile import omni
from provider.reconcile.omni import Tokens
from provider.store.bmcs import BmcOrigin, BmcStore
from provider.store.keepsakes import KeepsakeStore
from provider.store.machines import Edit, MachineStore
from provider.store.sealing import Sealer


@dataclass(frozen=True)
class Adopted:
    """What became of one machine of Omni's; no `machine` if we could not have it."""

    uuid: str
    adoption: Adoption
    machine: Machine | None = None
    plan: Plan | None = None
    """What happens with it next."""


class AdoptionDesk:
    """What the reader of Omni calls; see `manager.omni.adoption`."""

    def __init__(self, store: MachineStore, bmcs: BmcStore, keepsakes: KeepsakeStore, sealer: Sealer) -> None:
        self._store = store
        self._bmcs = bmcs
        self._keepsakes = keepsakes
        self._tokens = Tokens(sealer)

    async def installation(self) -> str:
        """Our mark at Omni."""
        return await omni.installation(self._keepsakes)

    async def adopt(self, uuid: str, seen: Seen, left: Left) -> Adopted:
        """Take one machine over; it is on disk when this returns."""
        believed = believable_uuid(uuid)
        if not believed:
            return Adopted(uuid, Adoption(remarks=("no machine should have this UUID: we cannot tell whose it is",)))

        def edit(edit: Edit) -> Adoption:
            before = edit.machine
            token = self._tokens.wanted(seen.spec.node_unique_token, before.desired)
            taken = planning.adopt(seen, left, before, token=token, seal=self._tokens.seal)
            return self._write(edit, taken)

        try:
            changed, taken = await self._store.identify(Evidence(uuid=believed), edit)
        except RefusedError as error:
            return Adopted(uuid, Adoption(remarks=(f"nothing was taken over: {error}",)))
        return Adopted(uuid, taken, changed.machine, changed.plan)

    def _write(self, edit: Edit, taken: Adoption) -> Adoption:
        if taken.bmc is not None:
            taken = self._give_bmc(edit, taken, taken.bmc)
        if taken.desired is not None:
            edit.desire(taken.desired)
        for record in taken.records:
            edit.record(
                record.kind,
                record.request_id,
                record.outcome,
                record.detail,
                install_event=record.install_event,
                manager_token=record.manager_token,
                wipe_id=record.wipe_id,
                at=record.at,
            )
        row = edit.row
        row.last_reboot_at = taken.last_reboot_at or row.last_reboot_at
        row.last_power_on_at = taken.last_power_on_at or row.last_power_on_at
        if taken.power is not None:
            row.power_state, row.power_at, row.power_source = taken.power.value, None, "bmc"
        if taken.waits_in_agent:
            row.last_script_mode = BootMode.AGENT.value
        if taken:
            edit.note("machine.adopted", by="operator", taken=", ".join(planning.summary(taken)))
        return taken

    def _give_bmc(self, edit: Edit, taken: Adoption, found: FoundBmc) -> Adoption:
        """One that we cannot have costs the machine nothing else."""
        origin = BmcOrigin.MANAGER if found.is_configured else BmcOrigin.AGENT
        try:
            edit.bmc = self._bmcs.give(edit.session, edit.row.id, found.bmc, origin)
        except RefusedError as error:
            return replace(taken, bmc=None, power=None, remarks=(*taken.remarks, f"its BMC is not taken over: {error}"))
        return taken

"""
The desk for Omni: `manager.omni` brings what it says, and takes what it should know.

Omni names a machine by its SMBIOS UUID, we by an id of our own; one that Omni knows before it has shown itself here is made.
What Omni wants is written only if it is another than what is stored. The node unique token is sealed before it goes to the
store, and opened for Omni alone.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import structlog

from provider.bmc import http_power
from provider.domain.bmc import EITHER, IPMI_PORT, Bmc, NextBoot, PowerAction
from provider.domain.errors import NotFoundError, PermanentError, RefusedError
from provider.domain.machine import Desired, Evidence, Facts, Machine, RecordKind
from provider.domain.secret import Secret
from provider.planning import adoption, lifecycle, lives, way_back
from provider.planning import omni as planning
from provider.planning.adoption import Left
from provider.planning.identity import believable_uuid
from provider.planning.lifecycle import Policy, SetPower
from provider.planning.omni import Seen, Teardown
from provider.planning.talos import FactoryAddress
from provider.planning.witness import Witness, recalled
from provider.reconcile.agents import interrupt
from provider.reconcile.desired import difference
from provider.reconcile.machines import Machines
from provider.reconcile.worker import Workers
from provider.store.bmcs import BmcOrigin, BmcStore
from provider.store.keepsakes import KeepsakeStore
from provider.store.machines import Edit
from provider.store.sealing import Sealer
from provider.wire import omni

log = structlog.get_logger()

_JOIN = "omni.join"
_FACTORY = "omni.factory"
_INSTALLATION = "omni.installation"
_NOT_YET = Seen(omni.InfraMachine())
"""Of a machine that Omni may still show."""


async def installation(keepsakes: KeepsakeStore) -> str:
    """The mark of this installation at Omni: made once, and kept."""
    kept = await keepsakes.get(_INSTALLATION)
    if kept is not None:
        return kept.reveal()
    made = secrets.token_hex(8)
    await keepsakes.put(_INSTALLATION, Secret(made))
    return made


class Tokens:
    """Node unique tokens, sealed for the store and opened for Omni."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, plain: str) -> str:
        """For the store; nothing stays nothing."""
        return self._sealer.seal(Secret(plain)).decode() if plain else ""

    def wanted(self, plain: str, before: Desired) -> str:
        """Sealed; as it was if it is the same: each sealing looks different."""
        return before.manager_token if plain == self.open(before.manager_token) else self.seal(plain)

    def open(self, sealed: str) -> str:
        """For Omni; nothing, if it was sealed with a key that is gone."""
        if not sealed:
            return ""
        try:
            return self._sealer.unseal(sealed.encode()).reveal()
        except PermanentError as error:
            log.error("omni.token_lost", error=str(error), hint=error.hint)
            return ""


class OmniDesk:
    """What the link calls; see `manager.omni.link.OmniDesk`."""

    def __init__(
        self,
        machines: Machines,
        bmcs: BmcStore,
        workers: Workers,
        keepsakes: KeepsakeStore,
        sealer: Sealer,
        *,
        provider_id: str,
        labels: Mapping[str, str],
        policy: Policy,
        clock: Callable[[], datetime],
    ) -> None:
        self._machines = machines
        self._bmcs = bmcs
        self._workers = workers
        self._keepsakes = keepsakes
        self._tokens = Tokens(sealer)
        self._provider_id = provider_id
        self._labels = labels
        self._policy = policy
        self._clock = clock
        self._ids: dict[str, str] = {}
        """Machine id by UUID, of the machines that Omni has shown us."""
        self._uuids: dict[str, str] = {}
        """The other way."""
        self._taken: dict[str, Seen | None] = {}
        """What was last taken of each, so as not to take it again with each other news of it."""
        self._join: Secret | None = None
        self._factory: FactoryAddress | None = None
        self.installation = ""

    async def load(self) -> None:
        """Read what is kept; call once, before the rest."""
        for machine in await self._machines.store.all():
            if machine.identity.uuid and machine.desired.revision:
                self._bind(machine.identity.uuid, machine.id)
        self._join = await self._keepsakes.get(_JOIN)
        factory = await self._keepsakes.get(_FACTORY)
        self._factory = None if factory is None else FactoryAddress(*json.loads(factory.reveal()))
        self.installation = await installation(self._keepsakes)

    def join_documents(self) -> Secret | None:
        """What makes a machine join Omni; None until Omni has told it once."""
        return self._join

    def factory(self) -> FactoryAddress | None:
        """The Image Factory that Omni uses; None until it has told."""
        return self._factory

    # --- for the link ---

    def uuid_of(self, machine_id: str) -> str | None:
        """The UUID by which Omni knows the machine."""
        return self._uuids.get(machine_id)

    def wanted(self) -> Sequence[str]:
        """Of whom Omni has wanted something."""
        return list(self._ids)

    async def desire(self, uuid: str, seen: Seen | None, witness: Witness | None = None) -> None:
        """Take what Omni wants of the machine; nothing at all, if it has no such machine."""
        if uuid in self._taken and self._taken[uuid] == seen:
            return
        if seen is None and uuid not in self._ids:
            return

        def edit(edit: Edit) -> None:
            if seen is not None and not seen.tearing_down:
                _begin_life(edit, seen)
                if witness is not None:
                    self._recall(edit, seen, witness)
            before = edit.machine.desired
            token = self._tokens.wanted("" if seen is None else seen.spec.node_unique_token, before)
            wanted = planning.desired(seen, before, edit.machine_now().facts, token=token)
            if wanted != before:
                edit.desire(wanted)
                edit.note("desired.changed", by="manager", revision=wanted.revision, **difference(before, wanted))

        await self._change(uuid, edit)
        self._taken[uuid] = seen

    def _recall(self, edit: Edit, seen: Seen, witness: Witness) -> None:
        """Before anything follows from a wish: it would be for a machine that seems never to have been wiped."""
        if planning.is_outlived(seen, edit.machine.facts):
            return
        facts = edit.machine_now().facts
        for record in recalled(witness, seen.created, facts, edit.now, seal=self._tokens.seal):
            edit.record(
                record.kind,
                record.request_id,
                detail=record.detail,
                install_event=record.install_event,
                manager_token=record.manager_token,
                at=record.at,
            )
            edit.note(f"{record.kind.value}.recalled", request=record.request_id, reason=record.detail)
            log.warning("omni.store_is_older", machine=edit.row.id, kind=record.kind.value, request=record.request_id)
            if record.kind is RecordKind.REBOOT:
                edit.row.last_reboot_at = max(filter(None, (edit.row.last_reboot_at, record.at)))

    async def remembered(self, uuid: str, left: Left) -> Left:
        """
        What Sidero's provider should know of the machine, which has left this.

        Raises:
            RefusedError: If it did something with the machine since we last took anything over.
        """
        machine = await self._machine(uuid)
        facts = Facts(self._clock()) if machine is None else machine.facts
        if adoption.is_ahead(left, facts):
            raise RefusedError(
                f"Sidero's provider has wiped or rebooted machine {uuid}, and we know nothing of it: we would do it again",
                hint="stop the daemon, run: bootwright omni adopt, and start it again",
            )
        return way_back.remembered(left, facts, self._tokens.open)

    async def status(self, uuid: str, seen: Seen) -> planning.Told | None:
        """What Omni should know of the machine; None if that is to stay as it is."""
        machine = await self._machine(uuid)
        if machine is None:
            return None
        labels = planning.labels(machine.facts.inventory, machine.facts.attachments, self._labels)
        return planning.status(machine, seen, labels, unseal=self._tokens.open)

    async def teardown(self, uuid: str, seen: Seen, *, has_status: bool) -> Teardown | None:
        """The next step of giving the machine up."""
        machine = await self._machine(uuid)
        now, policy = self._clock(), self._policy
        return planning.teardown(self._provider_id, seen, machine, has_status=has_status, now=now, policy=policy)

    async def withdraw(self, uuid: str, seen: Seen) -> None:
        """Give the machine up: whatever Omni makes of it later begins anew."""

        def edit(edit: Edit) -> None:
            edit.desire(planning.withdrawn(edit.machine.desired))
            edit.record(RecordKind.REMOVED, lives.mark(seen.created or edit.now))
            edit.note("machine.removed", by="manager")

        await self._change(uuid, edit)
        self._taken.pop(uuid, None)

    async def reboot_at_last(self, uuid: str) -> None:
        """Try once to bring the machine into agent mode."""
        machine = await self._machine(uuid)
        if machine is not None:
            await self._workers.command(machine, SetPower(PowerAction.CYCLE, NextBoot.NETWORK))

    async def configure_bmc(self, uuid: str, access: omni.BmcAccess | None) -> None:
        """Use this access to the BMC, or what was found out by ourselves."""
        if access is None and uuid not in self._ids:
            return
        machine_id = await self._id(uuid)
        if access is None:
            if not await self._bmcs.withdraw(machine_id, BmcOrigin.MANAGER):
                return
        else:
            await self._bmcs.assign(machine_id, _bmc(uuid, access), BmcOrigin.MANAGER)
        await self._machines.change(machine_id, lambda edit: edit.note("bmc.configured", by="manager"))

    async def configured(self) -> Sequence[str]:
        """Whose BMC we use because Omni said so."""
        given = await self._bmcs.machines(BmcOrigin.MANAGER)
        return [self._uuids[machine_id] for machine_id in given if machine_id in self._uuids]

    async def keep_join(self, join: omni.JoinConfig) -> None:
        """From now on machines join by this."""
        secret = Secret(join.config)
        if secret == self._join:
            return
        await self._keepsakes.put(_JOIN, secret)
        self._join = secret
        log.info("omni.join_kept")

    async def keep_factory(self, features: omni.FeaturesConfig) -> None:
        """From now on images come from there, unless the settings name another factory."""
        told = FactoryAddress(features.image_factory_base_url, features.image_factory_pxe_base_url)
        if told == self._factory or not told.url:
            return
        await self._keepsakes.put(_FACTORY, Secret(json.dumps([told.url, told.pxe_url])))
        self._factory = told
        log.info("omni.factory_kept")

    # --- machines by UUID ---

    async def _change(self, uuid: str, edit: Callable[[Edit], None]) -> None:
        try:
            await self._machines.change(await self._id(uuid), edit)
        except NotFoundError:  # Forgotten, or absorbed by another machine, since we learned its id.
            self._forget(uuid)
            await self._machines.change(await self._id(uuid), edit)

    async def _machine(self, uuid: str) -> Machine | None:
        machine_id = self._ids.get(uuid)
        if machine_id is None:
            return None
        try:
            return await self._machines.store.get(machine_id)
        except NotFoundError:
            self._forget(uuid)
            return None

    async def _id(self, uuid: str) -> str:
        known = self._ids.get(uuid)
        if known is not None:
            return known
        believed = believable_uuid(uuid)
        if not believed:
            raise RefusedError(f"Omni has a machine with UUID {uuid[:80]!r}, which no machine should have")
        machine, _given = await self._machines.identify(Evidence(uuid=believed), lambda _edit: None)
        other = self._uuids.get(machine.id, uuid)
        if other != uuid and self._taken.get(other, _NOT_YET) is not None:
            raise RefusedError(
                f"Omni has two machines, {other} and {uuid}, which are one here: one UUID is the other in another byte order",
                hint="remove the one from Omni that is not there; until then only the first counts",
            )
        self._ids.pop(other, None)
        self._bind(uuid, machine.id)
        return machine.id

    def _bind(self, uuid: str, machine_id: str) -> None:
        self._ids[uuid] = machine_id
        self._uuids[machine_id] = uuid

    def _forget(self, uuid: str) -> None:
        self._uuids.pop(self._ids.pop(uuid, ""), None)
        self._taken.pop(uuid, None)


def _begin_life(edit: Edit, seen: Seen) -> None:
    """Write down which life at Omni this is; what was under way in an earlier one serves nobody."""
    begins = lives.to_record(seen.created, edit.machine.facts)
    for kind, made in begins:
        edit.record(kind, made)
    operation = lifecycle.active_operation(edit.machine.facts)
    if len(begins) > 1:
        edit.note("machine.removed", by="manager")
        if operation is not None:
            interrupt(edit, operation.id, "Omni has removed the machine, and it joined again")


def _bmc(uuid: str, access: omni.BmcAccess) -> Bmc:
    if (
        access.api is not None
    ):  # Where there are both, this one is meant (internal/provider/bmc/bmc.go of the Go provider).
        return http_power.access(access.api.address)
    if access.ipmi is None:
        raise RefusedError(
            f"Omni's BMC configuration of {uuid} has neither IPMI nor a power API",
            hint="set address, user name and password of its IPMI in Omni",
        )
    ipmi = access.ipmi
    return Bmc(ipmi.address, ipmi.username, Secret(ipmi.password), ipmi.port or IPMI_PORT, EITHER)

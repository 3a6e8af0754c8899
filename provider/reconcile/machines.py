"""
All machines of this provider, as the rest of the daemon sees them.

What must be answered at once (may this MAC address boot from the network?) comes from a small index in memory, kept in
step with the store by `changed`. What happens on the network is noted here without waiting: `note` puts it into a
bounded queue that `run` writes to the store. What was seen of a MAC address before its machine is known waits in a
bounded memory and is written once the machine has a name.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from provider.domain.errors import BootwrightError
from provider.domain.mac import MacAddress
from provider.domain.machine import Acceptance, Attachment, Evidence, Identity, Machine
from provider.kit.signal import Signal
from provider.planning import forgetting, lifecycle
from provider.planning.forgetting import Names
from provider.planning.lifecycle import Plan
from provider.store.machines import Changed, Edit, MachineStore, Noted
from provider.store.tickets import ShownTicket

log = structlog.get_logger()

T = TypeVar("T")

Scalar = str | int | float | bool | None

STRANGERS = 4096
"""MAC addresses without a machine whose last events we remember."""

STRANGER_EVENTS = 16
"""Events that we remember of each of them."""

QUEUE = 10_000
"""Events on their way to the store; when full, further ones are dropped and counted."""

FRESH = timedelta(seconds=5)
"""A plan that was made so short a time ago is as good as a new one, if nothing changed since."""

TOGETHER = 256
"""Most of them in one transaction: in a boot storm each would cost as much as all of these."""

_EACH_PACKET = frozenset({"dhcp.offered"})
"""Events that change nothing; a boot storm has thousands of them a second."""


@dataclass(frozen=True, slots=True)
class _Attached:
    """Where a MAC address was seen."""

    machine_id: str
    mac: MacAddress
    attachment: Attachment


@dataclass(slots=True)
class _Unclaimed:
    """A machine that may be forgotten."""

    identity: Identity
    heard_at: datetime


@dataclass(slots=True)
class _Stranger:
    """A MAC address whose machine is not known yet."""

    events: deque[tuple[datetime, str, dict[str, Scalar]]]
    attachment: Attachment | None = None


class Machines:
    """The registry; one of it in the daemon."""

    def __init__(self, store: MachineStore) -> None:
        self.store = store
        self._log = log.bind()
        """For what is noted with each packet: the other one looks for its settings each time, for a microsecond."""
        self._ids: dict[MacAddress, str] = {}
        self._left_alone: set[str] = set()
        self._attachments: dict[MacAddress, Attachment] = {}
        self._systems: dict[str, datetime] = {}
        self._unclaimed: dict[str, _Unclaimed] = {}
        self._strangers: OrderedDict[MacAddress, _Stranger] = OrderedDict()
        self._noted: asyncio.Queue[Noted | _Attached] = asyncio.Queue(QUEUE)
        self._dropped = 0
        self._bells: dict[str, Signal] = {}
        self._latest: dict[str, Changed] = {}
        """What the last change led to, from when a worker is woken until it looks."""
        self.arrived = Signal()
        """Rings when a machine that has no worker yet came up."""

    async def load(self) -> None:
        """Fill the index from the store; call once before anything is served."""
        for machine in await self.store.all():
            self._remember(machine)

    async def run(self) -> None:
        """Write what was noted; one writer, in order. Ends the daemon if it fails for good."""
        while True:
            news = [await self._noted.get()]
            while len(news) < TOGETHER and not self._noted.empty():
                news.append(self._noted.get_nowait())
            await self._write([each for each in news if isinstance(each, Noted)])
            for each in news:
                if isinstance(each, _Attached):
                    await self._attach(each)
            if self._dropped and self._noted.empty():
                log.warning("events.dropped", count=self._dropped)
                self._dropped = 0

    async def _write(self, events: Sequence[Noted]) -> None:
        if not events:
            return
        try:
            await self.store.note_all(events)
        except BootwrightError as error:
            log.warning("events.lost", count=len(events), error=str(error))

    async def _attach(self, seen: _Attached) -> None:
        try:
            await self.quietly_change(seen.machine_id, lambda edit: edit.attach(seen.mac, seen.attachment))
        except BootwrightError as error:
            log.warning("attachment.lost", machine=seen.machine_id, error=str(error))

    # --- for the network shells: at once, never raising ---

    def may_netboot(self, mac: MacAddress) -> bool:
        """Whether a machine may get boot information: not if it was rejected or cordoned."""
        return self._ids.get(mac) not in self._left_alone

    def owner(self, mac: MacAddress) -> str | None:
        """The id of the machine with this MAC address."""
        return self._ids.get(mac)

    def note(self, mac: MacAddress, name: str, **data: Scalar) -> None:
        """Remember what was seen of a MAC address."""
        (self._log.debug if name in _EACH_PACKET else self._log.info)(name, mac=mac, **data)
        machine_id = self._ids.get(mac)
        if machine_id is not None:
            if data.get("stage") == "os":
                self._systems[machine_id] = self.store.now()
            self._hear(machine_id)
            self.note_machine(machine_id, name, **data)
            return
        self._stranger(mac).events.append((self.store.now(), name, data))

    def note_machine(self, machine_id: str, name: str, **data: Scalar) -> None:
        """Queue an event of a known machine."""
        self._queue(Noted(self.store.now(), machine_id, name, data))

    def _hear(self, machine_id: str) -> None:
        unclaimed = self._unclaimed.get(machine_id)
        if unclaimed is not None:
            unclaimed.heard_at = self.store.now()

    def system_heard_at(self, machine_id: str) -> datetime | None:
        """When DHCP last heard of a machine what was neither firmware nor boot loader, since we started."""
        return self._systems.get(machine_id)

    def attached(self, mac: MacAddress, attachment: Attachment) -> None:
        """DHCP saw a MAC address there; mostly that is no news."""
        machine_id = self._ids.get(mac)
        if machine_id is None:
            self._stranger(mac).attachment = attachment
        elif self._attachments.get(mac) != attachment:
            self._attachments[mac] = attachment
            self._queue(_Attached(machine_id, mac, attachment))

    def _stranger(self, mac: MacAddress) -> _Stranger:
        stranger = self._strangers.get(mac)
        if stranger is not None:
            self._strangers.move_to_end(mac)
            return stranger
        if len(self._strangers) >= STRANGERS:
            self._strangers.popitem(last=False)
        stranger = self._strangers[mac] = _Stranger(deque(maxlen=STRANGER_EVENTS))
        return stranger

    def _queue(self, noted: Noted | _Attached) -> None:
        try:
            self._noted.put_nowait(noted)
        except asyncio.QueueFull:
            self._dropped += 1

    # --- changes ---

    async def identify(
        self, evidence: Evidence, edit: Callable[[Edit], T], *, ticket: ShownTicket | None = None
    ) -> tuple[Machine, T]:
        """
        Find or make the machine that shows this evidence, and change it; with a `ticket`, only if it is that one's. Also
        gives what `edit` gave.

        Raises:
            TicketRefusedError: If the ticket is not good, or another machine's; nothing was changed.
            RefusedError: If it claims to be several established machines at once.
            TemporaryError: If the store does not answer.
        """
        strangers = {mac: self._strangers[mac] for mac in evidence.macs if mac in self._strangers}
        seen = {mac: stranger.attachment for mac, stranger in strangers.items() if stranger.attachment is not None}
        changed, given = await self.store.identify(evidence, edit, attachments=seen, ticket=ticket)
        self._forget(changed.absorbed)
        self._remember(changed.machine)
        self._hear(changed.machine.id)
        self._latest.pop(changed.machine.id, None)
        for mac in evidence.macs:
            self._introduce(mac, changed.machine.id)
        self._wake_for(changed)
        return changed.machine, given

    def _introduce(self, mac: MacAddress, machine_id: str) -> None:
        """Write down what was seen of a MAC address before its machine was known."""
        stranger = self._strangers.pop(mac, None)
        if stranger is None:
            return
        for at, name, data in stranger.events:
            self._queue(Noted(at, machine_id, name, data))
        if stranger.attachment is not None:
            self.attached(mac, stranger.attachment)

    async def change(self, machine_id: str, edit: Callable[[Edit], None]) -> Changed:
        """Change one machine in the store, keep the index in step, and wake its worker if that leaves anything to do."""
        changed = await self.quietly_change(machine_id, edit)
        self._wake_for(changed)
        return changed

    async def quietly_change(self, machine_id: str, edit: Callable[[Edit], None]) -> Changed:
        """As `change`, for what leaves nothing to do."""
        changed = await self.store.change(machine_id, edit)
        self._latest.pop(machine_id, None)
        self._remember(changed.machine)
        return changed

    async def advance(self, machine_id: str, edit: Callable[[Edit], None]) -> None:
        """As `change`, for the worker itself, which is awake and looks next."""
        self._latest[machine_id] = await self.quietly_change(machine_id, edit)

    async def look(self, machine_id: str) -> tuple[Machine, Plan]:
        """
        The machine and its plan, for its worker: as the change left it that woke it, or as of now.

        To read a machine and to plan for it is most of what a change costs, and is done in each of them already.
        """
        latest = self._latest.pop(machine_id, None)
        if latest is None or self.store.now() - latest.at > FRESH:
            return await self.plan(machine_id)
        return latest.machine, latest.plan

    async def plan(self, machine_id: str) -> tuple[Machine, Plan]:
        """The machine and its plan as of now; writes what time alone has changed."""
        changed = await self.quietly_change(machine_id, lambda _edit: None)
        return changed.machine, changed.plan

    # --- machines that go ---

    def unclaimed(self) -> list[tuple[Identity, datetime]]:
        """The machines that may be forgotten, and when each was last heard of."""
        return [(each.identity, each.heard_at) for each in self._unclaimed.values()]

    async def forget(self, machine_ids: Collection[str], names: Names, reason: str) -> list[Identity]:
        """
        Forget machines, in the store and here; gives those that are gone. One that was claimed meanwhile stays.

        Raises:
            TemporaryError: If the store does not answer.
        """
        gone = await self.store.forget(machine_ids, names, reason)
        self._forget(gone)
        return gone

    def _forget(self, gone: Sequence[Identity]) -> None:
        for identity in gone:
            log.info("machine.forgotten", machine=identity.id)
            for mac in identity.macs:
                self._ids.pop(mac, None)
                self._attachments.pop(mac, None)
            self._systems.pop(identity.id, None)
            self._unclaimed.pop(identity.id, None)
            self._left_alone.discard(identity.id)
            self._latest.pop(identity.id, None)
            bell = self._bells.pop(identity.id, None)
            if bell is not None:
                bell.ring()  # Its worker finds that it is gone, and ends.

    # --- workers ---

    def ids(self) -> frozenset[str]:
        """All machines known."""
        return frozenset(self._bells)

    def knows(self, machine_id: str) -> bool:
        """Whether there is such a machine."""
        return machine_id in self._bells

    def bell(self, machine_id: str) -> Signal:
        """Rings when the machine's worker, or whoever waits for its work, should look again; never if it is gone."""
        return self._bells.get(machine_id) or Signal()

    def wake(self, machine_id: str) -> None:
        """Ring it."""
        self.bell(machine_id).ring()

    def _wake_for(self, changed: Changed) -> None:
        """Wake who has something to do now: the worker, or whoever waits for an operation."""
        plan = changed.plan
        if plan.step or plan.wake_at or lifecycle.active_operation(changed.machine.facts):
            self._latest[changed.machine.id] = changed
            self.wake(changed.machine.id)

    def _remember(self, machine: Machine) -> None:
        for mac in machine.identity.macs:
            self._ids[mac] = machine.id
        self._attachments.update(machine.facts.attachments)
        desired = machine.desired
        if desired.cordoned or desired.acceptance is Acceptance.REJECTED:
            self._left_alone.add(machine.id)
        else:
            self._left_alone.discard(machine.id)
        if not forgetting.is_unclaimed(machine):
            self._unclaimed.pop(machine.id, None)
        elif machine.id in self._unclaimed:
            self._unclaimed[machine.id].identity = machine.identity
        else:
            self._unclaimed[machine.id] = _Unclaimed(machine.identity, forgetting.last_heard(machine.facts))
        if machine.id not in self._bells:
            self._bells[machine.id] = Signal()
            self.arrived.ring()

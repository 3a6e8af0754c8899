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
from collections.abc import Callable
from datetime import datetime

import structlog

from provider.domain.errors import BootwrightError
from provider.domain.mac import MacAddress
from provider.domain.machine import Acceptance, Evidence, Machine
from provider.kit.signal import Signal
from provider.planning.lifecycle import Plan
from provider.store.machines import Changed, Edit, MachineStore

log = structlog.get_logger()

Scalar = str | int | float | bool | None

STRANGERS = 4096
"""MAC addresses without a machine whose last events we remember."""

STRANGER_EVENTS = 16
"""Events that we remember of each of them."""

QUEUE = 10_000
"""Events on their way to the store; when full, further ones are dropped and counted."""

_Noted = tuple[datetime, str, str, dict[str, Scalar]]
"""When it happened, which is not when it is written: an unknown machine's first steps wait until it has a name."""


class Machines:
    """The registry; one of it in the daemon."""

    def __init__(self, store: MachineStore) -> None:
        self.store = store
        self._ids: dict[MacAddress, str] = {}
        self._left_alone: set[str] = set()
        self._strangers: OrderedDict[MacAddress, deque[tuple[datetime, str, dict[str, Scalar]]]] = OrderedDict()
        self._noted: asyncio.Queue[_Noted] = asyncio.Queue(QUEUE)
        self._dropped = 0
        self._bells: dict[str, Signal] = {}
        self.arrived = Signal()
        """Rings when a machine that has no worker yet came up."""

    async def load(self) -> None:
        """Fill the index from the store; call once before anything is served."""
        for machine in await self.store.all():
            self._remember(machine)

    async def run(self) -> None:
        """Write what was noted; one writer, in order. Ends the daemon if it fails for good."""
        while True:
            at, machine_id, name, data = await self._noted.get()
            try:
                await self.store.note(machine_id, name, at=at, **data)
            except BootwrightError as error:
                log.warning("event.lost", machine=machine_id, event_name=name, error=str(error))
            if self._dropped and self._noted.empty():
                log.warning("events.dropped", count=self._dropped)
                self._dropped = 0

    # --- for the network shells: at once, never raising ---

    def may_netboot(self, mac: MacAddress) -> bool:
        """Whether a machine may get boot information: not if it was rejected or cordoned."""
        return self._ids.get(mac) not in self._left_alone

    def note(self, mac: MacAddress, name: str, **data: Scalar) -> None:
        """Remember what was seen of a MAC address."""
        log.info(name, mac=mac, **data)
        machine_id = self._ids.get(mac)
        if machine_id is not None:
            self.note_machine(machine_id, name, **data)
            return
        seen = self._strangers.setdefault(mac, deque(maxlen=STRANGER_EVENTS))
        self._strangers.move_to_end(mac)
        seen.append((self.store.now(), name, data))
        if len(self._strangers) > STRANGERS:
            self._strangers.popitem(last=False)

    def note_machine(self, machine_id: str, name: str, **data: Scalar) -> None:
        """Queue an event of a known machine."""
        self._queue((self.store.now(), machine_id, name, data))

    def _queue(self, noted: _Noted) -> None:
        try:
            self._noted.put_nowait(noted)
        except asyncio.QueueFull:
            self._dropped += 1

    # --- changes ---

    async def identify(self, evidence: Evidence) -> Machine:
        """
        Find or make the machine that shows this evidence.

        Raises:
            RefusedError: If it claims to be several established machines at once.
            TemporaryError: If the store does not answer.
        """
        changed, absorbed = await self.store.identify(evidence)
        for machine_id in absorbed:
            self.wake(machine_id)
        self._remember(changed.machine)
        for mac in evidence.macs:
            for at, name, data in self._strangers.pop(mac, ()):
                self._queue((at, changed.machine.id, name, data))
        return changed.machine

    async def change(self, machine_id: str, edit: Callable[[Edit], None]) -> Changed:
        """Change one machine in the store, keep the index in step, and wake its worker."""
        changed = await self.quietly_change(machine_id, edit)
        self.wake(machine_id)
        return changed

    async def quietly_change(self, machine_id: str, edit: Callable[[Edit], None]) -> Changed:
        """As `change`, for the worker itself, which is awake."""
        changed = await self.store.change(machine_id, edit)
        self._remember(changed.machine)
        return changed

    async def plan(self, machine_id: str) -> tuple[Machine, Plan]:
        """The machine and its plan as of now; writes what time alone has changed."""
        changed = await self.quietly_change(machine_id, lambda _edit: None)
        return changed.machine, changed.plan

    # --- workers ---

    def ids(self) -> frozenset[str]:
        """All machines known."""
        return frozenset(self._bells)

    def bell(self, machine_id: str) -> Signal:
        """Rings when the machine's worker, or whoever waits for its work, should look again."""
        return self._bells.setdefault(machine_id, Signal())

    def wake(self, machine_id: str) -> None:
        """Ring it."""
        self.bell(machine_id).ring()

    def wake_all(self) -> None:
        """Ring all of them."""
        for bell in self._bells.values():
            bell.ring()

    def _remember(self, machine: Machine) -> None:
        for mac in machine.identity.macs:
            self._ids[mac] = machine.id
        desired = machine.desired
        if desired.cordoned or desired.acceptance is Acceptance.REJECTED:
            self._left_alone.add(machine.id)
        else:
            self._left_alone.discard(machine.id)
        if machine.id not in self._bells:
            self.bell(machine.id)
            self.arrived.ring()

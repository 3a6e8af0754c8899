"""
The machines on one connection to Omni: what is wanted of each comes in, how each is goes out, and each is let go in the end.

What happens at Omni (`View`) is taken into our store, which asks Omni for nothing: however slowly it answers, what it wants of
one machine waits for no other. Then, and whenever something happens here (the outbox), the machine's errand at Omni is called.
It looks at both sides as they are now, and brings them together; so it does not matter which news came first, or how often, or
what a crash cut short. The status is written where it differs from what Omni has; that is read once, when the connection begins.
So is the memory of Sidero's provider (`former.py`), before anybody hears of what it should remember.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from provider.domain.errors import MalformedPacketError
from provider.manager.omni.errands import Errands
from provider.manager.omni.former import Former
from provider.manager.omni.state import State, without
from provider.manager.omni.view import View
from provider.planning import omni as planning
from provider.planning.adoption import Left
from provider.planning.omni import Seen, Teardown, Told
from provider.planning.witness import ANNOTATION, Witness
from provider.wire import cosi, omni, protobuf
from provider.wire.cosi import Resource

log = structlog.get_logger()

HANDS = 16
"""Machines that are seen to at the same time."""

WISH_HANDS = 64
"""Machines of which is taken what is wanted: as many as the store takes in two commits, so that wishes come one commit after the
other, with no other work in between."""

TOGETHER = 256
"""Items of the outbox that are looked at together."""


class Outbox(Protocol):
    """What has changed here; `store.outbox.Outbox` is one."""

    async def after(self, sequence: int, limit: int) -> Sequence[Item]:
        """The next items after a number, in order."""

    async def acknowledge(self, sequence: int) -> None:
        """Forget everything up to and including a number."""

    async def wait(self, after: int) -> None:
        """Return when there is an item with a number above `after`."""


class Item(Protocol):
    """One change; what it says is not looked at, because the machine itself is."""

    @property
    def sequence(self) -> int: ...
    @property
    def machine_id(self) -> str: ...


class Desk(Protocol):
    """Our side of the machines; `reconcile.omni.OmniDesk` is one. Machines go by their UUIDs. All may raise BootwrightError."""

    def uuid_of(self, machine_id: str) -> str | None:
        """The UUID by which Omni knows the machine, None if it knows it not."""

    def wanted(self) -> Sequence[str]:
        """Of whom Omni has wanted something: they are let go if it knows them no more."""

    async def desire(self, uuid: str, seen: Seen | None, witness: Witness | None = None) -> None:
        """Take what Omni wants of the machine; nothing at all, if it has no such machine. `witness` is our status there."""

    async def remembered(self, uuid: str, left: Left) -> Left:
        """What Sidero's provider should know of the machine; RefusedError if it knows something that we do not."""

    async def status(self, uuid: str, seen: Seen) -> Told | None:
        """What Omni should know of it; None if that is to stay as it is."""

    async def teardown(self, uuid: str, seen: Seen, *, has_status: bool) -> Teardown | None:
        """The next step of giving it up."""

    async def withdraw(self, uuid: str, seen: Seen) -> None:
        """Give it up on our side."""

    async def reboot_at_last(self, uuid: str) -> None:
        """Try once to bring it into agent mode; a failure is logged."""


class MachineErrands:
    """All machines of one provider on one connection; `machines` are the InfraMachines as the watch shows them."""

    def __init__(self, state: State, provider_id: str, machines: View, desk: Desk, outbox: Outbox) -> None:
        self._state = state
        self._provider_id = provider_id
        self._machines = machines
        self._desk = desk
        self._outbox = outbox
        self._former = Former(state, provider_id)
        self._statuses: dict[str, Resource] = {}
        self._owner = omni.owner(provider_id, omni.STATUS_CONTROLLER)
        self._wishes = Errands(self._take, WISH_HANDS, what="machine")
        self._errands = Errands(self._see_to, HANDS, what="machine at Omni")

    async def load(self) -> None:
        """Read what Omni has of statuses and of Sidero's provider, and call all machines that an earlier connection knew."""
        await self._former.load()
        self._statuses = {each.metadata.id: each for each in await self._state.list(omni.MACHINE_STATUSES)}
        self.call(*self._machines.resources)

    def call(self, *uuids: str) -> None:
        """Something happened to these at Omni."""
        self._wishes.call(*uuids)

    def call_missing(self) -> None:
        """The watch has shown all that Omni has: call those of ours that are not among it."""
        self.call(*(uuid for uuid in self._desk.wanted() if uuid not in self._machines.resources))

    async def run(self) -> None:
        """See to machines as they are called, here or there."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wishes.run(), name="omni wishes")
            group.create_task(self._errands.run(), name="omni machines")
            group.create_task(self._follow_outbox(), name="omni outbox")

    async def _follow_outbox(self) -> None:
        """An errand reads the machine itself, and each connection begins with all of them: an item is done when it is called."""
        last = 0
        while True:
            items = await self._outbox.after(last, TOGETHER)
            if not items:
                await self._outbox.wait(last)
                continue
            self._errands.call(*filter(None, (self._desk.uuid_of(item.machine_id) for item in items)))
            last = items[-1].sequence
            await self._outbox.acknowledge(last)

    async def _take(self, uuid: str) -> None:
        """
        Take what Omni wants of a machine that has our finalizer. Without it, Omni could forget the machine behind our back: the
        errand puts it there, and the watch tells us.
        """
        if uuid not in self._machines.resources:
            if self._machines.is_whole:
                await self._desk.desire(uuid, None)
            return
        seen = self._seen(uuid)
        if seen is not None and not seen.tearing_down and not planning.finalizers_to_add(self._provider_id, seen):
            if self._former:
                await self._desk.remembered(uuid, self._former.left(uuid))  # It may know what we do not.
            await self._desk.desire(uuid, seen, _witness(self._statuses.get(uuid)))
        self._errands.call(uuid)

    async def _see_to(self, uuid: str) -> None:
        seen = self._seen(uuid)
        if seen is None:
            return
        if seen.tearing_down:
            await self._tear_down(uuid, seen)
        elif added := planning.finalizers_to_add(self._provider_id, seen):
            await self._state.change(
                omni.INFRA_MACHINES, uuid, lambda found: _with(found, added), known=self._machines.resources[uuid]
            )
        else:
            if self._former:
                await self._former.keep(uuid, await self._desk.remembered(uuid, self._former.left(uuid)))
            await self._report(uuid, seen)

    def _seen(self, uuid: str) -> Seen | None:
        """The machine as the watch has shown it last; None if there is none, or none that can be read."""
        resource = self._machines.resources.get(uuid)
        try:
            return None if resource is None else read(resource)
        except MalformedPacketError as error:
            log.error("omni.machine_unreadable", machine=uuid, error=str(error))
            return None

    async def _report(self, uuid: str, seen: Seen) -> None:
        told = await self._desk.status(uuid, seen)
        if told is None:
            return
        spec, labels = protobuf.encode(told.spec), told.labels
        if (known := self._statuses.get(uuid)) is not None and known.metadata.phase == cosi.TEARING_DOWN:
            await self._delete_status(uuid)  # It was being given up when somebody put things back.
            known = None
        if known is not None and known.spec.proto_spec == spec and _own(known) == (labels, told.statement):
            return

        def status(before: Resource | None) -> Resource:
            made = omni.MACHINE_STATUSES.new(uuid, told.spec) if before is None else before
            metadata = made.metadata
            omnis = {key: value for key, value in metadata.labels.items() if key == omni.LABEL_PROVIDER_ID}
            others = {key: value for key, value in metadata.annotations.items() if key != ANNOTATION}
            ours = {ANNOTATION: told.statement} if told.statement else {}
            return Resource(replace(metadata, labels={**labels, **omnis}, annotations=others | ours), cosi.Spec(spec))

        self._statuses[uuid] = await self._state.put(
            omni.MACHINE_STATUSES, uuid, status, self._owner, known=known, is_known=True
        )

    async def _tear_down(self, uuid: str, seen: Seen) -> None:
        """Step by step; each is seen to be done by looking again."""
        while True:
            step = await self._desk.teardown(uuid, seen, has_status=uuid in self._statuses)
            match step:
                case None:
                    return
                case Teardown.WITHDRAW:
                    await self._desk.withdraw(uuid, seen)
                case Teardown.REBOOT:
                    await self._desk.reboot_at_last(uuid)
                    await self._delete_status(uuid)
                case Teardown.DELETE_STATUS:
                    await self._delete_status(uuid)
                case Teardown.RELEASE:
                    await self._release(uuid, planning.finalizers_to_remove(self._provider_id, seen))
                    return

    async def _release(self, uuid: str, finalizers: Sequence[str]) -> None:
        await self._former.forget(uuid)
        await self._state.change(omni.INFRA_MACHINES, uuid, lambda found: without(found, finalizers))

    async def _delete_status(self, uuid: str) -> None:
        await self._state.remove(omni.MACHINE_STATUSES, uuid, self._owner)
        self._statuses.pop(uuid, None)


def read(resource: Resource) -> Seen:
    """
    The machine as planning knows it.

    Raises:
        MalformedPacketError: If it is none.
    """
    metadata = resource.metadata
    return Seen(
        omni.INFRA_MACHINES.read(resource),
        metadata.labels,
        metadata.finalizers,
        metadata.created,
        metadata.phase == cosi.TEARING_DOWN,
    )


def _with(resource: Resource, finalizers: Sequence[str]) -> Resource | None:
    """Nothing else may change: not the bytes of the spec, nor a label."""
    missing = [each for each in finalizers if each not in resource.metadata.finalizers]
    if not missing or resource.metadata.phase == cosi.TEARING_DOWN:
        return None
    return replace(resource, metadata=replace(resource.metadata, finalizers=(*resource.metadata.finalizers, *missing)))


def _own(status: Resource) -> tuple[dict[str, str], str]:
    """Labels and statement of ours."""
    labels = {key: value for key, value in status.metadata.labels.items() if key != omni.LABEL_PROVIDER_ID}
    return labels, status.metadata.annotations.get(ANNOTATION, "")


def _witness(status: Resource | None) -> Witness | None:
    try:
        told = None if status is None else omni.MACHINE_STATUSES.read(status)
    except MalformedPacketError:
        return None
    return None if status is None or told is None else Witness(told, _own(status)[1])

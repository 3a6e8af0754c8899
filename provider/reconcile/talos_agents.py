"""
The desk of the agents that wait in Talos: who they are, whether they live, what they are to do.

`http.talos_agents` brings each agent with a function to call it. What the Bootwright agent does by itself is done from here: it
is greeted at intervals, its work is taken from `AgentDesk` and the result given there.

A machine has one session at most, of the agent that speaks for it. Who comes while that one answers is sent away. A session
ends with its tunnel; that the agent is lost is written down by `watch`, which also waits a while, after a start, for those that
were there before.

When its tunnel breaks, an agent ends, and Talos starts another. Nothing that was under way then counts as done; the enrolment of
the next agent closes, in one transaction, what was begun by any before it. But Talos goes on with a wipe: it hears neither that
who asked is gone nor that he cancelled (BlockDeviceWipe in internal/app/storaged/server.go of siderolabs/talos). It locks one
disk after another, so a further wipe comes behind, and has its answer when both are over; one that is not wanted any more ends by
a reboot alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import secrets
import string
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from provider.domain.bmc import EITHER, IPMI_PORT, Bmc
from provider.domain.errors import BootwrightError, NotFoundError, PermanentError, RefusedError, TemporaryError
from provider.domain.mac import MacAddress
from provider.domain.machine import Acceptance, AgentKind, Evidence, Machine
from provider.domain.operation import OperationKind
from provider.domain.secret import Secret
from provider.kit.signal import Signal
from provider.planning import identity, lifecycle
from provider.reconcile import agents
from provider.reconcile.agents import AgentDesk
from provider.reconcile.machines import Machines
from provider.store.bmcs import BmcOrigin, BmcStore
from provider.store.machines import Edit
from provider.wire import talos_agent as wire
from provider.wire.agent import Result, Work
from provider.wire.protobuf import Empty, Method
from provider.wire.tunnel import RETRY_AFTER

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Request = TypeVar("Request", bound="DataclassInstance")
Answer = TypeVar("Answer", bound="DataclassInstance")

log = structlog.get_logger()

BMC_USER = "talos-agent"
"""The account that the Go provider makes, too: a machine that changes hands has one of them."""

MOST_REFUSALS = 4096
"""Remembered, so that none is told again and again; the oldest forgotten first."""

_LETTERS = string.ascii_letters + string.digits


class Agent(Protocol):
    """An agent behind its tunnel; `http.talos_agents.TalosAgent` is one."""

    async def call(self, method: Method[Request, Answer], request: Request, timeout: timedelta) -> Answer:
        """Call it; raises TemporaryError if no answer came, PermanentError if it says that it did not work."""

    @property
    def why_gone(self) -> str | None:
        """None as long as it is there."""

    async def gone(self) -> None:
        """Wait until it is not."""

    def end(self, why: str) -> None:
        """Send it away; calls that are under way fail."""


@dataclass(frozen=True)
class Patience:
    """How long is waited for what."""

    returns: timedelta = timedelta(minutes=1)
    """After a start, for the agents that were there before: Talos starts them anew when their tunnel breaks."""
    greets_every: timedelta = timedelta(seconds=30)
    hello: timedelta = timedelta(seconds=30)
    proof_of_life: timedelta = timedelta(seconds=5)
    """For an agent's Hello when another one says that it is of the same machine."""
    power_management: timedelta = timedelta(minutes=1)
    """BMCs take their time to list their users."""
    fast_wipe: timedelta = timedelta(minutes=5)
    wipe_with_zeroes: timedelta = timedelta(days=30)
    """Talos writes one disk after another: two dozen of 20 TB take three weeks. Whether it lives, Hello tells."""
    reboot_call: timedelta = timedelta(seconds=30)
    reboot: timedelta = timedelta(minutes=5)
    """For a machine to go down that was told to."""
    work: timedelta = timedelta(minutes=5)
    """A session looks at its machine at least this often."""
    same_refusal: timedelta = timedelta(hours=1)
    """An agent that is refused calls back within seconds, for ever; its machine's history tells it this often."""
    other_refusal: timedelta = timedelta(minutes=1)
    """Likewise, if the reason is another one: whoever lies can do so in many ways."""


@dataclass(eq=False)
class _Session:
    """An agent that speaks for a machine."""

    machine_id: str
    uuid: str
    address: str
    agent: Agent
    over: asyncio.Event = field(default_factory=asyncio.Event)
    is_wiping: bool = False
    """Whether Talos may be at a wipe, be it one of an agent before this one."""


@dataclass(frozen=True)
class _Missing:
    """An agent that is not there any more, or not yet again."""

    enrolled_at: datetime | None
    """When it came; one that came later is another."""
    due: datetime
    """When it is lost."""
    why: str


class TalosAgentDesk:
    """What `http.talos_agents` calls, once for each tunnel."""

    def __init__(
        self,
        machines: Machines,
        agent_desk: AgentDesk,
        bmcs: BmcStore,
        *,
        mac_of: Callable[[str], MacAddress | None],
        power_api: Callable[[str], Awaitable[Bmc]],
        clock: Callable[[], datetime],
        patience: Patience | None = None,
    ) -> None:
        """
        `mac_of` tells whose address something is, from our leases or the kernel; `power_api` where the power API of the
        machine with a UUID is, for agents in test mode (see `bmc.http_power.find`).
        """
        self._machines = machines
        self._agents = agent_desk
        self._bmcs = bmcs
        self._mac_of = mac_of
        self._power_api = power_api
        self._clock = clock
        self._patience = patience or Patience()
        self._sessions: dict[str, _Session] = {}
        """By machine id."""
        self._missing: dict[str, _Missing] = {}
        self._missed = Signal()
        self._refusals: dict[str, tuple[str, datetime]] = {}
        """By machine id: what was refused last, and when that was told; at most `MOST_REFUSALS`."""

    async def load(self) -> None:
        """Remember who was there when we stopped; call once, before the rest."""
        due = self._clock() + self._patience.returns
        for machine in await self._machines.store.all():
            agent = machine.facts.agent
            if agent.connected and agent.kind is AgentKind.TALOS:
                self._missing[machine.id] = _Missing(agent.enrolled_at, due, "it did not come back after we started")

    async def watch(self) -> None:
        """Write down who is lost; for ever. A failure of the store is logged and tried again."""
        while True:
            missed = self._missed.ticket()
            now = self._clock()
            for machine_id, missing in list(self._missing.items()):
                if missing.due <= now:
                    await self._lose(machine_id, missing)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await missed.wait()

    async def _lose(self, machine_id: str, missing: _Missing) -> None:
        try:
            await self._machines.change(machine_id, lambda edit: _lost(edit, missing))
        except NotFoundError:
            log.debug("agent.forgotten", machine=machine_id)
        except BootwrightError as error:
            log.warning("agent.loss_unrecorded", machine=machine_id, error=str(error))
            return
        if self._missing.get(machine_id) is missing:
            del self._missing[machine_id]

    async def serve(self, uuid: str, address: str, agent: Agent) -> None:
        """
        Work with an agent that says it is of the machine with this UUID, until it is gone.

        Raises:
            RefusedError: If the address is another machine's, or another agent of the machine is there and answers.
            TemporaryError: If it does not answer Hello, or the store does not.
        """
        await agent.call(wire.HELLO, Empty(), self._patience.hello)
        machine_id = await self._identify(uuid, address)
        with bound_contextvars(machine=machine_id):
            session = _Session(machine_id, uuid, address, agent)
            await self._admit(session)
            enrolled_at: datetime | None = None
            try:
                changed = await self._machines.change(machine_id, lambda edit: _enrolled(edit, session))
                enrolled_at = changed.machine.facts.agent.enrolled_at
                self._agents.displace(machine_id)
                log.info("talos_agent.enrolled", source=address)
                await self._attend(session)
            finally:
                del self._sessions[machine_id]
                session.over.set()
                if enrolled_at is not None:
                    # When we stop, nobody writes this down any more: no agent is lost because of that.
                    why = agent.why_gone or "we made a mistake"
                    self._missing[machine_id] = _Missing(enrolled_at, self._clock(), why)
                    self._missed.ring()

    # --- who it is ---

    async def _identify(self, uuid: str, address: str) -> str:
        believed = identity.believable_uuid(uuid)
        if not believed:
            raise RefusedError(
                f"the agent's machine calls itself {uuid[:80]!r}, which is no UUID that one machine has",
                hint="give it one in its firmware's settings; Omni knows machines by nothing else",
            )
        mac = self._mac_of(address)
        owner = await self._owner(mac)
        named = await self._machines.store.with_uuid(believed)
        at_address = None if owner is None else owner.identity
        if why := identity.refuted(believed, at_address, [each.identity for each in named]):
            reason = f"an agent at {address} says that it is of the machine with UUID {believed}, but {why}"
            for machine_id in {each.id for each in (*named, *([owner] if owner else ()))}:
                await self._note_refusal(machine_id, reason, address)
            raise RefusedError(reason, hint="see which of them have the same UUID with: bootwright machine list")
        if owner is None and named:
            return named[0].id
        if owner is not None and owner.identity.uuid:
            return owner.id
        macs = () if mac is None else (mac,)
        machine, _given = await self._machines.identify(Evidence(macs=macs, uuid=believed), lambda _edit: None)
        return machine.id

    async def _owner(self, mac: MacAddress | None) -> Machine | None:
        machine_id = None if mac is None else self._machines.owner(mac)
        if machine_id is None:
            return None
        try:
            return await self._machines.store.get(machine_id)
        except NotFoundError:
            return None

    async def _admit(self, session: _Session) -> None:
        """Give it the machine's place, unless somebody has it who answers."""
        machine_id = session.machine_id
        while (older := self._sessions.get(machine_id)) is not None:
            if await self._lives(older.agent):
                reason = f"the agent at {older.address} speaks for the machine, and answers"
                await self._note_refusal(machine_id, reason, session.address)
                raise RefusedError(reason, hint="two machines may have the same UUID")
            older.agent.end("it does not answer, and another agent of its machine has come")
            await self._written_down(older)
        # No `await` between the last look and this: of two that come together, one gets it.
        self._sessions[machine_id] = session

    async def _written_down(self, session: _Session) -> None:
        """Wait for what came of a session: a wipe that it has done must not be closed as one that nobody performs."""
        try:
            async with asyncio.timeout(self._patience.hello.total_seconds()):
                await session.over.wait()
        except TimeoutError:
            raise TemporaryError(
                "what the last agent of the machine did is not written down yet", retry_after=RETRY_AFTER
            ) from None

    async def _lives(self, agent: Agent) -> bool:
        try:
            await agent.call(wire.HELLO, Empty(), self._patience.proof_of_life)
        except BootwrightError:
            return False
        return True

    async def _note_refusal(self, machine_id: str, reason: str, address: str) -> None:
        now = self._clock()
        if (last := self._refusals.get(machine_id)) is not None:
            told, at = last
            if now - at < (self._patience.same_refusal if told == reason else self._patience.other_refusal):
                return
        self._refusals.pop(machine_id, None)
        self._refusals[machine_id] = reason, now
        if len(self._refusals) > MOST_REFUSALS:
            del self._refusals[next(iter(self._refusals))]
        await self._machines.store.note(machine_id, "agent.refused", reason=reason, source=address)

    # --- a session ---

    async def _attend(self, session: _Session) -> None:
        """Greet it and let it work, until it is gone."""
        async with asyncio.TaskGroup() as group:
            greeting = group.create_task(self._greet(session), name=f"hello {session.machine_id}")
            gone = group.create_task(session.agent.gone(), name=f"gone {session.machine_id}")
            while not gone.done():
                await self._end_unwanted_wipe(session)
                taking = group.create_task(self._take_work(session), name=f"work {session.machine_id}")
                await asyncio.wait((gone, taking), return_when=asyncio.FIRST_COMPLETED)
                if taking.done() and (work := taking.result()) is not None:
                    # Not cancelled when the agent goes: what it has answered by then is written down.
                    await self._perform(session, work)
                taking.cancel()
            greeting.cancel()

    async def _greet(self, session: _Session) -> None:
        while True:
            spread = random.uniform(0.75, 1)  # noqa: S311 - so that a thousand who came together are not greeted together
            await asyncio.sleep(self._patience.greets_every.total_seconds() * spread)
            try:
                await session.agent.call(wire.HELLO, Empty(), self._patience.hello)
            except BootwrightError as error:
                session.agent.end(f"it does not answer: {error}")

    async def _take_work(self, session: _Session) -> Work | None:
        """What it is to do, once there is something; None if one should look again."""
        longest = self._patience.work.total_seconds()
        try:
            work = await self._agents.next_work(session.machine_id, longest, by=AgentKind.TALOS)
            if _is_connected(await self._machines.store.get(session.machine_id)):
                return work
            session.agent.end("its machine was switched off, booted again, or has another agent")
        except NotFoundError:
            session.agent.end("its machine is not known any more")
        except TemporaryError as error:
            log.warning("talos_agent.postponed", error=str(error), hint=error.hint)
            await asyncio.sleep(error.retry_after.total_seconds())
        return None

    async def _may(self, session: _Session, work: Work) -> bool:
        """The last look before the one door: whether this agent is still to do this."""
        machine = await self._machines.store.get(session.machine_id)
        due = agents.due(machine, AgentKind.TALOS)
        return due is not None and due.id == work.id and _is_connected(machine)

    # --- work ---

    async def _perform(self, session: _Session, work: Work) -> None:
        """Do it and give the result, unless it is not wanted any more."""
        log.info("talos_agent.work_taken", operation=work.id, kind=work.kind.value)
        match work.kind:
            case OperationKind.WIPE:
                error = await self._while_wanted(session, work, self._wipe)
            case OperationKind.SET_UP_BMC:
                error = await self._while_wanted(session, work, self._set_up_bmc)
            case OperationKind.REBOOT:
                error = await self._reboot(session, work)
            case OperationKind.POWER_OFF:
                error = "a Talos agent cannot switch its machine off"
        if error is None:
            log.warning("talos_agent.work_stopped", operation=work.id, kind=work.kind.value)
            return
        await self._give(session, work, error)
        if work.kind is OperationKind.REBOOT and not error:
            await self._see_off(session)

    async def _while_wanted(
        self, session: _Session, work: Work, perform: Callable[[_Session, Work], Coroutine[None, None, str | None]]
    ) -> str | None:
        """Perform it, and stop it when it is no longer to be done; what went wrong, or None if it was stopped."""
        async with asyncio.TaskGroup() as group:
            performing = group.create_task(perform(session, work), name=f"operation {work.id}")
            watching = group.create_task(self._stop(session, work, performing), name=f"watch {work.id}")
            performing.add_done_callback(lambda _: watching.cancel())
        return None if performing.cancelled() else performing.result()

    async def _stop(self, session: _Session, work: Work, performing: asyncio.Task[str | None]) -> None:
        """Cancel it once it is no longer to be done."""
        while True:
            ring = self._machines.bell(session.machine_id).ticket()
            try:
                if not await self._may(session, work):
                    performing.cancel()
                    return
            except NotFoundError:
                performing.cancel()
                return
            except TemporaryError as error:
                log.warning("talos_agent.unwatched", error=str(error))
            await ring.wait()

    async def _wipe(self, session: _Session, work: Work) -> str | None:
        plan = work.wipe_plan
        if plan is None or not plan.everything or plan.machine_id != session.machine_id:
            return "the plan is not one for a Talos agent of this machine"
        patience = self._patience.wipe_with_zeroes if plan.zeroes else self._patience.fast_wipe
        try:
            if not await self._may(session, work):
                return None
            # Nothing may come between this look and the call.
            session.is_wiping = True
            await session.agent.call(wire.WIPE_DISKS, wire.WipeDisksRequest(plan.zeroes), patience)
            session.is_wiping = False
        except (TemporaryError, PermanentError) as error:
            return str(error)
        return ""

    async def _set_up_bmc(self, session: _Session, work: Work) -> str | None:
        """Make an account on the BMC and use it. A password that nobody keeps, because we crash, is replaced by the next try."""
        question = wire.GetPowerManagementRequest(ipmi=wire.IpmiQuestion(BMC_USER))
        try:
            found = await session.agent.call(wire.GET_POWER_MANAGEMENT, question, self._patience.power_management)
            bmc = await self._bmc(session, found)
            if not await self._may(session, work):
                return None
            account = (
                wire.SetPowerManagementRequest(api=Empty())
                if found.ipmi is None
                else wire.SetPowerManagementRequest(ipmi=wire.IpmiUser(bmc.user, bmc.password.reveal()))
            )
            await session.agent.call(wire.SET_POWER_MANAGEMENT, account, self._patience.power_management)
            await self._bmcs.assign(session.machine_id, bmc, BmcOrigin.AGENT)
        except (TemporaryError, PermanentError) as error:
            return str(error)
        log.info("bmc.configured", bmc=bmc.name, by="agent")
        return ""

    async def _bmc(self, session: _Session, found: wire.GetPowerManagementResponse) -> Bmc:
        if found.ipmi is not None:
            return bmc_of(found.ipmi)
        if found.api is not None:
            return await self._power_api(session.uuid)
        raise PermanentError("the agent tells neither of a BMC nor of a power API")

    async def _reboot(self, session: _Session, work: Work) -> str | None:
        """Reboot; when the agent goes before its answer came, it went because it did."""
        try:
            if not await self._may(session, work):
                return None
            await session.agent.call(wire.REBOOT, Empty(), self._patience.reboot_call)
        except PermanentError as error:
            return str(error)
        except TemporaryError as error:
            return str(error) if session.agent.why_gone is None else ""
        return ""

    async def _see_off(self, session: _Session) -> None:
        """Keep the tunnel as it is: an agent that is sent away now would come back before its machine goes down."""
        try:
            async with asyncio.timeout(self._patience.reboot.total_seconds()):
                await session.agent.gone()
        except TimeoutError:
            session.agent.end("its machine was told to reboot, and did not")

    async def _end_unwanted_wipe(self, session: _Session) -> None:
        """Reboot a machine that was cordoned, rejected or removed while its disks were being wiped: they still are."""
        if not session.is_wiping or session.agent.why_gone is not None or await self._is_given(session):
            return
        session.is_wiping = False
        try:
            await session.agent.call(wire.REBOOT, Empty(), self._patience.reboot_call)
        except (TemporaryError, PermanentError) as error:
            if session.agent.why_gone is None:
                log.error("talos_agent.wipe_goes_on", error=str(error), hint="switch the machine off, if that matters")
                return
        log.warning("talos_agent.wipe_ended")
        with contextlib.suppress(NotFoundError):
            await self._machines.change(session.machine_id, _rebooted_in_wipe)
        await self._see_off(session)

    async def _is_given(self, session: _Session) -> bool:
        """Whether its disks may be wiped."""
        try:
            desired = (await self._machines.store.get(session.machine_id)).desired
        except NotFoundError:
            return False
        except TemporaryError as error:
            log.warning("talos_agent.unwatched", error=str(error))
            return True  # We look again with the next work.
        return desired.acceptance is Acceptance.ACCEPTED and not desired.cordoned

    async def _give(self, session: _Session, work: Work, error: str) -> None:
        """Write the result down, however often that takes: a wipe that is done must not be done again."""
        while True:
            try:
                await self._agents.result(session.machine_id, work.id, Result(error=error), by=AgentKind.TALOS)
            except NotFoundError:
                log.warning("talos_agent.result_of_nothing", operation=work.id)
            except TemporaryError as failure:
                log.warning("talos_agent.result_postponed", operation=work.id, error=str(failure), hint=failure.hint)
                await asyncio.sleep(failure.retry_after.total_seconds())
                continue
            return


def bmc_of(told: wire.Ipmi) -> Bmc:
    """
    The BMC that an agent tells of, with the account that it is to make for us.

    Raises:
        PermanentError: If nobody could reach it there.
    """
    try:
        address = ipaddress.ip_address(told.address)
    except ValueError:
        raise PermanentError(f"the agent says that the BMC's address is {told.address[:80]!r}") from None
    if address.is_unspecified or address.is_loopback or address.is_multicast or told.port >= 1 << 16:
        raise PermanentError(
            f"the agent says that the BMC is at {address}, port {told.port}",
            hint="give the BMC an address on a network that we can reach",
        )
    password = "".join(secrets.choice(_LETTERS) for _ in range(wire.MAX_PASSWORD_BYTES))
    return Bmc(str(address), BMC_USER, Secret(password), told.port or IPMI_PORT, EITHER)


def _is_connected(machine: Machine) -> bool:
    return machine.facts.agent.connected and machine.facts.agent.kind is AgentKind.TALOS


def _enrolled(edit: Edit, session: _Session) -> None:
    """It speaks for the machine from now on, and whatever was being done was done by another."""
    session.is_wiping = lifecycle.may_be_wiping(edit.machine.facts)
    operation = lifecycle.active_operation(edit.machine.facts)
    if operation is not None and operation.started_at is not None:
        agents.interrupt(edit, operation.id, "the agent that performed it is gone")
    agents.enrolled(edit, AgentKind.TALOS, None, source=session.address)


def _rebooted_in_wipe(edit: Edit) -> None:
    edit.row.last_reboot_at = edit.now
    edit.note("wipe.stopped", reason="its disks are not to be wiped any more, and Talos stops for nothing but a reboot")
    agents.drop_agent(edit, "its machine was rebooted")


def _lost(edit: Edit, missing: _Missing) -> None:
    """Nothing if another agent has come since."""
    row = edit.row
    if row.agent_connected and row.agent_kind == AgentKind.TALOS.value and row.enrolled_at == missing.enrolled_at:
        row.agent_connected = False
        edit.note("agent.lost", reason=missing.why)

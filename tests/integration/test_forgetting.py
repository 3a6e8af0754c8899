"""Machines that strangers invent are forgotten with all that hangs on them, in the store and in memory; nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import Session, SQLModel, func, select

from provider.domain.bmc import Bmc
from provider.domain.errors import NotFoundError
from provider.domain.mac import MacAddress
from provider.domain.machine import Acceptance, Allocation, Attachment, Desired, Evidence, Outcome, RecordKind
from provider.domain.secret import Secret
from provider.kit.clock import utc_now
from provider.planning import forgetting
from provider.planning.forgetting import KEPT_FOR, Names
from provider.reconcile.boots import BootDesk
from provider.reconcile.desired import ManagerDesk
from provider.reconcile.firmwares import Choice, Firmwares
from provider.reconcile.forgetting import Forgetter
from provider.reconcile.hand_offs import HandOffs
from provider.reconcile.machines import Machines
from provider.reconcile.worker import Workers
from provider.store import tickets
from provider.store.bmcs import BmcAssignment, BmcStore
from provider.store.database import Database
from provider.store.firmwares import FirmwareStore
from provider.store.machines import Edit, MachineStore
from provider.store.outbox import MAY_BE_SENT, Outbox
from provider.store.sealing import Sealer
from provider.store.tables import EventRow, FirmwareRow, MachineRow, MacRow, OutboxRow, TicketRow
from provider.store.tickets import AGENT
from tests.integration.test_reconcile import RecordingBmc
from tests.integration.test_store import POLICY

PATIENCE = 20.0  # seconds


def mac_of(number: int) -> MacAddress:
    return MacAddress(f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}")


STRANGER, OTHER = mac_of(1), mac_of(2)


class Site:
    """A provider without sockets, whose clock the test sets."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.now = utc_now()
        self.store = MachineStore(database, POLICY, self.clock)
        self.outbox = Outbox(database, self.store.outbox_rang)
        self.bmcs = BmcStore(database, Sealer.open(folder / "key"))
        self.names = Names()
        self.restart()

    def clock(self) -> datetime:
        return self.now

    def restart(self) -> None:
        """Lose what was in memory."""
        self.machines = Machines(self.store)
        self.firmwares = Firmwares(
            self.machines, FirmwareStore(self.database), loaders=Choice(None, {}), styles=Choice(None, {})
        )
        self.forgetter = Forgetter(self.machines, self.firmwares, lambda: self.names, self.clock)
        lifetime = timedelta(minutes=15)
        self.boots = BootDesk(
            self.machines,
            HandOffs(default=None, chosen={}),
            profiles=frozenset({"debian"}),
            ticket_lifetime=lifetime,
            install_ticket_lifetime=lifetime,
        )

    async def boot(self, mac: MacAddress = STRANGER) -> str:
        return (await self.boots.decide(Evidence(macs=(mac,)))).machine_id

    async def a_day_later(self) -> None:
        self.now += KEPT_FOR
        await self.forgetter.look()

    async def ids(self) -> list[str]:
        return [machine.id for machine in await self.store.all()]

    async def count(self, *tables: type[SQLModel]) -> list[int]:
        def read(session: Session) -> list[int]:
            return [session.exec(select(func.count()).select_from(table)).one() for table in tables]

        return await self.database.read(read)


def at_site(folder: Path, use: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        database = Database.open(f"sqlite:///{folder}/db")
        try:
            async with asyncio.timeout(2 * PATIENCE):
                await use(Site(database, folder))
        finally:
            database.close()

    asyncio.run(main())


def test_stranger_is_forgotten_with_all_that_hangs_on_it(tmp_path: Path) -> None:
    """Rows, or memory, of machines that nobody knows stay behind."""

    async def use(site: Site) -> None:
        gone = await site.boot()
        site.machines.attached(STRANGER, Attachment("eth0"))
        site.machines.note(STRANGER, "dhcp.acknowledged", stage="os")
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(site.firmwares.run())
            site.firmwares.note(STRANGER, "dhcp.acknowledged", stage="ipxe")
            while await site.count(FirmwareRow) == [0]:
                await asyncio.sleep(0.01)
            await site.outbox.acknowledge(await site.outbox.next_sequence() - 1)
            await site.a_day_later()
            while await site.count(FirmwareRow) != [0]:
                await asyncio.sleep(0.01)
            writing.cancel()
        assert await site.count(MachineRow, MacRow, EventRow, TicketRow, OutboxRow) == [0, 0, 0, 0, 1]
        (told,) = await site.outbox.after(0, 10)
        assert (told.machine_id, told.document["name"]) == (gone, "machine.forgotten")
        assert site.machines.ids() == frozenset()
        assert site.machines.unclaimed() == []
        assert site.machines.system_heard_at(gone) is None

    at_site(tmp_path, use)


def test_stranger_that_is_heard_of_stays(tmp_path: Path) -> None:
    """A machine is forgotten that boots every hour, or that DHCP sees; or nobody is after a restart."""

    async def use(site: Site) -> None:
        seen, silent = await site.boot(), await site.boot(OTHER)
        site.now += KEPT_FOR - timedelta(hours=1)
        site.machines.note(STRANGER, "dhcp.acknowledged")
        site.now += timedelta(hours=1)
        await site.forgetter.look()
        assert await site.ids() == [seen]
        site.restart()
        await site.machines.load()
        await site.forgetter.look()
        assert await site.ids() == []
        assert silent not in site.machines.ids()

    at_site(tmp_path, use)


def accept(edit: Edit) -> None:
    edit.desire(Desired(acceptance=Acceptance.ACCEPTED))


def wiped(edit: Edit) -> None:
    edit.record(RecordKind.WIPE, "", Outcome.DONE)


def enrolled(edit: Edit) -> None:
    edit.row.enrolled_at = edit.now


CLAIMS: dict[str, Callable[[Edit], None]] = {
    "accepted": accept,
    "rejected": lambda edit: edit.desire(Desired(acceptance=Acceptance.REJECTED)),
    "cordoned": lambda edit: edit.desire(Desired(cordoned=True)),
    "allocated": lambda edit: edit.desire(Desired(allocation=Allocation("debian"))),
    "wanted by a manager": lambda edit: edit.desire(Desired(revision=1)),
    "enrolled": enrolled,
    "wiped": wiped,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_claimed_machine_is_never_forgotten(tmp_path: Path, claim: str) -> None:
    """A machine that is accepted, cordoned, allocated, enrolled or wiped can be made to be forgotten."""

    async def use(site: Site) -> None:
        machine_id = await site.boot()
        await site.machines.change(machine_id, CLAIMS[claim])
        await site.a_day_later()
        site.restart()
        await site.machines.load()
        await site.a_day_later()
        assert await site.machines.forget([machine_id], Names(), "a wrong list") == []
        assert await site.ids() == [machine_id]
        assert site.machines.ids() == {machine_id}

    at_site(tmp_path, use)


def test_claim_that_comes_in_between_counts(tmp_path: Path) -> None:
    """A machine is accepted after it was chosen and before it was deleted: it is gone all the same."""

    async def use(site: Site) -> None:
        machine_id = await site.boot()
        site.now += KEPT_FOR
        async with asyncio.TaskGroup() as group:
            group.create_task(site.store.change(machine_id, accept))
            await asyncio.sleep(0)
            assert [each.id for each, _at in site.machines.unclaimed()] == [machine_id]
            await site.forgetter.look()
        assert await site.ids() == [machine_id]

    at_site(tmp_path, use)


def test_machine_of_the_settings_is_never_forgotten(tmp_path: Path) -> None:
    """A machine with a BMC in the settings, or that they name, is forgotten because it is off for a day."""

    async def use(site: Site) -> None:
        await site.bmcs.replace_all([BmcAssignment(Bmc("10.0.0.1", "ops", Secret("x")), "mac", STRANGER)])
        site.names = Names(macs=frozenset({OTHER}))
        known = [await site.boot(), await site.boot(OTHER)]
        await site.boot(mac_of(3))
        await site.a_day_later()
        assert await site.ids() == known
        assert await site.machines.forget(known, site.names, "a wrong list") == []

    at_site(tmp_path, use)


def test_number_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A flood of invented MAC addresses fills memory and disk for a day; or each look at it is another warning."""
    monkeypatch.setattr(forgetting, "MOST", 3)

    async def use(site: Site) -> None:
        claimed = await site.boot(OTHER)
        await site.machines.change(claimed, accept)
        booted = []
        for number in range(10, 20):
            site.now += timedelta(seconds=1)
            booted.append(await site.boot(mac_of(number)))
            await site.forgetter.look()
        assert await site.ids() == [claimed, *booted[-3:]]

    at_site(tmp_path, use)
    assert capsys.readouterr().out.count("machines.too_many") == 1


def test_manager_that_is_away_costs_no_more_for_strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While the manager is away, each invented machine leaves something in its outbox for good; or the manager never hears
    that a machine is gone of which it has heard.
    """
    monkeypatch.setattr(forgetting, "MOST", 3)

    async def use(site: Site) -> None:
        told = await site.boot(mac_of(1000))
        while (await site.outbox.next_sequence()) <= MAY_BE_SENT:
            await site.machines.change(told, lambda edit: edit.note("boot.failed", step="kernel"))
        for number in range(60):
            site.now += timedelta(seconds=1)
            await site.boot(mac_of(number))
            if number % 20 == 19:
                await site.forgetter.look()
        items = await site.outbox.after(0, 10_000)
        assert items[0].document["name"] == "machine.discovered"
        left = set(await site.ids())
        assert {item.machine_id for item in items} == {told, *left}
        assert [item.machine_id for item in items if item.document.get("name") == "machine.forgotten"] == [told]
        await site.boot(mac_of(1000))
        site.now += timedelta(seconds=1)
        for number in range(3):
            await site.boot(mac_of(number))
        await site.forgetter.look()
        names = [item.document.get("name") for item in await site.outbox.after(0, 10_000) if item.machine_id == told]
        assert names[-1] == "machine.forgotten"

    at_site(tmp_path, use)


def test_outbox_goes_on_after_numbers_that_were_taken_back(tmp_path: Path) -> None:
    """Numbers that are missing look like a manager that lost its state; or waiting for news ends at once, again and again."""

    async def use(site: Site) -> None:
        told = await site.boot(OTHER)
        while (await site.outbox.next_sequence()) <= MAY_BE_SENT:
            await site.machines.change(told, lambda edit: edit.note("boot.failed", step="kernel"))
        await site.machines.change(told, accept)
        last = (await site.outbox.after(0, 10_000))[-1].sequence
        await site.boot()
        await site.a_day_later()
        assert (await site.outbox.after(0, 10_000))[-1].sequence == last
        assert await site.outbox.next_sequence() > last + 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await site.outbox.wait(last)
        await site.outbox.acknowledge(last)
        assert await site.outbox.oldest() == last + 1
        await site.machines.change(told, lambda edit: edit.note("boot.failed", step="kernel"))
        await site.outbox.wait(last)
        assert (await site.outbox.after(last, 1))[0].sequence > last + 1
        assert await site.outbox.oldest() == last + 1

    at_site(tmp_path, use)


def test_machine_that_comes_back_is_a_new_one(tmp_path: Path) -> None:
    """It has no worker, or two; or something of the old one is left."""

    async def use(site: Site) -> None:
        workers = Workers(site.machines, site.bmcs, RecordingBmc(), clock=utc_now)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(workers.run())
            first = await site.boot()
            await site.machines.change(first, lambda edit: edit.note("boot.failed", step="kernel"))
            await site.a_day_later()
            assert await site.ids() == []
            async with asyncio.timeout(PATIENCE):
                while _workers() != []:
                    await asyncio.sleep(0.01)
            again = await site.boot()
            async with asyncio.timeout(PATIENCE):
                while _workers() != [f"worker {again}"]:
                    await asyncio.sleep(0.01)
            task.cancel()
        assert (await site.store.get(again)).facts.first_seen == site.now
        names = [event.name for event in await site.store.events(again, 0, 100)]
        assert names[0] == "machine.discovered"
        assert "boot.failed" not in names

    at_site(tmp_path, use)


def _workers() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("worker ")]


def test_absorbed_machine_is_forgotten_everywhere(tmp_path: Path) -> None:
    """A card that booted alone before its machine was known stays a machine for the manager, and in memory."""

    async def use(site: Site) -> None:
        whole, part = await site.boot(STRANGER), await site.boot(OTHER)
        await site.machines.change(whole, accept)
        await site.outbox.acknowledge(await site.outbox.next_sequence() - 1)
        await site.machines.identify(Evidence(macs=(STRANGER, OTHER)), lambda _edit: None)
        assert site.machines.ids() == {whole}
        told = [item.document.get("name") for item in await site.outbox.after(0, 100) if item.machine_id == part]
        assert told == ["machine.forgotten"]
        assert site.machines.may_netboot(OTHER)
        await site.machines.change(whole, lambda edit: edit.desire(replace(edit.machine.desired, cordoned=True)))
        assert not site.machines.may_netboot(OTHER)

    at_site(tmp_path, use)


def minted(edit: Edit) -> None:
    edit.mint(AGENT, timedelta(minutes=1))


def test_machine_that_goes_while_it_asks_is_asked_again(tmp_path: Path) -> None:
    """A script is made for a machine that is forgotten in that moment, and a traceback is logged."""

    async def use(site: Site) -> None:
        gone = await site.boot()
        await site.a_day_later()
        with pytest.raises(NotFoundError):
            await site.database.write(
                lambda session: tickets.mint(session, AGENT, gone, site.now, timedelta(minutes=1))
            )
        with pytest.raises(NotFoundError):
            await site.store.change(gone, minted)
        with pytest.raises(NotFoundError):
            await ManagerDesk(site.machines).desire(gone, 1, Desired(acceptance=Acceptance.ACCEPTED))

    at_site(tmp_path, use)


def test_what_one_machine_says_is_bounded(tmp_path: Path) -> None:
    """Whoever gives another UUID with each request makes one machine's row as long as he likes, or has each twin named."""

    async def use(site: Site) -> None:
        for number in range(1, 40):
            uuid = f"4c4c4544-0051-3510-8051-{number:012x}"
            await site.boots.decide(Evidence(macs=(STRANGER,), uuid=uuid))
            await site.boots.decide(Evidence(macs=(mac_of(100 + number),), serial="S1"))
        machines = await site.store.all()
        warnings = {machine.identity.macs[0]: machine.facts.warnings for machine in machines}
        assert len(warnings[STRANGER]) == 20
        assert f"{39:012x}" in warnings[STRANGER][-1]
        assert [len(warnings[mac_of(100 + number)]) for number in (1, 2, 3, 39)] == [0, 1, 2, 3]

    at_site(tmp_path, use)

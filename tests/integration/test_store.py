"""The store on a real SQLite file: what is promised is there after `kill -9`, and what follows from a change is written."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import alembic.command
import alembic.config
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlmodel import Session, SQLModel, col, select

from provider.domain.bmc import Bmc
from provider.domain.errors import NotFoundError, PermanentError, RefusedError, TemporaryError
from provider.domain.lease import Claimant, Lease, Reservation, ReservedBy
from provider.domain.mac import MacAddress
from provider.domain.machine import Acceptance, AgentKind, Allocation, Desired, Evidence, Record, RecordKind
from provider.domain.operation import Operation, OperationKind, OperationState, WipePlan
from provider.domain.secret import Secret
from provider.kit.clock import utc_now
from provider.planning import lifecycle
from provider.planning.loader import Loader
from provider.planning.proxy_style import Style
from provider.store import migrations, tickets
from provider.store.bmcs import BmcAssignment, BmcStore
from provider.store.database import GROUP, Database
from provider.store.firmwares import FirmwareStore, Proven
from provider.store.leases import LeaseStore
from provider.store.machines import EVENTS_KEPT, Edit, MachineStore, Noted
from provider.store.outbox import Outbox
from provider.store.sealing import Sealer
from provider.store.tables import BmcRow
from provider.store.tickets import AGENT, ShownTicket, TicketStore

MAC = MacAddress("52:54:00:00:00:01")
POLICY = lifecycle.Policy(
    poll_interval=timedelta(minutes=1),
    minimum_reboot_interval=timedelta(minutes=15),
    boot_timeout=timedelta(minutes=10),
    install_timeout=timedelta(hours=4),
    wipe_attempts=3,
    wipe_retry_after=timedelta(minutes=1),
)


def with_database(path: Path, use: Callable[[Database], Awaitable[None]]) -> None:
    """Open, use, close."""

    async def main() -> None:
        database = Database.open(f"sqlite:///{path}")
        try:
            await use(database)
        finally:
            database.close()

    asyncio.run(main())


def machines(database: Database) -> MachineStore:
    return MachineStore(database, POLICY, utc_now)


def accept(edit: Edit) -> None:
    edit.desire(Desired(acceptance=Acceptance.ACCEPTED, revision=1))


def untouched(_edit: Edit) -> None:
    """Change nothing."""


def test_migrations_give_the_tables(tmp_path: Path) -> None:
    """A column was added to the tables and no migration makes it."""

    async def use(database: Database) -> None:
        def differences(session: Session) -> list[object]:
            context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
            return compare_metadata(context, SQLModel.metadata)

        assert await database.read(differences) == []

    with_database(tmp_path / "db", use)


def test_change_writes_event_and_outbox_at_once(tmp_path: Path) -> None:
    """A change is made and the manager never hears of it, or it hears the same thing twice."""

    async def use(database: Database) -> None:
        store = machines(database)
        outbox = Outbox(database, store.outbox_rang)
        changed, _ = await store.identify(Evidence(macs=(MAC,)), untouched)
        assert changed.absorbed == ()
        before = await outbox.after(0, 100)
        assert [item.sequence for item in before] == list(range(1, len(before) + 1))
        await store.change(changed.machine.id, accept)
        news = await outbox.after(before[-1].sequence, 100)
        assert [item.document["acceptance"] for item in news if item.kind == "observed"] == ["accepted"]
        await store.change(changed.machine.id, lambda edit: None)
        assert await outbox.after(news[-1].sequence, 100) == []
        phases = [e.data["to"] for e in await store.events(None, 0, 100) if e.name == "phase.changed"]
        assert phases == ["discovered", "preparing"]

    with_database(tmp_path / "db", use)


def test_failed_edit_changes_nothing(tmp_path: Path) -> None:
    """Half a change stays behind, or takes the changes of others in its group down with it."""

    async def use(database: Database) -> None:
        store = machines(database)
        machine = (await store.identify(Evidence(macs=(MAC,)), untouched))[0].machine

        def broken(edit: Edit) -> None:
            accept(edit)
            edit.note("desired.changed")
            raise RefusedError("no")

        results = await asyncio.gather(
            store.change(machine.id, broken),
            store.note(machine.id, "kept.noted"),
            return_exceptions=True,
        )
        assert isinstance(results[0], RefusedError)
        assert (await store.get(machine.id)).desired.acceptance is Acceptance.PENDING
        names = [event.name for event in await store.events(machine.id, 0, 100)]
        assert "kept.noted" in names
        assert "desired.changed" not in names

    with_database(tmp_path / "db", use)


def test_refused_work_leaves_its_group_alone(tmp_path: Path) -> None:
    """Among others in one commit, work that is refused undoes theirs, or theirs is done twice."""

    async def use(database: Database) -> None:
        store = machines(database)
        machine = (await store.identify(Evidence(macs=(MAC,)), untouched))[0].machine
        outbox = Outbox(database, store.outbox_rang)
        before = await outbox.next_sequence()
        busy, go_on = threading.Event(), threading.Event()

        def block(_session: Session) -> None:
            busy.set()
            assert go_on.wait(60)

        def refused(edit: Edit) -> None:
            edit.note("no.said")
            raise RefusedError("no")

        async def change() -> None:
            with pytest.raises(RefusedError, match="no"):
                await store.change(machine.id, refused)

        async with asyncio.TaskGroup() as group:
            group.create_task(database.write(block))
            assert await asyncio.to_thread(busy.wait, 60)
            group.create_task(store.note(machine.id, "first.noted"))
            group.create_task(change())
            group.create_task(change())
            group.create_task(store.note(machine.id, "last.noted"))
            await asyncio.sleep(0)  # All of them are waiting now.
            go_on.set()
        names = [event.name for event in await store.events(machine.id, 0, 100)]
        assert names[-2:] == ["first.noted", "last.noted"]
        assert "no.said" not in names
        assert [item.sequence for item in await outbox.after(before - 1, 100)] == [before, before + 1]

    with_database(tmp_path / "db", use)


def test_old_events_are_forgotten(tmp_path: Path) -> None:
    """A machine that boots all day fills the disk with events."""

    async def use(database: Database) -> None:
        store = machines(database)
        machine = (await store.identify(Evidence(macs=(MAC,)), untouched))[0].machine
        began = datetime(2026, 1, 1, tzinfo=UTC)
        for first in range(0, 3 * EVENTS_KEPT, 100):
            times = [began + timedelta(microseconds=number) for number in range(first, first + 100)]
            await store.note_all([Noted(at, machine.id, "dhcp.offered", {}) for at in times])
        events = await store.events(machine.id, 0, 3 * EVENTS_KEPT)
        assert EVENTS_KEPT <= len(events) < EVENTS_KEPT + 200
        assert events[-1].at == times[-1]

    with_database(tmp_path / "db", use)


def test_numbers_are_never_used_again(tmp_path: Path) -> None:
    """After everything was acknowledged the counting starts anew, and the manager drops news as old."""

    async def use(database: Database) -> None:
        store = machines(database)
        outbox = Outbox(database, store.outbox_rang)
        machine = (await store.identify(Evidence(macs=(MAC,)), untouched))[0].machine
        last = (await outbox.after(0, 100))[-1].sequence
        await outbox.acknowledge(last)
        assert await outbox.after(0, 100) == []
        await store.change(machine.id, accept)
        assert (await outbox.after(0, 100))[0].sequence == last + 1
        await outbox.skip_to(1000)
        assert (await outbox.after(0, 100))[0].sequence == 1001
        assert await outbox.next_sequence() == 1001 + len(await outbox.after(0, 100))

    with_database(tmp_path / "db", use)


def test_outbox_wakes_the_link(tmp_path: Path) -> None:
    """News lie in the outbox until the next reconnect."""

    async def use(database: Database) -> None:
        store = machines(database)
        outbox = Outbox(database, store.outbox_rang)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            waiting = group.create_task(outbox.wait(0))
            await store.identify(Evidence(macs=(MAC,)), untouched)
            await waiting

    with_database(tmp_path / "db", use)


def test_ticket_is_good_once(tmp_path: Path) -> None:
    """A ticket serves a second machine, another purpose, or for ever."""

    async def use(database: Database) -> None:
        store = machines(database)
        machine = (await store.identify(Evidence(macs=(MAC,)), untouched))[0].machine
        now = datetime(2026, 1, 1, tzinfo=UTC)
        desk = TicketStore(database, lambda: now)

        async def minted() -> str:
            work = functools.partial(
                tickets.mint, purpose=AGENT, machine_id=machine.id, now=now, lifetime=timedelta(minutes=5)
            )
            return (await database.write(work)).reveal()

        ticket = await minted()
        assert await desk.redeem(ShownTicket(AGENT, ticket, "nonce-1")) == machine.id
        assert await desk.redeem(ShownTicket(AGENT, ticket, "nonce-1")) == machine.id
        with pytest.raises(RefusedError, match="used by another"):
            await desk.redeem(ShownTicket(AGENT, ticket, "nonce-2"))
        with pytest.raises(RefusedError, match="unknown"):
            await desk.redeem(ShownTicket("install", ticket, "nonce-1"))
        fresh = await minted()
        now += timedelta(minutes=6)
        with pytest.raises(RefusedError, match="expired"):
            await desk.redeem(ShownTicket(AGENT, fresh, "nonce-1"))

    with_database(tmp_path / "db", use)


def test_bmc_is_bound_once_and_sealed(tmp_path: Path) -> None:
    """A password lies readable in the file, or two machines share a BMC because they share a serial."""

    async def use(database: Database) -> None:
        store = machines(database)
        bmcs = BmcStore(database, Sealer.open(tmp_path / "key"))
        first = (await store.identify(Evidence(macs=(MAC,), serial="SAME"), untouched))[0].machine
        bmc = Bmc("10.0.0.1", "ops", Secret("correct horse"))
        await bmcs.replace_all([BmcAssignment(bmc, "serial", "SAME")])
        twin = Evidence(macs=(MacAddress("52:54:00:00:00:02"),), serial="SAME")
        second = (await store.identify(twin, untouched))[0].machine
        assert second.id != first.id
        assert await bmcs.of(first.id) == bmc
        assert await bmcs.of(second.id) is None
        await bmcs.replace_all([BmcAssignment(replace(bmc, password=Secret("new")), "serial", "SAME")])
        found = await bmcs.of(first.id)
        assert found is not None
        assert found.password.reveal() == "new"
        blades = [Bmc("10.0.0.2", "ops", Secret("x"), 443, "redfish", name) for name in ("blade1", "blade2")]
        await bmcs.replace_all([BmcAssignment(blades[0], "mac", MAC), BmcAssignment(blades[1], "mac", twin.macs[0])])
        assert [await bmcs.of(machine.id) for machine in (first, second)] == blades

    with_database(tmp_path / "db", use)
    assert b"correct horse" not in (tmp_path / "db").read_bytes()
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_another_key_is_explained(tmp_path: Path) -> None:
    """A database restored without its key fails with a traceback deep inside a library."""
    sealed = Sealer.open(tmp_path / "one").seal(Secret("x"))
    with pytest.raises(PermanentError, match="another key"):
        Sealer.open(tmp_path / "two").unseal(sealed)


def test_unknown_machine(tmp_path: Path) -> None:
    """A machine that is not there is a traceback."""

    async def use(database: Database) -> None:
        with pytest.raises(NotFoundError):
            await machines(database).change("m-none", accept)

    with_database(tmp_path / "db", use)


def test_unusable_database_is_explained(tmp_path: Path) -> None:
    """A file that is no database, or a folder that is not there, gives a traceback at start."""
    (tmp_path / "db").write_bytes(b"this is no database, " * 100)
    with pytest.raises(PermanentError, match="cannot be used"):
        Database.open(f"sqlite:///{tmp_path}/db")
    with pytest.raises(PermanentError, match="cannot be used"):
        Database.open(f"sqlite:///{tmp_path}/none/db")


KILLED = """
import asyncio, sys
from datetime import datetime, UTC
from ipaddress import IPv4Address
from provider.domain.lease import Claimant, Lease
from provider.store.database import Database
from provider.store.firmwares import FirmwareStore, Proven
from provider.store.leases import LeaseStore

async def main():
    leases = LeaseStore(Database.open(sys.argv[1]))
    async def one(n):
        address = IPv4Address("10.0.0.0") + n
        await leases.save([Lease(address, Claimant("52:54:00:00:00:01"), datetime.now(UTC))])
        print(address, flush=True)
    n = 0
    while True:
        await asyncio.gather(*(one(n + i) for i in range(50)))
        n += 50
asyncio.run(main())
"""


def test_saved_lease_survives_kill(tmp_path: Path) -> None:
    """A lease whose `save` returned is gone after `kill -9` (invariant 4), or the database needs repair (9)."""
    url = f"sqlite:///{tmp_path}/db"
    process = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    promised = [process.stdout.readline().strip() for _ in range(1000)]
    os.kill(process.pid, signal.SIGKILL)
    promised += process.stdout.read().split()
    process.wait()
    process.stdout.close()

    async def use(database: Database) -> None:
        kept = {str(lease.address) for lease in await LeaseStore(database).load()}
        assert set(promised) - kept == set()

    with_database(tmp_path / "db", use)


LEASE = Lease(IPv4Address("10.0.0.9"), Claimant(MAC, "uuid", "ge-0/0/1", "switch"), datetime(2026, 1, 1, tzinfo=UTC))


def test_leases_go_first(tmp_path: Path) -> None:
    """In a boot storm a DHCPACK waits behind thousands of other writes, and its client gives up."""

    async def use(database: Database) -> None:
        busy, go_on, done = threading.Event(), threading.Event(), list[str]()

        def block(_session: Session) -> None:
            busy.set()
            assert go_on.wait(60)

        async def note(name: str, work: Awaitable[None]) -> None:
            await work
            done.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(database.write(block))
            assert await asyncio.to_thread(busy.wait, 60)
            for number in range(3 * GROUP):
                group.create_task(note(f"other {number}", database.write(lambda _session: None)))
            lease = Lease(IPv4Address("10.77.0.100"), Claimant(MAC), datetime(2026, 1, 1, tzinfo=UTC))
            group.create_task(note("lease", LeaseStore(database).save([lease])))
            await asyncio.sleep(0)  # All of them are waiting now.
            go_on.set()
        assert done == ["lease", *(f"other {number}" for number in range(3 * GROUP))]

    with_database(tmp_path / "db", use)


def test_lease_is_replaced(tmp_path: Path) -> None:
    """A renewed lease appears twice, or something of it is lost on the way."""

    async def use(database: Database) -> None:
        leases = LeaseStore(database)
        later = replace(LEASE, expires_at=datetime(2026, 1, 2, tzinfo=UTC))
        last = replace(later, declined=True, claimant=Claimant(MacAddress("52:54:00:00:00:02")))
        for saved, expected in (([LEASE], LEASE), ([LEASE, later], later), ([last], last)):
            await leases.save(saved)
            assert await leases.load() == [expected]

    with_database(tmp_path / "db", use)


def test_reservations_are_kept(tmp_path: Path) -> None:
    """A reservation is gone after a restart, or cannot be changed or removed."""
    by_mac = Reservation(IPv4Address("10.0.0.9"), ReservedBy.MAC, MAC)
    by_port = Reservation(IPv4Address("10.0.0.9"), ReservedBy.CIRCUIT_ID, "ge-0/0/1", "switch")

    async def use(database: Database) -> None:
        leases = LeaseStore(database)
        for reservation in (by_mac, by_port):
            await leases.reserve(reservation)
            assert await leases.reservations() == [reservation]
        await leases.unreserve(by_port.address)
        assert await leases.reservations() == []

    with_database(tmp_path / "db", use)


def schema_of(revision: str, file: Path) -> None:
    """A database as an older release left it."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with sqlalchemy.create_engine(f"sqlite:///{file}").connect() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)
        connection.commit()


def test_old_leases_are_taken_along(tmp_path: Path) -> None:
    """The update from leases by interface loses leases, or fails where two interfaces leased one address."""
    schema_of("0001", tmp_path / "db")
    rows = [("eth0", "10.0.0.9", "a", 1), ("eth1", "10.0.0.9", "b", 2), ("eth0", "10.0.0.8", "c", 1)]
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as old:
        for interface, address, mac, day in rows:
            values = (interface, address, mac, f"2026-01-0{day} 00:00:00.000000")
            old.execute("INSERT INTO lease VALUES (?, ?, ?, ?, 0)", values)
        old.commit()

    async def use(database: Database) -> None:
        kept = {(str(lease.address), lease.claimant.mac) for lease in await LeaseStore(database).load()}
        assert kept == {("10.0.0.8", "c"), ("10.0.0.9", "b")}

    with_database(tmp_path / "db", use)


def test_old_firmwares_are_taken_along(tmp_path: Path) -> None:
    """The update that keeps styles of ProxyDHCP forgets on which machines the signed boot loader ran."""
    schema_of("0005", tmp_path / "db")
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as old:
        old.execute("INSERT INTO loader VALUES (?, 'signed')", (MAC,))
        old.commit()

    async def use(database: Database) -> None:
        firmwares = FirmwareStore(database)
        assert await firmwares.load() == {MAC: Proven(Loader.SIGNED)}
        await firmwares.save({MAC: Proven(None, Style.MENU)})
        assert await firmwares.load() == {MAC: Proven(None, Style.MENU)}
        await firmwares.save({MAC: Proven()})
        assert await firmwares.load() == {}

    with_database(tmp_path / "db", use)


ROWS_OF_0006 = """
    INSERT INTO machine (id, uuid, serial, board_serial, chassis_serial, first_seen, acceptance, cordoned, allocation,
        preferred_power, wipe_id, reboot_id, power_off_id, revision, power_state, power_source, agent_connected,
        announced_phase, published_sha256)
    VALUES ('m-1', '', '', '', '', '2026-01-01 00:00:00.000000', 'accepted', false, '{"profile": "debian"}',
        'off', '', '', '', 1, 'on', 'bmc', true, 'installed', '');
    INSERT INTO record (machine_id, kind, request_id, at, outcome, detail)
    VALUES ('m-1', 'wipe', '', '2026-01-01 00:00:00.000000', 'done', '');
    INSERT INTO operation (id, machine_id, kind, request_id, state, attempt, percent, wipe_plan, error, created_at)
    VALUES ('o', 'm-1', 'wipe', '', 'done', 1, 100, '{"machine_id": "m-1", "wipe_id": "", "disks": [], "refused": []}',
        '', '2026-01-01 00:00:00.000000');
"""


def test_old_machines_are_taken_along(tmp_path: Path) -> None:
    """The update for managers like Omni loses what was answered, or a machine that was wiped is to be wiped again."""
    schema_of("0006", tmp_path / "db")
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as old:
        old.executescript(ROWS_OF_0006)

    async def use(database: Database) -> None:
        machine = await machines(database).get("m-1")
        assert machine.desired == Desired(Acceptance.ACCEPTED, allocation=Allocation("debian"), revision=1)
        assert machine.facts.records == (Record(RecordKind.WIPE, "", datetime(2026, 1, 1, tzinfo=UTC)),)
        assert machine.facts.agent.kind is AgentKind.BOOTWRIGHT
        assert machine.facts.operation is not None
        assert machine.facts.operation.wipe_plan == WipePlan("m-1", "", ())
        assert not lifecycle.requires_wipe(machine.desired, machine.facts)

    with_database(tmp_path / "db", use)


def test_newest_migration_runs_on_postgresql() -> None:
    """A column type or a default is SQLite's alone. PostgreSQL itself is not asked, only its dialect."""
    script = io.StringIO()
    migration = importlib.import_module("provider.store.migrations.versions.0007_omni")
    options = {"as_sql": True, "output_buffer": script}
    context = MigrationContext.configure(dialect_name="postgresql", opts=options)
    with Operations.context(context):
        migration.upgrade()
    statements = [line for line in script.getvalue().splitlines() if line]
    assert len(statements) == 9
    assert "ALTER TABLE record ADD COLUMN install_event BIGINT DEFAULT '0' NOT NULL;" in statements


def test_bmcs_that_we_were_told_of_may_speak_redfish(tmp_path: Path) -> None:
    """After the update, BMCs of Omni's and of agents are never asked for Redfish, or those of the settings are."""
    schema_of("0008", tmp_path / "db")
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as old:
        for number, (kind, origin) in enumerate([("ipmi", "settings"), ("ipmi", "agent"), ("api", "manager")]):
            values = (f"b{number}", kind, origin)
            columns = (
                "name, address, port, kind, user, sealed_password, selects, selector, failures, last_error, origin"
            )
            old.execute(f"INSERT INTO bmc ({columns}) VALUES (?, 'a', 623, ?, 'u', x'', '', '', 0, '', ?)", values)
        old.commit()

    async def use(database: Database) -> None:
        def read(session: Session) -> list[tuple[str, str]]:
            return [(row.kind, row.system) for row in session.exec(select(BmcRow).order_by(col(BmcRow.name))).all()]

        assert await database.read(read) == [("ipmi", ""), ("either", ""), ("api", "")]

    with_database(tmp_path / "db", use)


def test_what_omni_tells_is_kept(tmp_path: Path) -> None:
    """A restart forgets for which install event or token a machine was wiped, and installs or locks it out."""
    wanted = Desired(
        acceptance=Acceptance.ACCEPTED,
        allocation=Allocation("talos", "1.13.7", extensions=("siderolabs/gvisor",)),
        wipe_id="w",
        revision=1,
        install_event=2**63 - 1,
        manager_token="sealed",
        agent_arguments=("console=ttyS1",),
    )
    plan = WipePlan("m-1", "w", (), everything=True, zeroes=True)

    async def write(database: Database) -> None:
        store = machines(database)
        machine_id = (await store.identify(Evidence(macs=(MAC,)), untouched))[0].machine.id
        operation = Operation(
            "o",
            machine_id,
            OperationKind.WIPE,
            "w",
            OperationState.PLANNED,
            utc_now(),
            plan,
            install_event=5,
            manager_token="s",
        )

        def edit(edit: Edit) -> None:
            edit.desire(wanted)
            edit.begin(operation)
            edit.record(RecordKind.WIPE, "w", install_event=5, manager_token="s")
            edit.record(RecordKind.POWER_OFF, "p", wipe_id="w")
            edit.row.agent_kind = AgentKind.TALOS.value

        await store.change(machine_id, edit)

    async def read(database: Database) -> None:
        machine = (await machines(database).all())[0]
        assert machine.desired == wanted
        operation, (wipe, power_off) = machine.facts.operation, machine.facts.records
        assert operation is not None
        assert (operation.wipe_plan, operation.install_event, operation.manager_token) == (plan, 5, "s")
        assert (wipe.install_event, wipe.manager_token, power_off.wipe_id) == (5, "s", "w")
        assert machine.facts.agent.kind is AgentKind.TALOS

    with_database(tmp_path / "db", write)
    with_database(tmp_path / "db", read)


def test_answered_requests_survive(tmp_path: Path) -> None:
    """After a restart a wipe that was done is due again."""

    async def write(database: Database) -> None:
        store = machines(database)
        machine = (await store.identify(Evidence(macs=(MAC,)), untouched))[0].machine
        await store.change(machine.id, accept)
        await store.change(machine.id, lambda edit: edit.record(RecordKind.WIPE, ""))

    async def read(database: Database) -> None:
        machine = (await machines(database).all())[0]
        assert not lifecycle.requires_wipe(machine.desired, machine.facts)

    with_database(tmp_path / "db", write)
    with_database(tmp_path / "db", read)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    free = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free)


def test_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    """A commit that fails is reported as done, or ends the writer for good."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], check=True)

    async def use(database: Database) -> None:
        leases = LeaseStore(database)
        await leases.save([LEASE])
        filler = tmp_path / "filler"
        fill(filler)
        many = (leases.save([replace(LEASE, address=LEASE.address + number)]) for number in range(1000))
        results = await asyncio.gather(*many, return_exceptions=True)
        assert any(isinstance(result, TemporaryError) for result in results)
        filler.unlink()
        last = replace(LEASE, address=IPv4Address("10.9.9.9"))
        await leases.save([last])
        assert last in await leases.load()

    try:
        with_database(tmp_path / "db", use)
    finally:
        subprocess.run(["umount", tmp_path], check=True)

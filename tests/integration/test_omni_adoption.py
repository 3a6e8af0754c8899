"""
`bootwright omni adopt` against the fake Omni: Sidero's own provider is played by a client that writes what it writes, with
messages that protoc made.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from provider.cli import omni as cli
from provider.domain.bmc import EITHER, Bmc, PowerState
from provider.domain.errors import PermanentError, RefusedError
from provider.domain.machine import Machine, RecordKind
from provider.domain.secret import Secret
from provider.kit.clock import utc_now
from provider.lab.omni import names
from provider.lab.omni.join import JoinRequest
from provider.planning import lifecycle
from provider.reconcile.adoption import Adopted
from provider.store.bmcs import BmcOrigin
from tests.integration.omni_client import MACHINE, SPECS, Client, made
from tests.integration.omni_rig import Rig, Side, rigged, until
from tests.unit.wire.protoc import theirs

SIX = [
    "bm.BMCConfigurationController",
    "bm.InfraMachineStatusController",
    "bm.MachineStatusController",
    "bm.PowerOperationController",
    "bm.RebootStatusController",
    "bm.WipeStatusController",
]
ON, OFF = 2, 1
TOKEN = "what lay on the disks"
WIPED_AT = datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
LONG_AGO = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def private(name: str, **fields: Any) -> Any:
    """One of the former provider's messages."""
    return theirs(f"baremetalproviderspecs.{name}Spec")(**fields)


class Former:
    """Sidero's own provider, as far as Omni sees it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.client = Client(rig.omni.endpoint, rig.key)

    async def keep(self, name: str, uuid: str, spec: Any) -> None:
        """Write a resource of its own namespace."""
        kind = f"{name}.bm.infraprovider.sidero.dev"
        resource = made("infra-provider:bm", kind, uuid, spec)
        resource.metadata.updated.FromDatetime(WIPED_AT)  # It says so itself, as Go's client does.
        if name in ("BMCConfiguration", "MachineStatus"):
            resource.metadata.finalizers.append("bm.RebootStatusController")
        await self.client.create(resource, f"bm.{name}Controller")

    async def beat(self, age: timedelta) -> None:
        """Its last heartbeat."""
        spec = SPECS.InfraProviderHealthStatusSpec()
        spec.last_heartbeat_timestamp.FromDatetime(utc_now() - age)
        resource = made(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm", spec)
        await self.client.create(resource, "bm.ProviderHealthStatusController")

    async def join(self, uuid: str = MACHINE, *, accepted: bool = True) -> None:
        """A machine joins, and gets its finalizers."""
        await self.rig.omni.desk.provision(JoinRequest(uuid=uuid, token=self.rig.token()))
        resource = await self.client.get(names.INFRA, names.INFRA_MACHINE, uuid)
        await self.client.set_finalizers(resource, SIX)
        if accepted:
            await self.rig.omni.desk.accept(uuid)

    async def prepare(
        self, uuid: str = MACHINE, *, address: str = "10.9.0.1", power: int = OFF, event: int = 0
    ) -> None:
        """It has a BMC, was wiped and is ready."""
        ipmi = {"address": address, "port": 623, "username": "talos-agent", "password": "secret of theirs"}
        await self.keep("BMCConfiguration", uuid, private("BMCConfiguration", ipmi=ipmi))
        status = private("MachineStatus", agent_accessible=False, power_state=power, initialized=True)
        await self.keep("MachineStatus", uuid, status)
        operation = private("PowerOperation", last_power_operation=power, last_power_off_id="off-0")
        operation.last_power_on_timestamp.FromDatetime(LONG_AGO)
        await self.keep("PowerOperation", uuid, operation)
        wiped = private(
            "WipeStatus", last_wipe_install_event_id=event, initial_wipe_done=True, wiped_node_unique_token=TOKEN
        )
        await self.keep("WipeStatus", uuid, wiped)
        reboot = private("RebootStatus", last_reboot_id="r-0")
        reboot.last_reboot_timestamp.FromDatetime(LONG_AGO)
        await self.keep("RebootStatus", uuid, reboot)
        await self.rig.omni.desk.configure(uuid, requested_reboot_id="r-0")

    async def report(self, uuid: str = MACHINE, *, power: int = OFF, installed: bool = False) -> None:
        """Its word to Omni."""
        spec = SPECS.InfraMachineStatusSpec(
            power_state=power,
            ready_to_use=True,
            last_reboot_id="r-0",
            installed=installed,
            wiped_node_unique_token=TOKEN,
        )
        spec.last_reboot_timestamp.FromDatetime(LONG_AGO)
        resource = made(names.INFRA, names.INFRA_MACHINE_STATUS, uuid, spec)
        await self.client.create(resource, "bm.InfraMachineStatusController")


@contextlib.asynccontextmanager
async def former(rig: Rig, *, silent_for: timedelta = timedelta(minutes=2)) -> AsyncIterator[Former]:
    provider = Former(rig)
    try:
        await provider.client.announce()
        await provider.beat(silent_for)
        await until(lambda: bool(rig.omni.desk.providers()[0]["status"]))
        yield provider
    finally:
        await provider.client.channel.close()


async def adopted(rig: Rig) -> dict[str, Adopted]:
    """Adopt into the rig's store, while nobody uses it, and open it again."""
    rig.side.database.close()
    key_file = rig.folder / "omni-key"
    key_file.write_text(rig.key)
    account = cli.Account(rig.omni.endpoint, key_file)
    try:
        found = await cli.take_over(account, rig.folder, rig.folder / "bootwright.db", rig.side.policy)
    finally:
        rig.side = Side(rig.folder)
        await rig.side.load()
    return {each.uuid: each for each in found}


async def machine_of(rig: Rig, uuid: str = MACHINE) -> Machine:
    return next(each for each in await rig.side.machines.store.all() if each.identity.uuid == uuid)


def dump(folder: Path) -> list[str]:
    """Everything in the database."""
    with contextlib.closing(sqlite3.connect(folder / "bootwright.db")) as connection:
        return list(connection.iterdump())


@contextlib.asynccontextmanager
async def at_work(rig: Rig) -> AsyncIterator[None]:
    """The link, and the machines' workers."""
    async with rig.link() as link, asyncio.TaskGroup() as group:
        workers = group.create_task(rig.side.workers.run())
        await until(lambda: bool(link.status()["connected"]))
        yield
        workers.cancel()


# --- nothing happens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "idle"])
def test_nothing_happens_to_the_machine(tmp_path: Path, in_use: bool) -> None:
    """The change of providers wipes, reboots or switches a machine, tells Omni something else, or keeps it there for ever."""

    async def use(rig: Rig) -> None:
        desk, power = rig.omni.desk, ON if in_use else OFF
        async with former(rig) as provider:
            await provider.join()
            await provider.prepare(power=power)
            if in_use:
                await provider.report(power=power)
                await desk.allocate(MACHINE)
                await desk.sequence_event(MACHINE, "boot", "START")
                status = await provider.client.get(names.INFRA, names.INFRA_MACHINE_STATUS, MACHINE)
                spec = SPECS.InfraMachineStatusSpec.FromString(status.spec.proto_spec)
                spec.installed = True
                status.spec.proto_spec = spec.SerializeToString()
                await provider.client.update(status, "bm.InfraMachineStatusController", "running")
            else:
                await provider.report(power=power)
        await desk.settled()
        before, memory = rig.status(), remembered(rig)
        assert len(memory) == 5
        await adopted(rig)
        rig.side.bmc.state = PowerState.ON if in_use else PowerState.OFF
        async with at_work(rig):
            await until(lambda: has_read_power(rig))
            await asyncio.sleep(0.5)
            assert rig.status() == before
            assert rig.side.bmc.told == []
            machine = await machine_of(rig)
            assert machine.facts.operation is None
            assert {each["spec"]["power_state"] for each in map(resource_of, rig.written())} == {before["power_state"]}
            assert set(SIX) == set(rig.infra()["finalizers"])
            assert remembered(rig) == memory
            await desk.remove(MACHINE)
            if in_use:
                await desk.reset_done(MACHINE)
            await until(lambda: not desk.machines())
        assert remembered(rig) == []

    rigged(tmp_path, use)


def remembered(rig: Rig) -> list[tuple[str, str, bytes]]:
    """What lies in the provider's own namespace: kind, machine, spec."""
    found = [
        (name, each.id, each.spec)
        for name in ("BMCConfiguration", "MachineStatus", "PowerOperation", "WipeStatus", "RebootStatus")
        for each in rig.omni.state.list("infra-provider:bm", f"{name}.bm.infraprovider.sidero.dev")
    ]
    return [(name, uuid, bytes(spec)) for name, uuid, spec in found]


def wipe_status(rig: Rig, uuid: str = MACHINE) -> Any:
    """What the former provider takes for its last wipe, None if it knows of none."""
    specs = [spec for name, known, spec in remembered(rig) if (name, known) == ("WipeStatus", uuid)]
    return theirs("baremetalproviderspecs.WipeStatusSpec").FromString(specs[0]) if specs else None


async def has_read_power(rig: Rig) -> bool:
    return (await machine_of(rig)).facts.power.at is not None


def resource_of(written: Mapping[str, Any]) -> Any:
    return written["resource"]


def test_machine_that_was_never_wiped(tmp_path: Path) -> None:
    """It is taken for wiped, because everything else of it was taken over; or a pending one is."""

    async def use(rig: Rig) -> None:
        pending = MACHINE.replace("0001", "0002")
        async with former(rig) as provider:
            await provider.join()
            await provider.join(pending, accepted=False)
        found = await adopted(rig)
        assert "will be wiped: Sidero's provider has not wiped it yet" in found[MACHINE].adoption.remarks
        assert "nobody has accepted it in Omni yet" in found[pending].adoption.remarks
        wanted = {uuid: await machine_of(rig, uuid) for uuid in (MACHINE, pending)}
        assert {uuid: lifecycle.requires_wipe(each.desired, each.facts) for uuid, each in wanted.items()} == {
            MACHINE: True,
            pending: False,
        }

    rigged(tmp_path, use)


def test_what_is_kept(tmp_path: Path) -> None:
    """The BMC cannot be reached with what was taken over, or a secret lies open."""

    async def use(rig: Rig) -> None:
        other, third = (MACHINE.replace("0001", f"000{number}") for number in (2, 3))
        async with former(rig) as provider:
            await provider.join()
            await provider.prepare()
            await provider.join(other)
            api = private("BMCConfiguration", api={"address": "10.0.0.1:9000"}, manually_configured=True)
            await provider.keep("BMCConfiguration", other, api)
            await provider.join(third)
            twin = private("BMCConfiguration", ipmi={"address": "10.9.0.1"})
            await provider.keep("BMCConfiguration", third, twin)
        found = await adopted(rig)
        machine = await machine_of(rig)
        bmc = await rig.side.bmcs.of(machine.id)
        assert bmc == Bmc("10.9.0.1", "talos-agent", Secret("secret of theirs"), kind=EITHER)
        wipe = lifecycle.last_wipe(machine.facts)
        assert wipe is not None
        assert (wipe.request_id, wipe.at) == ("", WIPED_AT)
        api_bmc = await rig.side.bmcs.of((await machine_of(rig, other)).id)
        assert api_bmc is not None
        assert (api_bmc.kind, api_bmc.name) == ("api", "10.0.0.1:9000")
        assert await rig.side.bmcs.of((await machine_of(rig, third)).id) is None
        assert "its BMC is not taken over: BMC 10.9.0.1:623 is the one of" in "; ".join(found[third].adoption.remarks)
        with pytest.raises(RefusedError, match="by the manager"):
            await rig.side.bmcs.assign((await machine_of(rig, other)).id, bmc_of_agent(), BmcOrigin.AGENT)
        for file in rig.folder.glob("bootwright.db*"):
            assert TOKEN.encode() not in file.read_bytes()
            assert b"secret of theirs" not in file.read_bytes()

    rigged(tmp_path, use)


def bmc_of_agent() -> Bmc:
    return Bmc("10.9.9.9", "ops", Secret("pw"))


def test_second_run(tmp_path: Path) -> None:
    """Run again, it writes something again, or undoes what we have done since."""

    async def use(rig: Rig) -> None:
        async with former(rig) as provider:
            await provider.join()
            await provider.prepare()
            await provider.report()
        first = await adopted(rig)
        assert first[MACHINE].adoption
        once = dump(rig.folder)
        again = await adopted(rig)
        assert not again[MACHINE].adoption
        assert dump(rig.folder) == once
        async with at_work(rig):
            await rig.omni.desk.allocate(MACHINE)
            await until(lambda: wants_allocation(rig))
            await rig.omni.desk.release(MACHINE)
            await until(lambda: not rig.status()["ready_to_use"])
        await rig.side.wiped()
        await adopted(rig)
        machine = await machine_of(rig)
        assert not lifecycle.requires_wipe(machine.desired, machine.facts)
        wipes = [each.request_id for each in machine.facts.records if each.kind is RecordKind.WIPE]
        assert wipes == ["", machine.desired.wipe_id]

    rigged(tmp_path, use)


def test_way_back(tmp_path: Path) -> None:
    """Sidero's provider wipes again what we have wiped since, or a machine that it never saw; or Omni hears of a wipe first."""

    async def use(rig: Rig) -> None:
        late = MACHINE.replace("0001", "0002")
        async with former(rig) as provider:
            await provider.join()
            await provider.prepare()
            await provider.report()
        await adopted(rig)
        async with at_work(rig):
            await rig.join(late)
            await rig.omni.desk.accept(late)
            await until(lambda: rig.status(late) is not None)
            assert wipe_status(rig, late) is None
            await rig.side.give_bmc(late)
            await rig.side.wiped(late)
            await until(lambda: bool(rig.status(late)["ready_to_use"]))
            assert wipe_status(rig, late).initial_wipe_done
            await rig.omni.desk.allocate(MACHINE)
            await until(lambda: wants_allocation(rig))
            await rig.omni.desk.release(MACHINE)
            await until(lambda: not rig.status()["ready_to_use"])
            assert wipe_status(rig).last_wipe_id == ""
            await rig.side.wiped()
            await until(lambda: bool(rig.status()["ready_to_use"]))
            known, wanted = wipe_status(rig), (await machine_of(rig)).desired
            assert known.last_wipe_id == wanted.wipe_id != ""
            assert known.wiped_node_unique_token == rig.status()["wiped_node_unique_token"]
        assert not (await adopted(rig))[MACHINE].adoption

    rigged(tmp_path, use)


def test_wiped_by_the_former_provider_since(tmp_path: Path) -> None:
    """After a way back and without a second adoption, we wipe what it has wiped, and what is in use by now."""

    async def use(rig: Rig) -> None:
        async with former(rig) as provider:
            await provider.join()
            await provider.prepare()
            await provider.report()
            await adopted(rig)
            await rig.omni.desk.allocate(MACHINE)
            await rig.omni.desk.release(MACHINE)
            wipe_id = rig.infra()["spec"]["wipe_id"]
            resource = await provider.client.get(*PRIVATE_WIPE, MACHINE)
            wiped = private("WipeStatus", last_wipe_id=wipe_id, last_wipe_install_event_id=7, initial_wipe_done=True)
            resource.spec.proto_spec = wiped.SerializeToString()
            await provider.client.update(resource, "bm.WipeStatusController")
        memory = remembered(rig)
        async with at_work(rig):
            await asyncio.sleep(0.5)
            assert (await machine_of(rig)).desired.wipe_id == "", "what Omni wants of it is not taken"
            assert rig.status()["ready_to_use"]
        assert remembered(rig) == memory
        assert (await adopted(rig))[MACHINE].adoption
        async with at_work(rig):
            await until(lambda: is_wiped_for(rig, wipe_id))
            assert rig.side.bmc.told == []

    rigged(tmp_path, use)


PRIVATE_WIPE = ("infra-provider:bm", "WipeStatus.bm.infraprovider.sidero.dev")


async def is_wiped_for(rig: Rig, wipe_id: str) -> bool:
    machine = await machine_of(rig)
    return machine.desired.wipe_id == wipe_id and not lifecycle.requires_wipe(machine.desired, machine.facts)


async def wants_allocation(rig: Rig) -> bool:
    return (await machine_of(rig)).desired.allocation is not None


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_former_provider_is_alive(tmp_path: Path) -> None:
    """It wipes a machine after we have read that it did not."""

    async def use(rig: Rig) -> None:
        async with former(rig, silent_for=timedelta(seconds=5)) as provider:
            await provider.join()
            with pytest.raises(RefusedError, match="Sidero's own provider, is at work") as caught:
                await adopted(rig)
            assert "stop it, wait for 31 s" in caught.value.hint
        assert await rig.side.machines.store.all() == []

    rigged(tmp_path, use)


def test_something_cannot_be_read(tmp_path: Path) -> None:
    """A wipe that we cannot read counts as none, and is done again."""

    async def use(rig: Rig) -> None:
        async with former(rig) as provider:
            await provider.join()
            await provider.keep("WipeStatus", MACHINE, b"\xff\xff")
        with pytest.raises(PermanentError, match=f"WipeStatus.* of {MACHINE} cannot be read") as caught:
            await adopted(rig)
        assert "do not start Bootwright" in caught.value.hint
        assert await rig.side.machines.store.all() == []

    rigged(tmp_path, use)


# --- as a command -----------------------------------------------------------------------------------------------------


@dataclass
class Command:
    """The command in a folder of its own."""

    rig: Rig
    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def arguments(self, *more: str) -> Sequence[str]:
        key = self.folder / "key"
        document = {
            "provider": {"state_dir": str(self.state)},
            "network": {"interfaces": [{"name": "eth9", "dhcp": "off"}]},
            "manager": {"kind": "omni", "endpoint": self.rig.omni.endpoint, "key_file": str(key)},
        }
        (self.folder / "provider.yaml").write_text(yaml.safe_dump(document))
        key.write_text(self.rig.key)
        place = ("--config", str(self.folder / "provider.yaml"))
        return (sys.executable, "-m", "provider", "omni", "adopt", *place, *more)

    async def start(self, *more: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*self.arguments(*more), stdout=pipe, stderr=pipe)

    async def run(self, *more: str, status: int = 0) -> str:
        """What it says, on whichever of the two."""
        process = await self.start(*more)
        out, err = await process.communicate()
        assert process.returncode == status, err.decode()
        assert b"Traceback" not in err
        return (err if status else out).decode()

    def records(self) -> list[Any]:
        """What is in the database by now."""
        if not (self.state / "bootwright.db").exists():
            return []
        with contextlib.closing(sqlite3.connect(self.state / "bootwright.db")) as connection:
            try:
                return connection.execute(
                    "select uuid, kind, request_id, at, record.install_event from record join machine on machine.id = machine_id"
                    " order by uuid, kind"
                ).fetchall()
            except sqlite3.OperationalError:  # There is no table yet.
                return []


def commanded(folder: Path, use: Callable[[Rig, Command], Any]) -> None:
    place = folder / "command"
    place.mkdir()
    rigged(folder, lambda rig: use(rig, Command(rig, place)))


def test_command(tmp_path: Path) -> None:
    """What it says is not what it does; a rehearsal leaves something behind, or the second run does something."""

    async def use(rig: Rig, command: Command) -> None:
        async with former(rig) as provider:
            await provider.join()
            await provider.prepare()
        rehearsed = await command.run("--dry-run")
        assert rehearsed.splitlines()[-1] == "1 of 1 machines would be changed; nothing was written"
        assert not command.state.exists()
        said = (await command.run()).splitlines()
        assert said == [*rehearsed.splitlines()[:-1], "1 of 1 machines changed"]
        uuid, taken, following = said[0].split("\t")
        assert uuid == MACHINE
        assert "the initial wipe, reboot r-0, power-off off-0, BMC 10.9.0.1:623" in taken
        assert following == "ready: wiped and free: rests off"
        records = command.records()
        assert [record[1] for record in records] == ["power_off", "reboot", "wipe"]
        files = {file: file.read_bytes() for file in command.state.iterdir()}
        again = json.loads(await command.run("--dry-run", "--json"))
        assert (again["dry_run"], again["machines"][0]["changed"], again["machines"][0]["phase"]) == (
            True,
            False,
            "ready",
        )
        assert {file: file.read_bytes() for file in command.state.iterdir()} == files
        assert (await command.run()).splitlines()[-1] == "0 of 1 machines changed"
        assert command.records() == records

    commanded(tmp_path, use)


def test_daemon_is_at_work(tmp_path: Path) -> None:
    """Both write the same state; or a copy of it is made in the middle of a change."""

    async def use(rig: Rig, command: Command) -> None:
        command.state.mkdir()
        held = os.open(command.state / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(held, fcntl.LOCK_EX)
        for more in ((), ("--dry-run",)):
            assert "another daemon uses the state folder" in await command.run(*more, status=1)
        os.close(held)

    commanded(tmp_path, use)


MANY = 60


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """A machine is taken over by half, or the next run does not go on."""
    uuids = [f"5c7b0d5e-5b7c-4d35-9d3b-{number:012x}" for number in range(1, MANY + 1)]

    async def use(rig: Rig, command: Command) -> None:
        async with former(rig) as provider:
            for number, uuid in enumerate(uuids):
                await provider.join(uuid)
                await provider.prepare(uuid, address=f"10.9.1.{number}")
        process = await command.start()
        await until(lambda: len(command.records()) > 0 or process.returncode is not None)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        half = command.records()
        of_each = {uuid: [record for record in half if record[0] == uuid] for uuid, *_rest in half}
        assert {len(records) for records in of_each.values()} == {3}, "all of a machine, or nothing"
        said = (await command.run()).splitlines()
        assert said[-1] == f"{MANY - len(of_each)} of {MANY} machines changed"
        whole = command.records()
        assert len(whole) == 3 * MANY
        assert [record for record in whole if record[0] in of_each] == half
        assert (await command.run()).splitlines()[-1] == f"0 of {MANY} machines changed"
        assert command.records() == whole

    commanded(tmp_path, use)

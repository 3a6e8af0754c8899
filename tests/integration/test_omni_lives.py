"""Machines that leave Omni and come back, and a store that is lost or put back: what must be wiped is, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from provider.domain import smbios
from provider.domain.machine import Acceptance, RecordKind
from provider.kit.clock import utc_now
from provider.lab.omni import access, names
from provider.lab.omni.join import JoinRequest
from provider.manager.omni import errands, presence, server_clock
from provider.manager.omni.credentials import Credentials
from provider.manager.omni.state import Endpoint, State, open_channel
from provider.planning import lifecycle
from tests.integration.omni_client import MACHINE
from tests.integration.omni_rig import Rig, Side, rigged, until
from tests.integration.test_omni_link import is_ready, is_wanted, wipes


async def is_due(side: Side) -> bool:
    machine = await side.machine()
    return lifecycle.requires_wipe(machine.desired, machine.facts)


@pytest.mark.parametrize("ahead", [timedelta(minutes=-4), timedelta(minutes=4)])
def test_joins_again_at_once(tmp_path: Path, ahead: timedelta) -> None:
    """Our clock is ahead of Omni's, so a machine that joins right after its removal is held to be of a backup, for ever."""

    async def use(rig: Rig) -> None:
        rig.side.database.close()
        rig.side = Side(rig.folder, clock=lambda: utc_now() + ahead)
        await rig.start()
        async with rig.link():
            await is_ready(rig)
            await rig.omni.desk.remove(MACHINE)
            await until(lambda: not rig.omni.desk.machines())
            await rig.join()
            await rig.omni.desk.accept(MACHINE)
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.acceptance is Acceptance.ACCEPTED))
            assert await is_due(rig.side), "a new life begins with a wipe"

    rigged(tmp_path, use)


def test_replaced_while_we_were_away(tmp_path: Path) -> None:
    """Omni let a machine go without us, as with a provider that is deleted, and it joined again: ready with old disks."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await is_ready(rig)
            await rig.omni.desk.allocate(MACHINE)
            await rig.omni.desk.sequence_event(MACHINE, "boot", "START")
            await until(lambda: bool(rig.status()["installed"]))
            await rig.omni.desk.release(MACHINE)
            await until(lambda: is_wanted(rig.side, lambda wanted: bool(wanted.wipe_id)))
            await rig.side.wiped()
            await until(lambda: bool(rig.status()["ready_to_use"]))
        await rig.omni.desk.remove(MACHINE)
        rig.force(lambda dying: replace(dying, finalizers=()))
        await until(lambda: rig.infra() is None)
        await rig.omni.desk.provision(JoinRequest(uuid=MACHINE, token=rig.token()))
        await rig.omni.desk.accept(MACHINE)
        async with rig.link():
            await until(lambda: is_due(rig.side))
            await until(lambda: rig.status() is not None and not rig.status()["ready_to_use"])
            await rig.side.wiped()
            await until(lambda: bool(rig.status()["ready_to_use"]))
            await rig.omni.desk.allocate(MACHINE)
            await rig.omni.desk.sequence_event(MACHINE, "boot", "START")
            await until(lambda: bool(rig.status()["installed"]))

    rigged(tmp_path, use)


def _forget_heartbeat(rig: Rig) -> None:
    """As if half a minute had passed since the last one: a new installation waits for that long."""
    beat = rig.omni.state.get(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm")
    rig.omni.state.destroy(beat.namespace, beat.type, "bm", beat.owner)


@pytest.mark.parametrize("is_lost", [False, True], ids=["of yesterday", "lost"])
def test_store_is_put_back(tmp_path: Path, is_lost: bool) -> None:
    """The box of a rack dies, and its successor wipes every machine of the rack while they work."""
    kept = tmp_path / "yesterday"

    async def use(rig: Rig) -> None:
        async with rig.link():
            await is_ready(rig)
        rig.side.database.close()
        shutil.copytree(rig.folder, kept)
        await rig.start_again()
        async with rig.link():
            await rig.omni.desk.allocate(MACHINE)
            await rig.omni.desk.sequence_event(MACHINE, "boot", "START")
            await until(lambda: bool(rig.status()["installed"]))
            await rig.omni.desk.release(MACHINE)
            await until(lambda: not rig.status()["ready_to_use"])
            await rig.side.wiped()
            await until(lambda: bool(rig.status()["ready_to_use"]))
            await rig.omni.desk.allocate(MACHINE)
            await rig.omni.desk.sequence_event(MACHINE, "boot", "START")
            await until(lambda: bool(rig.status()["installed"]))
        rig.side.database.close()
        shutil.rmtree(rig.folder)
        if not is_lost:
            shutil.copytree(kept, rig.folder)
        _forget_heartbeat(rig)
        await rig.start_again()
        if is_lost:  # What `bootwright omni adopt` does in the end.
            channel = open_channel(Endpoint.parse(rig.omni.endpoint), rig.omni.ca_file)
            state = State(channel, Credentials.load(rig.key), utc_now, partial(server_clock.ask, "", None))
            await presence.take_place(state, "bm", rig.side.desk.installation)
            await channel.close()
        async with rig.link():
            await until(lambda: MACHINE in rig.side.desk.wanted())
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.allocation is not None))
            machine = await rig.side.machine()
            assert wipes(machine)[-1] == machine.desired.wipe_id != ""
            assert not await is_due(rig.side)
            assert lifecycle.is_installed(machine.desired, machine.facts)
            await rig.omni.desk.release(MACHINE)
            await until(lambda: is_due(rig.side))
        kinds = [record.kind for record in (await rig.side.machine()).facts.records]
        assert kinds.count(RecordKind.JOINED) == 1

    rigged(tmp_path, use)


def test_two_machines_of_omni_that_are_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can join Omni takes the UUID of another machine in the other byte order, and what is wanted of his is done to it."""
    monkeypatch.setattr(errands, "LONGEST_PAUSE", timedelta(milliseconds=300))
    alias = smbios.byte_swapped(MACHINE)

    async def use(rig: Rig) -> None:
        async with rig.link():
            await is_ready(rig)
            await rig.omni.desk.provision(JoinRequest(uuid=alias, token=rig.token()))
            await until(lambda: bool(rig.infra(alias) and rig.infra(alias)["finalizers"]))
            await rig.omni.desk.reject(alias)
            await asyncio.sleep(0.5)
            assert (await rig.side.machine()).desired.acceptance is Acceptance.ACCEPTED
            await rig.start_again()
        async with rig.link():
            await until(lambda: bool(rig.side.desk._taken))
            await asyncio.sleep(0.5)
            assert (await rig.side.machine()).desired.acceptance is Acceptance.ACCEPTED
            await rig.omni.desk.remove(MACHINE)
            await until(lambda: alias in rig.side.desk._ids)

            async def is_rejected() -> bool:
                return (await rig.side.machine(alias)).desired.acceptance is Acceptance.REJECTED

            await until(is_rejected)

    rigged(tmp_path, use)


@pytest.mark.parametrize("is_rejected", [False, True], ids=["cordoned", "rejected"])
def test_nobody_is_left_to_take_it_back(tmp_path: Path, is_rejected: bool) -> None:
    """A machine that was rejected or cordoned is gone from Omni without us: it gets nothing to boot, and never joins again."""

    async def use(rig: Rig) -> None:
        desk = rig.omni.desk
        async with rig.link():
            await rig.join()
            await (desk.reject(MACHINE) if is_rejected else desk.accept(MACHINE))
            await desk.cordon(MACHINE)
            await until(lambda: MACHINE in rig.side.desk._ids)
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.cordoned))
        await desk.remove(MACHINE)
        rig.force(lambda dying: replace(dying, finalizers=()))
        await until(lambda: rig.infra() is None)
        await rig.start_again()
        async with rig.link():
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.acceptance is Acceptance.PENDING))
            assert not (await rig.side.machine()).desired.cordoned

    rigged(tmp_path, use)


def test_bmc_configuration_that_went_while_we_were_away(tmp_path: Path) -> None:
    """An administrator took back a BMC's password while the daemon was off, and it is used for ever."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await rig.join()
            await rig.omni.desk.accept(MACHINE)
            await rig.omni.desk.set_bmc(MACHINE, "10.9.9.9", 0, "admin", "secret of omni")
            await until(lambda: has_bmc(rig))
        await rig.omni.desk.clear_bmc(MACHINE)
        await rig.start_again()
        assert await has_bmc(rig)
        async with rig.link():

            async def is_gone() -> bool:
                return not await has_bmc(rig)

            await until(is_gone)

    rigged(tmp_path, use)


async def has_bmc(rig: Rig) -> bool:
    return MACHINE in rig.side.desk._ids and (await rig.side.machine()).facts.bmc is not None


def test_copy_of_our_store_is_at_work(tmp_path: Path) -> None:
    """A backup of the box is started beside it: both act on the same machines, and nobody hears of it."""

    async def use(rig: Rig) -> None:
        async with rig.link() as first:
            await until(lambda: bool(first.status()["connected"]))
            async with rig.link() as second:
                await until(
                    lambda: "a copy of our store" in f"{first.status()['last_error']}{second.status()['last_error']}"
                )

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(presence, "BEAT_SECONDS", 0.3)
        rigged(tmp_path, use)


def test_status_that_was_being_given_up(tmp_path: Path) -> None:
    """Omni's backup caught a status between teardown and end: each write of it is refused, and it never settles."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await is_ready(rig)
        status = rig.omni.state.get(names.INFRA, names.INFRA_MACHINE_STATUS, MACHINE)
        rig.omni.state.teardown(status.namespace, status.type, MACHINE, status.owner)
        await rig.omni.desk.allocate(MACHINE)
        await rig.omni.desk.sequence_event(MACHINE, "boot", "START")
        async with rig.link():
            await until(lambda: rig.status() is not None and bool(rig.status()["installed"]))

    rigged(tmp_path, use)


def test_an_old_omni_that_knows_no_bmc_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older Omni refuses who watches a kind that it never heard of, and the link never comes up."""
    monkeypatch.delitem(access.INFRA_KINDS, names.BMC_CONFIG)

    async def use(rig: Rig) -> None:
        rig.omni.state.destroy(names.META, names.DEFINITION, names.BMC_CONFIG.lower())
        rig.omni.faults.refuse("Teardown", "UNIMPLEMENTED", 1_000)
        async with rig.link():
            await is_ready(rig)
            await rig.omni.desk.remove(MACHINE)
            await until(lambda: not rig.omni.desk.machines())

    rigged(tmp_path, use)

"""Machines that leave Omni and come back, and a store that is lost or put back: what must be wiped is, and nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from provider.domain.machine import Acceptance, RecordKind
from provider.kit.clock import utc_now
from provider.lab.omni import names
from provider.lab.omni.join import JoinRequest
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

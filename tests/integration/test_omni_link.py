"""The link against the fake Omni: what is wanted comes in, what is known goes out, and nothing that breaks costs a wipe."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from provider.cli import omni as cli
from provider.domain.machine import Acceptance, Desired, Machine, PreferredPower, RecordKind
from provider.http.tls import Authority
from provider.kit.clock import utc_now
from provider.lab.omni import names, resources
from provider.lab.omni.fake import Options
from provider.lab.omni.join import JoinRequest
from provider.manager.omni import link as omni_link
from provider.manager.omni import presence, server_clock
from provider.manager.omni.credentials import Credentials
from provider.manager.omni.link import OmniLink
from provider.manager.omni.presence import Provider
from provider.manager.omni.state import Endpoint, State, open_channel
from provider.planning import lifecycle
from provider.wire import omni
from provider.wire.cosi import Resource
from tests.integration.omni_client import FINALIZER, MACHINE, SPECS, Client
from tests.integration.omni_rig import Rig, Side, rigged, until


async def is_wanted(side: Side, holds: Callable[[Desired], bool], uuid: str = MACHINE) -> bool:
    return holds((await side.machine(uuid)).desired)


def test_a_whole_life(tmp_path: Path) -> None:
    """Pending, accepted, wiped, allocated, installed, released, wiped again, removed: any step that is not understood."""

    async def use(rig: Rig) -> None:
        side, desk = rig.side, rig.omni.desk
        async with rig.link():
            await rig.join()
            await until(lambda: bool(rig.infra() and FINALIZER in rig.infra()["finalizers"]))
            assert rig.status() is None, "Omni hears nothing of a machine that nobody accepted"
            await desk.accept(MACHINE)
            await until(lambda: rig.status() is not None)
            assert (await side.machine()).desired.acceptance is Acceptance.ACCEPTED
            assert not rig.status()["ready_to_use"]
            await side.give_bmc()
            await side.wiped()
            await until(lambda: bool(rig.status()["ready_to_use"]))
            await desk.allocate(MACHINE)
            await until(lambda: is_wanted(side, lambda wanted: wanted.allocation is not None))
            wanted = (await side.machine()).desired
            assert wanted.allocation is not None
            assert wanted.allocation.version == "1.13.7"
            assert desk.machine(MACHINE)["applies_config"]
            await desk.sequence_event(MACHINE, "boot", "START")
            await until(lambda: bool(rig.status()["installed"]))
            await desk.release(MACHINE)
            await until(lambda: not rig.status()["ready_to_use"])
            assert (await side.machine()).desired.allocation is None
            await side.wiped()
            await until(lambda: bool(rig.status()["ready_to_use"]))
            assert not rig.status()["installed"]
            await desk.remove(MACHINE)
            await until(lambda: not desk.machines())
            assert (await side.machine()).desired.acceptance is Acceptance.PENDING
            never = "WipeStatus.bm.infraprovider.sidero.dev"
            assert not rig.written(never), "there is no memory of Sidero's provider, and none is made"

    rigged(tmp_path, use)


async def is_ready(rig: Rig) -> None:
    """Accepted, with a BMC, wiped, and Omni knows."""
    await rig.join()
    await rig.omni.desk.accept(MACHINE)
    await until(lambda: rig.status() is not None)
    await rig.side.give_bmc()
    await rig.side.wiped()
    await until(lambda: bool(rig.status()["ready_to_use"]))


def wipes(machine: Machine) -> list[str]:
    return [record.request_id for record in machine.facts.records if record.kind is RecordKind.WIPE]


# --- what breaks on the way -------------------------------------------------------------------------------------------


def test_omni_is_away_for_a_while(tmp_path: Path) -> None:
    """What happened meanwhile on either side is lost, or wiped for a second time when it is back."""

    async def use(rig: Rig) -> None:
        async with rig.link() as link:
            await rig.join()
            await rig.omni.desk.accept(MACHINE)
            await until(lambda: rig.status() is not None)
            await rig.omni.gate.close()
            await until(lambda: not link.status()["connected"])
            await rig.side.give_bmc()
            await rig.side.wiped()
            await rig.omni.desk.allocate(MACHINE)
            assert not rig.status()["ready_to_use"]
            await rig.omni.gate.open()
            await until(lambda: bool(rig.status()["ready_to_use"]))
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.allocation is not None))
            machine = await rig.side.machine()
            assert not lifecycle.requires_wipe(machine.desired, machine.facts)

    rigged(tmp_path, use)


def test_streams_are_reset(tmp_path: Path) -> None:
    """A watch that ended is not opened again; or everything is read and written again for it."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await is_ready(rig)
            written = len(rig.written())
            for _ in range(3):
                rig.omni.faults.reset_streams()
                await asyncio.sleep(0.2)
            await rig.omni.desk.allocate(MACHINE)
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.allocation is not None))
            await until(lambda: len(rig.written()) == written + 1)

    rigged(tmp_path, use)


def test_bookmark_that_is_too_old(tmp_path: Path) -> None:
    """Omni has forgotten where we were: the link never comes back, or a removal that was missed stays unseen."""

    async def use(rig: Rig) -> None:
        async with rig.link() as link:
            await is_ready(rig)
            await rig.omni.gate.close()
            await until(lambda: not link.status()["connected"])
            for number in range(30):  # More than the history holds.
                await rig.omni.desk.set_arguments(MACHINE, f"quiet={number}")
            await rig.omni.gate.open()
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.agent_arguments == ("quiet=29",)))

    rigged(tmp_path, use, Options(history=10))


def test_backup_of_omni_that_was_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our bookmarks are of a future that Omni no longer knows: it takes them, and we are blind to all that it wants."""

    async def use(rig: Rig) -> None:
        monkeypatch.setattr(omni_link, "RESUME_SECONDS", 0.0)
        async with rig.link() as link:
            await is_ready(rig)
            await rig.omni.gate.close()
            await until(lambda: not link.status()["connected"])
            rig.omni.state.count_anew()
            await rig.omni.desk.set_arguments(MACHINE, "quiet")
            await rig.omni.gate.open()
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.agent_arguments == ("quiet",)))

    rigged(tmp_path, use)


def test_somebody_else_is_faster(tmp_path: Path) -> None:
    """A resource changed between our read and our write: the finalizer or the status is never written."""

    async def use(rig: Rig) -> None:
        rig.omni.faults.interfere(names.INFRA_MACHINE, MACHINE, 3)
        rig.omni.faults.interfere(names.INFRA_MACHINE_STATUS, MACHINE, 3)
        async with rig.link():
            await is_ready(rig)
            await rig.omni.desk.remove(MACHINE)
            await until(lambda: not rig.omni.desk.machines())

    rigged(tmp_path, use)


def test_calls_that_fail_now_and_then(tmp_path: Path) -> None:
    """One refused call ends what it was part of for good."""

    async def use(rig: Rig) -> None:
        for method, code in (("Update", "RESOURCE_EXHAUSTED"), ("Create", "UNKNOWN"), ("Get", "DEADLINE_EXCEEDED")):
            rig.omni.faults.refuse(method, code, 2)
        rig.omni.faults.refuse("Watch", "UNAVAILABLE", 1)
        async with rig.link():
            await is_ready(rig)

    rigged(tmp_path, use)


@pytest.mark.parametrize("step", ["joined", "accepted", "has_bmc", "wiped", "allocated", "installed", "released"])
def test_killed_at_each_step(tmp_path: Path, step: str) -> None:
    """A restart loses what Omni wanted, or makes us wipe again what was wiped."""

    async def use(rig: Rig) -> None:
        async def again(here: str) -> None:
            if here == step:
                await rig.start_again()

        desk = rig.omni.desk
        async with rig.link():
            await rig.join()
            await until(lambda: bool(rig.infra() and rig.infra()["finalizers"]))
        await again("joined")
        async with rig.link():
            await desk.accept(MACHINE)
            await until(lambda: rig.status() is not None)
        await again("accepted")
        await rig.side.give_bmc()
        await again("has_bmc")
        await rig.side.wiped()
        await again("wiped")
        async with rig.link():
            await until(lambda: bool(rig.status()["ready_to_use"]))
            await desk.allocate(MACHINE)
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.allocation is not None))
        await again("allocated")
        async with rig.link():
            await desk.sequence_event(MACHINE, "boot", "START")
            await until(lambda: bool(rig.status()["installed"]))
        await again("installed")
        machine = await rig.side.machine()
        assert not lifecycle.requires_wipe(machine.desired, machine.facts)
        assert lifecycle.is_installed(machine.desired, machine.facts)
        async with rig.link():
            await desk.release(MACHINE)
            await until(lambda: not rig.status()["ready_to_use"])
        await again("released")
        machine = await rig.side.machine()
        assert lifecycle.requires_wipe(machine.desired, machine.facts)
        assert wipes(machine) == [""]
        await rig.side.wiped()
        async with rig.link():
            await until(lambda: bool(rig.status()["ready_to_use"]))
            await desk.remove(MACHINE)
            await until(lambda: not desk.machines())

    rigged(tmp_path, use)


def test_omni_restored_from_a_backup(tmp_path: Path) -> None:
    """An old wipe id that comes back wipes a machine that is in use (design.md section 4: an old id does nothing)."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await is_ready(rig)
            await rig.omni.desk.allocate(MACHINE)
            await rig.omni.desk.sequence_event(MACHINE, "boot", "START")
            await until(lambda: bool(rig.status()["installed"]))
            await rig.omni.desk.release(MACHINE)
            await until(lambda: not rig.status()["ready_to_use"])
            await rig.side.wiped()
            await until(lambda: bool(rig.status()["ready_to_use"]))
            new = (await rig.side.machine()).desired.wipe_id
            assert new

            def old(resource: Any) -> Any:
                spec = resources.spec_of(resource)
                spec.wipe_id = ""
                return resources.with_spec(resource, spec)

            rig.force(old)
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.wipe_id == ""))
            machine = await rig.side.machine()
            assert not lifecycle.requires_wipe(machine.desired, machine.facts)

    rigged(tmp_path, use)


# --- who we are -------------------------------------------------------------------------------------------------------


def test_static_provider_is_announced(tmp_path: Path) -> None:
    """Without status, label and heartbeat Omni shows us as away, and gives us no machines (facts 8.6)."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await until(lambda: bool(rig.omni.desk.providers()[0]["connected"]))
            await until(lambda: bool(rig.omni.desk.providers()[0]["status"]))
            found: Any = rig.omni.desk.providers()[0]
            assert found["status"]["name"] == "BM"
        async with rig.link():
            await until(lambda: len(rig.written(names.HEALTH_STATUS)) >= 2)

    rigged(tmp_path, use)


def test_second_provider_with_our_id(tmp_path: Path) -> None:
    """Two act on the same machines; or the one that was restarted takes itself for another."""

    async def use(rig: Rig) -> None:
        other = Side(tmp_path / "other")
        await other.load()
        async with rig.link() as first:
            await until(lambda: bool(first.status()["connected"]))
            us = Provider("bm", "BM", "1", other.desk.installation, {})
            second = OmniLink(
                url=rig.omni.endpoint,
                credentials=Credentials.load(rig.key),
                ca_file=None,
                us=us,
                outbox=other.outbox,
                desk=other.desk,
                clock=utc_now,
            )
            async with asyncio.TaskGroup() as group:
                running = group.create_task(second.run())
                await until(lambda: "another Bootwright is at work" in str(second.status()["last_error"]))
                running.cancel()
            assert first.status()["connected"]
        await rig.start_again()
        async with rig.link() as again:
            await until(lambda: bool(again.status()["connected"]))
        other.database.close()

    rigged(tmp_path, use)


def test_state_folder_that_was_lost(tmp_path: Path) -> None:
    """A daemon with an empty store takes over, and wipes all that is in use."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await is_ready(rig)
        kept, rig.side = rig.side, Side(tmp_path / "empty")
        await rig.side.load()
        adopted = tmp_path / "adopted"
        adopted.mkdir()
        key = tmp_path / "key"
        key.write_text(rig.key)
        account = cli.Account(rig.omni.endpoint, key)

        def forget_beat() -> None:
            """Nobody beats, and Omni has forgotten the last one, as it does when it is started anew."""
            owner = "bm.ProviderHealthStatusController"
            if rig.omni.state.find(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm"):
                rig.omni.state.destroy(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm", owner)

        async def start(*, rehearsed: bool) -> str:
            forget_beat()
            await cli.take_over(account, adopted, adopted / "bootwright.db", kept.policy, rehearses=rehearsed)
            rig.side.database.close()
            rig.side = Side(adopted)
            await rig.side.load()
            async with rig.link() as link:
                await until(lambda: bool(link.status()["connected"] or link.status()["last_error"]))
                return str(link.status()["last_error"])

        forget_beat()
        async with rig.link() as link:
            await until(lambda: "is another installation" in str(link.status()["last_error"]))
            assert await rig.side.machines.store.all() == []
            assert not rig.omni.desk.providers()[0]["last_heartbeat"], "the other one would have to wait for us"
        assert "is another installation" in await start(rehearsed=True)
        assert await start(rehearsed=False) == ""
        kept.database.close()

    rigged(tmp_path, use)


def test_heartbeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat costs Omni more than one call; or Omni, which forgets them when it starts, hears none any more."""
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.02)

    async def use(rig: Rig) -> None:
        def beats() -> int:
            return len(rig.written(names.HEALTH_STATUS))

        async with rig.link():
            await until(lambda: beats() >= 2 and rig.side.desk.join_documents() is not None)
            reads, so_far = rig.omni.desk.count("Get"), beats()
            await until(lambda: beats() >= so_far + 5)
            assert rig.omni.desk.count("Get") == reads
            owner = "bm.ProviderHealthStatusController"
            rig.omni.state.destroy(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm", owner)
            forgotten = beats()
            await until(lambda: beats() >= forgotten + 5)
            assert rig.omni.desk.providers()[0]["connected"]

    rigged(tmp_path, use)


def test_sideros_provider_starts_beside_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It beats into our heartbeat, and leaves our mark on it: both act on the same machines."""
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.2)

    async def use(rig: Rig) -> None:
        client = Client(rig.omni.endpoint, rig.key)
        async with rig.link() as link:
            await until(lambda: bool(link.status()["connected"]))
            resource = await client.get(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm")
            spec = SPECS.InfraProviderHealthStatusSpec()
            spec.last_heartbeat_timestamp.FromDatetime(utc_now())
            resource.spec.proto_spec = spec.SerializeToString()
            await client.update(resource, "bm.ProviderHealthStatusController")
            await until(lambda: "Sidero's own provider, is at work" in str(link.status()["last_error"]))
        await client.channel.close()

    rigged(tmp_path, use)


async def revoked(rig: Rig) -> dict[str, Any]:
    await rig.omni.desk.revoke_keys("bm")
    return {}


async def expired(rig: Rig) -> dict[str, Any]:
    rig.omni.faults.skew = timedelta(days=800)
    return {"clock": lambda: utc_now() + timedelta(days=800)}


async def ahead(rig: Rig) -> dict[str, Any]:
    rig.omni.faults.skew = timedelta(minutes=9)
    return {}


async def suspended(rig: Rig) -> dict[str, Any]:
    await rig.omni.desk.suspend()
    return {}


async def not_agreed(rig: Rig) -> dict[str, Any]:
    rig.omni.signatures.eula_accepted = False
    return {}


async def down(rig: Rig) -> dict[str, Any]:
    await rig.omni.gate.close()
    return {}


@pytest.mark.parametrize(
    ("mishap", "said"),
    [
        (revoked, "it was revoked"),
        (expired, "the service account key expired on"),
        (ahead, "our clock is 9 minutes behind Omni's"),
        (suspended, "not allowed to modify"),
        (not_agreed, "EULA has not been accepted"),
        (down, "Omni cannot be reached"),
    ],
)
def test_why_there_is_no_link(tmp_path: Path, mishap: Callable[[Rig], Awaitable[dict[str, Any]]], said: str) -> None:
    """The operator reads "invalid signature", whatever it is."""

    async def use(rig: Rig) -> None:
        more = await mishap(rig)
        async with rig.link(**more) as link:
            await until(lambda: bool(link.status()["last_error"]))
            assert said in str(link.status()["last_error"])

    rigged(tmp_path, use)


def test_tls(tmp_path: Path) -> None:
    """A certificate of a CA that we were not told of is taken; or the right one is not."""

    async def use(rig: Rig) -> None:
        async with rig.link() as link:
            await until(lambda: bool(link.status()["connected"]))
        stranger = tmp_path / "stranger"
        Authority.open(stranger, utc_now())
        async with rig.link(ca_file=stranger / "ca.pem") as link:
            await until(lambda: bool(link.status()["last_error"]))
            assert "its certificate is not trusted" in str(link.status()["last_error"])

    rigged(tmp_path, use, Options(folder=tmp_path / "omni", tls=True))


# --- what a machine is told -------------------------------------------------------------------------------------------


def test_bmc_of_an_administrator(tmp_path: Path) -> None:
    """What an administrator says in Omni is not used, or is used for ever."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await rig.join()
            await rig.omni.desk.accept(MACHINE)
            await until(lambda: rig.status() is not None)
            machine_id = (await rig.side.machine()).id
            await rig.omni.desk.set_bmc(MACHINE, "10.9.9.9", 0, "admin", "secret of omni")

            async def has(address: str | None) -> bool:
                bmc = await rig.side.bmcs.of(machine_id)
                return (None if bmc is None else bmc.name) == address

            await until(lambda: has("10.9.9.9:623"))
            bmc = await rig.side.bmcs.of(machine_id)
            assert bmc is not None
            assert (bmc.user, bmc.password.reveal()) == ("admin", "secret of omni")
            await rig.omni.desk.clear_bmc(MACHINE)
            await until(lambda: has(None))

    rigged(tmp_path, use)


def test_join_documents_outlive_omni(tmp_path: Path) -> None:
    """A rack whose Omni is away boots nothing; or boots with a token that was taken back."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await until(lambda: rig.side.desk.join_documents() is not None)
            first = rig.side.desk.join_documents()
            await rig.omni.desk.rotate_join_token("bm")
            await until(lambda: rig.side.desk.join_documents() != first)
        kept = rig.side.desk.join_documents()
        await rig.start_again()
        assert rig.side.desk.join_documents() == kept
        assert b"jointoken" not in (rig.folder / "bootwright.db").read_bytes(), "it is a secret"

    rigged(tmp_path, use)


def test_token_of_a_wiped_machine(tmp_path: Path) -> None:
    """Omni does not let a wiped machine join again, because we do not say what was wiped (facts 4.6); or it lies open here."""

    async def use(rig: Rig) -> None:
        token = "unique-token-of-this-node"

        def holds(resource: Any) -> Any:
            spec = resources.spec_of(resource)
            spec.node_unique_token = token
            return resources.with_spec(resource, spec)

        async with rig.link():
            await rig.join()
            rig.force(holds)
            await rig.omni.desk.accept(MACHINE)
            await until(lambda: rig.status() is not None)
            await rig.side.give_bmc()
            revision = (await rig.side.machine()).desired.revision
            await rig.side.wiped()
            await until(lambda: rig.status()["wiped_node_unique_token"] == token)
            await rig.omni.desk.cordon(MACHINE)
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.cordoned))
            assert (await rig.side.machine()).desired.revision == revision + 1, "sealing it again is no news"
        for file in rig.folder.glob("bootwright.db*"):
            assert token.encode() not in file.read_bytes()

    rigged(tmp_path, use)


PROVIDERS_OWN = 2
"""Its status and its heartbeat."""


def created(rig: Rig) -> int:
    return sum(
        number for (_who, method, code), number in rig.omni.calls.counts.items() if (method, code) == ("Create", "OK")
    )


def test_a_thousand_machines(tmp_path: Path) -> None:
    """Each change of one machine reads or writes the others again; or one that fails holds up the rest."""
    machines = [f"5c7b0d5e-5b7c-4d35-9d3b-{number:012x}" for number in range(1, 1001)]

    async def use(rig: Rig) -> None:
        desk = rig.omni.desk
        rig.omni.faults.interfere(names.INFRA_MACHINE, machines[7], 10_000)
        async with rig.link():
            await until(lambda: bool(desk.providers()[0]["status"]))
            for uuid in machines:
                await desk.provision(JoinRequest(uuid=uuid, token=rig.token()))
                await desk.accept(uuid)
            await until(lambda: created(rig) >= len(machines) - 1 + PROVIDERS_OWN, 60)
            calls = sum(rig.omni.calls.counts.values())
            each = {name: desk.count(name) / len(machines) for name in ("Get", "Create", "Update")}
            assert {name: round(number) for name, number in each.items()} == {"Get": 0, "Create": 1, "Update": 1}
            before = calls
            await desk.prefer_power(machines[0], "ON")
            await until(lambda: is_wanted(rig.side, lambda wanted: wanted.preferred_power is PreferredPower.ON))
            others = sum(rig.omni.calls.counts.values()) - before
            assert others < 60, "one machine's news is one machine's work"
        async with rig.link() as link:
            await until(lambda: bool(link.status()["connected"]))
            await asyncio.sleep(1)
            assert created(rig) < len(machines) + 20, "a new connection writes what differs, and nothing else did"

    rigged(tmp_path, use)


def test_omni_that_takes_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wanted of one machine waits until Omni has taken what it is told of others; or Omni takes us for dead."""
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.5)
    machines = [f"5c7b0d5e-5b7c-4d35-9d3b-{number:012x}" for number in range(1, 51)]

    async def use(rig: Rig) -> None:
        desk, side = rig.omni.desk, rig.side
        async with rig.link():
            await until(lambda: bool(desk.providers()[0]["status"]))
            for uuid in machines:
                await desk.provision(JoinRequest(uuid=uuid, token=rig.token()))
                await desk.accept(uuid)
            await until(lambda: created(rig) >= len(machines) + PROVIDERS_OWN)
            rig.omni.faults.delay = 2
            for uuid in machines[:-1]:
                await side.give_bmc(uuid)
                await side.wiped(uuid)
            begun, beats = time.monotonic(), len(rig.written(names.HEALTH_STATUS))
            await desk.allocate(machines[-1])
            await until(lambda: is_wanted(side, lambda wanted: wanted.allocation is not None, machines[-1]))
            assert time.monotonic() - begun < 1, "it waited for Omni"
            await until(lambda: len(rig.written(names.HEALTH_STATUS)) > beats + 2)
            assert time.monotonic() - begun < 8, "a beat takes one call, and the next one does not wait for more"

    rigged(tmp_path, use)


def test_an_old_omni_that_makes_no_join_documents(tmp_path: Path) -> None:
    """Machines of an Omni from before ProviderJoinConfigs get no documents, or with a token that it does not take."""

    async def use(rig: Rig) -> None:
        async with rig.link():
            await until(lambda: rig.side.desk.join_documents() is not None)
            documents = rig.side.desk.join_documents()
            assert documents is not None
            (url,) = re.findall(r"apiUrl: (\S+)", documents.reveal())
            await rig.omni.desk.provision(JoinRequest(uuid=MACHINE, token=unquote(url.partition("jointoken=")[2])))
            await until(lambda: bool(rig.infra() and FINALIZER in rig.infra()["finalizers"]))

    rigged(tmp_path, use, Options(old=True))


def test_change_of_what_is_older_than_we_know(tmp_path: Path) -> None:
    """A user decides while we write our finalizer: Omni takes the old spec for a change of ours, and we wait and warn."""

    async def use(rig: Rig) -> None:
        await rig.omni.desk.provision(JoinRequest(uuid=MACHINE, token=rig.token()))
        channel = open_channel(Endpoint.parse(rig.omni.endpoint), rig.omni.ca_file)
        state = State(channel, Credentials.load(rig.key), utc_now, partial(server_clock.ask, "", None))
        known = await state.get(omni.INFRA_MACHINES, MACHINE)
        assert known is not None
        await rig.omni.desk.accept(MACHINE)

        def hold(found: Resource) -> Resource:
            return replace(found, metadata=replace(found.metadata, finalizers=(FINALIZER,)))

        held = await state.change(omni.INFRA_MACHINES, MACHINE, hold, known=known)
        await channel.close()
        assert held is not None
        assert rig.infra()["finalizers"] == [FINALIZER]

    async def announced(rig: Rig) -> None:
        async with rig.link():
            await until(lambda: bool(rig.omni.desk.providers()[0]["status"]))
        await use(rig)

    rigged(tmp_path, announced)

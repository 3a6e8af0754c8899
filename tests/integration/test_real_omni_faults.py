"""What goes wrong between a real Omni and us, and what `bootwright status` says of it; skipped where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from provider.http.tls import Authority
from provider.kit.clock import utc_now
from provider.lab.omni import keys, names
from provider.lab.omni.talos_agent.wire import put
from provider.manager.omni.credentials import Credentials
from provider.manager.omni.link import OmniLink
from provider.manager.omni.presence import Provider
from tests.integration.omni_client import PATIENCE, made, refused
from tests.integration.omni_rig import Side
from tests.integration.real_omni import VARIABLE, RealOmni
from tests.integration.real_site import Site, at, at_site, doomed, serving, with_omni
from tests.integration.test_omni_daemon import UUID

pytestmark = [
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no Omni"),
    pytest.mark.timeout(300),
]

SYNCED = {"etcd_embedded_unsafe_fsync": None}
"""Its etcd writes to the disk, as it does for everybody else."""


def nobodys_key(provider: str = "bm", lifetime: timedelta = keys.LIFETIME) -> str:
    return keys.generate(f"infra-provider:{provider}", f"{provider}@x", lifetime).service_account_key()


def test_keys(tmp_path: Path) -> None:
    """A renewed key is taken beside the old one; what is revoked, or nobody's, is told apart from all else."""

    async def use(omni: RealOmni) -> None:
        old = await omni.create_provider("bm")
        new = await omni.renew_key("bm")
        async with at(omni, serving(tmp_path, omni, old)) as here:
            await here.connected()
        async with at(omni, serving(tmp_path, omni, new)) as here:
            await here.connected()
            await omni.destroy_account("infra-provider:bm")
            await here.says("Omni does not know the service account key: it was revoked, or belongs to another Omni")
            assert not here.link()["connected"]
            assert "five minutes" not in here.link()["last_error"], "Omni's clock is known"
            await omni.create_account("infra-provider:bm", "InfraProvider")
        async with at(omni, serving(tmp_path, omni, nobodys_key())) as here:
            await here.says("Omni does not know the service account key")
        again = await omni.renew_key("bm")
        async with at(omni, serving(tmp_path, omni, again)) as here:
            await here.connected()

    with_omni(tmp_path, use)


def test_another_providers_key(tmp_path: Path) -> None:
    """By mistake we become another provider for a while: its machines are not ours, and ours are not wiped afterwards."""

    async def use(omni: RealOmni) -> None:
        ours, theirs = await omni.create_provider("bm"), await omni.create_provider("other")
        async with at(omni, serving(tmp_path, omni, ours)) as here:
            await here.ready()
        async with at(omni, serving(tmp_path, omni, theirs)) as here:
            await here.connected()
            await asyncio.sleep(1)
        async with at(omni, serving(tmp_path, omni, ours)) as here:
            await here.connected()
            await asyncio.sleep(1)
            await here.status(ready_to_use=True)
            assert await here.wipes() == 1

    with_omni(tmp_path, use)


def test_wrong_ca(tmp_path: Path) -> None:
    """The certificate of another Omni is taken; or nothing says what is wrong."""

    async def use(omni: RealOmni) -> None:
        Authority.open(tmp_path / "tls", utc_now())
        wrong = serving(tmp_path, omni, await omni.create_provider("bm"), ca_file=str(tmp_path / "tls" / "ca.pem"))
        with wrong as provider:
            await Site(omni, provider, None).says("Omni cannot be reached")  # type: ignore[arg-type] - no machine

    with_omni(tmp_path, use)


async def accept_eula(omni: RealOmni) -> None:
    """As the web page does, signed by nobody (omni: client/api/omni/resources/resources.proto)."""
    metadata = made(names.DEFAULT, names.EULA, "eula").metadata.SerializeToString()
    spec = json.dumps({"accepted_by_name": "test", "accepted_by_email": "test@example.com"})
    create = omni.admin.channel.unary_unary("/omni.resources.ResourceService/Create")
    await create(put(1, put(1, metadata) + put(2, spec)), metadata=[("runtime", "Omni")], timeout=PATIENCE)


def test_eula(tmp_path: Path) -> None:
    """Until somebody accepts it nothing works, and that is what we say."""

    async def use(omni: RealOmni) -> None:
        with serving(tmp_path, omni, nobodys_key()) as provider:
            here = Site(omni, provider, None)  # type: ignore[arg-type] - no machine
            await here.says("EULA has not been accepted")
            await accept_eula(omni)
            await here.says("Omni does not know the service account key")

    with_omni(tmp_path, use, eula_accept_name=None, eula_accept_email=None)


def test_omni_is_killed(tmp_path: Path) -> None:
    """At rest and in the middle of a wipe: what it knew it knows again, and nothing is wiped twice."""

    async def use(here: Site) -> None:
        omni = here.omni
        await here.connected()
        await omni.program.kill()
        await here.says("Omni cannot be reached")
        await omni.program.start()
        await here.connected()
        await here.member()
        await omni.configure(UUID, acceptance_status="ACCEPTED")
        await omni.give_bmc(UUID)
        await here.status(power_state=2)
        with here.agent(await here.booted(), wipe_seconds="6"):
            await here.happened("wipe.started")
            await omni.program.kill()
            await here.says("Omni cannot be reached")
            await here.happened("wipe.finished")
            await omni.program.start()
            await here.status(ready_to_use=True)
        assert await here.wipes() == 1
        await omni.allocate(UUID)
        await here.told("installing Talos v1.13.6")

    at_site(tmp_path, use, **SYNCED)


def test_both_are_killed(tmp_path: Path) -> None:
    """We die in a wipe, and Omni while we are away: the machine gets ready all the same, and once."""

    async def use(omni: RealOmni) -> None:
        key = await omni.create_provider("bm")
        async with at(omni, doomed(tmp_path, omni, key)) as here:
            await here.member()
            await omni.configure(UUID, acceptance_status="ACCEPTED")
            await omni.give_bmc(UUID)
            await here.status(power_state=2)
            with here.agent(await here.booted(), wipe_seconds="30"):
                await here.happened("wipe.started")
        await omni.program.kill()
        async with at(omni, doomed(tmp_path, omni, key)) as here:
            await here.says("Omni cannot be reached")
            await omni.program.start()
            with here.agent(await here.booted()):
                await here.status(ready_to_use=True)
            assert await here.wipes() == 1
        async with at(omni, serving(tmp_path, omni, key)) as here:
            await here.connected()
            await asyncio.sleep(1)
            await here.status(ready_to_use=True)
            assert await here.wipes() == 1

    with_omni(tmp_path, use, **SYNCED)


@contextlib.asynccontextmanager
async def another(
    folder: Path, omni: RealOmni, key: str, clock: Callable[[], datetime] = utc_now
) -> AsyncIterator[OmniLink]:
    """The link of one more of us, with a store of its own."""
    side = Side(folder / "another")
    await side.load()
    link = OmniLink(
        url=omni.endpoint,
        credentials=Credentials.load(key),
        ca_file=omni.ca_file,
        us=Provider("bm", "BM", "1", side.desk.installation, {}),
        outbox=side.outbox,
        desk=side.desk,
        clock=clock,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(link.run())
        yield link
        task.cancel()
    side.database.close()


async def says(link: OmniLink, words: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while words not in str(link.status()["last_error"]):
            await asyncio.sleep(0.1)


def test_two_of_us_with_one_id(tmp_path: Path) -> None:
    """Whoever comes later keeps away, and says why."""

    async def use(omni: RealOmni) -> None:
        key = await omni.create_provider("bm")
        async with at(omni, serving(tmp_path, omni, key)) as here:
            await here.connected()
            async with another(tmp_path, omni, key) as link:
                await says(link, "another Bootwright is at work as provider 'bm'")
            assert here.link()["connected"]

    with_omni(tmp_path, use)


def test_our_clock_is_wrong(tmp_path: Path) -> None:
    """It looks like a revoked key, because nothing in Omni's refusal tells the two apart."""

    async def use(omni: RealOmni) -> None:
        key = await omni.create_provider("bm")
        async with another(tmp_path, omni, key, lambda: utc_now() + timedelta(minutes=10)) as link:
            await says(link, "our clock is 10 minutes ahead of Omni's")

    with_omni(tmp_path, use)


def test_provider_is_deleted(tmp_path: Path) -> None:
    """A user may not delete us while we have machines; afterwards we say that our key is worth nothing."""

    async def use(here: Site) -> None:
        omni = here.omni
        await here.ready()
        with refused("INVALID_ARGUMENT", "failed to validate: 1 error occurred:\n\t* cannot delete the infra provider"):
            await omni.remove_provider("bm")
        await omni.remove(UUID)

        async def is_removed() -> bool:
            return await omni.find(names.MACHINE, UUID, names.DEFAULT) is None

        await here.until(is_removed)
        told = list(omni.power.told)
        await omni.remove_provider("bm")
        await here.says("Omni does not know the service account key")
        await asyncio.sleep(1)
        assert (omni.power.told, await here.wipes()) == (told, 1)

    at_site(tmp_path, use)

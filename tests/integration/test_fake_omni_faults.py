"""The fake Omni as a thing to break: faults on demand, its desk and machines' port, TLS, and being killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from provider.kit.unixhttp import UnixHttpError
from provider.lab.omni import names
from provider.lab.omni.desk_client import DeskClient
from provider.lab.omni.desk_http import FAULTS, VERBS, DeskHttp
from provider.lab.omni.fake import Options
from tests.integration.omni_client import MACHINE, Client, made, refused
from tests.integration.omni_sites import FakeSite, served

NAMESPACE = "infra-provider:bm"
KIND = "Thing.bm.infraprovider.sidero.dev"


# --- in calls -----------------------------------------------------------------------------------------------------------


def test_calls_are_refused_on_demand() -> None:
    """So many calls of one method, with the code that was asked for; others go on."""

    async def use(here: FakeSite) -> None:
        here.omni.faults.refuse("Get", "RESOURCE_EXHAUSTED", 2)
        await here.bm.create(made(NAMESPACE, KIND, "a"))
        for _ in range(2):
            with refused("RESOURCE_EXHAUSTED", "refused on demand"):
                await here.bm.get(NAMESPACE, KIND, "a")
        await here.bm.get(NAMESPACE, KIND, "a")
        assert (here.omni.desk.count("Get", "RESOURCE_EXHAUSTED"), here.omni.desk.count("Get")) == (2, 1)
        with pytest.raises(ValueError, match="there is no gRPC code NONSENSE"):
            here.omni.faults.refuse("Get", "NONSENSE")

    served(use)


def test_slow_calls() -> None:
    """Every call takes as long as it is told to."""

    async def use(here: FakeSite) -> None:
        here.omni.faults.delay = 0.1
        began = time.monotonic()
        await here.bm.list(NAMESPACE, KIND)
        assert time.monotonic() - began >= 0.1

    served(use)


def test_somebody_is_faster() -> None:
    """A resource changes between a client's read and its write: a conflict, as often as asked for."""

    async def use(here: FakeSite) -> None:
        await here.join()
        here.omni.faults.interfere(names.INFRA_MACHINE, MACHINE, 2)
        for _ in range(2):
            with refused("FAILED_PRECONDITION"):
                await here.bm.set_finalizers((await here.infra_machine())[0], ["ours"])
        await here.bm.set_finalizers((await here.infra_machine())[0], ["ours"])

    served(use)


def test_streams_are_reset() -> None:
    """Watches end with UNAVAILABLE; a new one resumes from the bookmark of the old one."""

    async def use(here: FakeSite) -> None:
        watch = here.bm.watch(NAMESPACE, KIND, bootstrap_contents=True)
        await watch.response()
        (bootstrapped,) = await watch.response()
        here.omni.faults.reset_streams()
        with refused("UNAVAILABLE", "stream reset on demand"):
            await watch.call.read()
        await here.bm.create(made(NAMESPACE, KIND, "a"))
        again = here.bm.watch(NAMESPACE, KIND, start_from_bookmark=bootstrapped.bookmark)
        assert await again.events(1) == ["CREATED a"]

    served(use)


# --- in connections -----------------------------------------------------------------------------------------------------


def test_down_and_up_again() -> None:
    """Nobody listens, what was open breaks; then it is the same server again, with the same bookmarks."""

    async def use(here: FakeSite) -> None:
        watch = here.bm.watch(NAMESPACE, KIND, bootstrap_contents=True)
        await watch.response()
        (bootstrapped,) = await watch.response()
        await here.omni.gate.close()
        with refused("UNAVAILABLE"):
            await watch.call.read()
        with refused("UNAVAILABLE"):
            await here.bm.list(NAMESPACE, KIND)
        await here.omni.gate.open()
        again = Client(here.omni.endpoint, await here.omni.desk.renew_key("bm"))
        await again.create(made(NAMESPACE, KIND, "a"))
        watch = again.watch(NAMESPACE, KIND, start_from_bookmark=bootstrapped.bookmark)
        assert await watch.events(1) == ["CREATED a"]
        await again.channel.close()

    served(use)


def test_connections_are_cut_and_stalled() -> None:
    """A cut one comes back by itself; a stalled one says nothing until its bytes are let go."""

    async def use(here: FakeSite) -> None:
        await here.bm.list(NAMESPACE, KIND)
        watch = here.bm.watch(NAMESPACE, KIND)
        await watch.response()
        here.omni.gate.cut()
        with refused("UNAVAILABLE"):
            await watch.call.read()
        await here.admin.list(names.INFRA, names.PROVIDER)
        here.omni.gate.stall()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(here.admin.list(names.INFRA, names.PROVIDER))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            here.omni.gate.stall(stalled=False)
        assert len(waiting.result()) == 1

    served(use)


def test_tls_with_its_own_ca(tmp_path: Path) -> None:
    """With its CA the client gets through; without it, it does not."""

    async def use(here: FakeSite) -> None:
        assert here.omni.endpoint.startswith("https://")
        assert len(await here.bm.list(names.INFRA, names.PROVIDER_STATUS)) == 1
        address = here.omni.endpoint.removeprefix("https://")
        async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials()) as channel:
            with refused("UNAVAILABLE"):
                await channel.unary_unary("/cosi.resource.State/Get")(b"")

    served(use, Options(folder=tmp_path, tls=True))


# --- looking ------------------------------------------------------------------------------------------------------------


def test_the_log_has_what_was_written_in_order() -> None:
    """Writes and attempts, with who, what and how it ended; reads are not in it."""

    async def use(here: FakeSite) -> None:
        await here.join()
        await here.bm.set_finalizers((await here.infra_machine())[0], ["ours"])
        with refused("PERMISSION_DENIED"):
            await here.bm.create(made(names.INFRA, names.INFRA_MACHINE, "forged"))
        await here.say_status(power_state=1, ready_to_use=True)
        log: list[Any] = here.omni.desk.log()
        assert [(each["method"], each["resource"]["type"], each["code"]) for each in log] == [
            ("Create", names.PROVIDER_STATUS, "OK"),
            ("Update", names.INFRA_MACHINE, "OK"),
            ("Create", names.INFRA_MACHINE, "PERMISSION_DENIED"),
            ("Create", names.INFRA_MACHINE_STATUS, "OK"),
        ]
        assert log[1]["resource"]["finalizers"] == ["ours"]
        assert log[3]["resource"]["spec"]["ready_to_use"] is True
        assert log[3]["caller"] == "bm@infra-provider.serviceaccount.omni.sidero.dev"
        assert here.omni.desk.log(after=log[2]["number"]) == log[3:]
        assert here.omni.desk.count("Create", "PERMISSION_DENIED") == 1

    served(use)


def test_the_desk_over_http(tmp_path: Path) -> None:
    """Verbs, faults and views for other processes, with errors that say what was wrong."""
    socket = tmp_path / "desk.sock"

    async def use(here: FakeSite) -> None:
        async with DeskClient(socket) as desk:
            assert await desk.do("create_provider", provider="two") is not None
            assert [each["id"] for each in await desk.list("providers")] == ["bm", "two"]
            await here.join()
            await desk.do("accept", machine=MACHINE)
            machine: Any = await desk.machine(MACHINE)
            assert machine["infra"]["spec"]["acceptance_status"] == "ACCEPTED"
            request = await desk.do("reboot", machine=MACHINE)
            assert (await desk.machine(MACHINE))["config"]["requested_reboot_id"] == request  # type: ignore[index]
            assert len(await desk.list("machines")) == 1
            assert [each["method"] for each in await desk.list("log")] == ["Create"]
            assert await desk.list("calls")
            for verb, arguments, status in (
                ("reject", {"machine": MACHINE}, 409),
                ("accept", {}, 400),
                ("nonsense", {}, 400),
                ("release", {"machine": "nobody"}, 404),
            ):
                with pytest.raises(UnixHttpError) as caught:
                    await desk.do(verb, **arguments)
                assert caught.value.status == status
            await desk.fault("refuse", method="Get", code="INTERNAL")
            with refused("INTERNAL"):
                await here.bm.get(NAMESPACE, KIND, "a")
            await desk.fault("skew", seconds=600)
            with refused("UNAUTHENTICATED"):
                await here.bm.get(NAMESPACE, KIND, "a")
            await desk.fault("skew", seconds=0)
            await desk.fault("down")
            with refused("UNAVAILABLE"):
                await here.bm.get(NAMESPACE, KIND, "a")

    served(use, Options(desk=socket))


def test_every_verb_is_a_method() -> None:
    """A name that nobody knows would be found by a user only."""

    async def use(here: FakeSite) -> None:
        assert all(callable(getattr(here.omni.desk, verb)) for verb in VERBS)
        assert set(DeskHttp(here.omni.desk, here.omni.gate)._faults) == FAULTS

    served(use)


def test_stand_in_machines_speak_http() -> None:
    """Provision, events and what Omni sees, at the address that the join documents name."""

    async def use(here: FakeSite) -> None:
        (provider,) = here.omni.desk.providers()
        join: Any = provider["join"]
        assert here.omni.machines_url.removeprefix("http://") in join["config"]["kernel_args"][0]
        async with aiohttp.ClientSession(here.omni.machines_url) as http:

            async def post(path: str, **body: object) -> tuple[int, Any]:
                async with http.post(path, json={"uuid": MACHINE, **body}) as answer:
                    return answer.status, await answer.json()

            status, pending = await post("/provision", token=await here.join_token())
            assert (status, pending["pending"]) == (200, True)
            joined = await post("/provision", token=await here.join_token(), unique_token=pending["unique_token"])
            assert joined == (200, {"pending": False, "unique_token": "", "conflict": False})
            assert (await post("/provision", token="wrong"))[0] == 409
            assert (await post("/event", sequence="boot", action="START"))[0] == 404
            await here.omni.desk.accept(MACHINE)
            assert await post("/event", sequence="boot", action="START") == (200, {"installed": True})
            assert await post("/seen", connected=True, system_disk="/dev/vda") == (200, {})
            await here.omni.desk.allocate(MACHINE, version="1.14.0")
            async with http.get(f"/machines/{MACHINE}") as answer:
                assert (await answer.json())["version"] == "1.14.0"

    served(use)


# --- being killed -------------------------------------------------------------------------------------------------------


async def start(folder: Path, *arguments: str) -> tuple[asyncio.subprocess.Process, dict[str, str]]:
    command = ("-m", "provider.lab.omni", "--state", str(folder), *arguments)
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return process, json.loads(await process.stdout.readline())


def test_a_killed_fake_knows_what_it_knew(tmp_path: Path) -> None:
    """After SIGKILL all is as it was, but health; what it was about to do, it does."""

    async def main() -> None:
        process, where = await start(tmp_path)
        port = where["endpoint"].rpartition(":")[2]
        async with DeskClient(tmp_path / "desk.sock") as desk:
            key = str(await desk.do("create_provider", provider="bm"))
            bm = Client(where["endpoint"], key)
            await bm.announce()
            await bm.create(made(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm"))
            await bm.create(made(NAMESPACE, KIND, "a", b"kept", rack="7"), "me")
            watch = bm.watch(NAMESPACE, KIND, bootstrap_bookmark=True)
            await watch.response()
            (noop,) = await watch.response()
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await bm.channel.close()
        process, where = await start(tmp_path, "--listen", f"127.0.0.1:{port}")
        assert where["endpoint"].endswith(port)
        bm = Client(where["endpoint"], key)
        kept = await bm.get(NAMESPACE, KIND, "a")
        assert (kept.spec.proto_spec, kept.metadata.owner, kept.metadata.labels["rack"]) == (b"kept", "me", "7")
        assert (await bm.get(names.INFRA, names.PROVIDER_STATUS, "bm")).metadata.version == "1"
        with refused("NOT_FOUND"):
            await bm.get(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, "bm")
        again = bm.watch(NAMESPACE, KIND, start_from_bookmark=noop.bookmark)
        await again.response()
        await bm.create(made(NAMESPACE, KIND, "b"))
        assert await again.events(1) == ["CREATED b"]
        async with DeskClient(tmp_path / "desk.sock") as desk:
            assert len(await desk.list("log")) == 4
        await bm.channel.close()
        process.terminate()
        assert await process.wait() == 0

    asyncio.run(main())

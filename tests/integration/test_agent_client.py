"""The agent's client over real TLS, against a provider that behaves as told, and one that is not ours."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from provider.agent import client
from provider.domain.errors import PermanentError, RefusedError, TemporaryError
from provider.domain.inventory import Cpu, Disk, FirmwareKind, Inventory, Nic, System
from provider.domain.operation import DiskWiped, OperationKind, WipeMethod, WipeReport
from provider.http import agents, listener, tls
from provider.wire import agent as wire
from tests.integration.agent_provider import AgentProvider, Certificates

ENROLMENT = wire.Enrolment("ticket-1", "ab" * 16, "uuid", "SN1", "", "", ("52:54:00:00:00:01",), "uefi", "v1")
DISK = Disk("/dev/vda", 1 << 30, "S1", supports_discard=True)
NIC = Nic("eth0", "52:54:00:00:00:01", link=True, booted_from=True)
INVENTORY = Inventory(System(uuid="uuid"), FirmwareKind.UEFI, "x86_64", Cpu(cores=4), 1 << 34, (DISK,), (NIC,))
PLAN = {
    "machine_id": "m-1",
    "wipe_id": "w-1",
    "disks": [
        {"serial": "S1", "wwn": "", "path": "/dev/vda", "size_bytes": 1 << 30, "method": "zero", "reason": "no discard"}
    ],
    "refused": [],
}


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[AgentProvider]:
    """A provider on loopback."""
    with AgentProvider(tmp_path).running() as running:
        yield running


@pytest.fixture
def agent(provider: AgentProvider) -> Iterator[client.Provider]:
    """A client that trusts and is enrolled."""
    found = connect(provider)
    found.enrol(ENROLMENT)
    yield found
    found.close()


def connect(provider: AgentProvider) -> client.Provider:
    """Make a client that trusts."""
    found = client.Provider(provider.url, provider.boot_url, provider.certificates.ca_sha256)
    found.trust()
    return found


def test_a_whole_life(provider: AgentProvider, agent: client.Provider) -> None:
    """Breaks if a call of the table in wire.agent is not made as it stands there."""
    assert provider.expect("/enrol", 5).body == {**dataclasses.asdict(ENROLMENT), "macs": ["52:54:00:00:00:01"]}
    agent.report(INVENTORY)
    call = provider.expect("/inventory", 5)
    assert (call.method, call.token, call.body["disks"][0]["serial"]) == ("PUT", "token-1", "S1")
    provider.work.put({"id": "op-1", "machine_id": "m-1", "kind": "wipe", "wipe_plan": PLAN, "news": 1})
    work = agent.next_work(0.1)
    assert work is not None
    assert work.kind is OperationKind.WIPE
    assert work.wipe_plan is not None
    assert work.wipe_plan.disks[0].method is WipeMethod.ZERO
    assert agent.next_work(0.01) is None
    assert agent.progress("op-1", wire.Progress(30, "erasing"))
    assert provider.expect("/progress", 5).body == {"percent": 30, "doing": "erasing"}
    report = WipeReport((DiskWiped("S1", "", "/dev/vda", 1 << 30, "zero", verified=True),))
    agent.result("op-1", wire.Result(error="", wipe_report=report))
    assert provider.expect("/result", 5).body["wipe_report"]["disks"][0]["verified"]


def test_expired_certificate_of_the_pinned_ca_is_good(provider: AgentProvider) -> None:
    """Breaks if a machine whose clock says 1970, or 2099, cannot enrol. (The test's certificates expired in 2020.)"""
    found = connect(provider)
    assert found.enrol(ENROLMENT).machine_id == "m-1"
    found.close()


def test_another_ca_is_refused(provider: AgentProvider) -> None:
    """Breaks if somebody on the network can hand the agent a CA of his own."""
    found = client.Provider(provider.url, provider.boot_url, "00" * 32)
    with pytest.raises(PermanentError, match="fingerprint"):
        found.trust()


def test_server_of_another_ca_gets_no_ticket(provider: AgentProvider, tmp_path: Path) -> None:
    """Breaks if the ticket goes to a server that the pinned CA did not sign."""
    (tmp_path / "other").mkdir()
    with AgentProvider(tmp_path / "other").running() as impostor:
        found = client.Provider(impostor.url, provider.boot_url, provider.certificates.ca_sha256)
        found.trust()
        with pytest.raises(TemporaryError, match="certificate verify failed"):
            found.enrol(ENROLMENT)
        assert impostor.calls.empty()


def test_server_of_another_name_gets_no_ticket(tmp_path: Path) -> None:
    """Breaks if any certificate of the CA will do, whatever it was made for."""
    other = Certificates(tmp_path, name="console.bootwright.internal")
    provider = AgentProvider(tmp_path, certificates=other)
    with provider.running():
        found = connect(provider)
        with pytest.raises(TemporaryError, match=r"[Hh]ostname mismatch"):
            found.enrol(ENROLMENT)


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, client.TokenRefusedError), (403, RefusedError), (503, TemporaryError), (500, TemporaryError)],
)
def test_statuses(provider: AgentProvider, agent: client.Provider, status: int, error: type[Exception]) -> None:
    """Breaks if a busy provider is taken for one that refuses, or the other way round."""
    provider.answers["/agent/v1/inventory"] = [status]
    with pytest.raises(error):
        agent.report(INVENTORY)
    agent.report(INVENTORY)


def test_410_is_an_answer(provider: AgentProvider, agent: client.Provider) -> None:
    """Breaks if an operation that nobody wants any more is not stopped, or its result is sent for ever."""
    provider.answers["/agent/v1/operations/op-1/progress"] = [410]
    provider.answers["/agent/v1/operations/op-1/result"] = [410]
    assert not agent.progress("op-1", wire.Progress(1))
    agent.result("op-1", wire.Result(error=""))


def test_work_that_makes_no_sense_is_temporary(provider: AgentProvider, agent: client.Provider) -> None:
    """Breaks if a confused provider ends the agent."""
    provider.work.put({"no": "id"})
    with pytest.raises(TemporaryError, match="no sense"):
        agent.next_work(0.1)


def test_enrolment_that_makes_no_sense_is_temporary(provider: AgentProvider) -> None:
    """Breaks if a confused provider ends the agent before it has begun."""
    provider.answers["/agent/v1/enrol"] = [200]
    found = connect(provider)
    with pytest.raises(TemporaryError, match="no sense"):
        found.enrol(ENROLMENT)
    found.close()


def test_provider_that_comes_back(tmp_path: Path) -> None:
    """Breaks if a restart of the provider, which breaks the connection, needs more than another try."""
    provider = AgentProvider(tmp_path)
    with provider.running():
        found = connect(provider)
        found.enrol(ENROLMENT)
    with pytest.raises(TemporaryError):
        found.report(INVENTORY)
    again = AgentProvider(tmp_path, certificates=provider.certificates, ports=provider.ports)
    with again.running():
        found.report(INVENTORY)
        assert again.expect("/inventory", 5).token == "token-1"
    found.close()


def test_connection_that_the_server_closed_is_opened_with_tls(provider: AgentProvider, agent: client.Provider) -> None:
    """Breaks if http.client opens a closed connection again by itself: without TLS, and with our token in it."""
    provider.close_after_answer = True
    agent.report(INVENTORY)
    agent.report(INVENTORY)
    assert provider.expect("/inventory", 5).token == "token-1"
    assert provider.expect("/inventory", 5).token == "token-1"


def test_silent_provider_has_a_deadline(provider: AgentProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if a provider that accepts and never answers holds the agent for ever."""
    monkeypatch.setattr(client, "_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = client.Provider(
            f"https://127.0.0.1:{silent.getsockname()[1]}", provider.boot_url, provider.certificates.ca_sha256
        )
        found.trust()
        with pytest.raises(TemporaryError):
            found.enrol(ENROLMENT)


def test_installer_needs_no_token(provider: AgentProvider) -> None:
    """Breaks if an installer, which has a ticket only, cannot say that it is done."""
    found = connect(provider)
    found.installed(wire.Installed("install-ticket"))
    call = provider.expect("/installed", 5)
    assert (call.token, call.body) == ("", {"ticket": "install-ticket", "error": ""})
    found.close()


class Desk:
    """The provider's side of the seam, as small as can be."""

    def __init__(self) -> None:
        self.inventories: list[Inventory] = []
        self.results: list[wire.Result] = []

    async def enrol(self, enrolment: wire.Enrolment, source: str) -> wire.Enrolled:
        if enrolment.ticket != "ticket-1":
            raise RefusedError("unknown ticket")
        return wire.Enrolled("token-9", "m-9")

    async def machine_of(self, token: str) -> str:
        if token != "token-9":
            raise RefusedError("unknown token")
        return "m-9"

    async def inventory(self, machine_id: str, inventory: Inventory) -> None:
        self.inventories.append(inventory)

    async def next_work(self, machine_id: str, wait: float) -> wire.Work | None:
        return wire.Work("op-9", machine_id, OperationKind.REBOOT) if wait > 0.5 else None

    async def progress(self, machine_id: str, operation_id: str, progress: wire.Progress) -> None:
        """Take it."""

    async def result(self, machine_id: str, operation_id: str, result: wire.Result) -> None:
        self.results.append(result)

    async def installed(self, installed: wire.Installed, source: str) -> None:
        """Take it."""


def test_with_the_real_agent_server(tmp_path: Path) -> None:
    """Breaks if agent and provider read `wire.agent` in two ways: this is the real server with its real certificates."""
    authority = tls.Authority.open(tmp_path, datetime.now(UTC))
    desk = Desk()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        server = listener.Listener("agent server", agents.application(desk), tls=authority.server_context())
        server.bind_tcp("127.0.0.1", port)
        ready.set()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            await stop.wait()
            task.cancel()

    ready = threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(5)
        found = client.Provider(f"https://127.0.0.1:{port}", "http://127.0.0.1:1", authority.ca_sha256)
        found.believe(authority.ca_pem)
        with pytest.raises(RefusedError):
            found.enrol(dataclasses.replace(ENROLMENT, ticket="stolen"))
        assert found.enrol(ENROLMENT) == wire.Enrolled("token-9", "m-9")
        found.report(INVENTORY)
        assert desk.inventories == [INVENTORY]
        assert found.next_work(0.1) is None
        assert found.next_work(1) == wire.Work("op-9", "m-9", OperationKind.REBOOT)
        assert found.progress("op-9", wire.Progress(5, "x"))
        report = WipeReport((DiskWiped("S1", "", "/dev/vda", 1, "zero", verified=False, error="x"),))
        found.result("op-9", wire.Result("x", report))
        assert desk.results == [wire.Result("x", report)]
        found.installed(wire.Installed("t"))
        found.close()
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()

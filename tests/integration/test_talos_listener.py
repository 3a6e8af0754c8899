"""The listener for Talos agents against fakes that behave, and fakes that do not; a desk that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from provider.domain.errors import PermanentError, RefusedError, TemporaryError
from provider.http.talos_agents import Limits, TalosAgent, TalosAgentListener, tls
from provider.http.tls import Authority
from provider.kit.clock import utc_now
from provider.lab.omni.talos_agent.agent import TalosAgent as FakeAgent
from provider.lab.omni.talos_agent.faults import Faults
from provider.lab.omni.talos_agent.machine import Ipmi, Machine, WipeState
from provider.wire import talos_agent as wire
from provider.wire.protobuf import Empty
from tests.integration.talos_rig import free_port, until

A_WHILE = timedelta(seconds=5)
QUESTION = wire.GetPowerManagementRequest(ipmi=wire.IpmiQuestion("ops" * 50))


class Desk:
    """Keeps each agent as long as it is there."""

    def __init__(self) -> None:
        self.agents: dict[str, TalosAgent] = {}
        self.ended: list[str | None] = []
        self.failure: Exception | None = None

    async def serve(self, uuid: str, address: str, agent: TalosAgent) -> None:
        if self.failure is not None:
            raise self.failure
        self.agents[uuid] = agent
        try:
            await agent.gone()
        finally:
            if self.agents.get(uuid) is agent:
                del self.agents[uuid]
            self.ended.append(agent.why_gone)


class Rig:
    def __init__(self, limits: Limits, credentials: Callable[[str], grpc.ServerCredentials] | None) -> None:
        self.desk = Desk()
        self.port = free_port()
        self.listener = TalosAgentListener(self.desk, self.port, credentials, limits)
        self.scheme = "http" if credentials is None else "https"
        self.running: asyncio.Task[None]

    @contextlib.asynccontextmanager
    async def fake(self, uuid: str = "a", faults: Faults | None = None, **more: Any) -> AsyncIterator[FakeAgent]:
        address = f"{self.scheme}://127.0.0.1:{self.port}"
        machine = Machine(uuid, Ipmi("10.0.0.9"))
        fake = FakeAgent(address, machine, faults or Faults(), **{"restarts_after": 0.05, **more})
        async with asyncio.TaskGroup() as group:
            running = group.create_task(fake.run())
            try:
                yield fake
            finally:
                running.cancel()

    async def agent(self, uuid: str = "a") -> TalosAgent:
        """Wait for it."""
        await until(lambda: uuid in self.desk.agents)
        return self.desk.agents[uuid]

    async def stop(self) -> float:
        """Seconds that it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.running.cancel()
        await asyncio.wait([self.running])
        return loop.time() - began


def listening(
    use: Callable[[Rig], Awaitable[None]],
    limits: Limits | None = None,
    credentials: Callable[[str], grpc.ServerCredentials] | None = None,
) -> None:
    async def main() -> None:
        rig = Rig(limits or Limits(), credentials)
        rig.listener.open("127.0.0.1")
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            rig.running = group.create_task(rig.listener.run())
            try:
                await use(rig)
            finally:
                assert await rig.stop() < 2

    asyncio.run(main())


# --- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [65536, 7])
def test_calls_go_through(window: int) -> None:
    """A request that is larger than the agent's window is never whole."""

    async def use(rig: Rig) -> None:
        async with rig.fake(faults=Faults(window=window)):
            agent = await rig.agent()
            many = [agent.call(wire.GET_POWER_MANAGEMENT, QUESTION, A_WHILE) for _ in range(20)]
            for found in await asyncio.gather(*many):
                assert found.ipmi == wire.Ipmi("10.0.0.9", 623)

    listening(use)


def test_call_that_nobody_waits_for_is_cancelled() -> None:
    """A wipe goes on in the agent after we have given it up."""

    async def use(rig: Rig) -> None:
        async with rig.fake(faults=Faults(wipe_seconds=30)) as fake:
            agent = await rig.agent()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await agent.call(wire.WIPE_DISKS, wire.WipeDisksRequest(), A_WHILE)
            await until(lambda: [wipe.state for wipe in fake.machine.wipes] == [WipeState.BROKEN])
            with pytest.raises(TemporaryError, match=r"did not answer WipeDisks within 0.2 s"):
                await agent.call(wire.WIPE_DISKS, wire.WipeDisksRequest(True), timedelta(seconds=0.2))
            await until(lambda: [wipe.state for wipe in fake.machine.wipes] == [WipeState.BROKEN] * 2)
            await agent.call(wire.HELLO, Empty(), A_WHILE)

    listening(use)


def test_calls_fail_when_the_tunnel_ends() -> None:
    """Whoever waits for an agent that is gone waits for ever."""

    async def use(rig: Rig) -> None:
        async with rig.fake(faults=Faults(wipe_seconds=30)) as fake:
            agent = await rig.agent()
            async with asyncio.TaskGroup() as group:
                wiping = group.create_task(_failure(agent.call(wire.WIPE_DISKS, wire.WipeDisksRequest(), A_WHILE)))
                await until(lambda: bool(fake.machine.wipes))
                fake._cut()
            assert isinstance(wiping.result(), TemporaryError)
            with pytest.raises(TemporaryError, match="the agent's tunnel is over"):
                await agent.call(wire.HELLO, Empty(), A_WHILE)
            assert await rig.agent() is not agent

    listening(use)


async def _failure(call: Awaitable[object]) -> Exception | None:
    try:
        await call
    except (TemporaryError, PermanentError) as error:
        return error
    return None


def test_what_the_agent_refuses_is_told() -> None:
    """Nobody learns why it did not work."""

    async def use(rig: Rig) -> None:
        async with rig.fake(faults=Faults(knows=("Hello",))):
            agent = await rig.agent()
            with pytest.raises(PermanentError, match=r"WipeDisks not implemented \(UNIMPLEMENTED\)"):
                await agent.call(wire.WIPE_DISKS, wire.WipeDisksRequest(), A_WHILE)
            await agent.call(wire.HELLO, Empty(), A_WHILE)

    listening(use)


# --- agents that misbehave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        (Faults(garbage=b"\xff\xff\xff"), "what is no frame"),
        (Faults(garbage=b"\x08\x01\x3a\x00"), "first frame is not its settings"),
        (Faults(revisions=(7,)), "none of our protocol revisions"),
        (Faults(huge_frame=200_000), "a frame of 200"),
        (Faults(huge_frame=1_000_000), ""),
    ],
    ids=["garbage", "no settings", "revisions", "large frame", "huge frame"],
)
def test_agent_that_breaks_a_rule_is_sent_away(faults: Faults, why: str) -> None:
    """One that speaks another language stays, or takes others with it."""

    async def use(rig: Rig) -> None:
        async with rig.fake("good"), rig.fake("bad", faults) as bad:
            good = await rig.agent("good")
            await until(lambda: bad.machine.tunnels > 1)
            await until(lambda: bool(rig.desk.ended))
            assert why in str(rig.desk.ended[0])
            await good.call(wire.HELLO, Empty(), A_WHILE)

    with capture_logs() as logs:
        listening(use)
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def test_answers_are_bounded() -> None:
    """An agent fills our memory with one answer."""

    async def use(rig: Rig) -> None:
        async with rig.fake(faults=Faults(padding=60_000)) as fake:
            agent = await rig.agent()
            await agent.call(wire.HELLO, Empty(), A_WHILE)
            fake.faults.padding = 100_000
            for ignores in (False, True):
                fake.faults.ignores_windows = ignores
                with pytest.raises(PermanentError, match="65536 are the limit"):
                    await agent.call(wire.HELLO, Empty(), A_WHILE)
            fake.faults.padding = 0
            await agent.call(wire.HELLO, Empty(), A_WHILE)
            assert fake.machine.tunnels == 1

    listening(use)


def test_flood_slows_down_nobody_else() -> None:
    """One agent that sends without end keeps the loop busy (invariant 6)."""

    async def use(rig: Rig) -> None:
        async with rig.fake("good"), _flooding(rig):
            good = await rig.agent("good")
            bad = await rig.agent(FLOODING)
            loop = asyncio.get_running_loop()
            waits = []
            for _ in range(20):
                began = loop.time()
                await good.call(wire.HELLO, Empty(), A_WHILE)
                waits.append(loop.time() - began)
                await asyncio.sleep(0.02)
            assert sorted(waits)[10] < 0.1
            assert bad.why_gone is None, "it is read slowly, no more"

    listening(use)


FLOODING = "4c4c4544-0042-3510-8052-b4c04f4e4e66"


@contextlib.asynccontextmanager
async def _flooding(rig: Rig) -> AsyncIterator[None]:
    """In a process of its own: it would slow down this one."""
    module = ("-m", "provider.lab.omni.talos_agent", "--floods")
    where = ("--address", f"127.0.0.1:{rig.port}", "--uuid", FLOODING)
    process = await asyncio.create_subprocess_exec(sys.executable, *module, *where, stdout=asyncio.subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


def test_dead_agent_is_found_out() -> None:
    """A machine whose plug was pulled is connected for ever."""

    async def use(rig: Rig) -> None:
        async with rig.fake() as fake:
            agent = await rig.agent()
            fake.deafen()
            await agent.gone()

    listening(use, Limits(ping=timedelta(milliseconds=300)))


def test_stop_does_not_wait_for_agents_that_are_deaf() -> None:
    """One dead machine holds up the end of the daemon (`listening` looks at the time)."""

    async def use(rig: Rig) -> None:
        async with rig.fake() as fake:
            agent = await rig.agent()
            fake.deafen()
            await _failure(agent.call(wire.HELLO, Empty(), timedelta(milliseconds=100)))
            assert await rig.stop() < 2
            assert agent.why_gone is not None

    listening(use)


def test_agent_that_never_reads_is_let_go() -> None:
    """Frames pile up for an agent that takes none, or the end of its tunnel fails because one is still being written."""

    async def use(rig: Rig) -> None:
        async with rig.fake() as fake:
            agent = await rig.agent()
            fake.deafen()
            large = wire.GetPowerManagementRequest(ipmi=wire.IpmiQuestion("x" * 60_000))
            calls = [agent.call(wire.GET_POWER_MANAGEMENT, large, timedelta(seconds=0.5)) for _ in range(40)]
            failures = await asyncio.gather(*map(_failure, calls))
            assert all(isinstance(failure, TemporaryError) for failure in failures)
            agent.end("it does not answer")
            await until(lambda: bool(rig.desk.ended))
        async with rig.fake():
            await (await rig.agent()).call(wire.HELLO, Empty(), A_WHILE)

    with capture_logs() as logs:
        listening(use)
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def test_tunnels_are_bounded() -> None:
    """One address takes all places, or all addresses take all memory."""

    async def use(rig: Rig) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(3):
                await stack.enter_async_context(rig.fake(f"one-{number}", source="127.0.0.2", restarts_after=5.0))
            await until(lambda: len(rig.desk.agents) == 2)
            other = await stack.enter_async_context(rig.fake("other", source="127.0.0.3"))
            await rig.agent("other")
            said: list[str] = []
            await stack.enter_async_context(rig.fake("last", source="127.0.0.4", say=said.append))
            await until(lambda: any("there are 3 tunnels already" in each for each in said))
            assert other.machine.tunnels == 1
            assert len(rig.desk.agents) == 3

    listening(use, replace(Limits(), tunnels=3, tunnels_per_address=2))


@pytest.mark.parametrize("first", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"], ids=["silent", "idle"])
def test_connection_without_a_tunnel_is_closed(first: bytes) -> None:
    """Connections that nobody uses fill our descriptors."""

    async def use(rig: Rig) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(first)
        while await reader.read(1000):
            pass
        writer.close()

    listening(use, Limits(idle=timedelta(seconds=0.5)))


def test_connections_are_bounded() -> None:
    """One peer that opens connections without end takes all our descriptors."""

    async def use(rig: Rig) -> None:
        connections = [await asyncio.open_connection("127.0.0.1", rig.port) for _ in range(8)]
        ends = [asyncio.wait_for(reader.read(1000), 1) for reader, _ in connections]
        read = await asyncio.gather(*ends, return_exceptions=True)
        assert len([each for each in read if each == b"" or isinstance(each, ConnectionError)]) >= 4
        for _, writer in connections:
            writer.close()

    listening(use, Limits(tunnels=2))


@pytest.mark.parametrize("uuid", ["", "x" * 200], ids=["none", "long"])
def test_agent_without_a_machine_is_sent_away(uuid: str) -> None:
    """A tunnel without a name is nobody's, and stays."""

    async def use(rig: Rig) -> None:
        said: list[str] = []
        async with rig.fake(uuid, say=said.append):
            await until(lambda: any("machine-id is missing or too long" in each for each in said))
        assert not rig.desk.agents

    listening(use)


@pytest.mark.parametrize("uuid", ["\x1b[31m", "a\r\nb", "\0", "x" * 10_000], ids=["escape", "line", "nul", "long"])
def test_machine_id_that_is_none(uuid: str) -> None:
    """A name that is no text, or has no end, is in the log as it is, or takes other agents with it."""

    async def use(rig: Rig) -> None:
        said: list[str] = []
        async with rig.fake("good"), rig.fake(uuid, say=said.append):
            good = await rig.agent("good")
            await until(lambda: any(each.startswith("ended") for each in said) or uuid in rig.desk.agents)
            await good.call(wire.HELLO, Empty(), A_WHILE)

    with capture_logs() as logs:
        listening(use)
    assert not [entry for entry in logs if entry["log_level"] == "error"]
    assert all(len(str(entry)) < 1000 for entry in logs)


def test_other_methods_are_unknown() -> None:
    """Whoever calls something else gets a traceback."""

    async def use(rig: Rig) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
            for method in ("/grpctunnel.v1.TunnelService/OpenTunnel", "/management.AgentService/Hello"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(method)(b"")
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    listening(use)


# --- the desk ----------------------------------------------------------------------------------------------------------


def test_desk_that_fails_is_logged_once_and_harms_no_other() -> None:
    """A mistake of ours at one machine ends the service for all."""

    async def use(rig: Rig) -> None:
        async with rig.fake("good"):
            good = await rig.agent("good")
            rig.desk.failure = ZeroDivisionError("ours")
            said: list[str] = []
            async with rig.fake("bad", restarts_after=60.0, say=said.append):
                await until(lambda: "ended: the provider made a mistake" in said)
            await good.call(wire.HELLO, Empty(), A_WHILE)

    with capture_logs() as logs:
        listening(use)
    failed = [entry for entry in logs if entry["event"] == "talos_agent.failed"]
    assert len(failed) == 1
    assert failed[0]["exc_info"]


def test_agent_hears_why_it_is_sent_away() -> None:
    """Nobody who looks at the machine's screen learns why its agent ends again and again."""

    async def use(rig: Rig) -> None:
        rig.desk.failure = RefusedError("its address is another machine's")
        said: list[str] = []
        async with rig.fake(say=said.append):
            await until(lambda: "ended: its address is another machine's" in said)

    listening(use)


# --- addresses that come and go ----------------------------------------------------------------------------------------


def test_addresses_come_and_go() -> None:
    """An interface that comes later is not served, or one that goes takes the tunnels of others with it."""

    async def use(rig: Rig) -> None:
        async with rig.fake("first"):
            first = await rig.agent("first")
            rig.listener.open("127.0.0.5")
            address = f"127.0.0.5:{rig.port}"
            later = FakeAgent(address, Machine("later"), restarts_after=0.05)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(later.run())
                agent = await rig.agent("later")
                rig.listener.close("127.0.0.5")
                rig.listener.open("127.0.0.5")
                await agent.call(wire.HELLO, Empty(), A_WHILE)
                assert agent.why_gone is None, "closed and opened in one turn: nothing happens"
                rig.listener.close("127.0.0.5")
                await agent.gone()
                await until(lambda: not _answers("127.0.0.5", rig.port))
                rig.listener.open("127.0.0.5")
                await rig.agent("later")
                running.cancel()
            assert first.why_gone is None

    listening(use)


def _answers(address: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((address, port)) == 0


def test_port_that_is_taken_is_explained() -> None:
    """An operator reads that gRPC failed to bind."""

    async def use(rig: Rig) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.6", rig.port))
            other.listen()
            with pytest.raises(PermanentError, match=r"cannot listen on 127\.0\.0\.6.*another program") as caught:
                rig.listener.open("127.0.0.6")
            assert "ss -tlpn" in caught.value.hint
        rig.listener.open("127.0.0.6")
        with pytest.raises(PermanentError, match="no such address"):
            rig.listener.open("192.0.2.1")

    listening(use)


def test_listener_that_never_ran_gives_its_port_back() -> None:
    """A daemon that could not start leaves its port taken, in tests and in a second try."""

    async def main() -> None:
        port = free_port()
        listener = TalosAgentListener(Desk(), port)
        listener.open("127.0.0.1")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(listener.run())
            await asyncio.sleep(0)
            running.cancel()
        await until(lambda: not _answers("127.0.0.1", port))

    asyncio.run(main())


# --- TLS ---------------------------------------------------------------------------------------------------------------


def test_tls_for_the_address_that_is_dialled(tmp_path: Path) -> None:
    """The agent verifies the address that it dials, and does not find it in the certificate."""
    authority = Authority.open(tmp_path / "ours", utc_now())
    stranger = Authority.open(tmp_path / "theirs", utc_now())

    async def use(rig: Rig) -> None:
        async with rig.fake(trust=_trust(authority)):
            await (await rig.agent()).call(wire.HELLO, Empty(), A_WHILE)
        said: list[str] = []
        async with rig.fake("b", trust=_trust(stranger), say=said.append, restarts_after=60.0):
            await until(lambda: any("CERTIFICATE_VERIFY_FAILED" in each for each in said))
        old = _trust(authority)
        with pytest.warns(DeprecationWarning, match="TLSVersion"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        said.clear()
        async with rig.fake("c", trust=old, say=said.append, restarts_after=60.0):
            await until(lambda: bool(said))
            assert "connected" not in said
        assert set(rig.desk.agents) <= {"a"}

    listening(use, credentials=tls(authority))


def _trust(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.ca_pem.decode())
    context.set_alpn_protocols(["h2"])
    return context

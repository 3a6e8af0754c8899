"""The agent: its five methods (internal/service/service.go of siderolabs/talos-metal-agent), called through its tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from provider.lab.omni.talos_agent import machine as machines
from provider.lab.omni.talos_agent import tunnel, wire
from provider.lab.omni.talos_agent.faults import Faults
from provider.lab.omni.talos_agent.machine import Machine, Wipe, WipeState
from provider.lab.omni.talos_agent.stream import EndedError, Stream
from provider.lab.omni.talos_agent.tunnel import CallError, Tunnel

T = TypeVar("T")

SERVICE = "management.AgentService"

INTERNAL = 13


class DiedError(Exception):
    """The agent's process ends here."""


@dataclass(eq=False)
class TalosAgent:
    """An agent on a machine. `run` is what Talos makes of it: it is started again whenever it ends."""

    address: str
    """HOST:PORT, or that with http:// or https:// in front."""
    machine: Machine
    faults: Faults = field(default_factory=Faults)
    trust: ssl.SSLContext | None = None
    source: str = ""
    """The address to call from."""
    restarts_after: float = 5.0
    """Seconds."""
    say: Callable[[str], None] = lambda _: None
    """Told what happens."""
    _flights: dict[tuple[str, bytes], asyncio.Future[bytes]] = field(default_factory=dict)
    _stream: Stream | None = None

    async def run(self) -> None:
        """Serve for ever, until the machine reboots."""
        while True:
            reboots = self.machine.reboots
            try:
                await self.serve()
            except (EndedError, OSError, DiedError) as error:
                self.say(f"ended: {error}")
            if self.machine.reboots != reboots:
                return
            await asyncio.sleep(self.restarts_after)

    async def serve(self) -> None:
        """
        Serve through one tunnel, until it ends.

        Raises:
            EndedError: When the provider ended it, or the connection broke.
            OSError: If nobody is there.
            DiedError: As demanded.
        """
        uuid = self.faults.says_uuid or self.machine.uuid
        negotiates = [tunnel.NEGOTIATE] if self.faults.negotiates else []
        metadata = [("machine-id", uuid), *negotiates]
        stream = self._stream = await Stream.open(self.address, tunnel.METHOD, metadata, self.trust, self.source)
        try:
            await stream.receive_headers()
            async with _unpacked(), asyncio.TaskGroup() as group:
                served = Tunnel(stream.send, self._call, group, self.faults)
                if self.faults.negotiates and stream.headers.get(tunnel.NEGOTIATE[0]) == tunnel.NEGOTIATE[1]:
                    await self._open(served, stream, group)
                self.machine.tunnels += 1
                self.say("connected")
                while True:
                    await served.received(await stream.receive())
        finally:
            stream.close()

    async def _open(self, served: Tunnel, stream: Stream, group: asyncio.TaskGroup) -> None:
        if self.faults.garbage:
            await stream.send(self.faults.garbage)
        await served.say_settings()
        if self.faults.huge_frame:
            await stream.send(wire.put(1, 0) + wire.put(4, bytes(self.faults.huge_frame)))
        if self.faults.floods:
            group.create_task(_flood(stream), name="flood")

    def deafen(self) -> None:
        """Read nothing any more of this tunnel: not even the connection's pings are answered."""
        if self._stream is not None:
            self._stream.is_deaf = True

    async def _call(self, method: str, request: bytes) -> bytes:
        service, _, name = method.partition("/")
        methods: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "Hello": self._hello,
            "GetPowerManagement": self._get_power_management,
            "SetPowerManagement": self._set_power_management,
            "Reboot": self._reboot,
            "WipeDisks": self._wipe_disks,
        }
        if service != SERVICE or name not in methods or name not in self.faults.knows:
            raise CallError(f"{method} not implemented", tunnel.UNIMPLEMENTED)
        self.say(name)
        if name == "Hello":
            return await self._hello(request)
        return await self._joined(name, methods[name], request)

    async def _joined(self, name: str, perform: Callable[[bytes], Awaitable[bytes]], request: bytes) -> bytes:
        """Equal calls at one time are one; it is the first caller's, and ends with that one's patience."""
        key = name, request
        flight = self._flights.get(key)
        if flight is not None:
            return await asyncio.shield(flight)
        own: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._flights[key] = own
        try:
            answer = await perform(request)
        except BaseException as error:
            own.set_exception(CallError(str(error) or "context canceled"))
            own.exception()
            raise
        else:
            own.set_result(answer)
            return answer
        finally:
            del self._flights[key]

    async def _hello(self, _request: bytes) -> bytes:
        if not self.faults.answers_hello:
            await asyncio.Event().wait()
        self.machine.hellos += 1
        return wire.put(1000, bytes(self.faults.padding)) if self.faults.padding else b""

    async def _get_power_management(self, request: bytes) -> bytes:
        self._refuse_power_management()
        if self.machine.test_mode:
            return wire.put(2, b"")
        ipmi = self.machine.ipmi
        if ipmi is None:
            raise CallError("error creating ipmi client: open /dev/ipmi0: no such file or directory", INTERNAL)
        asked = wire.read(_bytes(wire.last(wire.read(request), 1, b"")))
        exists = await _by_ipmi(ipmi.has, _bytes(wire.last(asked, 1, b"")).decode())
        return wire.put(1, wire.put(1, ipmi.address) + wire.put(2, ipmi.port) + wire.put(3, int(exists)))

    async def _set_power_management(self, request: bytes) -> bytes:
        self._refuse_power_management()
        if self.machine.test_mode:
            return b""
        if self.machine.ipmi is None:
            raise CallError("error creating ipmi client: open /dev/ipmi0: no such file or directory")
        account = wire.read(_bytes(wire.last(wire.read(request), 1, b"")))
        name, password = (_bytes(wire.last(account, number, b"")).decode() for number in (1, 2))
        if not name or len(password) > 16:
            raise CallError("failed to set up IPMI user")
        await _by_ipmi(self.machine.ipmi.set, name, password)
        return b""

    def _refuse_power_management(self) -> None:
        if self.faults.power_management_error:
            raise CallError(self.faults.power_management_error, INTERNAL)

    async def _reboot(self, _request: bytes) -> bytes:
        self.machine.reboot()
        asyncio.get_running_loop().call_later(0.05, self._cut)  # The answer is out by then.
        return b""

    def _cut(self) -> None:
        if self._stream is not None:
            self._stream.close()

    async def _wipe_disks(self, request: bytes) -> bytes:
        wipe = Wipe(zeroes=bool(wire.last(wire.read(request), 1, 0)))
        self.machine.wipes.append(wipe)
        self.say("wipe begun")
        try:
            if self.faults.dies_in_wipe:
                raise DiedError("in the middle of a wipe")
            await asyncio.sleep(self.faults.wipe_seconds)
            if self.faults.wipe_error:
                raise CallError(f"failed to wipe disks: {self.faults.wipe_error}")
            for disk in self.machine.disks:
                await machines.erase(disk, zeroes=wipe.zeroes)
        except BaseException:
            wipe.state = WipeState.BROKEN
            self.say("wipe broken")
            raise
        wipe.state = WipeState.DONE
        self.say("wipe done")
        return b""


async def _by_ipmi(ask: Callable[..., T], *words: str) -> T:
    """Ask the BMC, which may take its time."""
    try:
        return await asyncio.to_thread(ask, *words)
    except OSError as error:
        raise CallError(f"ipmi: {error}", INTERNAL) from error


async def _flood(stream: Stream) -> None:
    while True:
        await stream.send(wire.put(1, 0) + wire.put(7, 1))


@contextlib.asynccontextmanager
async def _unpacked() -> AsyncIterator[None]:
    """Of several that went wrong at once, the first."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _bytes(value: wire.Value) -> bytes:
    if not isinstance(value, bytes):
        raise wire.NotProtobufError("bytes are a number")
    return value

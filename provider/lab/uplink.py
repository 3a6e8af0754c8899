"""
The wire between provider and manager, which can be cut in the two ways that wires are cut.

It forwards TCP from one loopback port to another and looks at nothing: TLS goes through untouched. `cut` ends all
connections and refuses new ones, as when a manager's host reboots; `mute` leaves them open and passes nothing on, as
when a line in between goes dead and nobody is told. `mend` undoes both.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

log = structlog.get_logger()

HOST = "127.0.0.1"
_CHUNK = 65536


class Uplink:
    """Forwards `HOST:port` to `HOST:target_port` within its `async with` block."""

    def __init__(self, port: int, target_port: int) -> None:
        self._port = port
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()

    async def mend(self) -> None:
        """Let everything through again, or for the first time."""
        self._passing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._forward, HOST, self._port)
        log.info("uplink.mended")

    async def cut(self) -> None:
        """End all connections; refuse new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in self._open:
            writer.transport.abort()
        self._passing.set()
        log.info("uplink.cut")

    def mute(self) -> None:
        """Pass nothing on, and tell nobody. What is sent meanwhile arrives after `mend`, unless the peers gave up."""
        self._passing.clear()
        log.info("uplink.muted")

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(writer.transport.abort)
            self._open.add(writer)
            stack.callback(self._open.discard, writer)
            try:
                onward_reader, onward_writer = await asyncio.open_connection(HOST, self._target_port)
            except OSError:
                return  # The manager is down: the provider sees its connection end.
            stack.callback(onward_writer.transport.abort)
            self._open.add(onward_writer)
            stack.callback(self._open.discard, onward_writer)
            # Whichever side ends first ends both.
            async with asyncio.TaskGroup() as tasks:
                back = tasks.create_task(self._pump(onward_reader, writer))
                await self._pump(reader, onward_writer)
                back.cancel()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK):
                await self._passing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()

"""
A door for connections in front of the gRPC server: what goes wrong in networks goes wrong here, and the server behind stays.

Bytes go through unchanged in both directions, TLS or not. Omni's web page on the same port is here, as far as its date goes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from email.utils import format_datetime

_PIECE = 64 * 1024  # bytes

_PAGE_ASKED = (b"HEAD /", b"GET /")
_PAGE = "HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Gate:
    """Accepts connections on one address and joins each to one of the server's."""

    def __init__(self, host: str, port: int, server_port: int, now: Callable[[], datetime]) -> None:
        self.host = host
        self.port = port
        """As asked for; 0 becomes the real one at `open`."""
        self._server_port = server_port
        self._now = now
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()

    async def open(self) -> None:
        """Accept connections (again)."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._join, self.host, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Be down: connections are refused, and those that there are end."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self.cut()
        if listener is not None:
            await listener.wait_closed()

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        for writer in self._writers:
            writer.transport.abort()

    def stall(self, stalled: bool = True) -> None:
        """Hold all bytes back, or let them go."""
        if stalled:
            self._open.clear()
        else:
            self._open.set()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            async with self._kept(writer):
                first = await reader.read(_PIECE)
                if first.startswith(_PAGE_ASKED):
                    writer.write(_PAGE.format(date=format_datetime(self._now(), usegmt=True)).encode())
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
                    return
                back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
                async with self._kept(back_writer), asyncio.TaskGroup() as group:
                    await self._open.wait()
                    back_writer.write(first)
                    group.create_task(self._pump(reader, back_writer), name="gate inwards")
                    group.create_task(self._pump(back_reader, writer), name="gate outwards")

    @contextlib.asynccontextmanager
    async def _kept(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Carry bytes until one side ends; then the other one ends, too."""
        try:
            while piece := await source.read(_PIECE):
                await self._open.wait()
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

"""
A boot file as an answer: aiohttp's `FileResponse` (ETag, HEAD, Content-Length), and what boot files need besides.

uvloop has no `sendfile`, and aiohttp's way round it copies each byte twice and holds a chunk in memory for each slow
reader. So we call sendfile(2) ourselves, on a duplicate of the socket's descriptor, because the loop lets nobody wait for
a descriptor that one of its transports owns. `./dev bench http` shows it beside nginx.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from provider.http import ranges

log = structlog.get_logger()

SLOWEST_BYTES_PER_SECOND = 32 << 10
"""Who reads more slowly than this is cut off, after `LEAST_SECONDS` at the earliest."""

LEAST_SECONDS = 60.0

_MOST_BYTES_AT_ONCE = 8 << 20
"""Two milliseconds of the loop's time at most; a socket takes half as much if its reader is no quicker."""

_SECONDS_IN_A_TURN = 0.02
"""Of the loop's time for all files, after which everything else has its turn."""


class BootFile(web.FileResponse):
    """A file that tells when it has gone out whole (bytes, seconds), and is not sent for ever to who hardly reads it."""

    def __init__(
        self,
        path: Path,
        outgoing: Outgoing,
        sent: Callable[[int, float], None],
        hold: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """The file stays where it is as long as what `hold` gives is open."""
        super().__init__(path)
        self.content_type = "application/octet-stream"
        self.content_length = 0  # Of an error; without a length, aiohttp sends its answer in chunks.
        self._outgoing = outgoing
        self._sent = sent
        self._hold = hold

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send everything. aiohttp takes a lost connection as the end of it, whoever lost it."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            with self._hold():
                async with asyncio.timeout(LEAST_SECONDS + _size(self._path) / SLOWEST_BYTES_PER_SECOND):
                    writer = await super().prepare(request)
        except TimeoutError as error:
            log.info("boot.reader_cut_off", source=request.remote, file=self._path.name)
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client reads too slowly") from error
        if self.status == 200:
            self._sent(self.content_length or 0, clock() - started)
        return writer

    def _get_file_path_stat_encoding(self, _accept_encoding: str) -> tuple[Path | None, os.stat_result, str | None]:
        """Look for no `NAME.gz` beside the file for clients that would take it: nobody named that one."""
        return super()._get_file_path_stat_encoding("")

    async def _prepare_open_file(
        self, request: web.BaseRequest, fobj: BufferedReader, st: os.stat_result, file_encoding: str | None
    ) -> AbstractStreamWriter | None:
        """Send the part that is asked for. aiohttp's own reads no ETag in If-Range, and refuses ranges that it should ignore."""
        del file_encoding
        self.etag = f"{st.st_mtime_ns:x}-{st.st_size:x}"  # As aiohttp compares it with If-None-Match.
        self.last_modified = st.st_mtime
        self.headers["Accept-Ranges"] = "bytes"
        asked = {} if request.method == "HEAD" else request.headers
        try:
            part = ranges.part(asked, self.headers["ETag"], self.headers["Last-Modified"], st.st_size)
        except ValueError:
            self.set_status(416)
            self.headers["Content-Range"] = f"bytes */{st.st_size}"
            return await web.StreamResponse.prepare(self, request)
        if part is not None:
            self.set_status(206)
            self.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{st.st_size}"
        wanted = range(st.st_size) if part is None else part
        self.content_length = len(wanted)
        if not wanted or request.method == "HEAD":
            return await web.StreamResponse.prepare(self, request)
        return await self._sendfile(request, fobj, wanted.start, len(wanted))

    async def _sendfile(self, request: web.BaseRequest, fobj: IO[Any], offset: int, count: int) -> AbstractStreamWriter:
        writer = await web.StreamResponse.prepare(self, request)
        transport = request.transport
        if writer is None or transport is None:
            raise ConnectionResetError("the client is gone")
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as peer:
            # The head of the answer is first: whenever the socket takes more, the loop sends of that.
            while transport.get_write_buffer_size():
                await _writable(peer)
            await _send(peer, fobj.fileno(), offset, count, self._outgoing)
        await writer.write_eof()
        return writer


class Outgoing:
    """
    All files on their way out of one server, which share a part of each turn of the loop, first come, first served.

    Without it each turn sends to every socket that takes more, and to more than 1,024 of them several times (libuv polls again
    before it goes on): with thousands of readers DHCP waits for seconds, and they boot again.
    """

    def __init__(self) -> None:
        self._ready: deque[_Sending] = deque()

    def is_ready(self, sending: _Sending) -> None:
        """A socket takes more."""
        self._ready.append(sending)
        if len(self._ready) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        until = time.monotonic() + _SECONDS_IN_A_TURN
        while self._ready and time.monotonic() < until:
            self._ready.popleft().go_on()
        if self._ready:
            asyncio.get_running_loop().call_soon(self._turn)


async def _send(peer: socket.socket, file: int, offset: int, count: int, outgoing: Outgoing) -> None:
    """
    Send `count` bytes of a file to a non-blocking socket.

    Raises:
        OSError: If the connection is lost, or the file has become shorter.
    """
    loop = asyncio.get_running_loop()
    sending = _Sending(peer, file, offset, offset + count, outgoing, loop)
    sending.wait()
    try:
        await sending.sent
    finally:
        loop.remove_writer(peer)


class _Sending:
    """A file on its way out: `go_on` sends once, so that a fast reader does not keep the loop from the others."""

    def __init__(
        self, peer: socket.socket, file: int, offset: int, end: int, outgoing: Outgoing, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.sent: asyncio.Future[None] = loop.create_future()
        self._peer = peer
        self._file = file
        self._offset = offset
        self._end = end
        self._outgoing = outgoing
        self._loop = loop

    def wait(self) -> None:
        """Get in line once the socket takes more."""
        self._loop.add_writer(self._peer, self._get_in_line)

    def _get_in_line(self) -> None:
        self._loop.remove_writer(self._peer)
        self._outgoing.is_ready(self)

    def go_on(self) -> None:
        """Send what the socket takes."""
        if self.sent.done():
            return
        most = min(self._end - self._offset, _MOST_BYTES_AT_ONCE)
        try:
            sent = os.sendfile(self._peer.fileno(), self._file, self._offset, most)
        except BlockingIOError:
            self.wait()
            return
        except OSError as error:
            self.sent.set_exception(error)
            return
        self._offset += sent
        if self._offset == self._end:
            self.sent.set_result(None)
        elif sent == 0:
            self.sent.set_exception(ConnectionResetError("the file became shorter while it was sent"))
        else:
            self.wait()


async def _writable(peer: socket.socket) -> None:
    """Wait until the socket takes more, or is dead; the caller has the deadline."""
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(peer, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(peer)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # aiohttp answers 404.

"""
A boot file as an answer: aiohttp's `FileResponse` (ETag, HEAD, Content-Length), and what boot files need besides.

uvloop has no `sendfile`, and aiohttp's way round it copies each byte twice and holds a chunk in memory for each slow
reader. So we call sendfile(2) ourselves, on a duplicate of the socket's descriptor, because the loop lets nobody wait for
a descriptor that one of its transports owns. `./dev bench http` shows it beside nginx.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
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


class BootFile(web.FileResponse):
    """A file that tells when it has gone out whole (bytes, seconds), and is not sent for ever to who hardly reads it."""

    def __init__(self, path: Path, sent: Callable[[int, float], None]) -> None:
        super().__init__(path)
        self.content_type = "application/octet-stream"
        self.content_length = 0  # Of an error; without a length, aiohttp sends its answer in chunks.
        self._sent = sent

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send everything. aiohttp takes a lost connection as the end of it, whoever lost it."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
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
            await _send(peer, fobj.fileno(), offset, count)
        await writer.write_eof()
        return writer


async def _send(peer: socket.socket, file: int, offset: int, count: int) -> None:
    """
    Send `count` bytes of a file to a non-blocking socket.

    Raises:
        OSError: If the connection is lost, or the file has become shorter.
    """
    loop = asyncio.get_running_loop()
    sending = _Sending(peer, file, offset, offset + count, loop.create_future())
    loop.add_writer(peer, sending.go_on)
    try:
        await sending.sent
    finally:
        loop.remove_writer(peer)


@dataclass
class _Sending:
    """
    A file on its way out: `go_on` is called whenever the socket takes more, and sends once, so that a fast reader does not keep
    the loop from the others.
    """

    peer: socket.socket
    file: int
    offset: int
    end: int
    sent: asyncio.Future[None]

    def go_on(self) -> None:
        if self.sent.done():
            return
        try:
            sent = os.sendfile(
                self.peer.fileno(), self.file, self.offset, min(self.end - self.offset, _MOST_BYTES_AT_ONCE)
            )
        except BlockingIOError:
            return
        except OSError as error:
            self.sent.set_exception(error)
            return
        self.offset += sent
        if self.offset == self.end:
            self.sent.set_result(None)
        elif sent == 0:
            self.sent.set_exception(ConnectionResetError("the file became shorter while it was sent"))


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

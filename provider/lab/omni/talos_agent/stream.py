"""One gRPC call in both directions, as a client, over a connection of its own (doc/PROTOCOL-HTTP2.md of grpc/grpc)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

_PREFIX = struct.Struct(">BI")  # compressed or not, length of the message

_PIECE = 1 << 16  # bytes

Headers = Sequence[tuple[str, str]]


class EndedError(Exception):
    """The call is over: `code` is the gRPC status, None if the connection broke."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Stream:
    """An open call. One task reads with `receive`, any may `send`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self._http = h2.connection.H2Connection(config)
        self._stream = 0
        self._received = bytearray()
        self._room = asyncio.Event()
        """Set whenever the other end may have made room for more."""
        self._sending = asyncio.Lock()
        self.headers: dict[str, str] = {}
        """The other end's, once `receive_headers` has returned."""
        self.is_deaf = False
        self._ended: EndedError | None = None

    @classmethod
    async def open(
        cls, address: str, method: str, metadata: Headers, trust: ssl.SSLContext | None = None, source: str = ""
    ) -> Stream:
        """
        Call a method; `address` is HOST:PORT, or that with http:// or https:// in front (`trust` is for the latter). `source`
        is the address to call from, if not the kernel's choice.

        Raises:
            OSError: If nobody is there, or not whom we trust.
        """
        url = urlsplit(address if "://" in address else f"//{address}")
        secure = url.scheme == "https"
        reader, writer = await asyncio.open_connection(
            url.hostname,
            url.port or (443 if secure else 80),
            ssl=trust if secure else None,
            local_addr=(source, 0) if source else None,
        )
        stream = cls(reader, writer)
        stream._begin(
            [
                (":method", "POST"),
                (":scheme", "https" if secure else "http"),
                (":path", method),
                (":authority", url.netloc),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("user-agent", "fake-talos-metal-agent"),
                *metadata,
            ]
        )
        return stream

    def _begin(self, headers: Headers) -> None:
        self._http.initiate_connection()
        self._stream = self._http.get_next_available_stream_id()
        self._http.send_headers(self._stream, headers)
        self._flush()

    async def receive_headers(self) -> None:
        """Wait for the other end's metadata; raises EndedError."""
        while not self.headers:
            await self._take()

    async def receive(self) -> bytes:
        """The next message; raises EndedError."""
        while True:
            if len(self._received) >= _PREFIX.size:
                _, length = _PREFIX.unpack_from(self._received)
                if len(self._received) >= _PREFIX.size + length:
                    message = bytes(self._received[_PREFIX.size : _PREFIX.size + length])
                    del self._received[: _PREFIX.size + length]
                    return message
            await self._take()

    async def send(self, message: bytes) -> None:
        """Send a message, as the other end has room for it; raises EndedError."""
        raw = _PREFIX.pack(0, len(message)) + message
        async with self._sending:
            while raw:
                if self._ended is not None:
                    raise self._ended
                self._room.clear()
                try:
                    room = min(self._http.local_flow_control_window(self._stream), self._http.max_outbound_frame_size)
                    self._http.send_data(self._stream, raw[:room]) if room else None
                except h2.exceptions.ProtocolError as error:
                    raise self._end(f"the stream is closed: {error}") from error
                raw = raw[room:]
                self._flush()
                await (self._drain() if room else self._room.wait())

    def close(self) -> None:
        """Cut the connection."""
        self._end("we cut it")
        self._writer.transport.abort()

    async def finish(self) -> None:
        """End the call well, as a client does that has nothing more to say."""
        with contextlib.suppress(h2.exceptions.ProtocolError, OSError):
            self._http.end_stream(self._stream)
            self._flush()
            await self._writer.drain()

    async def _take(self) -> None:
        """Read what has come."""
        if self._ended is not None:
            raise self._ended
        try:
            raw = await self._reader.read(_PIECE)
        except OSError as error:
            raise self._end(f"the connection broke: {error}") from error
        if self.is_deaf:
            await asyncio.Event().wait()
        if not raw:
            raise self._end("the connection was closed")
        try:
            events = self._http.receive_data(raw)
        except h2.exceptions.ProtocolError as error:
            raise self._end(f"that is no HTTP/2: {error}") from error
        for event in events:
            self._on(event)
        self._flush()
        self._room.set()

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.headers = _texts(event.headers)
            if "grpc-status" in self.headers:  # It ended before it began.
                self._end_of(self.headers)
        elif isinstance(event, h2.events.DataReceived):
            self._received += event.data or b""
            if event.flow_controlled_length:
                self._http.acknowledge_received_data(event.flow_controlled_length, self._stream)
        elif isinstance(event, h2.events.TrailersReceived):
            self._end_of(_texts(event.headers))
        elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
            self._end(f"it was reset: {event.error_code}")

    def _end_of(self, trailers: dict[str, str]) -> None:
        self._end(trailers.get("grpc-message", ""), int(trailers.get("grpc-status", "2")))

    def _end(self, message: str, code: int | None = None) -> EndedError:
        """Only the first reason counts."""
        if self._ended is None:
            self._ended = EndedError(message, code)
            self._room.set()
        return self._ended

    def _flush(self) -> None:
        if outgoing := self._http.data_to_send():
            self._writer.write(outgoing)

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            raise self._end(f"the connection broke: {error}") from error


def _texts(headers: Iterable[Any] | None) -> dict[str, str]:
    return {str(key): str(value) for key, value in headers or ()}

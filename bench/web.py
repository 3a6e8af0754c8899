"""HTTP of a simulated machine, from an address of its own: small answers whole, boot files thrown away inside the kernel."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from dataclasses import dataclass
from types import TracebackType

from bench.firmware import GaveUpError

SECONDS = 60.0
"""From a request to its answer, or from one piece of a file to the next; nobody waits longer."""

_HEAD_BYTES = 16 << 10
_AT_ONCE = 1 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """Status and body."""

    status: int
    body: bytes


class Connection:
    """One connection that is kept; use as an async context manager."""

    def __init__(self, source: str, host: str, port: int, tls: ssl.SSLContext | None = None, name: str = "") -> None:
        self._source = source
        self._host = host
        self._port = port
        self._tls = tls
        self._name = name
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Connection:
        async with asyncio.timeout(SECONDS):
            self._reader, self._writer = await asyncio.open_connection(
                self._host,
                self._port,
                local_addr=(self._source, 0),
                limit=_HEAD_BYTES,
                ssl=self._tls,
                server_hostname=self._name or None,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def ask(
        self, method: str, path: str, body: object = None, token: str = "", seconds: float = SECONDS
    ) -> Answer:
        """
        One request and its answer.

        Raises:
            GaveUpError: If the answer is no good one.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"Authorization: Bearer {token}"] if token else []
        lines += [] if body is None else ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + payload)
        async with asyncio.timeout(seconds):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            content = await self._reader.readexactly(int(length[1])) if length else b""
        answer = Answer(int(head.split(None, 2)[1]), content)
        if not 200 <= answer.status < 300:
            raise GaveUpError(f"{method} {path} is answered {answer.status}: {content[:200].decode(errors='replace')}")
        return answer


async def get(source: str, host: str, port: int, path: str) -> str:
    """One small text on a connection of its own, as iPXE asks."""
    async with Connection(source, host, port) as connection:
        return (await connection.ask("GET", path)).body.decode()


async def fetch(source: str, host: str, port: int, path: str) -> int:
    """
    One boot file, thrown away (tcp(7), MSG_TRUNC); gives its size.

    Raises:
        GaveUpError: If it does not come whole.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind((source, 0))
        async with asyncio.timeout(SECONDS):
            await loop.sock_connect(sock, (host, port))
            await loop.sock_sendall(sock, f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += await _more(loop, sock, path)
        head, _, begun = head.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            raise GaveUpError(f"GET {path} is answered {head.decode(errors='replace')}")
        await _discard(sock, int(length[1]) - len(begun), path)
        return int(length[1])


async def _more(loop: asyncio.AbstractEventLoop, sock: socket.socket, path: str) -> bytes:
    got = await loop.sock_recv(sock, 4096)
    if not got:
        raise GaveUpError(f"GET {path}: the connection is closed at once")
    return got


async def _discard(sock: socket.socket, count: int, path: str) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    place = bytearray(_AT_ONCE)
    loop.add_reader(sock, readable.set)
    try:
        while count > 0:
            readable.clear()
            try:
                got = sock.recv_into(place, _AT_ONCE, socket.MSG_TRUNC)
            except BlockingIOError:
                async with asyncio.timeout(SECONDS):
                    await readable.wait()
                continue
            if not got:
                raise GaveUpError(f"GET {path}: the connection is closed {count} bytes too early")
            count -= got
    finally:
        loop.remove_reader(sock)

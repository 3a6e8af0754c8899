"""Boot HTTP and readers that are slow, stuck or silent, with deadlines that are shorter than in the field."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from provider.http import files, listener
from provider.http.files import BootFile, Outgoing
from provider.http.listener import Listener

ADDRESS = "127.0.0.1"
SECONDS = 30.0
SMALLEST_BUFFER = 4608
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def application(path: Path) -> web.Application:
    async def file(_request: web.Request) -> web.StreamResponse:
        return BootFile(path, Outgoing(), lambda _size, _seconds: None)

    app = web.Application()
    app.router.add_get("/", file)
    return app


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[int]:
    """A server whose sockets send next to nothing ahead; gives its port."""
    runner = web.AppRunner(application(path), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALLEST_BUFFER)
        sock.bind((ADDRESS, 0))
        await web.SockSite(runner, sock, backlog=1000).start()
        try:
            yield sock.getsockname()[1]
        finally:
            await runner.cleanup()


def stuck(port: int) -> socket.socket:
    """A connection that asks again and again, and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALLEST_BUFFER)
    sock.connect((ADDRESS, port))
    sock.setblocking(False)
    sock.send(REQUEST * 100)
    return sock


async def fetch(port: int) -> bytes:
    """A whole answer."""
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(ADDRESS, port)
        writer.write(REQUEST.replace(b"1.1", b"1.0"))
        answer = await reader.read()
        writer.close()
    return answer


async def closed(sock: socket.socket) -> None:
    """Wait until the other side has hung up."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(SECONDS):
        with contextlib.suppress(ConnectionError):
            while await loop.sock_recv(sock, 1 << 16):
                pass


async def quiet() -> None:
    """Wait until this process has next to nothing to do."""
    async with asyncio.timeout(SECONDS):
        while True:
            before = time.process_time()
            await asyncio.sleep(1)
            if time.process_time() - before < 0.1:
                return


def with_server(path: Path, use: Callable[[int], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving(path) as port:
            await use(port)

    asyncio.run(main())


def test_who_reads_nothing_costs_nothing(tmp_path: Path) -> None:
    """Hundreds of stuck readers, and the daemon looks a thousand times a second whether each of them goes on."""
    content = b"x" * 1000  # It is the head of the next answer that does not go out any more.
    (tmp_path / "file").write_bytes(content)

    async def use(port: int) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(stuck(port))
            await quiet()
            assert (await fetch(port)).endswith(content)

    with_server(tmp_path / "file", use)


def test_who_reads_too_slowly_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that hangs in the middle of a download keeps its connection for ever."""
    monkeypatch.setattr(files, "LEAST_SECONDS", 2.0)
    monkeypatch.setattr(files, "SLOWEST_BYTES_PER_SECOND", 10_000_000)
    content = b"x" * 200_000
    (tmp_path / "file").write_bytes(content)

    async def use(port: int) -> None:
        with stuck(port) as sock:
            await asyncio.sleep(3)
            await closed(sock)
        assert (await fetch(port)).endswith(content), "who reads on is served"

    with_server(tmp_path / "file", use)


def test_a_file_that_shrinks_ends_its_connection(tmp_path: Path) -> None:
    """A kernel that somebody cuts off in place goes out short, and the next answer is taken for the rest of it."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)

    async def use(port: int) -> None:
        with stuck(port) as sock:
            await asyncio.sleep(0.5)
            with path.open("r+b") as file:
                file.truncate(1000)
            heard = bytearray()
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(SECONDS):
                while part := await loop.sock_recv(sock, 1 << 16):
                    heard += part
            assert heard.count(b"HTTP/1.1 ") == 1
            assert len(heard) < 1_000_000
        assert (await fetch(port)).endswith(b"\r\n\r\n" + b"x" * 1000)

    with_server(path, use)


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", REQUEST])
def test_silence_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Connections without a request, with half of one, or behind an answer, are there for ever."""
    monkeypatch.setattr(listener, "IDLE_SECONDS", 0.5)
    (tmp_path / "file").write_bytes(b"x")

    async def main() -> None:
        server = Listener("test", application(tmp_path / "file"))
        with socket.socket() as free:
            free.bind((ADDRESS, 0))
            port = free.getsockname()[1]
        server.bind_tcp(ADDRESS, port)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            with socket.create_connection((ADDRESS, port)) as sock:
                sock.setblocking(False)
                sock.send(said)
                await closed(sock)
            task.cancel()

    asyncio.run(main())

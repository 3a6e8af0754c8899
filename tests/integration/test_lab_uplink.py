"""The wire between provider and manager: passes everything, or nothing, or ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from provider.lab.network import Network
from provider.lab.uplink import HOST, Uplink

PORT, TARGET = 9444, 9443


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def _wired() -> AsyncIterator[Uplink]:
    net = Network(0)
    await net.open()
    try:
        async with await asyncio.start_server(_echo, HOST, TARGET):
            uplink = Uplink(PORT, TARGET)
            await uplink.mend()
            yield uplink
            await uplink.cut()
    finally:
        await net.close()


def _run(script: Callable[[Uplink], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), _wired() as uplink:
            await script(uplink)

    asyncio.run(main())


async def _call(words: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(HOST, PORT)
    writer.write(words)
    return reader, writer


def test_passes_both_ways() -> None:
    """Provider and manager cannot talk at all."""

    async def script(uplink: Uplink) -> None:
        reader, writer = await _call(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()

    _run(script)


def test_cut_ends_and_refuses() -> None:
    """A cut link goes unnoticed, because its connections live on."""

    async def script(uplink: Uplink) -> None:
        reader, writer = await _call(b"hello")
        await reader.readexactly(5)
        await uplink.cut()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await _call(b"again")
        await uplink.mend()
        reader, writer = await _call(b"again")
        assert await reader.readexactly(5) == b"again"
        writer.close()

    _run(script)


def test_muted_tells_nobody_and_loses_nothing() -> None:
    """A dead line is noticed at once, so that nobody's time-outs are ever tested; or it garbles what it held back."""

    async def script(uplink: Uplink) -> None:
        reader, writer = await _call(b"one")
        await reader.readexactly(3)
        uplink.mute()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)
        await uplink.mend()
        assert await reader.readexactly(3) == b"two"
        writer.close()

    _run(script)


def test_manager_that_is_down_ends_the_connection() -> None:
    """The provider waits for ever on a connection that leads nowhere."""

    async def script(uplink: Uplink) -> None:
        nowhere = Uplink(PORT + 10, TARGET + 10)
        await nowhere.mend()
        reader, writer = await asyncio.open_connection(HOST, PORT + 10)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(1) == b""
        writer.close()
        await nowhere.cut()

    _run(script)

"""
The TFTP shell: read-only, boot files only, one port of its own for each transfer (RFC 1350 section 4).

A transfer is `wire.tftp_transfer.Transfer` over a memory-mapped file; this shell sends what it says and wakes it in time. All
run in one loop; at most `TRANSFERS` at once, further requests are dropped and their clients ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import socket
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import structlog

from provider.domain.errors import MalformedPacketError
from provider.domain.mac import MacAddress
from provider.netboot import sockets
from provider.netboot.dhcp_server import BootWatch
from provider.wire import tftp
from provider.wire.tftp import ErrorCode, ReadRequest
from provider.wire.tftp_transfer import Limits, Transfer, negotiate

log = structlog.get_logger()

TRANSFERS = 2000
"""Most transfers at once; each holds one socket."""

_BATCH = 64


class TftpServer:
    """
    Serves `files` (name to path) on the given interfaces. Call `start`, which binds, then `run`.

    `mac_of` tells whose address a client has, for the machine's events.
    """

    def __init__(
        self,
        interfaces: Sequence[tuple[str, str]],
        port: int,
        files: Callable[[str], Path | None],
        limits: Limits,
        watch: BootWatch,
        mac_of: Callable[[str], MacAddress | None],
    ) -> None:
        self._interfaces = interfaces
        self._port = port
        self._files = files
        self._limits = limits
        self._watch = watch
        self._mac_of = mac_of
        self._sockets: list[tuple[socket.socket, str, str]] = []
        self._clients: set[tuple[str, int]] = set()

    async def start(self) -> None:
        """
        Bind all sockets.

        Raises:
            PermanentError: If the port cannot be had.
        """
        for interface, address in self._interfaces:
            self._sockets.append((sockets.bind_udp(interface, self._port), interface, address))

    async def run(self) -> None:
        """Serve for ever; ends the daemon if it fails. A transfer that fails is logged alone."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for sock, interface, address in self._sockets:
                loop.add_reader(sock, self._readable, sock, interface, address, group)
            try:
                await asyncio.Event().wait()
            finally:
                for sock, _interface, _address in self._sockets:
                    loop.remove_reader(sock)
                    sock.close()

    def _readable(self, sock: socket.socket, interface: str, address: str, group: asyncio.TaskGroup) -> None:
        for _ in range(_BATCH):
            try:
                raw, client = sock.recvfrom(2048)
            except OSError:
                return
            try:
                message = tftp.decode(raw)
            except MalformedPacketError as error:
                log.info("tftp.malformed", source=client[0], error=str(error))
                continue
            if not isinstance(message, ReadRequest):
                _refuse(sock, client, ErrorCode.ILLEGAL_OPERATION, "this server only answers read requests")
                continue
            if client in self._clients:
                continue  # The request again: its first answer is on the way.
            if len(self._clients) >= TRANSFERS:
                log.warning("tftp.dropped", source=client[0], reason=f"{TRANSFERS} transfers are under way")
                continue
            self._clients.add(client)
            group.create_task(self._serve(message, interface, address, client), name=f"tftp {client[0]}")

    async def _serve(self, request: ReadRequest, interface: str, address: str, client: tuple[str, int]) -> None:
        """One transfer; whatever goes wrong ends only this one."""
        try:
            with sockets.bind_udp(interface, 0, address=address) as sock:
                await self._transfer(request, sock, client)
        except Exception:
            log.exception("tftp.crashed", source=client[0], file=request.file)
        finally:
            self._clients.discard(client)

    async def _transfer(self, request: ReadRequest, sock: socket.socket, client: tuple[str, int]) -> None:
        if request.mode not in ("octet", "netascii", "mail"):
            _refuse(sock, client, ErrorCode.ILLEGAL_OPERATION, f"mode {request.mode} is unknown")
            return
        if request.mode != "octet":
            _refuse(sock, client, ErrorCode.ILLEGAL_OPERATION, "boot files are binary: use mode octet")
            return
        name = file_name(request.file)
        path = None if name is None else self._files(name)
        if path is None:
            self._note(client, "tftp.failed", file=request.file[:200], reason="no such boot file")
            _refuse(sock, client, ErrorCode.NOT_FOUND, f"there is no boot file {request.file[:200]}")
            return
        with contextlib.ExitStack() as stack:
            try:
                content = _map(path, stack)
            except OSError as error:
                self._note(client, "tftp.failed", file=path.name, reason=str(error.strerror))
                _refuse(sock, client, ErrorCode.UNDEFINED, "the file cannot be read just now")
                return
            transfer = Transfer(
                read=lambda offset, length: content[offset : offset + length],
                size=len(content),
                agreed=negotiate(request, len(content), self._limits),
                retries_left=self._limits.retries,
            )
            started = asyncio.get_running_loop().time()
            await _drive(transfer, sock, client)
            seconds = round(asyncio.get_running_loop().time() - started, 3)
        if transfer.outcome == "done":
            self._note(client, "tftp.sent", file=path.name, bytes=transfer.size, seconds=seconds)
        elif transfer.outcome == "gave_up":
            self._note(client, "tftp.failed", file=path.name, reason="the client fell silent")

    def _note(self, client: tuple[str, int], event: str, **data: str | int | float) -> None:
        mac = self._mac_of(client[0])
        if mac is None:
            log.info(event, source=client[0], **data)
        else:
            self._watch.note(mac, event, **data)


def file_name(wanted: str) -> str | None:
    """
    The name inside the boot files that a client means: Windows separators (edge case 32), a leading slash, and `.` are
    forgiven; `..` is not.
    """
    path = PurePosixPath(wanted.replace("\\", "/"))
    parts = [part for part in path.parts if part != "/"]
    if not parts or ".." in parts or "\0" in wanted:
        return None
    return "/".join(parts)


async def _drive(transfer: Transfer, sock: socket.socket, client: tuple[str, int]) -> None:
    """Let the transfer run its course over the socket."""
    loop = asyncio.get_running_loop()
    replies = transfer.start(loop.time())
    while transfer.outcome is None:
        for datagram in replies:
            await _send(loop, sock, datagram, client)
        try:
            async with asyncio.timeout_at(transfer.deadline):
                raw, source = await loop.sock_recvfrom(sock, 2048)
        except TimeoutError:
            replies = transfer.on_timer(loop.time())
        else:
            replies = _heard(transfer, raw, source, client, sock, loop.time())
    for datagram in replies:
        await _send(loop, sock, datagram, client)


def _heard(
    transfer: Transfer, raw: bytes, source: tuple[str, int], client: tuple[str, int], sock: socket.socket, now: float
) -> list[bytes]:
    if source != client:
        _refuse(sock, source, ErrorCode.UNKNOWN_TRANSFER, "this port serves another client")
        return []
    try:
        message = tftp.decode(raw)
    except MalformedPacketError as error:
        log.info("tftp.malformed", source=source[0], error=str(error))
        return []
    match message:
        case tftp.Ack(block=block):
            return transfer.on_ack(block, now)
        case tftp.Error():
            transfer.on_error()
    return []


async def _send(loop: asyncio.AbstractEventLoop, sock: socket.socket, datagram: bytes, client: tuple[str, int]) -> None:
    # A datagram that cannot be sent now is a lost one: the transfer's timer repeats it.
    with contextlib.suppress(OSError):
        await loop.sock_sendto(sock, datagram, client)


def _refuse(sock: socket.socket, client: tuple[str, int], code: ErrorCode, message: str) -> None:
    with contextlib.suppress(OSError):
        sock.sendto(tftp.encode_error(code, message), client)


def _map(path: Path, stack: contextlib.ExitStack) -> mmap.mmap | bytes:
    """The file's content without reading it now; an empty file cannot be mapped."""
    file = stack.enter_context(path.open("rb"))
    if path.stat().st_size == 0:
        return b""
    return stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

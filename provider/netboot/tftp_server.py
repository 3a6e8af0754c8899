"""
The TFTP shell: read-only, boot files only, a port of its own for each transfer (RFC 1350 section 4).

A request comes in on the well-known port and becomes a `_Session`: `wire.tftp_transfer.Transfer` with a socket that is
connected to its client, so that the kernel keeps strangers out and says when the client's port is closed. Where a firewall or
an address translation lets only the well-known port through, all transfers can stay on that one (`single_port`); a client is
known by its address and port then, and who dies is noticed by silence only. Packets are
handled where they arrive, in callbacks of the loop: forty clients at 1,468 bytes a block leave no time for a task switch
each. A session's task only fetches the file, waits for the end, and reports it.

Files are read whole, in a thread, and held once for all who are downloading them. They are not mapped: a file that
somebody shortens in place while it is mapped ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import stat
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from provider.domain.errors import BootwrightError, MalformedPacketError
from provider.domain.mac import MacAddress
from provider.kit.threads import Threads
from provider.netboot import sockets
from provider.netboot.dhcp_server import BootWatch
from provider.netboot.readers import Reader, Readers
from provider.planning.interfaces import Opening
from provider.wire import pxe, tftp, tftp_transfer
from provider.wire.tftp import ErrorCode
from provider.wire.tftp_transfer import Limits, Outcome, Transfer

log = structlog.get_logger()

TRANSFERS = 10_000
"""
Most transfers at once, each with a socket; further requests are dropped, and their clients ask again.

Many at once are only slower, evenly, and each hears from us long before its time-out; of those that are dropped some are out of
luck each time until they give up.
"""

TRANSFERS_PER_ADDRESS = 200
"""Most transfers at once to one IP address, so that one client cannot use up the others'."""

LONGEST_TRANSFER_SECONDS = 1800.0
"""Whoever is slower than this, block by block, is cut off."""

MOST_FILE_BYTES = 256 << 20
"""A larger file is not for TFTP; memory holds each file that is under way."""

_IP_MTU = 14
"""Option of a connected socket, `linux/in.h`; Python has no name for it."""

_HEADER_BYTES = 20 + 8 + 4
"""IP, UDP, TFTP DATA."""

_MOST_DATAGRAM_BYTES = 2048
_BATCH = 64
"""Datagrams read from one socket before the others have their turn."""

_Endpoint = tuple[str, int]


class TftpServer:
    """
    Serves `files` (name to path, None for a name that is not served) on the interfaces that it is open on, and `scripts`
    (name and our address to content, None likewise), which are made anew for each request.

    `mac_of` tells whose IP address a client has, for the machine's events. Call `run`; `open` and `close` at any time. A
    transfer has a socket of its own and goes on when the well-known port is closed, as long as its packets come through.
    """

    def __init__(
        self,
        port: int,
        *,
        single_port: bool,
        files: Callable[[str], Path | None],
        scripts: Callable[[str, str], Awaitable[bytes | None]],
        limits: Limits,
        watch: BootWatch,
        mac_of: Callable[[str], MacAddress | None],
    ) -> None:
        self._port = port
        self._single_port = single_port
        self._files = files
        self._scripts = scripts
        self._limits = limits
        self._watch = watch
        self._mac_of = mac_of
        self._readers = Readers()
        self._group: asyncio.TaskGroup
        self._sessions: dict[_Endpoint, _Session] = {}
        self._transfers: Counter[str] = Counter()
        self._contents = _Contents()

    def open(self, opening: Opening) -> None:
        """
        Bind the port on an interface.

        Raises:
            PermanentError: If it cannot be had; says what to do.
        """
        scope = opening.scope
        listening = _Listening(sockets.bind_udp(scope.interface, self._port), scope.interface, str(scope.address))
        reader = Reader(listening.sock, scope.interface, lambda: self._readable(listening))
        self._readers.add(opening, reader)

    def close(self, opening: Opening) -> None:
        """Let go of it."""
        self._readers.remove(opening)

    async def run(self) -> None:
        """Serve for ever; ends the daemon if it fails. A transfer that fails is logged alone."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._readers.start()
                await asyncio.Event().wait()
        finally:
            self._readers.close()
            self._contents.close()

    def _readable(self, listening: _Listening) -> None:
        for _ in range(_BATCH):
            raw, client = listening.sock.recvfrom(_MOST_DATAGRAM_BYTES)
            try:
                packet = tftp.decode(raw)
            except MalformedPacketError as error:
                log.info("tftp.malformed", source=client[0], error=str(error))
                continue
            self._received(packet, client, listening)

    def _received(self, packet: tftp.Packet, client: _Endpoint, listening: _Listening) -> None:
        log.debug("tftp.received", source=client[0], packet=packet)
        if self._single_port and isinstance(packet, tftp.Ack | tftp.Error):
            if (session := self._sessions.get(client)) is not None:
                session.take(packet)
            return
        match packet, tftp_transfer.requested_file(packet):
            case _, tftp.Error() as error:
                self._refuse(listening, client, error)
            case tftp.ReadRequest(), str(file):
                self._begin(packet, file, client, listening)

    def _begin(self, request: tftp.ReadRequest, file: str, client: _Endpoint, listening: _Listening) -> None:
        before = self._sessions.get(client)
        if before is not None and before.listening is listening and before.is_repeated(request):
            return
        if not self._has_room_for(client):
            return
        session = _Session(request, file, client, listening, supersedes=before)
        self._sessions[client] = session
        self._transfers[client[0]] += 1
        self._group.create_task(self._serve(session), name=f"tftp {client[0]}")

    def _has_room_for(self, client: _Endpoint) -> bool:
        if self._transfers[client[0]] >= TRANSFERS_PER_ADDRESS:
            log.warning("tftp.dropped", source=client[0], reason=f"it has {TRANSFERS_PER_ADDRESS} transfers already")
            return False
        if self._transfers.total() >= TRANSFERS:
            log.warning("tftp.dropped", source=client[0], reason=f"{TRANSFERS} transfers are under way")
            return False
        return True

    async def _serve(self, session: _Session) -> None:
        """One transfer; whatever goes wrong ends only this one."""
        try:
            await self._transfer(session)
        except BootwrightError as error:
            log.warning("tftp.crashed", source=session.client[0], file=session.file, error=str(error), hint=error.hint)
        except OSError as error:  # The way to the client is gone, or its address is one that nobody can be answered at.
            log.info("tftp.dropped", source=session.client[0], reason=f"it cannot be answered: {error.strerror}")
        except Exception:
            log.exception("tftp.crashed", source=session.client[0], file=session.file)
        finally:
            self._forget(session)

    def _forget(self, session: _Session) -> None:
        if self._sessions.get(session.client) is session:
            del self._sessions[session.client]
        self._transfers[session.client[0]] -= 1
        if not self._transfers[session.client[0]]:
            del self._transfers[session.client[0]]

    async def _transfer(self, session: _Session) -> None:
        listening = session.listening
        try:
            content = await self._content(session.file, listening.address)
        except OSError as error:
            self._note(session, "tftp.failed", reason=str(error))
            self._refuse(listening, session.client, tftp.Error(ErrorCode.UNDEFINED, "the file cannot be read"))
            return
        if content is None:
            if session.file not in pxe.NOT_MISSED:
                self._note(session, "tftp.failed", reason="no such boot file")
            missing = tftp.Error(ErrorCode.FILE_NOT_FOUND, "there is no such boot file")
            self._refuse(listening, session.client, missing)
            return
        started = asyncio.get_running_loop().time()
        with sockets.bind_udp(listening.interface, 0, address=listening.address) as sock:
            sock.connect(session.client)
            transfer = Transfer(content.data, session.request, _fitting(self._limits, sock))
            if self._single_port:
                await session.run(transfer, listening.sock)
            else:
                await session.run_on(sock, transfer)
        seconds = round(asyncio.get_running_loop().time() - started, 3)
        self._ended(session, transfer, seconds)

    async def _content(self, name: str, address: str) -> _Content | None:
        path = self._files(name)
        if path is not None:
            return await self._contents.read(path)
        script = await self._scripts(name, address)
        return None if script is None else _Content(script)

    def _ended(self, session: _Session, transfer: Transfer, seconds: float) -> None:
        match transfer.outcome:
            case Outcome.DONE | Outcome.ABORTED if not transfer.content:
                log.debug("tftp.empty", source=session.client[0], file=session.file)  # GRUB's lists of modules.
            case Outcome.DONE:
                self._note(session, "tftp.sent", bytes=len(transfer.content), seconds=seconds)
            case Outcome.PROBED:
                log.debug("tftp.probed", source=session.client[0], file=session.file)
            case _ if session.superseded:
                log.debug("tftp.superseded", source=session.client[0], file=session.file)
            case _:
                self._note(session, "tftp.failed", reason=transfer.reason or "it took too long")

    def _note(self, session: _Session, event: str, **data: str | int | float) -> None:
        mac = self._mac_of(session.client[0])
        if mac is None:
            log.info(event, source=session.client[0], file=session.file, **data)
        else:
            self._watch.note(mac, event, file=session.file, **data)

    def _refuse(self, listening: _Listening, client: _Endpoint, error: tftp.Error) -> None:
        log.info("tftp.refused", source=client[0], reason=error.message)
        with contextlib.suppress(OSError):  # The answer is lost, as any datagram may be; the client asks again.
            listening.sock.sendto(tftp.encode(error), client)


def _fitting(limits: Limits, sock: socket.socket) -> Limits:
    """No block larger than the path to the client takes whole: firmware puts no fragments together (edge case 34)."""
    path_mtu = sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    return dataclasses.replace(limits, block_size=min(limits.block_size, path_mtu - _HEADER_BYTES))


@dataclass(frozen=True)
class _Listening:
    """The well-known port on one interface; `address` is what transfers are sent from."""

    sock: socket.socket
    interface: str
    address: str


class _Session:
    """
    One client's transfer. `run` drives it: packets (`take`) and time arrive as callbacks until there is an outcome.

    A client is its address and port, and some ROMs always use the same port. So a request from a port that has a
    session is either the same again, because our first answer was lost, or a new one that supersedes the old.
    """

    def __init__(
        self,
        request: tftp.ReadRequest,
        file: str,
        client: _Endpoint,
        listening: _Listening,
        *,
        supersedes: _Session | None,
    ) -> None:
        self.request = request
        self.file = file
        self.client = client
        self.listening = listening
        self.superseded = False
        if supersedes is not None:
            supersedes.superseded = True
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._transfer: Transfer | None = None
        self._sock: socket.socket
        self._put: Callable[[bytes], int]
        self._to: _Endpoint | None = client
        self._can_burst = True
        self._timer: asyncio.TimerHandle

    def is_repeated(self, request: tftp.ReadRequest) -> bool:
        """Take a request from the same port; True if it is this session's own, and has been seen to."""
        if request != self.request:
            return False
        if self._transfer is None:
            return True
        if self._transfer.is_under_way:
            return False
        self._send(self._transfer.on_repeated_request(self._loop.time()))
        return True

    async def run_on(self, sock: socket.socket, transfer: Transfer) -> None:
        """Drive the transfer to its end over a connected socket of its own."""
        self._to = None
        self._loop.add_reader(sock, self._readable, transfer)
        try:
            await self.run(transfer, sock)
        finally:
            self._loop.remove_reader(sock)

    async def run(self, transfer: Transfer, sock: socket.socket) -> None:
        """Drive the transfer to its end over a socket that belongs to others as well."""
        to = self._to
        self._transfer, self._sock = transfer, sock
        self._put = sock.send if to is None else lambda datagram: sock.sendto(datagram, to)
        self._send(transfer.start(self._loop.time()))
        self._timer = self._loop.call_at(transfer.deadline, self._on_time, transfer)
        try:
            async with asyncio.timeout(LONGEST_TRANSFER_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            log.info("tftp.cut_off", source=self.client[0], file=self.file, seconds=LONGEST_TRANSFER_SECONDS)
        finally:
            self._timer.cancel()

    def take(self, packet: tftp.Packet) -> None:
        """Take a packet of the client; nothing if the file is still being fetched."""
        transfer = self._transfer
        if transfer is not None and transfer.outcome is None:
            self._answer(transfer, transfer.on_packet(packet, self._loop.time()))

    def _readable(self, transfer: Transfer) -> None:
        """Take one packet, an ACK by the shortest way: there is hardly ever a second one, and the loop comes back for it."""
        try:
            raw = self._sock.recv(_MOST_DATAGRAM_BYTES)
            block = tftp.acknowledged_block(raw)
            if block is not None and transfer.outcome is None:
                self._answer(transfer, transfer.on_ack(block, self._loop.time()))
            else:
                self.take(tftp.decode(raw))
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            transfer.on_port_closed()
            self._ended.set()
        except OSError as error:
            log.info("tftp.receive_failed", source=self.client[0], error=str(error))
        except MalformedPacketError as error:
            log.info("tftp.malformed", source=self.client[0], error=str(error))

    def _on_time(self, transfer: Transfer) -> None:
        """The deadline that the timer was set to is there; most often it has moved on since."""
        self._answer(transfer, transfer.on_timer(self._loop.time()))
        if transfer.outcome is None:
            self._timer = self._loop.call_at(transfer.deadline, self._on_time, transfer)

    def _answer(self, transfer: Transfer, datagrams: Sequence[bytes]) -> None:
        self._send(datagrams)
        if transfer.outcome is not None:
            self._ended.set()

    def _send(self, datagrams: Sequence[bytes]) -> None:
        # A datagram that cannot be sent now is a lost one: the transfer sends it again. What ICMP told of earlier ones
        # is also raised here, and comes again with the next.
        try:
            if len(datagrams) > 1 and self._can_burst:
                sockets.send_burst(self._sock, datagrams, self._to)
            else:
                for datagram in datagrams:
                    self._put(datagram)
        except OSError as error:
            if len(datagrams) > 1 and self._can_burst and error.errno in sockets.CANNOT_BURST:
                self._can_burst = False
                self._send(datagrams)


@dataclass(frozen=True, eq=False)
class _Content:
    """What is in a file; lives as long as somebody sends it."""

    data: bytes


class _Contents:
    """Reads files in a thread of its own; whoever asks for one that is being sent gets the same copy."""

    def __init__(self) -> None:
        self._threads = Threads("tftp-files", 1)
        self._held: WeakValueDictionary[tuple[Path, int, int, int], _Content] = WeakValueDictionary()

    async def read(self, path: Path) -> _Content:
        """
        Give the content of a file.

        Raises:
            OSError: If it cannot be read, is no file, or is too large for TFTP.
        """
        return await self._threads.run(self._read, path)

    def close(self) -> None:
        """End the thread."""
        self._threads.close()

    def _read(self, path: Path) -> _Content:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError("it is no file")
            if status.st_size > MOST_FILE_BYTES:
                raise OSError(f"{status.st_size} bytes are too many for TFTP: serve it by HTTP")
            key = (path, status.st_ino, status.st_mtime_ns, status.st_size)
            content = self._held.get(key)
            if content is None:
                content = self._held[key] = _Content(file.read(MOST_FILE_BYTES))
            return content


def _without_waiting(path: str, flags: int) -> int:
    """A FIFO would hold whoever opens it, and with it all that wait for the thread."""
    return os.open(path, flags | os.O_NONBLOCK)

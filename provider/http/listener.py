"""
One aiohttp application on its sockets: binds early with clear errors, admits, serves, and stops without hanging.

Connections are accepted here and not by aiohttp, because a peer must not be able to use up what others need: there is a
most of connections, in all and for one address; a TLS handshake, a request head and a silence have their deadlines; and
the kernel ends a connection whose peer acknowledges nothing (a cable pulled, a machine switched off, a reader that
stopped reading).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import stat
from collections import Counter
from pathlib import Path

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from provider.domain.errors import PermanentError

log = structlog.get_logger()

CONNECTIONS = 10_000
"""Most connections at once; a further one is closed at once, and its peer tries again. Each agent keeps one for good."""

CONNECTIONS_PER_ADDRESS = 500

IDLE_SECONDS = 75.0
"""A connection without a request, or with half the head of one, for so long is closed."""

HANDSHAKE_SECONDS = 15.0

UNACKNOWLEDGED_SECONDS = 60
"""The kernel ends a connection when the peer has not taken any of the data under way for so long."""

SHUTDOWN_SECONDS = 2.0
BACKLOG = 4096
"""Connections that may wait in the kernel, which has the same limit (net.core.somaxconn). When half as many wait it gives them
up after seconds, and their peers, who think that they are connected, get a reset."""

_ACCEPTED_AT_ONCE = 64
"""Most connections that are accepted in one turn of the loop, which in a storm has tens of turns a second."""

_PROBE_SECONDS = 1.0
_PAUSE_SECONDS = 0.2


class Listener:
    """Call the `bind` methods and `run`; `name` is for messages."""

    def __init__(self, name: str, app: web.Application, *, tls: ssl.SSLContext | None = None) -> None:
        self._name = name
        self._app = app
        self._tls = tls
        self._listening: dict[tuple[str, int] | Path, socket.socket] = {}
        self._accepting: dict[socket.socket, asyncio.Task[None]] = {}
        self._admitting: tuple[asyncio.TaskGroup, web.Server] | None = None
        """What accepted connections go to, while `run` runs."""
        self._unix: tuple[Path, int] | None = None
        self._handshakes = 0
        self._open = 0
        self._open_of: Counter[str] = Counter()
        """Connections, in all and by address, that are open at most: those that have ended since the last count are in it."""

    def bind_tcp(self, address: str, port: int) -> None:
        """
        Listen there too, also while `run` runs; before, connections wait for it.

        Raises:
            PermanentError: If that cannot be had; says what to do.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            # Two that may reuse the address can both bind; only one can listen.
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise refused(self._name, f"{address}:{port}", port, error) from error
        self._listen_on(sock, (address, port))

    def unbind_tcp(self, address: str, port: int) -> None:
        """Listen there no more. Connections that are open stay so."""
        sock = self._listening.pop((address, port), None)
        if sock is None:
            return
        accepting = self._accepting.pop(sock, None)
        if accepting is not None:
            accepting.cancel()
        # The loop lets go of the socket in its next turn only, and we may have to listen there again in this one.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def bind_unix(self, path: Path) -> None:
        """
        Listen on a UNIX socket with mode 0660; the socket of a daemon that is dead is replaced.

        Raises:
            PermanentError: If another daemon listens there, something else is there, or the folder cannot be written.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            _take_place(sock, path)
        except OSError as error:
            sock.close()
            raise PermanentError(
                f"the {self._name} cannot listen on {path}: {error.strerror or error}",
                hint="check the folder and its owner; the whole path may have 100 characters",
            ) from error
        except PermanentError:
            sock.close()
            raise
        self._listen_on(sock, path)
        self._unix = path, path.stat().st_ino

    def close(self) -> None:
        """Give up the sockets."""
        for sock in self._listening.values():
            sock.close()
        self._listening.clear()
        self._accepting.clear()
        if self._unix is not None:
            path, inode = self._unix
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:  # Another daemon's is none of our business.
                    path.unlink()

    async def run(self) -> None:
        """Serve for ever; ends the daemon if it fails. A connection that fails is logged alone."""
        runner = web.AppRunner(
            self._app,
            access_log=None,
            logger=_library_log(self._name),
            keepalive_timeout=IDLE_SECONDS,
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await runner.setup()
        server = runner.server
        if server is None:
            raise AssertionError("an application runner has a server once it is set up")
        try:
            async with asyncio.TaskGroup() as group:
                self._admitting = group, server
                for sock in self._listening.values():
                    self._start_accepting(sock, group, server)
                await asyncio.Event().wait()
        finally:
            self._admitting = None
            self.close()
            await runner.cleanup()

    def _listen_on(self, sock: socket.socket, place: tuple[str, int] | Path) -> None:
        self._listening[place] = sock
        if self._admitting is not None:
            self._start_accepting(sock, *self._admitting)

    def _start_accepting(self, sock: socket.socket, group: asyncio.TaskGroup, server: web.Server) -> None:
        accepting = group.create_task(self._accept(sock, server, group), name=f"{self._name} accept")
        self._accepting[sock] = accepting

    async def _accept(self, listening: socket.socket, server: web.Server, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._accepted(*await loop.sock_accept(listening), server, group)
                for _ in range(_ACCEPTED_AT_ONCE - 1):
                    self._accepted(*listening.accept(), server, group)
            except BlockingIOError:
                continue  # That was the last one.
            except OSError as error:  # Out of file descriptors, or the peer is gone already.
                log.warning("http.accept_failed", listener=self._name, error=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)

    def _accepted(self, connection: socket.socket, peer: object, server: web.Server, group: asyncio.TaskGroup) -> None:
        if full := self._full(server, peer):
            connection.close()
            log.warning("http.turned_away", listener=self._name, peer=_named(peer), reason=full)
            return
        connection.setblocking(False)
        self._handshakes += 1
        group.create_task(self._admit(connection, peer, server), name=f"{self._name} admit")

    def _full(self, server: web.Server, peer: object) -> str:
        """Why a connection cannot be had, or empty; then it counts as open."""
        address = peer[0] if isinstance(peer, tuple) else ""
        if self._open >= CONNECTIONS or self._open_of[address] >= CONNECTIONS_PER_ADDRESS:
            self._count(server)
        own = self._open_of[address]
        if self._open >= CONNECTIONS:
            return f"{CONNECTIONS} connections are open"
        if address and own >= CONNECTIONS_PER_ADDRESS:
            return f"it has {own} connections open"
        self._open += 1
        self._open_of[address] += 1
        return ""

    def _count(self, server: web.Server) -> None:
        """Look at all connections, which each accept cannot afford in a boot storm."""
        peers = [connection.peername for connection in server.connections]
        self._open = len(peers) + self._handshakes
        self._open_of = Counter(peer[0] if isinstance(peer, tuple) else "" for peer in peers)

    async def _admit(self, connection: socket.socket, peer: object, server: web.Server) -> None:
        """Hand a connection to aiohttp, after its handshake if there is one."""
        loop = asyncio.get_running_loop()
        try:
            _guard(connection)
            await loop.connect_accepted_socket(
                server,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
            )
        except (OSError, TimeoutError) as error:
            connection.close()
            log.info("http.handshake_failed", listener=self._name, peer=_named(peer), error=str(error))
        finally:
            self._handshakes -= 1


def _guard(connection: socket.socket) -> None:
    """Let the kernel notice peers that are gone."""
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, UNACKNOWLEDGED_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_SECONDS * 1000)


def _take_place(sock: socket.socket, path: Path) -> None:
    """Listen in a place beside `path` and move there: whoever connects finds the old socket, or a ready new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise PermanentError(f"{path} is there and is no socket", hint="remove it, or choose another path")
    if _answers(path):
        raise PermanentError(
            f"another daemon listens on {path}", hint="stop it, or give this one another operator.socket"
        )
    beside = path.with_name(f".{path.name}")
    beside.unlink(missing_ok=True)
    sock.bind(str(beside))
    beside.chmod(0o660)
    sock.listen(BACKLOG)
    beside.rename(path)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _named(peer: object) -> str:
    return str(peer[0]) if isinstance(peer, tuple) else "local"


def refused(name: str, where: str, port: int, error: OSError) -> PermanentError:
    if error.errno == errno.EADDRINUSE:
        hint = f"see which one: ss -tlpn 'sport = :{port}'"
        return PermanentError(f"the {name} cannot listen on {where}: another program does", hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "run as root, give CAP_NET_BIND_SERVICE as the systemd unit does, or use a port above 1023"
        return PermanentError(f"the {name} may not listen on {where}", hint=hint)
    if error.errno == errno.EADDRNOTAVAIL:
        hint = "see the addresses with: ip -br addr; then mend network.interfaces[].address"
        return PermanentError(f"the {name} cannot listen on {where}: this machine has no such address", hint=hint)
    return PermanentError(f"the {name} cannot listen on {where}: {error.strerror}")


def _library_log(name: str) -> logging.Logger:
    """What aiohttp wants to log, in our form; it is known to nobody else, so no setting of `logging` changes it."""
    logger = logging.Logger(f"bootwright.http.{name}", logging.WARNING)  # noqa: LOG001 - not registered, on purpose
    logger.addHandler(_ToStructlog(name))
    return logger


class _ToStructlog(logging.Handler):
    """Bytes that are not HTTP are a logged drop, without a traceback and without what may be a secret in them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._listener = name

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            log.info("http.malformed", listener=self._listener, error=type(error).__name__)
        else:
            log.error("http.crashed", listener=self._listener, message=record.getMessage(), exc_info=error)

"""One aiohttp application on its sockets: binds early with clear errors, serves, and stops without hanging."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import structlog
from aiohttp import web

from provider.domain.errors import PermanentError

log = structlog.get_logger()

KEEPALIVE_SECONDS = 75.0
BACKLOG = 1024


class Listener:
    """Call one of the `bind` methods, then `run`; `name` is for messages."""

    def __init__(self, name: str, app: web.Application, *, tls: ssl.SSLContext | None = None) -> None:
        self._name = name
        self._app = app
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._path: Path | None = None

    def bind_tcp(self, addresses: Sequence[str], port: int) -> None:
        """
        Listen on each address.

        Raises:
            PermanentError: If one cannot be had.
        """
        for address in addresses:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((address, port))
                sock.listen(BACKLOG)
            except OSError as error:
                sock.close()
                raise _refused(self._name, f"{address}:{port}", port, error) from error
            self._sockets.append(sock)

    def bind_unix(self, path: Path) -> None:
        """
        Listen on a UNIX socket with mode 0660; the socket of a daemon that is dead is replaced.

        Raises:
            PermanentError: If another daemon listens there, or the folder cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if _answers(path):
                raise PermanentError(
                    f"another daemon listens on {path}", hint="stop it, or give this one another operator.socket"
                )
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            sock.bind(str(path))
            path.chmod(0o660)
            sock.listen(BACKLOG)
        except OSError as error:
            raise PermanentError(
                f"cannot listen on {path}: {error.strerror or error}", hint="check the folder and its owner"
            ) from error
        self._path = path
        self._sockets.append(sock)

    async def run(self) -> None:
        """Serve for ever; ends the daemon if it fails."""
        runner = web.AppRunner(
            self._app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            handler_cancellation=True,
            shutdown_timeout=2.0,
        )
        await runner.setup()
        try:
            for sock in self._sockets:
                await web.SockSite(runner, sock, ssl_context=self._tls, backlog=BACKLOG).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
            if self._path is not None:
                with contextlib.suppress(OSError):
                    self._path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _refused(name: str, where: str, port: int, error: OSError) -> PermanentError:
    if error.errno == errno.EADDRINUSE:
        hint = f"see which one: ss -tlpn 'sport = :{port}'"
        return PermanentError(f"the {name} cannot listen on {where}: another program does", hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "run as root, give CAP_NET_BIND_SERVICE as the systemd unit does, or use a port above 1023"
        return PermanentError(f"the {name} may not listen on {where}", hint=hint)
    return PermanentError(f"the {name} cannot listen on {where}: {error.strerror}")

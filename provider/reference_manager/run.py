"""Puts the reference manager together and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from pathlib import Path

import structlog

from provider.domain.errors import PermanentError
from provider.http.listener import Listener
from provider.http.tls import Authority
from provider.kit import notify
from provider.kit.clock import utc_now
from provider.reference_manager.client import control_socket
from provider.reference_manager.control import Control
from provider.reference_manager.server import LinkServer
from provider.reference_manager.state import State

log = structlog.get_logger()


async def serve(state_dir: Path, host: str, port: int) -> None:
    """
    Run it; `state_dir` gets the database, the token for providers, the CA and the control socket.

    Raises:
        PermanentError: If the folder or a socket cannot be used.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing is served yet
    token = _token(state_dir / "token")
    authority = Authority.open(state_dir / "tls", utc_now(), sorted({host, "localhost"}))
    _publish(state_dir / "ca.pem", authority.ca_pem)
    state = State(state_dir / "manager.db")
    links = LinkServer(state, token)
    over_tls = Listener("manager link", links.application(), tls=authority.server_context())
    control = Listener("control API", Control(state, links).application())
    over_tls.bind_tcp(host, port)
    control.bind_unix(control_socket(state_dir))
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each.run()) for each in (over_tls, control)]
            notify.notify("READY=1")
            log.info("manager.started", url=f"wss://{host}:{port}/link", state=str(state_dir))
            await stopped.wait()
            for task in tasks:
                task.cancel()
    finally:
        state.close()
    log.info("manager.stopped")


def _token(path: Path) -> str:
    """The token that providers show; made at the first start."""
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        _publish(path, f"{token}\n".encode(), mode=0o600)
    if len(token) < 16:
        raise PermanentError(
            f"the token in {path} is shorter than 16 characters", hint="remove the file and start again"
        )
    return token


def _publish(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    draft.rename(path)

"""The sockets that a server reads from, on interfaces that come and go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import structlog

from provider.planning.interfaces import Opening

log = structlog.get_logger()

REST_SECONDS = 1.0


class Closes(Protocol):
    """Something to let go of."""

    def close(self) -> None:
        """Let go of it."""


class Reader:
    """
    Calls `take` in the loop whenever there is something on the socket, from `start` until `close`.

    `take` reads without waiting and lets the socket's errors out. The first of them is a line in the log, and after each the
    socket rests: its interface went away, and one that fails at every turn would leave the loop no time for others.
    """

    def __init__(
        self, sock: socket.socket, interface: str, take: Callable[[], None], *, with_it: Sequence[Closes] = ()
    ) -> None:
        self._sock = sock
        self._interface = interface
        self._take = take
        self._with_it = with_it
        self._failed = False
        self._resting: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Read from now on."""
        self._resting = None
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def close(self) -> None:
        """Read no more, and close the socket and what goes with it."""
        if self._resting is not None:
            self._resting.cancel()
        self._stop()
        self._sock.close()
        for each in self._with_it:
            each.close()

    def _stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)

    def _readable(self) -> None:
        try:
            self._take()
        except BlockingIOError:
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("network.receive_failed", interface=self._interface, error=str(error))
            self._failed = True
            self._stop()
            self._resting = asyncio.get_running_loop().call_later(REST_SECONDS, self.start)
        else:
            self._failed = False


class Readers:
    """All readers of one server; those that are added before `start` wait for it."""

    def __init__(self) -> None:
        self._readers: dict[Opening, tuple[Reader, ...]] = {}
        self._started = False

    def __iter__(self) -> Iterator[Opening]:
        return iter(self._readers)

    def add(self, opening: Opening, *readers: Reader) -> None:
        """These belong to the opening."""
        self._readers[opening] = readers
        if self._started:
            for reader in readers:
                reader.start()

    def start(self) -> None:
        """Read all, and those that are added later at once."""
        self._started = True
        for readers in self._readers.values():
            for reader in readers:
                reader.start()

    def remove(self, opening: Opening) -> None:
        """Close those of the opening."""
        for reader in self._readers.pop(opening, ()):
            reader.close()

    def close(self) -> None:
        """Close all."""
        for opening in list(self._readers):
            self.remove(opening)

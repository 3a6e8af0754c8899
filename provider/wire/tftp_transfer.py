"""
One file to one client: the sending half of TFTP as a pure machine.

The shell sends what `start`, `on_ack` and `on_timer` return, and calls `on_timer` when `deadline` has passed. A window of
blocks is under way at a time (RFC 7440; without the option it is one block, as RFC 1350 has it). Duplicate ACKs are never
answered: that would double every later block (the sorcerer's apprentice, RFC 1123 section 4.2.3.1). Only the timer repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from provider.wire import tftp
from provider.wire.tftp import ErrorCode, ReadRequest

MAX_BLOCK_SIZE = 65464
WRAP = 65536


@dataclass(frozen=True)
class Limits:
    """What we agree to at most."""

    block_size: int = 1468
    window_size: int = 16
    retry_after: float = 1.0  # seconds
    retries: int = 6


@dataclass(frozen=True)
class Negotiated:
    """What client and server agreed on; `accepted` goes out as OACK if it is not empty."""

    block_size: int
    window_size: int
    retry_after: float
    accepted: dict[str, str]


def negotiate(request: ReadRequest, size: int, limits: Limits) -> Negotiated:
    """
    Answer the client's options: each is accepted, lowered, or left out, which refuses it (RFC 2347).

    `blksize` RFC 2348, `timeout` (1 to 255 s) and `tsize` RFC 2349, `windowsize` RFC 7440.
    """
    accepted: dict[str, str] = {}
    block_size, window_size, retry_after = tftp.BLOCK_SIZE, 1, limits.retry_after
    for name, text in request.options.items():
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if name == "blksize" and 8 <= value <= MAX_BLOCK_SIZE:
            block_size = min(value, limits.block_size)
            accepted[name] = str(block_size)
        elif name == "windowsize" and 1 <= value <= 65535:
            window_size = min(value, limits.window_size)
            accepted[name] = str(window_size)
        elif name == "timeout" and 1 <= value <= 255:
            retry_after = float(value)
            accepted[name] = text
        elif name == "tsize" and value >= 0:
            accepted[name] = str(size)
    return Negotiated(block_size, window_size, retry_after, accepted)


@dataclass
class Transfer:
    """
    Send what `start`, `on_ack` and `on_timer` return; call `on_timer` at `deadline`.

    `read(offset, length)` gives bytes of the file; it must not block.
    """

    read: Callable[[int, int], bytes]
    size: int
    agreed: Negotiated
    retries_left: int
    acknowledged: int = 0
    """Blocks that the client has, in a row, counted from 1 without wrapping."""
    deadline: float = 0.0  # monotonic seconds, as every `now`
    outcome: Literal["done", "gave_up", "refused"] | None = None
    _limit: int = 0
    _opened: bool = False

    def __post_init__(self) -> None:
        self._limit = self.retries_left
        self._opened = not self.agreed.accepted

    @property
    def blocks(self) -> int:
        """How many blocks there are: the last one is shorter than the others, if need be empty."""
        return self.size // self.agreed.block_size + 1

    def start(self, now: float) -> list[bytes]:
        """The first datagrams: the OACK if options were agreed on, else the first block."""
        return self._send(now)

    def on_ack(self, block: int, now: float) -> list[bytes]:
        """An ACK came; `block` is the number on the wire."""
        if self.outcome is not None:
            return []
        if not self._opened:
            if block != 0:
                return []
            self._opened = True
            self.retries_left = self._limit
            return self._send(now)
        reached = self._unwrap(block)
        if reached is None:
            return []
        self.acknowledged = reached
        self.retries_left = self._limit
        if reached == self.blocks:
            self.outcome = "done"
            return []
        return self._send(now)

    def on_timer(self, now: float) -> list[bytes]:
        """The deadline has passed: repeat what is not acknowledged, or give up."""
        if self.outcome is not None:
            return []
        if self.retries_left == 0:
            self.outcome = "gave_up"
            return [tftp.encode_error(ErrorCode.UNDEFINED, "no acknowledgement came: giving up")]
        self.retries_left -= 1
        return self._send(now)

    def on_error(self) -> None:
        """The client said ERROR: often it only wanted to know the size (tsize), and has now what it needs."""
        self.outcome = self.outcome or "refused"

    def _unwrap(self, block: int) -> int | None:
        """The true number of a block inside the window that is under way; None for duplicates and strays."""
        last = min(self.acknowledged + self.agreed.window_size, self.blocks)
        ahead = (block - self.acknowledged) % WRAP
        reached = self.acknowledged + ahead
        return reached if ahead and reached <= last else None

    def _send(self, now: float) -> list[bytes]:
        self.deadline = now + self.agreed.retry_after
        if not self._opened:
            return [tftp.encode_options(self.agreed.accepted)]
        first = self.acknowledged + 1
        last = min(self.acknowledged + self.agreed.window_size, self.blocks)
        return [tftp.encode_data(number, self._chunk(number)) for number in range(first, last + 1)]

    def _chunk(self, number: int) -> bytes:
        offset = (number - 1) * self.agreed.block_size
        return self.read(offset, min(self.agreed.block_size, max(0, self.size - offset)))

"""
One TFTP download, seen from the server: which datagrams to send, and when to send them again.

`requested_file` says what a first packet asks for, or the ERROR that answers it. `Transfer` is then told of each ACK,
each ERROR and the passing of `deadline`, and answers with the datagrams to send next, until `outcome` is set.

Blocks are counted from 1 without an end inside and modulo 65,536 on the wire, so files of any size roll over to block 0,
as all clients we know do. A window (RFC 7440) is a number of blocks sent for one ACK; without that option it is 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from provider.wire import tftp

BLOCKS_ON_WIRE = 1 << 16

DEFAULT_BLOCK_SIZE = 512

MOST_BYTES_IN_FLIGHT = 128 << 10
"""A window is never larger; more than that is lost in the socket buffers of either end."""

LONGEST_TIMEOUT = 30
"""Seconds. A longer `timeout` is left out: RFC 2349 knows no way to agree to less. Firmware asks for 5 (U-Boot) or not at all."""

LONGEST_SILENCE = 120
"""Seconds that a client that chose its `timeout` is waited for, in all: anybody can ask, from an address that never answers."""


class Outcome(StrEnum):
    """How a transfer ended."""

    DONE = "done"
    """The client acknowledged the last block, or closed its port when only that acknowledgement was missing."""
    PROBED = "probed"
    """The client wanted the options only: firmware asks for the size first, and then again for the file."""
    ABORTED = "aborted"
    """The client sent an ERROR, or closed its port."""
    GAVE_UP = "gave_up"
    """The client fell silent."""


@dataclass(frozen=True)
class Limits:
    """What we agree to at most."""

    block_size: int = 1468
    """Bytes of a block (RFC 2348); 1468 fill an Ethernet frame."""
    window_size: int = 64
    """Blocks sent for one ACK (RFC 7440)."""
    retry_after: float = 1.0
    """Seconds until what was not acknowledged is sent again, unless the client asks for another time (RFC 2349)."""
    retries: int = 6
    """How often, until we give up."""


def requested_file(packet: tftp.Packet) -> str | tftp.Error | None:
    """
    Say which file the first packet of a client asks for, as a relative path with `/`.

    None if the packet is not the first of anything, and deserves no answer. What stands behind the name is up to the
    caller; that it cannot leave a folder is seen to here.
    """
    match packet:
        case tftp.WriteRequest():
            return tftp.Error(tftp.ErrorCode.ACCESS_VIOLATION, "files can only be read here")
        case tftp.ReadRequest(mode=mode) if mode != tftp.OCTET:
            return tftp.Error(tftp.ErrorCode.ILLEGAL_OPERATION, f"mode {_printable(mode)} is not served, use octet")
        case tftp.ReadRequest(name=name):
            return _relative(name)
        case _:
            return None


def _relative(name: str) -> str | tftp.Error:
    """Read a file name: some ROMs write it with backslashes (edge case 32), many with a slash in front."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        return tftp.Error(tftp.ErrorCode.ACCESS_VIOLATION, "no file outside of the boot files is served")
    if not parts or not name.isprintable():
        return tftp.Error(tftp.ErrorCode.FILE_NOT_FOUND, "that is not a file name")
    return "/".join(parts)


def _printable(text: str) -> str:
    return "".join(letter for letter in text[:32] if letter.isprintable())


@dataclass
class Transfer:
    """
    One file on its way to one client.

    Send what `start`, `on_packet` and `on_timer` return. Call `on_timer` once `deadline` has passed.
    """

    content: bytes
    request: tftp.ReadRequest
    limits: Limits = field(default_factory=Limits)
    deadline: float = 0.0
    """In the caller's monotonic seconds, as every `now`."""
    outcome: Outcome | None = None
    reason: str = ""
    """Why it did not end well."""

    def __post_init__(self) -> None:
        agreed = negotiate(self.request, len(self.content), self.limits)
        self._option_ack = tftp.encode(tftp.OptionAck(agreed)) if agreed else b""
        self._block_size = int(agreed.get("blksize", DEFAULT_BLOCK_SIZE))
        self._window = int(agreed.get("windowsize", 1))
        self._retry_after, self._retries = self.limits.retry_after, self.limits.retries
        if "timeout" in agreed:
            self._retry_after = float(agreed["timeout"])
            self._retries = min(self._retries, LONGEST_SILENCE // int(agreed["timeout"]) - 1)
        # A file whose size is a multiple of the block size ends with an empty block (RFC 1350 section 6).
        self._last_block = len(self.content) // self._block_size + 1
        self._view = memoryview(self.content)
        self._acknowledged = -1 if agreed else 0
        self._sent = 0
        self._silences = 0

    @property
    def is_under_way(self) -> bool:
        """Whether the client has acknowledged anything."""
        return self._acknowledged >= (0 if self._option_ack else 1)

    def start(self, now: float) -> list[bytes]:
        """Answer the request: with an OACK if there is something to agree on, else with data at once."""
        return self._send(now)

    def on_packet(self, packet: tftp.Packet, now: float) -> list[bytes]:
        """Take a packet from the client."""
        if isinstance(packet, tftp.Ack):
            return self.on_ack(packet.block, now)
        if isinstance(packet, tftp.Error):
            self._end(Outcome.PROBED if self._acknowledged < 0 else Outcome.ABORTED)
            self.reason = f"the client says: {_printable(packet.message)} (code {packet.code})"
        return []

    def on_timer(self, now: float) -> list[bytes]:
        """Send again what was not acknowledged, or give up."""
        if now < self.deadline:
            return []
        self._silences += 1
        if self._silences > self._retries:
            self._end(Outcome.GAVE_UP)
            self.reason = f"no answer to {self._waiting_for()} after {self._silences} tries"
            return []
        return self._send(now)

    def on_repeated_request(self, now: float) -> list[bytes]:
        """Answer the request again: the first answer did not arrive, or not yet. Not once `is_under_way`."""
        return [] if self.is_under_way else self._send(now)

    def on_port_closed(self) -> None:
        """ICMP says that nobody listens at the client's port any more: it has all, and its last ACK was lost; or it is gone."""
        if self._sent == self._last_block and self._silences > 0:
            self._end(Outcome.DONE)
            return
        self._end(Outcome.ABORTED)
        self.reason = f"the client closed its port instead of acknowledging {self._waiting_for()}"

    def on_ack(self, block: int, now: float) -> list[bytes]:
        """
        Go on behind the acknowledged block, as `on_packet` does with an ACK.

        An ACK that acknowledges nothing new is dropped, also inside a window, where RFC 7440 would allow to answer it:
        whoever answers duplicates doubles every block that follows (RFC 1123 section 4.2.3.1).
        """
        news = (block - self._acknowledged) % BLOCKS_ON_WIRE
        if news == 0 or self._acknowledged + news > self._sent:
            return []
        self._acknowledged += news
        self._silences = 0
        if self._acknowledged == self._last_block:
            self._end(Outcome.DONE)
            return []
        return self._send(now)

    def _send(self, now: float) -> list[bytes]:
        self.deadline = now + self._retry_after
        if self._acknowledged < 0:
            return [self._option_ack]
        first = self._acknowledged + 1
        if self._window == 1:  # As most firmware has it, so it has to be quick.
            self._sent = first
            return [self._data(first)]
        self._sent = min(self._acknowledged + self._window, self._last_block)
        return [self._data(block) for block in range(first, self._sent + 1)]

    def _data(self, block: int) -> bytes:
        end = block * self._block_size
        return tftp.encode_data(block % BLOCKS_ON_WIRE, self._view[end - self._block_size : end])

    def _waiting_for(self) -> str:
        return "the options" if self._acknowledged < 0 else f"block {self._acknowledged + 1} of {self._last_block}"

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome


def negotiate(request: tftp.ReadRequest, size: int, limits: Limits) -> dict[str, str]:
    """
    Choose among the options of a request; what is unknown or out of range is left out, as RFC 2347 wants it.

    `size` is the file's, in bytes.
    """
    agreed: dict[str, str] = {}
    block_size = DEFAULT_BLOCK_SIZE
    if (asked := _number(request, "blksize", 8, 65464)) is not None:
        block_size = min(asked, limits.block_size)
        agreed["blksize"] = str(block_size)
    if (asked := _number(request, "timeout", 1, LONGEST_TIMEOUT)) is not None:
        agreed["timeout"] = str(asked)
    if _number(request, "tsize", 0, None) is not None:
        agreed["tsize"] = str(size)
    if (asked := _number(request, "windowsize", 1, 65535)) is not None:
        most = max(1, min(limits.window_size, MOST_BYTES_IN_FLIGHT // block_size))
        agreed["windowsize"] = str(min(asked, most))
    return agreed


def _number(request: tftp.ReadRequest, option: str, least: int, most: int | None) -> int | None:
    text = request.options.get(option, "")
    if not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number >= least and (most is None or number <= most) else None

"""
Datagrams to the TFTP port: a request, and whatever its client sends afterwards.

| Bytes | Meaning |
|---|---|
| 1 | the size of the file (`_SIZES`) and our limits (0x08) |
| 2, and as many | the request, as it stands on the wire |
| then for each step: 1 | `_Step` |
| ACK, of any block: 2 | its number |
| a datagram: 1, and as many | as it stands on the wire |

Then the client is silent. What must hold, whatever comes: a name leads nowhere but down from the folder; each block that is
sent is that part of the file, neither longer nor more at once than agreed; and the end comes by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import PurePosixPath

from fuzz.inputs import Reader, demand
from provider.domain import mac as macs
from provider.domain.errors import MalformedPacketError
from provider.wire import grub, tftp, tftp_transfer
from provider.wire.tftp_transfer import BLOCKS_ON_WIRE, Limits, Outcome, Transfer

MOST_STEPS = 24

_SIZES = (0, 1, 7, 511, 512, 1468, 5000, 70_000)
_CONTENT = bytes(number * 7 % 251 for number in range(_SIZES[-1]))
_LIMITS = (Limits(retries=3), Limits(block_size=65464, window_size=200, retry_after=0.5, retries=3))
_OPTIONS = ("blksize", "tsize", "timeout", "windowsize")


class _Step(IntEnum):
    """What happens next; other numbers mean the first."""

    ACK_LAST = 0
    ACK_ANY = 1
    TIMER = 2
    TIMER_EARLY = 3
    DATAGRAM = 4
    REQUEST_AGAIN = 5
    PORT_CLOSED = 6
    ACK_FIRST = 7


def words() -> Iterable[bytes]:
    """What inputs are made of."""
    yield from (b"\0\1", b"\0\2", b"\0octet\0", b"\0netascii\0")
    yield from (b"..", b"a/", b"/../", b"\\..\\", b"grub/machine/x86_64/", b"52:54:00:00:00:01")
    for option in _OPTIONS:
        yield from (option.encode() + b"\0" + value + b"\0" for value in (b"0", b"1", b"8", b"512", b"1468", b"65464"))
    yield from (b"\0\4\0\1", b"\0\5\0\0stop\0", b"\0\6blksize\x00512\0", b"\0\3\0\1x")


def play(data: bytes) -> None:
    """
    Play one input.

    Raises:
        BrokenInvariantError: If what must hold does not.
    """
    reader = Reader(data)
    head = reader.number()
    raw = reader.bytes(reader.number(2))
    packet = _decoded(raw)
    if packet is None:
        return
    wanted = tftp_transfer.requested_file(packet)
    if isinstance(wanted, tftp.Error):
        demand(isinstance(tftp.decode(tftp.encode(wanted)), tftp.Error), "a refusal reads as something else")
    elif wanted is not None and isinstance(packet, tftp.ReadRequest):
        _stays_inside(wanted)
        content, limits = _CONTENT[: _SIZES[head & 7]], _LIMITS[bool(head & 8)]
        _Download(packet, content, limits).run(reader)


def _decoded(raw: bytes) -> tftp.Packet | None:
    try:
        packet = tftp.decode(raw)
    except MalformedPacketError as error:
        demand(bool(error.field) and 0 <= error.offset <= max(len(raw), 2), "the error names no place")
        return None
    return packet


def _stays_inside(name: str) -> None:
    path = PurePosixPath("/srv", name)
    demand(str(path) == f"/srv/{name}" and ".." not in path.parts, f"the name leads out of the folder: {name!r}")
    demand("\\" not in name and name.isprintable(), f"the name has odd letters: {name!r}")
    asking = grub.machine_of(name)
    if asking is not None:
        macs.parse(asking.mac)


class _Download:
    """One transfer, and what its client may believe."""

    def __init__(self, request: tftp.ReadRequest, content: bytes, limits: Limits) -> None:
        self._content = content
        self._limits = limits
        self._now = 0.0
        self._transfer = Transfer(content, request, limits)
        self._sizes = {"blksize": 512, "windowsize": 1}
        self._asked = request.options
        self._first = self._last = self._most = 0
        """Blocks: the first and the last that were sent for one answer, and the last that was sent ever."""

    def run(self, reader: Reader) -> None:
        self._check(self._transfer.start(self._now))
        for _ in range(MOST_STEPS):
            if not reader.has_more or self._transfer.outcome is not None:
                break
            self._check(self._step(reader))
        for _ in range(self._limits.retries + 1):
            if self._transfer.outcome is None:
                self._check(self._silence())
        demand(self._transfer.outcome is not None, "a client that is silent is served for ever")
        if self._transfer.outcome is Outcome.DONE:
            demand(self._most == self._count(), "a transfer is done and did not send all")

    def _step(self, reader: Reader) -> Sequence[bytes]:
        transfer, kind = self._transfer, reader.number() % len(_Step)
        match kind:
            case _Step.ACK_ANY:
                return transfer.on_packet(tftp.Ack(reader.number(2)), self._now)
            case _Step.ACK_FIRST:
                return transfer.on_packet(tftp.Ack(self._first), self._now)
            case _Step.TIMER:
                return self._silence()
            case _Step.TIMER_EARLY:
                early = transfer.on_timer(self._now)
                demand(not early, "the timer acts before its time")
                return early
            case _Step.DATAGRAM:
                packet = _decoded(reader.bytes(reader.number()))
                return [] if packet is None else transfer.on_packet(packet, self._now)
            case _Step.REQUEST_AGAIN:
                return transfer.on_repeated_request(self._now)
            case _Step.PORT_CLOSED:
                transfer.on_port_closed()
                return []
            case _:
                return transfer.on_packet(tftp.Ack(self._last), self._now)

    def _silence(self) -> Sequence[bytes]:
        demand(self._transfer.deadline > self._now, "the deadline is not in the future")
        self._now = self._transfer.deadline
        return self._transfer.on_timer(self._now)

    def _check(self, datagrams: Sequence[bytes]) -> None:
        demand(len(datagrams) <= self._sizes["windowsize"], "more is sent at once than was agreed")
        for place, raw in enumerate(datagrams):
            packet = tftp.decode(raw)
            if isinstance(packet, tftp.OptionAck):
                self._agree(packet)
            else:
                demand(isinstance(packet, tftp.Data), f"a transfer sends {packet}")
                self._is_of_the_file(packet, raw)
                self._first = self._last if place == 0 else self._first

    def _agree(self, packet: tftp.OptionAck) -> None:
        demand(
            packet.options.keys() <= self._asked.keys() & set(_OPTIONS), "an option is agreed on that nobody asked for"
        )
        agreed = {name: int(value) for name, value in packet.options.items()}
        demand(agreed.get("tsize", len(self._content)) == len(self._content), "the size is not the file's")
        for name, most in (("blksize", self._limits.block_size), ("windowsize", self._limits.window_size)):
            if name in agreed:
                demand(
                    1 <= agreed[name] <= min(most, int(self._asked[name])), f"{name} is larger than asked or allowed"
                )
                self._sizes[name] = agreed[name]

    def _is_of_the_file(self, packet: tftp.Packet, raw: bytes) -> None:
        if not isinstance(packet, tftp.Data):
            return
        size = self._sizes["blksize"]
        demand(1 <= packet.block <= self._count() < BLOCKS_ON_WIRE, "a block beyond the end of the file")
        demand(packet.block <= self._most + 1, "a block is left out")
        begin = (packet.block - 1) * size
        demand(raw[4:] == self._content[begin : begin + size], "a block is not that part of the file")
        self._last = packet.block
        self._most = max(self._most, packet.block)

    def _count(self) -> int:
        return len(self._content) // self._sizes["blksize"] + 1

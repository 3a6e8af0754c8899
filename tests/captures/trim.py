"""
What of a raw capture goes into the repository: who said what, and nothing of the programs that were loaded.

DHCP stays whole. Of each TFTP transfer stay the request, options and errors, and the first and the last blocks and
acknowledgements, and of requests that nobody answers three; of HTTP the heads. Contents are cut off as a short snapshot
length does it: a frame keeps its length on the wire.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tests.captures.frames import Frame, Peer, Protocol, sorted_out

_DATA, _ACK = 3, 4
_TFTP_HEADER = 4
_FIRST, _LAST = 4, 2
"""Of the blocks and acknowledgements of a transfer; the first acknowledgement is that of the options."""
_REQUESTS = 3
"""The same from the same port."""


def trim(frames: Iterable[Frame]) -> list[Frame]:
    """Leave out and cut."""
    return list(_without_middles([(_cut(frame, protocol), protocol) for frame, protocol in sorted_out(frames)]))


def _cut(frame: Frame, protocol: Protocol) -> Frame:
    match protocol:
        case Protocol.TFTP if _opcode(frame) == _DATA:
            return _shorten(frame, _TFTP_HEADER)
        case Protocol.HTTP:
            head, end, _body = frame.payload.partition(b"\r\n\r\n")
            return _shorten(frame, len(head + end))
        case _:
            return frame


def _shorten(frame: Frame, keep: int) -> Frame:
    payload = frame.payload[:keep]
    cut = frame.cut + len(frame.payload) - len(payload)
    return replace(frame, raw=frame.raw[: frame.start + len(payload)], payload=payload, cut=cut)


def _opcode(frame: Frame) -> int:
    return int.from_bytes(frame.payload[:2], "big")


def _without_middles(frames: list[tuple[Frame, Protocol]]) -> Iterator[Frame]:
    transfers: dict[Peer, list[int]] = {}
    middle: set[int] = set()

    def end(client: Peer) -> None:
        middle.update(transfers.pop(client, [])[_FIRST:-_LAST])

    asked: Counter[tuple[Peer, bytes]] = Counter()
    for number, (frame, protocol) in enumerate(frames):
        if protocol is not Protocol.TFTP:
            continue
        if frame.destination[1] == 69:
            end(frame.source)
            transfers[frame.source] = []
            asked[frame.source, frame.payload] += 1
            if asked[frame.source, frame.payload] > _REQUESTS:
                middle.add(number)
        elif _opcode(frame) in (_DATA, _ACK):
            client = frame.source if frame.source in transfers else frame.destination
            transfers[client].append(number)
    for client in list(transfers):
        end(client)
    return (frame for number, (frame, _protocol) in enumerate(frames) if number not in middle)

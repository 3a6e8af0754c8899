"""
The load of `./dev bench tftp`: many TFTP clients at once (RFC 1350, 2347 to 2349, 7440), each a process of its own.

curl, atftp and tftp-hpa have no windowsize, or write what they get to a file. This client looks at numbers and sizes and
throws the content away. `python -m bench.tftp_load ADDRESS FILE CLIENTS BLKSIZE WINDOWSIZE` prints one JSON object: `seconds`
from the first request to the last block, `bytes` of all, `window` that the server agreed to, `repeats` after a silence or a gap.
"""

from __future__ import annotations

import functools
import json
import socket
import struct
import sys
from dataclasses import dataclass

from bench.crowd import Crowd
from provider.wire import tftp

SILENCE = struct.pack("@ll", 1, 0)
"""A second without a packet (struct timeval), then the last acknowledgement is sent again."""

MOST_SILENCES = 20

_PORT = 69
_HEAD = struct.Struct("!HH")
_DATA = 3
_RECEIVE_BUFFER = 1 << 20


@dataclass(frozen=True)
class Download:
    """What one client got."""

    bytes_: int
    window: int
    repeats: int


def download(address: str, file: str, block_size: int, window: int) -> Download:
    """
    Fetch one file whole.

    Raises:
        OSError: If the server refuses, or says nothing for too long.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, SILENCE)  # Cheaper than Python's own timeout.
        options = {"blksize": str(block_size), "windowsize": str(window)}
        request = tftp.encode(tftp.ReadRequest(file, options=options))
        agreed, repeats = _begin(sock, (address, _PORT), request)
        if int(agreed.get("blksize", 0)) != block_size:
            raise OSError(f"the server does not agree to blocks of {block_size} bytes")
        window = int(agreed.get("windowsize", 1))
        size, further = _receive(sock, block_size, window)
        return Download(size, window, repeats + further)


def _begin(sock: socket.socket, server: tuple[str, int], request: bytes) -> tuple[dict[str, str], int]:
    """Ask until options are agreed on; gives them, and how often we had to ask again."""
    for repeats in range(MOST_SILENCES):
        sock.sendto(request, server)
        try:
            raw, peer = sock.recvfrom(2048)
        except BlockingIOError:
            continue
        match tftp.decode(raw):
            case tftp.OptionAck(options):
                sock.connect(peer)
                return dict(options), repeats
            case other:
                raise OSError(f"the server answers {other}")
    raise OSError("the server says nothing")


def _receive(sock: socket.socket, block_size: int, window: int) -> tuple[int, int]:
    """All blocks in their order, from the acknowledged options on; gives bytes, and how often they stopped."""
    buffer = bytearray(_HEAD.size + block_size)
    acknowledgement = _HEAD.pack(4, 0)
    sock.send(acknowledgement)
    block, size, repeats, since, gap = 0, 0, 0, 0, False
    while True:
        try:
            length = sock.recv_into(buffer)
        except BlockingIOError:
            repeats += 1
            if repeats > MOST_SILENCES:
                raise OSError(f"the server falls silent after block {block}") from None
            sock.send(acknowledgement)
            continue
        opcode, number = _HEAD.unpack_from(buffer)
        if opcode != _DATA:
            raise OSError(f"the server sends {bytes(buffer[:length])!r}")
        if number != (block + 1) & 0xFFFF:
            if not gap:  # What is missing is asked for once, not once for each block behind it.
                gap, since, repeats = True, 0, repeats + 1
                acknowledgement = _HEAD.pack(4, block & 0xFFFF)
                sock.send(acknowledgement)
            continue
        block, size, since, gap = block + 1, size + length - _HEAD.size, since + 1, False
        if since == window or length < len(buffer):
            acknowledgement = _HEAD.pack(4, number)
            sock.send(acknowledgement)
            since = 0
        if length < len(buffer):
            return size, repeats


def main() -> None:
    """Run the clients and print what they got."""
    address, file, clients, block_size, window = sys.argv[1:]
    client = functools.partial(download, address, file, int(block_size), int(window))
    got, seconds = Crowd(int(clients), client).run()
    total = {"bytes": sum(one.bytes_ for one in got), "repeats": sum(one.repeats for one in got)}
    sys.stdout.write(json.dumps({"seconds": seconds, "window": got[0].window, **total}))


if __name__ == "__main__":
    main()

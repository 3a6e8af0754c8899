"""
The load of `./dev bench http`: clients that fetch one file and throw it away inside the kernel (tcp(7), MSG_TRUNC).

curl, which copies what it gets, is as busy as the servers that it is to measure. `python -m bench.http_load ADDRESS PORT PATH
CLIENTS` prints one JSON object: `seconds`, and `bytes` of all bodies.
"""

from __future__ import annotations

import functools
import json
import re
import socket
import sys

from bench.crowd import Crowd

_SECONDS = 60.0
_MOST_AT_ONCE = 1 << 20


def fetch(address: str, port: int, path: str) -> int:
    """
    Fetch one file; gives the bytes of its body.

    Raises:
        OSError: If the server refuses, or closes the connection too early.
    """
    with socket.create_connection((address, port), _SECONDS) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        head, rest = _head(sock)
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            raise OSError(f"the server answers {head!r}")
        size, place = rest, bytearray(_MOST_AT_ONCE)
        while size < int(length[1]):
            got = sock.recv_into(place, _MOST_AT_ONCE, socket.MSG_TRUNC)
            if not got:
                raise OSError(f"the server closes the connection after {size} bytes")
            size += got
        return size


def _head(sock: socket.socket) -> tuple[bytes, int]:
    """Status line and headers, and how much of the body came with them."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        got = sock.recv(4096)
        if not got:
            raise OSError("the server closes the connection at once")
        raw += got
    head, _, body = raw.partition(b"\r\n\r\n")
    return head + b"\r\n", len(body)


def main() -> None:
    """Run the clients and print what they got."""
    address, port, path, clients = sys.argv[1:]
    sizes, seconds = Crowd(int(clients), functools.partial(fetch, address, int(port), path)).run()
    sys.stdout.write(json.dumps({"seconds": seconds, "bytes": sum(sizes)}))


if __name__ == "__main__":
    main()

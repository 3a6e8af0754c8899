"""Sockets as the kernel makes them for us."""

from __future__ import annotations

import socket

from provider.netboot import sockets

ENOUGH = 4 << 20


def test_the_kernel_keeps_what_comes_in_a_storm() -> None:
    """While we are busy for a tenth of a second the requests of thousands of machines are dropped."""
    with sockets.bind_udp("lo", 6767) as sock, sockets.open_packet("lo", sockets.ETHERTYPE_ARP) as packets:
        for each in (sock, packets):
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= ENOUGH

"""
Many DHCP clients behind one relay, for tests of a server under load.

`python3 -m tests.integration.dhcp_crowd OURS SERVER MACHINES` runs in the clients' namespace. It is relay and clients in one:
their packets come from OURS, port 67, with that as giaddr. Each machine discovers and requests, asks again after a while, and
each DHCPACK is printed as a line `MAC ADDRESS SECONDS` at once. It ends when all machines have their lease, or is killed.
"""

from __future__ import annotations

import socket
import sys
import time
from ipaddress import IPv4Address

from provider.domain import mac as macs
from provider.domain.mac import MacAddress
from provider.wire import dhcp
from provider.wire.dhcp import MessageType, Option, Packet

AT_ONCE = 64
PATIENCE = 0.5  # seconds


class Crowd:
    """Machines number 0 to `machines` - 1; up to `AT_ONCE` of them are on their way."""

    def __init__(self, ours: str, server: str, machines: int) -> None:
        self._ours = IPv4Address(ours)
        self._server = server
        self._waiting = [macs.from_bytes(b"\2\0" + number.to_bytes(4, "big")) for number in reversed(range(machines))]
        self._asked: dict[MacAddress, tuple[float, bytes]] = {}
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._sock.bind((ours, 67))
        self._sock.settimeout(PATIENCE / 5)

    def lease(self) -> None:
        """Until everybody has a lease."""
        while self._asked or self._waiting:
            while self._waiting and len(self._asked) < AT_ONCE:
                self._ask(self._waiting.pop(), MessageType.DISCOVER, {})
            try:
                answer = dhcp.decode(self._sock.recv(2048))
            except (TimeoutError, ConnectionRefusedError):
                self._ask_again()
            else:
                self._take(answer)

    def _take(self, answer: Packet) -> None:
        if answer.chaddr not in self._asked:
            return
        if answer.message_type is MessageType.OFFER:
            chosen = {
                Option.SERVER_ID: answer.options[Option.SERVER_ID],
                Option.REQUESTED_ADDRESS: answer.yiaddr.packed,
            }
            self._ask(answer.chaddr, MessageType.REQUEST, chosen)
        elif answer.message_type is MessageType.ACK:
            seconds = int.from_bytes(answer.options[Option.LEASE_TIME], "big")
            print(answer.chaddr, answer.yiaddr, seconds, flush=True)
            del self._asked[answer.chaddr]

    def _ask(self, mac: MacAddress, kind: MessageType, options: dict[int, bytes]) -> None:
        packet = Packet(
            op=1,
            xid=hash(mac) & 0xFFFFFFFF,
            chaddr=mac,
            options={Option.MESSAGE_TYPE: bytes((kind,)), **options},
            giaddr=self._ours,
        )
        self._asked[mac] = time.monotonic(), dhcp.encode(packet)
        self._sock.sendto(self._asked[mac][1], (self._server, 67))

    def _ask_again(self) -> None:
        now = time.monotonic()
        for mac, (at, raw) in self._asked.items():
            if now > at + PATIENCE:
                self._asked[mac] = now, raw
                self._sock.sendto(raw, (self._server, 67))


if __name__ == "__main__":
    Crowd(sys.argv[1], sys.argv[2], int(sys.argv[3])).lease()

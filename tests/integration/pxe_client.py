"""
PXE firmware as EDK2 and ROMs do it, by scapy; run as a program in the client's namespace:
`python -m tests.integration.pxe_client INTERFACE MAC ARCH`.

DHCPDISCOVER by broadcast; offers are gathered. One with an address is taken by DHCPREQUEST. The boot file is that of the
offer that calls itself PXEClient; if it names none, port 4011 of its server is asked (PXE specification 2.1 section 2.2).
What came of it is printed as JSON: `address` and `server` of the lease, `boot_server` and `file`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

OFFER_SECONDS = 2.0
"""EDK2 gathers offers for about this time."""

TRIES = 4
PXE_PORT = 4011

Packet = Any
"""scapy has no types."""


class Firmware:
    """One network card."""

    def __init__(self, interface: str, mac: str, arch: int) -> None:
        self._interface = interface
        self._mac = mac
        self._arch = arch
        self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._raw.bind((interface, 0))

    def boot(self) -> dict[str, str]:
        """Get a lease and a boot file."""
        offers = self._discover()
        leasing = next(offer for offer in offers if offer[BOOTP].yiaddr != "0.0.0.0")
        boots = [offer for offer in offers if said(offer, "vendor_class_id").startswith(b"PXEClient")]
        lease = self._request(leasing)
        found = {"address": lease[BOOTP].yiaddr, "server": address(lease, "server_id"), "boot_server": "", "file": ""}
        proxies = [offer for offer in boots if offer is not leasing] or boots
        if not proxies:
            return found
        answer = proxies[0] if file(proxies[0]) else self._ask_boot_server(proxies[0], lease[BOOTP].yiaddr)
        return {**found, "boot_server": answer[BOOTP].siaddr, "file": file(answer)}

    def _discover(self) -> list[Packet]:
        for _ in range(TRIES):
            offers = list(self._broadcast([("message-type", "discover")], lambda heard: kind(heard) == 2))
            if any(offer[BOOTP].yiaddr != "0.0.0.0" for offer in offers):
                return offers
        raise SystemExit("no offer with an address")

    def _request(self, offer: Packet) -> Packet:
        chosen = [("server_id", address(offer, "server_id")), ("requested_addr", offer[BOOTP].yiaddr)]
        for _ in range(TRIES):
            for answer in self._broadcast([("message-type", "request"), *chosen], lambda heard: kind(heard) == 5):
                return answer
        raise SystemExit("no DHCPACK")

    def _ask_boot_server(self, offer: Packet, our_address: str) -> Packet:
        """As EDK2: from port 4011 to port 4011, without a server identifier."""
        subprocess.run(["ip", "addr", "replace", f"{our_address}/24", "dev", self._interface], check=True)
        server = offer[BOOTP].siaddr if offer[BOOTP].siaddr != "0.0.0.0" else address(offer, "server_id")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((our_address, PXE_PORT))
            sock.settimeout(OFFER_SECONDS)
            for _ in range(TRIES):
                sock.sendto(bytes(self._bootp([("message-type", "request")], our_address)), (server, PXE_PORT))
                try:
                    answer = BOOTP(sock.recv(2048))
                except TimeoutError:
                    continue
                if kind(answer) == 5:
                    return answer
        raise SystemExit(f"{server} does not answer on port {PXE_PORT}")

    def _broadcast(self, options: list[tuple[str, object]], wanted: Callable[[Packet], bool]) -> Iterator[Packet]:
        ends = Ether(src=self._mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
        self._raw.send(bytes(ends / UDP(sport=68, dport=67) / self._bootp(options, "0.0.0.0")))
        end = time.monotonic() + OFFER_SECONDS
        while (left := end - time.monotonic()) > 0:
            self._raw.settimeout(left)
            try:
                heard = Ether(self._raw.recv(4096))
            except TimeoutError:
                return
            if UDP in heard and heard[UDP].dport == 68 and DHCP in heard and wanted(heard):
                yield heard

    def _bootp(self, options: list[tuple[str, object]], ciaddr: str) -> Packet:
        undi = "002001" if self._arch == 0 else "003000"
        ours = [
            ("vendor_class_id", f"PXEClient:Arch:{self._arch:05}:UNDI:{undi}".encode()),
            (93, self._arch.to_bytes(2, "big")),
            (94, b"\1\3\0"),
            (97, b"\0" + bytes(range(16))),
            ("param_req_list", [1, 3, 43, 54, 60, 66, 67, 97]),
        ]
        chaddr = bytes.fromhex(self._mac.replace(":", ""))
        head = BOOTP(op=1, xid=0x1234, chaddr=chaddr, ciaddr=ciaddr, flags="B")
        return head / DHCP(options=[*options, *ours, "end"])


def option(packet: Packet, name: str) -> Any:
    """The value as scapy has it, or None."""
    return next((each[1] for each in packet[DHCP].options if each[0] == name), None)


def kind(packet: Packet) -> int:
    """Option 53."""
    return int(option(packet, "message-type") or 0)


def said(packet: Packet, name: str) -> bytes:
    """An option that holds text."""
    return option(packet, name) or b""


def address(packet: Packet, name: str) -> str:
    """An option that holds an address."""
    return option(packet, name) or ""


def file(packet: Packet) -> str:
    """What it names as boot file."""
    return (packet[BOOTP].file.split(b"\0")[0] or said(packet, "boot-file-name").rstrip(b"\0")).decode()


if __name__ == "__main__":
    print(json.dumps(Firmware(sys.argv[1], sys.argv[2], int(sys.argv[3])).boot()))

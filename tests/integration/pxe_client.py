"""
PXE firmware as EDK2 and ROMs do it, by scapy; run as a program in the client's namespace:
`python -m tests.integration.pxe_client INTERFACE MAC ARCH [STYLE ...]`.

DHCPDISCOVER by broadcast; offers are gathered. One with an address is taken by DHCPREQUEST. The boot file is that of the
offer that calls itself PXEClient (`complete`); if it names none, port 4011 of its server is asked (`two-step`), or that of
the first entry in its menu (`menu`; PXE specification 2.1 section 2.2). Firmware of certain styles boots by no other.
What came of it is printed as JSON: `address` and `server` of the lease, `style` of the offer, `boot_server` and `file`.
"""

from __future__ import annotations

import json
import random
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

    def __init__(self, interface: str, mac: str, arch: int, *styles: str) -> None:
        self._interface = interface
        self._mac = mac
        self._arch = arch
        self._styles = styles or ("two-step", "complete", "menu")
        self._xid = random.getrandbits(32)
        self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._raw.bind((interface, 0))

    def boot(self) -> dict[str, str]:
        """Get a lease and a boot file."""
        offers = self._discover()
        leasing = next(offer for offer in offers if offer[BOOTP].yiaddr != "0.0.0.0")
        boots = [offer for offer in offers if said(offer, "vendor_class_id").startswith(b"PXEClient")]
        lease = self._request(leasing)
        found = {"address": lease[BOOTP].yiaddr, "server": address(lease, "server_id")}
        proxies = [offer for offer in boots if offer is not leasing] or boots
        style = style_of(proxies[0]) if proxies else ""
        answer = self._boot_answer(proxies[0], lease[BOOTP].yiaddr) if style in self._styles else None
        boot_server, name = (answer[BOOTP].siaddr, file(answer)) if answer is not None else ("", "")
        return {**found, "style": style, "boot_server": boot_server, "file": name}

    def _boot_answer(self, offer: Packet, our_address: str) -> Packet:
        """The packet that names the boot file."""
        match style_of(offer):
            case "complete":
                return offer
            case "menu":
                return self._take_first_entry(suboptions(offer), our_address)
        server = offer[BOOTP].siaddr if offer[BOOTP].siaddr != "0.0.0.0" else address(offer, "server_id")
        return self._ask_boot_server(server, our_address)

    def _take_first_entry(self, menu: dict[int, bytes], our_address: str) -> Packet:
        """What firmware does when the prompt's time is over: ask the boot server of that type, and of no other."""
        if menu[6] != b"\x07" or menu[10][0] != 0:
            raise SystemExit(f"this asks for a search, or for a key: {menu}")
        kind_of_server = menu[9][:2]
        if menu[8][:3] != kind_of_server + b"\1":
            raise SystemExit(f"the menu has no boot server for its entry: {menu}")
        item = bytes((71, 4)) + kind_of_server + b"\0\0" + b"\xff"
        server = socket.inet_ntoa(menu[8][3:7])
        answer = self._ask_boot_server(server, our_address, ("vendor_specific", item))
        if suboptions(answer).get(71) != item[2:6]:
            raise SystemExit(f"the answer is for another boot item: {suboptions(answer)}")
        return answer

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

    def _ask_boot_server(self, server: str, our_address: str, *options: tuple[str, object]) -> Packet:
        """As EDK2: from port 4011 to port 4011, without a server identifier."""
        subprocess.run(["ip", "addr", "replace", f"{our_address}/24", "dev", self._interface], check=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((our_address, PXE_PORT))
            sock.settimeout(OFFER_SECONDS)
            request = self._bootp([("message-type", "request"), *options], our_address)
            for _ in range(TRIES):
                sock.sendto(bytes(request), (server, PXE_PORT))
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
        head = BOOTP(op=1, xid=self._xid, chaddr=chaddr, ciaddr=ciaddr, flags="B")
        return head / DHCP(options=[*options, *ours, "end"])


def option(packet: Packet, name: str) -> Any:
    """The value as scapy has it, or None."""
    return next((each[1] for each in packet[DHCP].options if each[0] == name), None)


def style_of(offer: Packet) -> str:
    """Which conversation it opens."""
    vendor = suboptions(offer)
    if file(offer) and vendor.get(6, b"\0")[0] & 8:
        return "complete"
    return "menu" if 9 in vendor else "two-step"


def suboptions(packet: Packet) -> dict[int, bytes]:
    """Option 43, by code."""
    raw, found = said(packet, "vendor_specific"), {}
    while raw and raw[0] != 255:
        found[raw[0]] = raw[2 : 2 + raw[1]]
        raw = raw[2 + raw[1] :]
    return found


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
    print(json.dumps(Firmware(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]).boot()))

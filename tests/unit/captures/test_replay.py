"""
What real clients said, decided anew: our answers are still those that they were seen to take.

If one is not, on purpose, the firmware has to be shown to boot with it: `./dev capture NAME` makes the capture again.
"""

from __future__ import annotations

from collections import defaultdict, deque
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network

import pytest

from provider.planning import offer, proxy_style
from provider.planning.loader import Loader
from provider.planning.reply import EVERYBODY, Asked, Decision, Reply, Scope, To
from provider.planning.subnets import Leasing, Subnet, Subnets, site_options
from provider.wire import dhcp, pxe, tftp, tftp_transfer
from provider.wire.dhcp import Option, Packet
from tests.captures import frames
from tests.captures.conversations import CONVERSATIONS, Machine
from tests.captures.frames import Frame, Peer, Protocol, sorted_out
from tests.unit.captures.conftest import FOLDER, Capture

OURS = IPv4Address("10.77.0.1")
NEAR = IPv4Network("10.77.0.0/24")
FAR = IPv4Network("10.88.0.0/24")
ROUTER = IPv4Address("10.88.0.254")
BOOT_FILES = frozenset(
    {"grubaa64.efi", "grubx64.efi", "ipxe.efi", "shimaa64.efi", "shimx64.efi", "snponly.efi", "undionly.kpxe"}
)
"""Those that `bootwright assets build` made of Debian 12."""

BOOT_OPTIONS = (
    Option.VENDOR_SPECIFIC,
    Option.SERVER_ID,
    Option.VENDOR_CLASS,
    Option.CLIENT_ID,
    Option.TFTP_SERVER_NAME,
    Option.BOOT_FILE_NAME,
    Option.RELAY_AGENT,
    Option.CLIENT_UUID,
    Option.TFTP_SERVER_ADDRESS,
    Option.IPXE,
)
"""What makes a client boot, or go on; how long leases are, and what else a site tells, is up to its settings."""


def subnets() -> Subnets:
    """As the lab and the tests with relays have them."""
    near = Leasing(((IPv4Address("10.77.0.100"), IPv4Address("10.77.0.199")),))
    far = Leasing(((IPv4Address("10.88.0.10"), IPv4Address("10.88.0.19")),), options=site_options(router=ROUTER))
    return Subnets([Subnet(NEAR, near, ours=[OURS]), Subnet(FAR, far)])


class Provider:
    """We, on the network of a capture."""

    def __init__(self, machine: Machine | None) -> None:
        proxy = machine is not None and machine.dhcp == "proxy"
        self._scope = Scope("boot0", OURS, NEAR, proxy=proxy, http_port=8080, boot_files=BOOT_FILES)
        self._loader = Loader.SIGNED if machine is not None and machine.signed else Loader.IPXE
        self._subnets = subnets()

    def decide(self, frame: Frame) -> Decision:
        """What we do about a client's packet now."""
        packet = dhcp.decode(frame.payload)
        client = pxe.client(packet)
        port, style = frame.destination[1], proxy_style.first(client)
        asked = Asked(packet, client, frame.source, port, may_netboot=True, loader=self._loader, style=style)
        return offer.decide(asked, self._scope, self._subnets, datetime.fromtimestamp(frame.at, UTC))


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_answers_are_those_that_were_taken(name: str) -> None:
    """Firmware that booted from us gets another answer, and nobody knows whether it boots from that."""
    conversation = CONVERSATIONS[name]
    provider = Provider(conversation if isinstance(conversation, Machine) else None)
    waiting: defaultdict[int, deque[Reply]] = defaultdict(deque)
    answers = 0
    for frame, protocol in sorted_out(frames.read(FOLDER / f"{name}.pcap")):
        if protocol is not Protocol.DHCP:
            continue
        packet = dhcp.decode(frame.payload)
        if packet.op == dhcp.BOOTREPLY:
            if frame.source[0] == str(OURS):
                assert answer(waiting[packet.xid].popleft()) == answered(frame)
                answers += 1
        elif frame.destination[0] in (str(OURS), str(EVERYBODY.address)):
            decision = provider.decide(frame)
            if isinstance(decision, Reply):
                waiting[packet.xid].append(decision)
    assert answers > 0
    assert not any(waiting.values()), "answers that were not given then"


def test_nobody_is_told_of_files_that_nobody_misses(capture: Capture) -> None:
    """A machine that booted has failures in its events: firmware asks for more than it needs."""
    asked: dict[Peer, tftp.Packet] = {}
    for frame, protocol in sorted_out(capture.frames):
        if protocol is Protocol.TFTP:
            match tftp.decode(frame.payload):
                case tftp.ReadRequest() as request:
                    asked[frame.source] = request
                case tftp.Error(tftp.ErrorCode.FILE_NOT_FOUND):
                    assert tftp_transfer.requested_file(asked[frame.destination]) in pxe.NOT_MISSED


def answer(decision: Reply) -> dict[str, object]:
    """What goes out, and where to."""
    packet, to = decision.packet, decision.to
    return {
        **said(dhcp.decode(dhcp.encode(packet, decision.largest))),
        "to": to.port if to == EVERYBODY else (str(to.address), to.port),
        "hardware": packet.chaddr if to.by_hardware else None,
    }


def answered(frame: Frame) -> dict[str, object]:
    """The same as it was captured."""
    packet = dhcp.decode(frame.payload)
    to = To(IPv4Address(frame.destination[0]), frame.destination[1])
    is_new = packet.ciaddr == packet.giaddr == dhcp.NOWHERE
    return {
        **said(packet),
        "to": to.port if to == EVERYBODY else frame.destination,
        # A client whose address is confirmed answers ARP, and the kernel found its hardware.
        "hardware": frame.to_mac if to.address == packet.yiaddr and is_new else None,
    }


def said(packet: Packet) -> dict[str, object]:
    """What matters for booting, in a shape that shows differences well."""
    options = {f"option {code}": packet.options.get(code) for code in BOOT_OPTIONS}
    fields = {
        name: getattr(packet, name) for name in ("flags", "ciaddr", "yiaddr", "siaddr", "giaddr", "chaddr", "file")
    }
    return {"type": packet.message_type, **fields, **options}

"""Real conversations, decoded: as golden text, against scapy, and there and back."""

from __future__ import annotations

import os
from ipaddress import IPv4Address

from scapy.layers.dhcp import BOOTP, DHCP, DHCPOptionsField
from scapy.layers.tftp import TFTP, TFTP_ACK, TFTP_DATA, TFTP_ERROR, TFTP_OACK, TFTP_RRQ, TFTP_Options
from scapy.packet import Packet as ScapyPacket

from provider.domain import mac as macs
from provider.wire import dhcp, tftp
from provider.wire.dhcp import Option
from tests.captures.conversations import CONVERSATIONS
from tests.captures.frames import Protocol
from tests.captures.text import text
from tests.unit.captures.conftest import CAPTURES, FOLDER, Capture

REWRITE = "BOOTWRIGHT_REWRITE_GOLDEN"

LARGEST = 50_000  # bytes


def test_golden(capture: Capture) -> None:
    """What real firmware says is read otherwise than before; if that is as it should be, set BOOTWRIGHT_REWRITE_GOLDEN=1."""
    golden = capture.file.with_suffix(".txt")
    decoded = text(capture.frames)
    if REWRITE in os.environ:
        golden.write_text(decoded)
    assert decoded == golden.read_text()


def test_there_and_back(capture: Capture) -> None:
    """A real packet changes its meaning when we build it anew."""
    for raw in capture.payloads(Protocol.DHCP):
        packet = dhcp.decode(raw)
        assert dhcp.decode(dhcp.encode(packet)) == packet
    for raw in capture.payloads(Protocol.TFTP):
        request = tftp.decode(raw)
        assert tftp.decode(tftp.encode(request)) == request


def options_of(theirs: ScapyPacket) -> dict[int, bytes]:
    """What scapy takes for options, in their order, each built anew from what it understood; long ones put together."""
    found: dict[int, bytes] = {}
    field = DHCPOptionsField("options", b"")
    for option in theirs[DHCP].options:
        if option not in ("pad", "end"):
            code, _length, *value = field.i2m(theirs, [option])
            found[code] = found.get(code, b"") + bytes(value)
    return found


def test_scapy_agrees_on_dhcp(capture: Capture) -> None:
    """A field or option of a real packet is read otherwise than the rest of the world reads it."""
    for raw in capture.payloads(Protocol.DHCP):
        ours, theirs = dhcp.decode(raw), BOOTP(raw)
        assert (ours.op, ours.hops, ours.xid, ours.secs) == (theirs.op, theirs.hops, theirs.xid, theirs.secs)
        assert (ours.flags, macs.to_bytes(ours.chaddr)) == (int(theirs.flags), theirs.chaddr[:6])
        for name in ("ciaddr", "yiaddr", "siaddr", "giaddr"):
            assert getattr(ours, name) == IPv4Address(getattr(theirs, name))
        assert (ours.sname, ours.file) == (theirs.sname.rstrip(b"\0"), theirs.file.rstrip(b"\0"))
        assert list(ours.options.items()) == list(options_of(theirs).items())
        said = {option[0]: option[1] for option in theirs[DHCP].options if isinstance(option, tuple)}
        assert ours.message_type == said["message-type"]
        assert ours.address(Option.SERVER_ID) == _address(said.get("server_id"))
        assert ours.address(Option.REQUESTED_ADDRESS) == _address(said.get("requested_addr"))


def _address(value: object) -> IPv4Address | None:
    return None if value is None else IPv4Address(str(value))


def test_scapy_agrees_on_tftp(capture: Capture) -> None:
    """The same of TFTP."""
    for raw in capture.payloads(Protocol.TFTP):
        theirs = TFTP(raw)
        match tftp.decode(raw):
            case tftp.ReadRequest(name, mode, options):
                request = theirs[TFTP_RRQ]
                assert (name.encode(), mode.encode()) == (request.filename, request.mode.lower())
                assert options == _options(theirs)
            case tftp.OptionAck(options):
                assert TFTP_OACK in theirs
                assert options == _options(theirs)
            case tftp.Data(block, content):
                data = theirs[TFTP_DATA]
                assert (block, bytes(content)) == (data.block, bytes(data.payload))
            case tftp.Ack(block):
                assert block == theirs[TFTP_ACK].block
            case tftp.Error(code, message):
                error = theirs[TFTP_ERROR]
                assert (code, message.encode()) == (error.errorcode, error.errormsg.rstrip(b"\0"))
            case other:
                raise AssertionError(other)


def _options(theirs: ScapyPacket) -> dict[str, str]:
    if TFTP_Options not in theirs:
        return {}
    return {option.oname.decode().lower(): option.value.decode() for option in theirs[TFTP_Options].options}


def test_nothing_of_the_programs(capture: Capture) -> None:
    """What somebody else wrote and we only load gets into the repository with a capture."""
    assert capture.file.stat().st_size < LARGEST
    for raw in capture.payloads(Protocol.TFTP):
        packet = tftp.decode(raw)
        assert not isinstance(packet, tftp.Data) or not packet.content
    for raw in capture.payloads(Protocol.HTTP):
        assert raw.endswith(b"\r\n\r\n")


def test_each_has_its_line_in_the_readme() -> None:
    """Nobody knows of what firmware and version a capture is, or how to make it again."""
    lines = [
        line.split("|")[1].strip(" `") for line in (FOLDER / "README.md").read_text().splitlines() if "| `" in line
    ]
    names = sorted(capture.name for capture in CAPTURES)
    assert sorted(lines) == names
    assert set(CONVERSATIONS) <= set(names)

"""TFTP packets to and from bytes."""

from __future__ import annotations

import contextlib
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.errors import MalformedPacketError
from provider.wire import tftp
from tests.unit.wire.tftp_packets import packets


@given(packets)
def test_what_is_encoded_is_decoded(packet: tftp.Packet) -> None:
    """A packet that changes on the way would change the transfer."""
    assert tftp.decode(tftp.encode(packet)) == packet


@given(st.binary(max_size=600))
def test_any_bytes_are_a_packet_or_malformed(raw: bytes) -> None:
    """Another exception would be a traceback that anybody on the network can cause."""
    with contextlib.suppress(MalformedPacketError):
        tftp.decode(raw)


@given(st.integers(1, 6), st.binary(max_size=600))
def test_any_body_of_a_known_opcode_is_a_packet_or_malformed(opcode: int, body: bytes) -> None:
    """The same, past the first check."""
    with contextlib.suppress(MalformedPacketError):
        tftp.decode(opcode.to_bytes(2, "big") + body)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        # OVMF (EDK2), asking for the size first.
        (
            b"\0\1snponly.efi\0octet\0tsize\x000\0blksize\x001468\0",
            tftp.ReadRequest("snponly.efi", options={"tsize": "0", "blksize": "1468"}),
        ),
        # Option names and the mode are compared without case (RFC 2347).
        (b"\0\1a\0OCTET\0BlkSize\x00512\0", tftp.ReadRequest("a", options={"blksize": "512"})),
        (b"\0\1a\0netascii\0", tftp.ReadRequest("a", mode="netascii")),
        # One that ends without the last NUL, and a ROM that fills up the packet with NUL bytes.
        (b"\0\1a\0octet", tftp.ReadRequest("a")),
        (b"\0\1a\0octet\0tsize\x000\0" + bytes(80), tftp.ReadRequest("a", options={"tsize": "0"})),
        # A ROM that copies the file name up to the end mark of the DHCP options.
        (b"\0\1undionly.kpxe\xff\0octet\0", tftp.ReadRequest("undionly.kpxe")),
        # An ERROR without the NUL, without the text, and with one that is not ASCII.
        (b"\0\5\0\0stop", tftp.Error(0, "stop")),
        (b"\0\5\0\0", tftp.Error(0, "")),
        (b"\0\5\0\7\xfc!\0", tftp.Error(7, "�!")),
        # An ACK with something behind it.
        (b"\0\4\0\5\0\0", tftp.Ack(5)),
    ],
)
def test_what_real_clients_send(raw: bytes, expected: tftp.Packet) -> None:
    """Firmware that sends one of these would not boot."""
    assert tftp.decode(raw) == expected


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "opcode"),
        (b"\0", "opcode"),
        (b"\0\0abc", "opcode"),
        (b"\0\7abc", "opcode"),
        (b"\0\1", "file name"),
        (b"\0\1name", "file name"),
        (b"\0\1n\xc3\xa4me\0octet\0", "file name"),
        (b"\0\1name\0", "mode"),
        (b"\0\1name\0octet\0blksize\0", "options"),
        (b"\0\1name\0octet\0\0blksize\0", "options"),
        (b"\0\1name\0octet\0" + b"a" * 600 + b"\0b\0", "request"),
        (b"\0\3\0", "block or code"),
        (b"\0\4\0", "block or code"),
        (b"\0\6blksize\0", "options"),
    ],
)
def test_malformed_names_the_field(raw: bytes, field: str) -> None:
    """Whoever reads the log wants to know what was wrong."""
    with pytest.raises(MalformedPacketError) as caught:
        tftp.decode(raw)
    assert caught.value.field == field


def test_tftpy_is_quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """tftpy logs each ERROR packet at level error, past our logs: anybody could fill the journal."""
    with caplog.at_level(logging.DEBUG):
        tftp.decode(b"\0\5\0\1no\0")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")

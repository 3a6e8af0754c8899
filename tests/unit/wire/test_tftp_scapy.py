"""scapy as the second opinion on every field of TFTP: what we build, it reads, and the other way."""

from __future__ import annotations

import pytest
from hypothesis import given
from scapy.layers import tftp as theirs
from scapy.packet import Packet as Layers

from provider.wire import tftp
from tests.unit.wire.tftp_packets import options, packets, words


def dissected(raw: bytes) -> tftp.Packet:
    """A packet as scapy reads it, in our form."""
    layers = theirs.TFTP(raw)
    body = layers.payload
    match layers.op:
        case 1 | 2:
            kind = tftp.ReadRequest if layers.op == 1 else tftp.WriteRequest
            return kind(body.filename.decode(), body.mode.decode(), told(body))
        case 3:
            return tftp.Data(body.block, bytes(body.payload))
        case 4:
            assert not body.payload
            return tftp.Ack(body.block)
        case 5:
            return tftp.Error(body.errorcode, body.errormsg.decode())
        case 6:
            return tftp.OptionAck(told(body))
        case _:
            pytest.fail(f"scapy reads an opcode {layers.op}")


def told(body: Layers) -> dict[str, str]:
    if not body.payload:
        return {}
    return {each.oname.decode(): each.value.decode() for each in body[theirs.TFTP_Options].options}


def built(packet: tftp.Packet) -> bytes:
    """A packet as scapy builds it."""
    match packet:
        case tftp.ReadRequest():
            return request(1, theirs.TFTP_RRQ(filename=packet.name, mode=packet.mode), packet.options)
        case tftp.WriteRequest():
            return request(2, theirs.TFTP_WRQ(filename=packet.name, mode=packet.mode), packet.options)
        case tftp.Data():
            return bytes(theirs.TFTP(op=3) / theirs.TFTP_DATA(block=packet.block) / bytes(packet.content))
        case tftp.Ack():
            return bytes(theirs.TFTP(op=4) / theirs.TFTP_ACK(block=packet.block))
        case tftp.Error():
            return bytes(theirs.TFTP(op=5) / theirs.TFTP_ERROR(errorcode=packet.code, errormsg=packet.message))
        case tftp.OptionAck():
            return request(6, theirs.TFTP_OACK(), packet.options)


def request(opcode: int, body: Layers, said: dict[str, str]) -> bytes:
    listed = theirs.TFTP_Options(options=[theirs.TFTP_Option(oname=name, value=value) for name, value in said.items()])
    return bytes(theirs.TFTP(op=opcode) / body / listed)


@given(packets)
def test_they_read_ours(packet: tftp.Packet) -> None:
    """A field is at another place than the rest of the world has it."""
    assert dissected(tftp.encode(packet)) == packet


@given(packets)
def test_we_read_theirs(packet: tftp.Packet) -> None:
    """The same for what others send."""
    assert tftp.decode(built(packet)) == packet


@given(packets)
def test_both_build_the_same(packet: tftp.Packet) -> None:
    """Somebody reads us only because they forgive much."""
    assert tftp.encode(packet) == built(packet)


@given(words, words, options)
def test_mode(name: str, mode: str, said: dict[str, str]) -> None:
    """A mode that we do not serve is read as another one."""
    read = tftp.decode(request(1, theirs.TFTP_RRQ(filename=name, mode=mode.upper()), said))
    assert read == tftp.ReadRequest(name, mode.lower(), said)


def test_error_codes() -> None:
    """An error has another number than the rest of the world has it."""
    meant = {
        tftp.ErrorCode.UNDEFINED: "Not defined",
        tftp.ErrorCode.FILE_NOT_FOUND: "File not found",
        tftp.ErrorCode.ACCESS_VIOLATION: "Access violation",
        tftp.ErrorCode.DISK_FULL: "Disk full or allocation exceeded",
        tftp.ErrorCode.ILLEGAL_OPERATION: "Illegal TFTP operation",
        tftp.ErrorCode.UNKNOWN_TRANSFER: "Unknown transfer ID",
        tftp.ErrorCode.FILE_EXISTS: "File already exists",
        tftp.ErrorCode.NO_SUCH_USER: "No such user",
        tftp.ErrorCode.OPTIONS_REFUSED: "Terminate transfer due to option negotiation",
    }
    assert meant == theirs.TFTP_Error_Codes
    assert meant.keys() == set(tftp.ErrorCode)

"""
A capture as frames: what stands on the wire, who sent it to whom, and which protocol it is.

Frames are taken apart by slices, so that what the codecs get is what was captured, byte for byte. Only what we have in
captures is known: Ethernet, IPv4 in one piece, UDP and TCP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from scapy.data import DLT_EN10MB
from scapy.utils import RawPcapReader, RawPcapWriter

_ETHERNET, _UDP_HEADER = 14, 8
_IPV4 = b"\x08\x00"
_TCP, _UDP = 6, 17
_DHCP_PORTS = frozenset({67, 68, 4011})
_TFTP_PORT = 69
_HTTP_STARTS = (b"GET ", b"HEAD ", b"HTTP/1.")

Peer = tuple[str, int]


class Protocol(StrEnum):
    """What a payload is."""

    DHCP = "DHCP"
    TFTP = "TFTP"
    HTTP = "HTTP"


@dataclass(frozen=True)
class Frame:
    """One frame with a payload."""

    seconds: int
    microseconds: int
    raw: bytes
    """As far as it was captured."""
    length: int
    """Bytes on the wire."""
    to_mac: str
    source: Peer
    destination: Peer
    is_udp: bool
    start: int
    """Where the payload begins in `raw`."""
    payload: bytes
    cut: int
    """How many bytes of the payload were not captured."""

    @property
    def at(self) -> float:
        """Seconds since the epoch."""
        return self.seconds + self.microseconds / 1e6


def read(file: Path) -> list[Frame]:
    """All frames that have a payload we know, in the order in which they came."""
    with RawPcapReader(str(file)) as reader:
        assert reader.linktype == DLT_EN10MB, f"{file} was not captured on Ethernet"
        return [
            frame
            for raw, metadata in reader
            if (frame := _frame(raw, metadata.sec, metadata.usec, metadata.wirelen)) is not None
        ]


def write(file: Path, frames: Iterable[Frame]) -> None:
    """Write a capture (pcap, microseconds)."""
    with RawPcapWriter(str(file), linktype=DLT_EN10MB, snaplen=65535) as writer:
        writer.write_header(None)
        for frame in frames:
            writer.write_packet(frame.raw, sec=frame.seconds, usec=frame.microseconds, wirelen=frame.length)


def sorted_out(frames: Iterable[Frame]) -> Iterator[tuple[Frame, Protocol]]:
    """Frames with their protocol; those of none of ours are left out. A TFTP client is known by its request to port 69."""
    tftp_clients: set[Peer] = set()
    for frame in frames:
        if not frame.is_udp:
            if frame.payload.startswith(_HTTP_STARTS):
                yield frame, Protocol.HTTP
            continue
        if frame.destination[1] == _TFTP_PORT:
            tftp_clients.add(frame.source)
        if not _DHCP_PORTS.isdisjoint((frame.source[1], frame.destination[1])):
            yield frame, Protocol.DHCP
        elif frame.source in tftp_clients or frame.destination in tftp_clients:
            yield frame, Protocol.TFTP


def _frame(raw: bytes, seconds: int, microseconds: int, length: int) -> Frame | None:
    packet = raw[_ETHERNET:]
    if raw[12:_ETHERNET] != _IPV4 or packet[9] not in (_TCP, _UDP):
        return None
    is_udp = packet[9] == _UDP
    header = (packet[0] & 0x0F) * 4
    transport = packet[header:]
    whole = int.from_bytes(packet[2:4], "big") - header
    begins = _UDP_HEADER if is_udp else (transport[12] >> 4) * 4
    payload = transport[begins:whole]
    source, destination = (".".join(map(str, packet[at : at + 4])) for at in (12, 16))
    ports = (int.from_bytes(transport[at : at + 2], "big") for at in (0, 2))
    return Frame(
        seconds=seconds,
        microseconds=microseconds,
        raw=raw,
        length=length,
        to_mac=raw[:6].hex(":"),
        source=(source, next(ports)),
        destination=(destination, next(ports)),
        is_udp=is_udp,
        start=_ETHERNET + header + begins,
        payload=payload,
        cut=whole - begins - len(payload),
    )

"""TFTP transfers as scripts: what the client sends, when, and what goes out."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.wire import tftp
from provider.wire.tftp_transfer import Limits, Outcome, Transfer, negotiate, requested_file

LIMITS = Limits(block_size=1468, retry_after=1.0, retries=3)


def start(content: bytes = b"", now: float = 0.0, **options: str) -> tuple[Transfer, list[tftp.Packet]]:
    transfer = Transfer(content, tftp.ReadRequest("file", options=options), LIMITS)
    return transfer, [tftp.decode(raw) for raw in transfer.start(now)]


def ack(transfer: Transfer, block: int, now: float = 0.0) -> list[tftp.Packet]:
    return [tftp.decode(raw) for raw in transfer.on_packet(tftp.Ack(block), now)]


def blocks(packets: list[tftp.Packet]) -> list[int]:
    return [packet.block for packet in packets if isinstance(packet, tftp.Data)]


def test_without_options_data_comes_at_once() -> None:
    """A client that knows RFC 1350 only would wait for ever for its data."""
    transfer, first = start(b"x" * 600)
    assert first == [tftp.Data(1, b"x" * 512)]
    assert ack(transfer, 1) == [tftp.Data(2, b"x" * 88)]
    assert ack(transfer, 2) == []
    assert transfer.outcome is Outcome.DONE


def test_options_are_agreed_on_first() -> None:
    """Data before the OACK is acknowledged would be of a size that the client does not know yet."""
    transfer, first = start(b"x" * 600, blksize="1024", tsize="0")
    assert first == [tftp.OptionAck({"blksize": "1024", "tsize": "600"})]
    assert ack(transfer, 0) == [tftp.Data(1, b"x" * 600)]


@pytest.mark.parametrize("size", [0, 512, 1024])
def test_a_full_last_block_is_followed_by_an_empty_one(size: int) -> None:
    """The client knows the end by a short block; without it, it waits until its timeout and fails."""
    transfer, packets = start(bytes(size))
    for block in range(1, size // 512 + 1):
        packets = ack(transfer, block)
    assert packets == [tftp.Data(size // 512 + 1, b"")]
    ack(transfer, size // 512 + 1)
    assert transfer.outcome is Outcome.DONE


def test_a_duplicate_ack_is_not_answered() -> None:
    """Answering it doubles every later block: the sorcerer's apprentice."""
    transfer, _ = start(bytes(2000))
    assert blocks(ack(transfer, 1)) == [2]
    assert ack(transfer, 1) == []
    assert ack(transfer, 0) == []
    assert ack(transfer, 3) == [], "nor an ACK of what was not sent yet"


@pytest.mark.parametrize("window", ["1", "4"])
def test_a_link_that_doubles_everything(window: str) -> None:
    """Each datagram arrives twice, and twice as many go out, and so on (RFC 1123 section 4.2.3.1)."""
    transfer = Transfer(bytes(512 * 40), tftp.ReadRequest("f", options={"blksize": "512", "windowsize": window}))
    client, wire, sent = Client(int(window)), deque(transfer.start(0.0) * 2), []
    while wire and transfer.outcome is None:
        packet = tftp.decode(wire.popleft())
        if (answer := client.take(packet)) is not None:
            for _ in range(2):
                data = transfer.on_packet(answer, 0.0)
                sent += data
                wire.extend(data * 2)
    assert transfer.outcome is Outcome.DONE
    assert len(sent) <= 41 * int(window), "at most once for each acknowledgement of something new"


def test_block_numbers_roll_over() -> None:
    """A file of more than 65,535 blocks would end in the middle."""
    count = 65_540
    transfer, packets = start(bytes(8 * count - 1), blksize="8")
    packets = ack(transfer, 0)
    for block in range(1, count + 1):
        assert blocks(packets) == [block % 65_536]
        packets = ack(transfer, block % 65_536)
    assert transfer.outcome is Outcome.DONE


def test_a_window_is_sent_at_once() -> None:
    """windowsize 4 that sends one block an ACK would be no faster than none (RFC 7440)."""
    transfer, _ = start(bytes(512 * 9), windowsize="4")
    assert blocks(ack(transfer, 0)) == [1, 2, 3, 4]
    assert blocks(ack(transfer, 4)) == [5, 6, 7, 8]
    assert blocks(ack(transfer, 8)) == [9, 10]
    ack(transfer, 10)
    assert transfer.outcome is Outcome.DONE


def test_a_lost_block_in_a_window_is_sent_again_at_once() -> None:
    """The client acknowledges the last block in order; waiting for the timer would cost a second a loss."""
    transfer, _ = start(bytes(512 * 9), windowsize="4")
    ack(transfer, 0)
    assert blocks(ack(transfer, 2)) == [3, 4, 5, 6]


def test_silence_is_answered_with_the_same_again_and_then_given_up() -> None:
    """A lost datagram would end the boot; a client that went away would be served for ever."""
    transfer, first = start(bytes(100))
    assert transfer.deadline == 1.0
    assert transfer.on_timer(0.5) == [], "not before its time"
    for second in (1.0, 2.0, 3.0):
        assert [tftp.decode(raw) for raw in transfer.on_timer(second)] == first
        assert transfer.deadline == second + 1.0
    assert transfer.on_timer(4.0) == []
    assert transfer.outcome is Outcome.GAVE_UP
    assert transfer.reason == "no answer to block 1 of 1 after 4 tries"


def test_an_answer_makes_good_for_all_silence_before() -> None:
    """On a lossy link the tries of the whole file would be counted together."""
    transfer, _ = start(bytes(2000))
    transfer.on_timer(1.0)
    transfer.on_timer(2.0)
    ack(transfer, 1, 2.1)
    for second in (4.0, 5.0, 6.0):
        assert transfer.on_timer(second)
    assert transfer.outcome is None


def test_the_client_chooses_the_timeout() -> None:
    """RFC 2349: a client on a slow link says how long it needs."""
    transfer, first = start(bytes(100), timeout="7")
    assert first == [tftp.OptionAck({"timeout": "7"})]
    assert transfer.deadline == 7.0


@pytest.mark.parametrize(("timeout", "seconds"), [(1, 13), (6, 78), (10, 120), (30, 120), (31, 13), (255, 13)])
def test_nobody_is_waited_for_for_long(timeout: int, seconds: int) -> None:
    """A request with the longest timeout, from an address that is not there, holds one of the transfers for half an hour."""
    asked = tftp.ReadRequest("file", options={"timeout": str(timeout)})
    transfer = Transfer(bytes(100), asked, Limits(retry_after=1.0, retries=12))
    transfer.start(0.0)
    while transfer.outcome is None:
        transfer.on_timer(transfer.deadline)
    assert (transfer.outcome, transfer.deadline) == (Outcome.GAVE_UP, seconds)


def test_asking_for_the_size_only_is_no_failure() -> None:
    """Firmware asks with tsize, takes the OACK, sends an ERROR and starts anew: each boot would be logged as failed."""
    transfer, _ = start(bytes(100), tsize="0")
    assert transfer.on_packet(tftp.Error(8, "User aborted the transfer"), 0.1) == []
    assert transfer.outcome is Outcome.PROBED


def test_a_client_that_stops_says_why() -> None:
    """The operator wants the client's own words."""
    transfer, _ = start(bytes(1000))
    transfer.on_packet(tftp.Error(3, "disk full\n\x1b[31m"), 0.1)
    assert transfer.outcome is Outcome.ABORTED
    assert transfer.reason == "the client says: disk full[31m (code 3)"


def test_a_closed_port_after_the_last_block_means_that_all_arrived() -> None:
    """A client whose last ACK was lost is gone, and its boot went well."""
    transfer, _ = start(bytes(100))
    transfer.on_timer(1.0)
    transfer.on_port_closed()
    assert transfer.outcome is Outcome.DONE


@pytest.mark.parametrize("size", [100, 1000])
def test_a_closed_port_before_is_an_end(size: int) -> None:
    """A client that was switched off is not served for six more seconds, and did not get its file."""
    transfer, _ = start(bytes(size))
    transfer.on_port_closed()
    assert transfer.outcome is Outcome.ABORTED


def test_a_repeated_request_gets_the_first_answer_again() -> None:
    """Our first answer was lost and the client asks again from the same port; later such a request is stale."""
    transfer, first = start(bytes(100), tsize="0")
    assert [tftp.decode(raw) for raw in transfer.on_repeated_request(0.5)] == first
    ack(transfer, 0)
    assert transfer.on_repeated_request(0.6) == []


@pytest.mark.parametrize("packet", [tftp.Data(1, b"x"), tftp.OptionAck({}), tftp.ReadRequest("x")])
def test_other_packets_change_nothing(packet: tftp.Packet) -> None:
    """A stray packet from the client must not end its transfer."""
    transfer, _ = start(bytes(100))
    assert transfer.on_packet(packet, 0.0) == []
    assert transfer.outcome is None


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ({"blksize": "65464"}, {"blksize": "1468"}),
        ({"blksize": "512"}, {"blksize": "512"}),
        ({"blksize": "7"}, {}),
        ({"blksize": "65465"}, {}),
        ({"blksize": "-1"}, {}),
        ({"blksize": "many"}, {}),
        ({"blksize": "٣٢"}, {}),
        ({"tsize": "0"}, {"tsize": "5000"}),
        ({"tsize": ""}, {}),
        ({"timeout": "0"}, {}),
        ({"timeout": "30"}, {"timeout": "30"}),
        ({"timeout": "31"}, {}),
        ({"timeout": "255"}, {}),
        ({"windowsize": "0"}, {}),
        ({"windowsize": "16"}, {"windowsize": "16"}),
        ({"windowsize": "65535"}, {"windowsize": "64"}),
        ({"multicast": "", "rollover": "1"}, {}),
    ],
)
def test_options(asked: dict[str, str], agreed: dict[str, str]) -> None:
    """An option out of range is left out, one too large is lowered, an unknown one ignored (RFC 2347)."""
    assert negotiate(tftp.ReadRequest("file", options=asked), 5000, LIMITS) == agreed


def test_a_window_of_large_blocks_is_smaller() -> None:
    """64 blocks of 65,464 bytes in one go would overflow every buffer on the way, each time anew."""
    asked = tftp.ReadRequest("file", options={"blksize": "65464", "windowsize": "64"})
    assert negotiate(asked, 0, Limits(block_size=65464)) == {"blksize": "65464", "windowsize": "2"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("snponly.efi", "snponly.efi"),
        ("/snponly.efi", "snponly.efi"),
        ("\\boot\\snponly.efi", "boot/snponly.efi"),
        ("//a/./b", "a/b"),
    ],
)
def test_file_names(name: str, meant: str) -> None:
    """Firmware spells names in its own ways."""
    assert requested_file(tftp.ReadRequest(name)) == meant


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (tftp.ReadRequest("../etc/shadow"), 2),
        (tftp.ReadRequest("a\\..\\..\\b"), 2),
        (tftp.ReadRequest("/"), 1),
        (tftp.ReadRequest("a\x1b[2J"), 1),
        (tftp.ReadRequest("a", mode="netascii"), 4),
        (tftp.ReadRequest("a", mode="\x07"), 4),
        (tftp.WriteRequest("a"), 2),
    ],
)
def test_refused_requests(packet: tftp.Packet, code: int) -> None:
    """Nothing outside of the boot files, nothing written, nothing but octets; said in an ERROR that can be encoded."""
    error = requested_file(packet)
    assert isinstance(error, tftp.Error)
    assert error.code == code
    assert tftp.encode(error)


@pytest.mark.parametrize("packet", [tftp.Ack(1), tftp.Data(1, b""), tftp.Error(0, ""), tftp.OptionAck({})])
def test_what_begins_nothing_is_not_answered(packet: tftp.Packet) -> None:
    """An ERROR for an ERROR would go back and forth for ever between two servers."""
    assert requested_file(packet) is None


class Client:
    """A receiver as RFC 1350 and RFC 7440 have it: acknowledges the last block in order, drops the others."""

    def __init__(self, window: int) -> None:
        self.received = bytearray()
        self.block = 0
        self.unacknowledged = 0
        self.window = window
        self.size = 512

    def take(self, packet: tftp.Packet) -> tftp.Ack | None:
        match packet:
            case tftp.OptionAck(options):
                self.size = int(options.get("blksize", 512))
                return tftp.Ack(0) if not self.received else None
            case tftp.Data(block, content) if block == (self.block + 1) % 65_536:
                self.block, self.unacknowledged = block, self.unacknowledged + 1
                self.received += content
                if self.unacknowledged >= self.window or len(content) < self.size:
                    self.unacknowledged = 0
                    return tftp.Ack(block)
                return None
            case _:
                self.unacknowledged = 0
                return tftp.Ack(self.block)


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(0, 4000),
    block=st.integers(8, 600),
    window=st.integers(1, 9),
    loss=st.floats(0, 0.3),
    seed=st.integers(0, 2**32),
)
def test_a_lossy_link_delivers_the_file_whole(size: int, block: int, window: int, loss: float, seed: int) -> None:
    """Whatever is lost, doubled or late in either direction, the client ends with the same bytes, or nobody says done."""
    chance = random.Random(seed)
    content = chance.randbytes(size)
    options = {"blksize": str(block), "windowsize": str(window)}
    transfer = Transfer(content, tftp.ReadRequest("f", options=options), Limits(retries=30))
    client, wire, now = Client(window), deque(transfer.start(0.0)), 0.0
    for _ in range(100_000):
        if transfer.outcome is not None:
            break
        if not wire:
            now = transfer.deadline
            wire.extend(transfer.on_timer(now))
            continue
        raw = wire.popleft()
        if chance.random() < loss:
            continue
        if chance.random() < loss / 3:
            wire.append(raw)  # Doubled, and out of order.
        answer = client.take(tftp.decode(raw))
        if answer is not None and chance.random() >= loss:
            wire.extend(transfer.on_packet(answer, now))
    assert transfer.outcome is Outcome.DONE
    assert bytes(client.received) == content


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(0, 3000),
    options=st.fixed_dictionaries(
        {}, optional={"blksize": st.integers(8, 600).map(str), "windowsize": st.integers(1, 9).map(str)}
    ),
    loss=st.floats(0, 0.9),
    lives=st.integers(1, 400),
    seed=st.integers(0, 2**32),
)
def test_a_bad_link_ends_in_the_whole_file_or_in_giving_up(
    size: int, options: dict[str, str], loss: float, lives: int, seed: int
) -> None:
    """
    Over a link that loses, doubles and overtakes, or to a client that dies, a transfer says done and the client has something
    else; or it never ends; or the client takes a byte that is not the file's.
    """
    chance = random.Random(seed)
    content = chance.randbytes(size)
    transfer = Transfer(content, tftp.ReadRequest("f", options=options), LIMITS)
    client, now = Client(int(options.get("windowsize", 1))), 0.0
    to_client, to_server = transfer.start(0.0), []
    for _ in range(100_000):
        if transfer.outcome is not None:
            break
        if not to_client and not to_server:
            now = transfer.deadline
            to_client = transfer.on_timer(now)
            continue
        way = chance.choice([each for each in (to_client, to_server) if each])
        taken = way.pop(chance.randrange(min(3, len(way))))
        if chance.random() < loss:
            continue
        if chance.random() < 0.1:
            way.append(taken)
        if way is to_server:
            to_client += transfer.on_packet(taken, now)
        elif lives > 0:
            lives -= 1
            answer = client.take(tftp.decode(taken))
            to_server += [] if answer is None else [answer]
        assert content.startswith(client.received)
    assert transfer.outcome in (Outcome.DONE, Outcome.GAVE_UP)
    assert transfer.outcome is Outcome.GAVE_UP or bytes(client.received) == content

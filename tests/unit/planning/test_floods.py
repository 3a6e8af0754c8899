"""Who asks too often, and who does not."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain import mac as macs
from provider.domain.mac import MacAddress
from provider.planning import floods
from provider.planning.floods import BURST, RATE, Floods
from provider.planning.reply import Ignore, Scope
from provider.planning.seldom import PAUSE, Seldom
from provider.wire.dhcp import Option, Packet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCOPE = Scope("eth1", IPv4Address("10.0.0.1"), IPv4Network("10.0.0.0/24"), False, 8080, frozenset())


def mac(number: int) -> MacAddress:
    return macs.from_bytes(bytes((2, 0)) + number.to_bytes(4, "big"))


def packet(number: int = 1, port: str = "") -> Packet:
    options = {Option.RELAY_AGENT: bytes((1, len(port))) + port.encode() + b"\2\5sw-12"} if port else {}
    giaddr = IPv4Address("10.88.0.254") if port else IPv4Address(0)
    return Packet(op=1, xid=1, chaddr=mac(number), options=options, giaddr=giaddr)


def sent(state: Floods, *at: float, what: Packet | None = None) -> list[bool]:
    """Which of the packets sent at these seconds are served."""
    return [state.excess(what or packet(), SCOPE, NOW + timedelta(seconds=each)) is None for each in at]


@pytest.mark.parametrize(
    "at",
    [
        [0, 0.1, 0.3, 0.4, 2, 2.1, 2.2, 2.3, 4, 4.1, 4.2, 4.3],
        [0, 4, 12, 28, 60],
        [0, 1, 3, 7, 15, 23, 31],
        [number * 1.0 for number in range(300)],
        [0.0] * 16,
        [number / RATE for number in range(500)],
    ],
    ids=["boot", "PXE without answer", "iPXE without answer", "udhcpc for ever", "perfdhcp", "as fast as allowed"],
)
def test_real_clients_are_served(at: list[float]) -> None:
    """Firmware that asks again and again because it hears nothing, hears nothing because it asks again."""
    assert all(sent(Floods(), *at))


def test_flooder_is_ignored_while_it_floods() -> None:
    """A machine gone mad takes the time of all others; or it is ignored for ever."""
    state = Floods()
    served = sent(state, *(number / 100 for number in range(3000)))
    assert served[:BURST] == [True] * BURST
    assert not any(served[BURST + 5 :])
    assert sent(state, 31, 35, 42) == [False, False, True]


def test_others_are_not_ignored_with_it() -> None:
    """A flood from one port silences the machine whose MAC address it takes, or everybody."""
    state = Floods()
    sent(state, *[0.0] * 100, what=packet(1, "ge-0/0/1"))
    assert sent(state, 0, what=packet(1, "ge-0/0/1")) == [False]
    assert sent(state, 0, what=packet(1, "ge-0/0/2")) == [True]
    assert sent(state, 0, what=packet(2, "ge-0/0/1")) == [True]
    assert sent(state, 0, what=packet(1)) == [True]


def test_warning_names_the_port() -> None:
    """Nobody knows which cable to pull; or the log is flooded, too."""
    state = Floods()
    said = []
    for number in range(3 * BURST):
        for who in (packet(number % 2, "ge-0/0/7"), packet(5)):
            excess = state.excess(who, SCOPE, NOW)
            said += [excess.reason] if excess is not None and excess.warn else []
    assert [reason.split("; ")[1] for reason in said] == [
        "it is on eth1, without option 82",
        "it is on eth1, relay 10.88.0.254, circuit-id ge-0/0/7, remote-id sw-12",
    ]
    later = NOW + PAUSE
    for _ in range(2 * BURST):
        excess = state.excess(packet(5), SCOPE, later)
    assert isinstance(excess, Ignore)


def test_clock_that_is_set_back() -> None:
    """After a step of the clock everybody counts as a flooder, for as long as the step was."""
    state = Floods()
    sent(state, 7200)
    assert sent(state, 0) == [True]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of MAC addresses fills the memory (invariant 7), or drives out a flooder that goes on."""
    monkeypatch.setattr(floods, "_SOURCES", 100)
    state = Floods()
    for number in range(3000):
        sent(state, 0, what=packet(number + 10))
        if number > BURST:
            assert sent(state, 0) == [number <= 2 * BURST]
        assert len(state._due) <= 100


def test_memory_is_bounded_whatever_relays_say() -> None:
    """Sixteen thousand sources with four kilobytes of option 82 each are 64 MB (invariant 7); or two ports are one source."""
    state = Floods()
    for number in range(4):
        said = b"".join(bytes((1, 255)) + bytes([number]) * 255 for _ in range(16))
        what = Packet(op=1, xid=1, chaddr=mac(1), options={Option.RELAY_AGENT: said}, giaddr=IPv4Address("10.88.0.254"))
        assert sent(state, *[0.0] * (BURST + 1), what=what) == [True] * BURST + [False]
    assert len(state._due) == 4
    assert sum(_size(source) for source in state._due) < 4 * 500


def _size(value: object) -> int:
    return sys.getsizeof(value) + (sum(map(_size, value)) if isinstance(value, tuple) else 0)


@given(st.lists(st.floats(0, 5), max_size=200))
def test_rate_holds_for_any_traffic(gaps: list[float]) -> None:
    """Somebody finds a rhythm with which he gets more than his share."""
    state, at, served = Floods(), 0.0, []
    for gap in gaps:
        at += gap
        served += [at] if sent(state, at) == [True] else []
    for first, start in enumerate(served):
        for last in range(first, len(served)):
            assert last - first + 1 <= BURST + RATE * (served[last] - start) + 0.01


def test_seldom() -> None:
    """A warning is said with each packet, or once and never again, or remembering it takes all memory."""
    seldom = Seldom()
    assert [seldom.may("this", NOW + PAUSE * part) for part in (0, 0.5, 0.99, 1, 1.5)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert seldom.may("that", NOW)
    assert seldom.may("this", NOW - 10 * PAUSE), "the clock was set back"
    for number in range(2000):
        assert seldom.may(number, NOW)
    assert len(seldom._said_at) < 2000

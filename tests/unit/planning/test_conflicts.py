"""What is probed by ARP, and what an answer means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from provider.domain import mac as macs
from provider.domain.mac import MacAddress
from provider.planning.conflicts import FRESH, MOST, Probe, Probes
from provider.planning.reply import Asked
from provider.wire import pxe
from provider.wire.dhcp import MessageType, Option, Packet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
FIRST = IPv4Address("10.0.0.10")
WAIT = timedelta(seconds=0.3)


def mac(number: int) -> MacAddress:
    return macs.from_bytes(bytes((2, 0, 0, 0)) + number.to_bytes(2, "big"))


def asked(number: int, xid: int = 1) -> Asked:
    packet = Packet(op=1, xid=xid, chaddr=mac(number), options={Option.MESSAGE_TYPE: bytes((MessageType.DISCOVER,))})
    return Asked(packet, pxe.client(packet), ("0.0.0.0", 68), 67, may_netboot=True)


def begun(probes: Probes, number: int, address: IPv4Address = FIRST) -> Probe:
    probe = probes.begin(asked(number), address, 1)
    assert probe is not None
    return probe


def heard(probes: Probes, address: IPv4Address, sender: MacAddress) -> Probe | None:
    return probes.heard(address.packed, macs.to_bytes(sender))


def test_nobody_is_asked_if_that_is_turned_off() -> None:
    """An operator who wants no delay gets it."""
    assert not Probes(timedelta(0)).needed(mac(1), FIRST, NOW)


def test_free_address_is_not_probed_again_at_once() -> None:
    """Every DHCPDISCOVER of a client that takes its time waits anew; or what was free once is taken for free for ever."""
    probes = Probes(WAIT)
    assert probes.needed(mac(1), FIRST, NOW)
    assert probes.silence(begun(probes, 1), NOW)
    assert not probes.needed(mac(1), FIRST, NOW + FRESH - SECOND)
    assert probes.needed(mac(1), FIRST + 1, NOW)
    assert probes.needed(mac(1), FIRST, NOW + FRESH)


def test_abandoned_probe_is_begun_anew() -> None:
    """The interface went away during a probe: nobody ends it, and its client is never answered again."""
    probes = Probes(WAIT)
    before = begun(probes, 1)
    probes.abandon()
    assert not probes.silence(before, NOW)
    assert heard(probes, FIRST, mac(9)) is None
    assert probes.silence(begun(probes, 1), NOW)


def test_repeated_question_is_one_probe() -> None:
    """Each retry begins another probe, so the client waits for ever; or it is answered with the xid that it gave up."""
    probes = Probes(WAIT)
    probe = begun(probes, 1)
    assert probes.needed(mac(1), FIRST, NOW)
    assert probes.begin(asked(1, xid=2), FIRST, 1) is None
    assert probe.asked.packet.xid == 2


def test_client_that_is_given_another_address() -> None:
    """A client whose address was reserved for another meanwhile waits for two probes, and is answered twice."""
    probes = Probes(WAIT)
    before, after = begun(probes, 1), begun(probes, 1, FIRST + 1)
    assert not probes.silence(before, NOW)
    assert heard(probes, FIRST, mac(9)) is None
    assert probes.silence(after, NOW)


def test_who_answers() -> None:
    """The client's own answer is a conflict, or somebody else's is none."""
    probes = Probes(WAIT)
    probe = begun(probes, 1)
    assert heard(probes, FIRST, mac(1)) is None
    assert heard(probes, FIRST + 1, mac(2)) is None
    assert heard(probes, FIRST, mac(2)) is probe
    assert heard(probes, FIRST, mac(3)) is None, "it is over"
    assert not probes.silence(probe, NOW)
    assert probes.needed(mac(1), FIRST, NOW), "it was not free"


def test_more_clients_than_probes() -> None:
    """A flood of clients fills the memory, or a real one among them is not served."""
    probes = Probes(WAIT)
    for number in range(MOST):
        begun(probes, number, FIRST + number)
    assert not probes.needed(mac(MOST), FIRST + MOST, NOW), "it is offered without a probe"
    assert probes.needed(mac(1), FIRST + 1, NOW), "this one runs"


ADDRESSES = [FIRST + number for number in range(4)]
clients, addresses = st.integers(1, 5), st.sampled_from(ADDRESSES)


class Anything(RuleBasedStateMachine):
    """Clients ask and machines speak in any order; each probe ends once, for a reason."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.probes = Probes(WAIT)
        self.running: dict[MacAddress, Probe] = {}

    @rule(client=clients, address=addresses)
    def discover(self, client: int, address: IPv4Address) -> None:
        """As the table of leases has it, an address is offered to one client at a time."""
        others = [probe.address for probe in self.running.values() if probe.mac != mac(client)]
        if address in others or not self.probes.needed(mac(client), address, self.now):
            return
        probe = self.probes.begin(asked(client), address, 1)
        assert (probe is None) == (mac(client) in self.running and self.running[mac(client)].address == address)
        if probe is not None:
            self.running[mac(client)] = probe

    @rule(client=clients, address=addresses)
    def speak(self, client: int, address: IPv4Address) -> None:
        over = heard(self.probes, address, mac(client))
        meant = [probe for probe in self.running.values() if probe.address == address and probe.mac != mac(client)]
        assert ([] if over is None else [over]) == meant
        if over is not None:
            del self.running[over.mac]

    @rule(client=clients, seconds=st.sampled_from([0, 1, 40]))
    def wait(self, client: int, seconds: int) -> None:
        self.now += seconds * SECOND
        probe = self.running.pop(mac(client), None)
        if probe is not None:
            assert self.probes.silence(probe, self.now)
            assert not self.probes.silence(probe, self.now)
            assert not self.probes.needed(mac(client), probe.address, self.now)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.probes._of) == len(self.probes._running) == len(self.running)
        assert len(self.probes._free_until) <= len(ADDRESSES)


Anything.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAnything = Anything.TestCase

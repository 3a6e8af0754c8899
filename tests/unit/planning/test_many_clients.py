"""
Several clients and one provider, in any order: what two of them believe to have is never one address (design invariants 4, 5).

A client here knows what it was told, and no more: it believes in a lease from the DHCPACK that it heard until that ends, or until
it begins anew itself. Answers are lost, packets come twice, clients boot from firmware to system and are plugged in elsewhere,
the provider dies before or after it has saved, and its clock is put back (put forward, it is as if time passed).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from provider.domain import mac as macs
from provider.domain.lease import Lease, Reservation, ReservedBy
from provider.domain.mac import MacAddress
from provider.planning import offer
from provider.planning.leases import QUARANTINE
from provider.planning.reply import Asked, Decision, Forget, Reply, Scope
from provider.planning.subnets import Leasing, Subnet, Subnets
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option, Packet, RelayOption

SECOND = timedelta(seconds=1)
OURS, RELAY = IPv4Address("10.77.0.1"), IPv4Address("10.88.0.1")
NEAR, FAR = IPv4Network("10.77.0.0/24"), IPv4Network("10.88.0.0/24")
POOLS = {
    NEAR: [IPv4Address("10.77.0.10") + more for more in range(5)],
    FAR: [IPv4Address("10.88.0.10") + more for more in range(3)],
}
EXCLUDED = POOLS[NEAR][3]
SCOPE = Scope("eth0", OURS, NEAR, proxy=False, http_port=8080, boot_files=frozenset({"snponly.efi"}))
NUMBERS = range(6)
UUIDS = [bytes((number,)) * 16 for number in NUMBERS]


def mac(number: int) -> MacAddress:
    return macs.from_bytes(bytes((2, 0, 0, 0, 0, number)))


RESERVED = {
    POOLS[NEAR][0]: (Reservation(POOLS[NEAR][0], ReservedBy.MAC, mac(0)), 0),
    NEAR[200]: (Reservation(NEAR[200], ReservedBy.UUID, "01010101-0101-0101-0101-010101010101"), 1),
    POOLS[FAR][0]: (Reservation(POOLS[FAR][0], ReservedBy.CIRCUIT_ID, "port-2"), 2),
}
"""Each reservation, and the number of the only client that it can be for."""

FIRMWARE = {Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003000", Option.CLIENT_ARCH: b"\0\7"}
STAGES = {"firmware": FIRMWARE, "ipxe": {**FIRMWARE, Option.USER_CLASS: b"iPXE"}, "system": {}}


def new_subnets(saved: dict[IPv4Address, Lease]) -> Subnets:
    """As the daemon makes them when it starts."""
    made = []
    for network, pool in POOLS.items():
        reservations = tuple(each for each, _client in RESERVED.values() if each.address in network)
        excluded = ((EXCLUDED, EXCLUDED),) if network == NEAR else ()
        leasing = Leasing(((pool[0], pool[-1]),), excluded, reservations, timedelta(minutes=10), timedelta(minutes=2))
        made.append(Subnet(network, leasing, ours=[OURS, RELAY], known=saved.values()))
    return Subnets(made)


@dataclass
class Client:
    """One machine, as it sees itself."""

    number: int
    is_far: bool
    stage: str = "firmware"
    offered: IPv4Address | None = None
    believes: Lease | None = None

    def asks(self, kind: MessageType, ciaddr: IPv4Address = dhcp.NOWHERE, **options: IPv4Address) -> Packet:
        """A packet of it; what goes by unicast passes by the relay."""
        said = {Option.MESSAGE_TYPE: bytes((kind,)), **STAGES[self.stage]}
        if self.stage != "system":
            said[Option.CLIENT_UUID] = b"\0" + UUIDS[self.number]
        said.update({getattr(Option, name.upper()): address.packed for name, address in options.items()})
        packet = Packet(op=dhcp.BOOTREQUEST, xid=1, chaddr=mac(self.number), options=said, ciaddr=ciaddr)
        if not self.is_far or ciaddr != dhcp.NOWHERE:
            return packet
        port = dhcp.encode_suboptions({RelayOption.CIRCUIT_ID: f"port-{self.number}".encode()})
        return replace(packet, giaddr=RELAY, options={**said, Option.RELAY_AGENT: port})


clients = st.sampled_from(NUMBERS)
places = st.integers(0, 5)
"""Of an address in the client's own network: five in the pool or three, and one that is reserved beside it."""
arrives = st.sampled_from([True, True, True, False])


class Conversations(RuleBasedStateMachine):
    """The hall."""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.saved: dict[IPv4Address, Lease] = {}
        self.quarantined: dict[IPv4Address, datetime] = {}
        self.subnets = new_subnets(self.saved)
        self.clients = [Client(number, is_far=number % 3 == 2) for number in NUMBERS]
        self.last = self.clients[0].asks(MessageType.DISCOVER)

    # --- what clients do ---

    @rule(number=clients, wish=st.none() | places, stage=st.sampled_from([*STAGES]))
    def discover(self, number: int, wish: int | None, stage: str) -> None:
        client = self.begin_anew(number)
        client.stage = stage
        wanted = {} if wish is None else {"requested_address": self.address(client, wish)}
        decision = self.send(client.asks(MessageType.DISCOVER, **wanted))
        client.offered = decision.packet.yiaddr if isinstance(decision, Reply) else None

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), heard=arrives)
    def select(self, data: st.DataObject, heard: bool) -> None:
        client = data.draw(st.sampled_from(self.waiting()))
        wanted = client.offered
        self.begin_anew(client.number)
        decision = self.send(client.asks(MessageType.REQUEST, requested_address=wanted, server_id=OURS))
        self.hear(client, decision, heard)

    @rule(number=clients, wish=st.none() | places, stage=st.sampled_from([*STAGES]))
    def boot(self, number: int, wish: int | None, stage: str) -> None:
        """A four-way exchange in which nothing is lost."""
        self.discover(number, wish, stage)
        client = self.clients[number]
        if client.offered is not None:
            wanted = client.offered
            decision = self.send(client.asks(MessageType.REQUEST, requested_address=wanted, server_id=OURS))
            assert isinstance(decision, Reply)
            assert decision.packet.yiaddr == wanted, "what is offered can be had"
            self.hear(client, decision, heard=True)

    @rule(number=clients)
    def select_another_server(self, number: int) -> None:
        client = self.begin_anew(number)
        self.send(client.asks(MessageType.REQUEST, requested_address=NEAR[77], server_id=NEAR[2]))

    @rule(number=clients, place=places, selecting=st.booleans(), heard=arrives)
    def ask_for_what_was_not_offered(self, number: int, place: int, selecting: bool, heard: bool) -> None:
        """INIT-REBOOT, or an offer of before the provider was restarted."""
        client = self.begin_anew(number)
        wanted = {"requested_address": self.address(client, place)}
        server = {"server_id": OURS} if selecting else {}
        self.hear(client, self.send(client.asks(MessageType.REQUEST, **wanted, **server)), heard)

    @precondition(lambda self: self.holders())
    @rule(data=st.data(), heard=arrives, reboots=st.booleans())
    def extend(self, data: st.DataObject, heard: bool, reboots: bool) -> None:
        """Who has a lease keeps it: RENEWING or REBINDING by ciaddr, INIT-REBOOT by option 50."""
        client = data.draw(st.sampled_from(self.holders()))
        had = client.believes.address
        in_its_network = had in (FAR if client.is_far else NEAR)
        if reboots and in_its_network:
            decision = self.send(client.asks(MessageType.REQUEST, requested_address=had))
        else:
            decision = self.send(client.asks(MessageType.REQUEST, ciaddr=had))
        assert isinstance(decision, Reply)
        assert decision.packet.message_type is MessageType.ACK
        assert decision.packet.yiaddr == had
        self.hear(client, decision, heard)

    @precondition(lambda self: self.holders())
    @rule(data=st.data(), kind=st.sampled_from([MessageType.DECLINE, MessageType.RELEASE]))
    def give_back(self, data: st.DataObject, kind: MessageType) -> None:
        client = data.draw(st.sampled_from(self.holders()))
        address = client.believes.address
        self.begin_anew(client.number)
        if kind is MessageType.RELEASE:
            decision = self.send(client.asks(kind, ciaddr=address, server_id=OURS))
        else:
            decision = self.send(client.asks(kind, requested_address=address, server_id=OURS))
        if address in (FAR if client.is_far else NEAR):
            assert isinstance(decision, Forget)

    @precondition(lambda self: self.holders())
    @rule(number=clients, data=st.data(), kind=st.sampled_from([MessageType.DECLINE, MessageType.RELEASE]))
    def give_back_what_is_anothers(self, number: int, data: st.DataObject, kind: MessageType) -> None:
        address = data.draw(st.sampled_from(self.holders())).believes.address
        client = self.clients[number]
        if client.believes is None or client.believes.address != address:
            self.begin_anew(number)
            self.send(
                client.asks(
                    kind, ciaddr=address if kind is MessageType.RELEASE else dhcp.NOWHERE, requested_address=address
                )
            )

    @precondition(lambda self: self.saved)
    @rule(data=st.data(), heard=arrives, kind=st.sampled_from([MessageType.DISCOVER, MessageType.REQUEST]))
    def ask_for_what_is_anothers(self, data: st.DataObject, heard: bool, kind: MessageType) -> None:
        """Or is in quarantine, or was."""
        lease = data.draw(st.sampled_from([*self.saved.values()]))
        near = [each for each in self.clients if each.is_far == (lease.address in FAR) and each.believes is None]
        if near:
            client = data.draw(st.sampled_from(near))
            self.hear(client, self.send(client.asks(kind, requested_address=lease.address)), heard)

    @rule(number=clients)
    def inform(self, number: int) -> None:
        self.send(self.clients[number].asks(MessageType.INFORM, ciaddr=NEAR[50]))

    @rule(number=clients)
    def is_plugged_in_elsewhere(self, number: int) -> None:
        client = self.begin_anew(number)
        client.is_far = not client.is_far

    # --- what happens to all ---

    @rule()
    def last_packet_comes_twice(self) -> None:
        self.send(self.last)

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def a_lease_is_about_to_end(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from([*self.saved.values()]))
        self.time_passes(max(int((lease.expires_at - self.now).total_seconds()) - 1, 0))

    @rule(seconds=st.sampled_from([1, 6, 31, 60, 601, 90_000]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND
        for client in self.clients:
            if client.believes is not None and client.believes.expires_at <= self.now:
                client.believes = None
        self.quarantined = {address: until for address, until in self.quarantined.items() if until > self.now}

    @rule(seconds=st.sampled_from([1, 31, 3600]))
    def clock_is_put_back(self, seconds: int) -> None:
        """Clients have clocks of their own: what they believe ends as early as before."""
        was, self.now = self.now, self.now - seconds * SECOND
        self.quarantined = {address: until - seconds * SECOND for address, until in self.quarantined.items()}
        for subnet in self.subnets.all():
            self.saved |= {lease.address: lease for lease in subnet.clock_was_set(was, self.now)}
        for client in self.clients:
            if (lease := client.believes) is not None:
                client.believes = replace(lease, expires_at=lease.expires_at - seconds * SECOND)

    @rule()
    def provider_starts_again(self) -> None:
        self.subnets = new_subnets(self.saved)

    @rule(number=clients, place=places)
    def provider_dies_before_it_saved(self, number: int, place: int) -> None:
        client = self.begin_anew(number)
        wanted = self.address(client, place)
        self.decide(client.asks(MessageType.REQUEST, requested_address=wanted, server_id=OURS))
        self.provider_starts_again()

    # --- how it is done ---

    def waiting(self) -> list[Client]:
        return [client for client in self.clients if client.offered is not None]

    def holders(self) -> list[Client]:
        return [client for client in self.clients if client.believes is not None]

    def address(self, client: Client, place: int) -> IPv4Address:
        network = FAR if client.is_far else NEAR
        choice = [*POOLS[network], NEAR[200]]
        return choice[place % len(choice)]

    def begin_anew(self, number: int) -> Client:
        """A client that asks for an address uses none meanwhile."""
        self.clients[number].believes = self.clients[number].offered = None
        return self.clients[number]

    def decide(self, packet: Packet) -> Decision:
        asked = Asked(packet, pxe.client(packet), ("0.0.0.0", 68), 67, may_netboot=True)
        return offer.decide(asked, SCOPE, self.subnets, self.now)

    def send(self, packet: Packet) -> Decision:
        """One packet, as the shell handles it: what is to be saved is saved before the answer leaves."""
        self.last = packet
        decision = self.decide(packet)
        if isinstance(decision, Forget):
            self.saved[decision.lease.address] = decision.lease
            if decision.lease.declined:
                self.quarantined[decision.lease.address] = self.now + QUARANTINE
        if isinstance(decision, Reply):
            self.may_be_promised(decision.packet)
            self.saved.update({lease.address: lease for lease in decision.leases})
        return decision

    def may_be_promised(self, answer: Packet) -> None:
        address = answer.yiaddr
        if address == dhcp.NOWHERE:
            return
        assert address not in self.quarantined, "it is in use by somebody else"
        saved = self.saved.get(address)
        assert saved is None or saved.expires_at <= self.now or saved.claimant.mac == answer.chaddr, "it is leased"
        if address in RESERVED:
            assert mac(RESERVED[address][1]) == answer.chaddr, "it is reserved for another"
            return
        assert address != EXCLUDED
        assert any(address in pool for pool in POOLS.values())

    def hear(self, client: Client, decision: Decision, heard: bool) -> None:
        """A DHCPACK that arrives is believed in; one that is lost changes nothing for its client."""
        if not heard or not isinstance(decision, Reply) or decision.packet.message_type is not MessageType.ACK:
            return
        duration = int.from_bytes(decision.packet.options[Option.LEASE_TIME], "big") * SECOND
        client.believes = replace(decision.leases[0], expires_at=self.now + duration)
        assert decision.leases[0].address == decision.packet.yiaddr

    @invariant()
    def nobody_shares_an_address(self) -> None:
        believed = [client.believes.address for client in self.clients if client.believes is not None]
        assert len(believed) == len(set(believed))

    @invariant()
    def what_is_believed_is_saved(self) -> None:
        for client in self.clients:
            if (lease := client.believes) is not None:
                saved = self.saved[lease.address]
                assert (saved.claimant.mac, saved.declined) == (mac(client.number), False)
                assert saved.expires_at >= lease.expires_at

    @invariant()
    def client_has_one_lease(self) -> None:
        for network in POOLS:
            live = [
                lease.claimant.mac
                for lease in self.saved.values()
                if lease.address in network and lease.expires_at > self.now and not lease.declined
            ]
            assert len(live) == len(set(live))

    @invariant()
    def a_restart_would_change_nothing(self) -> None:
        restarted = new_subnets(self.saved)
        for client in self.clients:
            if (lease := client.believes) is not None:
                subnet = restarted.of(lease.address)
                assert subnet is not None
                assert subnet.table.may_have(lease.claimant, lease.address, self.now)
                assert subnet.table.lease_of(mac(client.number)).address == lease.address


Conversations.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestConversations = Conversations.TestCase

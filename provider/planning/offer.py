"""
What to answer to one DHCP packet: a pure decision.

`decide` takes a packet that came in on an interface (`Scope`) and gives a `Reply`, `Verify`, `Forget`, or `Ignore` with a
reason. In proxy mode and on port 4011 `planning.proxy` decides; here we are the server of RFC 2131: addresses out of the
subnet that the client is on (`planning.subnets`), and the boot part for those who boot (`planning.bootfile`).

A DHCPREQUEST comes in four states (RFC 2131 section 4.3.2), told apart by three fields:

| State | Server id | Requested address | ciaddr | Unless it may have the address |
|---|---|---|---|---|
| SELECTING | ours | yes | no | DHCPNAK |
| INIT-REBOOT | no | yes | no | DHCPNAK, or silence if we know neither client nor address |
| RENEWING, REBINDING | no | no | yes | likewise: it may have the address from another server, which is away just now |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import IPv4Address

from provider.domain import mac as macs
from provider.domain.lease import Claimant
from provider.planning import bootfile, proxy, reply
from provider.planning.bootfile import Boot
from provider.planning.leases import DECLINES, QUARANTINE
from provider.planning.reply import EVERYBODY, SERVER_PORT, Asked, Decision, Forget, Ignore, Reply, Scope, To, Verify
from provider.planning.subnets import Subnet, Subnets
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option, Packet, RelayOption

_SHORTEST_LEASE = timedelta(minutes=1)
"""Nobody gets less, however little it asks for (option 51): it would come back all the time."""


def decide(asked: Asked, scope: Scope, subnets: Subnets, now: datetime) -> Decision:
    """Decide the answer. The lease tables of `subnets` are changed by what is offered and leased."""
    packet = asked.packet
    if packet.op != dhcp.BOOTREQUEST:
        return Ignore("not a request")
    if packet.message_type is None:
        return Ignore("plain BOOTP, without a DHCP message type")
    if not macs.is_of_one(packet.chaddr):
        return Ignore("its MAC address is not its own: others may have the same", warn=True)
    client = asked.client
    if not client.valid:
        return Ignore("option 97 is malformed")
    if client.boots and not asked.may_netboot:
        return Ignore("the machine was rejected or is cordoned: left to its next boot device")
    if asked.port == pxe.SERVER_PORT:
        return proxy.boot_service(asked, scope)
    if scope.proxy:
        return (
            proxy.offer(asked, scope)
            if client.boots
            else Ignore("not a boot client; its addresses are another's business")
        )
    link = _link(packet, scope)
    subnet = subnets.of(link)
    if subnet is None:
        return Ignore(f"{link} is of no subnet that is configured", warn=packet.giaddr != dhcp.NOWHERE)
    return _Conversation(asked, scope, subnet, now).decide()


def _link(packet: Packet, scope: Scope) -> IPv4Address:
    """An address on the network that the client is on."""
    if packet.giaddr != dhcp.NOWHERE:
        selection = dhcp.decode_suboptions(packet.options.get(Option.RELAY_AGENT, b"")).get(
            RelayOption.LINK_SELECTION, b""
        )
        return IPv4Address(selection) if len(selection) == 4 else packet.giaddr
    return scope.address if packet.ciaddr == dhcp.NOWHERE else packet.ciaddr


class _Conversation:
    """One packet to us as a server, from a client on `subnet`."""

    def __init__(self, asked: Asked, scope: Scope, subnet: Subnet, now: datetime) -> None:
        packet, client = asked.packet, asked.client
        self._asked = asked
        self._packet = packet
        self._scope = scope
        self._subnet = subnet
        self._table = subnet.table
        self._client = client
        self._now = now
        self._claimant = Claimant(packet.chaddr, client.uuid, *packet.relay_port)
        self._client_id = packet.options.get(Option.CLIENT_ID, b"")

    def decide(self) -> Decision:
        match self._packet.message_type:
            case MessageType.DISCOVER:
                return self._discover()
            case MessageType.REQUEST:
                return self._request()
            case MessageType.DECLINE:
                return self._decline()
            case MessageType.RELEASE:
                return self._release()
            case MessageType.INFORM:
                return self._inform()
            case _:
                return Ignore("a message that only servers send")

    def _discover(self) -> Decision:
        boot = self._boot()
        if isinstance(boot, Ignore):
            return boot
        if (crowded := self._crowded()) is not None:
            return crowded
        requested = self._packet.address(Option.REQUESTED_ADDRESS)
        address = self._table.offer(self._claimant, requested, self._now)
        if address is None and self._table.is_empty():
            return Ignore("no addresses are leased in its network")
        if address is None:
            return self._lament(self._table.exhaustion(self._now), "the pool is exhausted")
        if self._must_verify(address):
            return Verify(address)
        offered = self._leased(MessageType.OFFER, address, boot)
        if self._table.is_contended(address) and (why := self._table.exhaustion(self._now)) is not None:
            return replace(offered, warning=self._located(why), warning_event="dhcp.exhausted")
        return offered

    def _crowded(self) -> Ignore | None:
        """Why the client gets no new address at its relay port, if it wants one."""
        if not self._table.crowded(self._claimant, self._subnet.leasing.clients_per_port, self._now):
            return None
        return self._lament(self._table.crowd(self._claimant, self._now), "too many clients at its relay port")

    def _lament(self, why: str | None, why_again: str) -> Ignore:
        """No address; with a warning if there is more to say of it than the last time."""
        if why is None:
            return Ignore(why_again)
        return Ignore(self._located(why), warn=True, again=True)

    def _located(self, why: str) -> str:
        return f"{why}; it is {reply.whence(self._packet, self._scope)}"

    def _must_verify(self, address: IPv4Address) -> bool:
        """Whether somebody else may use the address. ARP does not cross routers: nobody is asked behind a relay."""
        packet = self._packet
        if packet.giaddr != dhcp.NOWHERE or self._subnet.network != self._scope.network:
            return False
        lease = self._table.lease_of(packet.chaddr)
        if lease is not None and lease.address == address and lease.expires_at > self._now:
            return False
        return self._subnet.probes.needed(packet.chaddr, address, self._now)

    def _request(self) -> Decision:
        packet = self._packet
        requested = packet.address(Option.REQUESTED_ADDRESS)
        chosen = packet.address(Option.SERVER_ID)
        if chosen is not None:
            if chosen != reply.server_id(packet, self._scope):
                if chosen not in self._subnet.ours:
                    self._table.withdraw(packet.chaddr)
                return Ignore(f"chose another server, {chosen}")
            return self._grant(requested or packet.ciaddr)
        if packet.ciaddr != dhcp.NOWHERE:
            return self._renew(packet.ciaddr)
        if requested is None:
            return Ignore("names no address")
        return self._reboot(requested)

    def _renew(self, wanted: IPv4Address) -> Decision:
        """RENEWING and REBINDING: the client works with the address."""
        if wanted not in self._subnet.network:
            return self._refuse(f"{wanted} is not of this network")
        if self._table.lease_of(self._packet.chaddr) is None and not self._table.is_ours(wanted):
            return Ignore(f"has {wanted} from another server")
        return self._grant(wanted)

    def _reboot(self, wanted: IPv4Address) -> Decision:
        """INIT-REBOOT: the client believes that it still has the address."""
        if wanted not in self._subnet.network:
            return self._refuse(f"{wanted} is not of this network")
        lease = self._table.lease_of(self._packet.chaddr)
        if lease is not None and lease.address != wanted:
            return self._refuse(f"its address is {lease.address}, not {wanted}")
        if lease is None and not self._table.is_known(wanted, self._now):
            return Ignore("believes to have an address that we know nothing of")
        return self._grant(wanted)

    def _grant(self, wanted: IPv4Address) -> Decision:
        if wanted == dhcp.NOWHERE:
            return Ignore("names no address")
        if not self._table.may_have(self._claimant, wanted, self._now):
            return self._refuse(f"{wanted} cannot be leased to it")
        if (crowded := self._crowded()) is not None:
            return crowded
        boot = self._boot()
        if isinstance(boot, Ignore):
            return boot
        return self._leased(MessageType.ACK, wanted, boot)

    def _refuse(self, why: str) -> Reply:
        """DHCPNAK: the client starts over. It cannot be reached at an address, so a relay must broadcast it too."""
        packet = self._packet
        nak, to = reply.answer(packet, self._scope, MessageType.NAK, {Option.MESSAGE: why.encode()}), EVERYBODY
        if packet.giaddr != dhcp.NOWHERE:
            nak, to = replace(nak, flags=nak.flags | dhcp.BROADCAST_FLAG), To(packet.giaddr, SERVER_PORT)
        return Reply(nak, to, "dhcp.refused", facts={"reason": why}, largest=packet.largest_answer)

    def _is_for_us(self) -> bool:
        """Whether the server that it names is us, on whichever interface of its network."""
        chosen = self._packet.address(Option.SERVER_ID)
        return chosen == reply.server_id(self._packet, self._scope) or chosen in self._subnet.ours

    def _decline(self) -> Decision:
        if Option.SERVER_ID in self._packet.options and not self._is_for_us():
            return Ignore("declines the address of another server")
        address = self._packet.address(Option.REQUESTED_ADDRESS) or dhcp.NOWHERE
        mac = self._packet.chaddr
        lease = self._table.decline(mac, address, self._now)
        if lease is None:
            return Ignore("declines an address that it does not have")
        many = self._table.declined_by(mac, self._now)
        return Forget(lease, "dhcp.declined", warning=_DECLINES_ALL if many == DECLINES else "")

    def _release(self) -> Decision:
        if not self._is_for_us():
            return Ignore("releases no address of ours, by the server that it names")
        packet = self._packet
        lease = self._table.release(packet.chaddr, packet.ciaddr, self._now, self._client_id)
        return Forget(lease, "dhcp.released") if lease else Ignore("releases an address that it does not have")

    def _inform(self) -> Decision:
        """A client that has its address and wants the rest (RFC 2131 section 4.3.5): no lease, no lease time."""
        packet = self._packet
        if packet.ciaddr == dhcp.NOWHERE:
            return Ignore("DHCPINFORM without an address")
        boot = self._boot()
        if isinstance(boot, Ignore):
            return boot
        ack = self._answer(MessageType.ACK, {}, boot)
        return Reply(ack, To(packet.ciaddr), "dhcp.informed", largest=packet.largest_answer)

    def _leased(self, kind: MessageType, address: IPv4Address, boot: Boot | None) -> Reply:
        """A DHCPOFFER of the address, or a DHCPACK with its lease."""
        packet = self._packet
        duration = self._duration()
        offered = self._answer(kind, _times(duration, packet.chaddr[-2:]), boot, yiaddr=address)
        stage, to, largest = bootfile.stage(self._client), reply.destination(packet, address), packet.largest_answer
        if kind is MessageType.OFFER and boot is None:
            return Reply(offered, to, "", facts={"stage": stage}, largest=largest)
        facts = {"address": str(address), "stage": stage}
        if boot is not None and kind is MessageType.OFFER:
            return Reply(offered, to, "dhcp.offered", facts=facts, largest=largest, warning=boot.warning)
        leases = self._table.grant(self._claimant, address, self._now, duration, self._client_id)
        return Reply(offered, to, "dhcp.acknowledged", leases, facts, largest)

    def _answer(
        self,
        kind: MessageType,
        times: Mapping[int, bytes],
        boot: Boot | None,
        yiaddr: IPv4Address = dhcp.NOWHERE,
    ) -> Packet:
        packet, scope = self._packet, self._scope
        asks_for = packet.options.get(Option.PARAMETER_LIST, b"")
        told = self._subnet.told(asks_for, boots=boot is not None)
        if boot is None:
            return reply.answer(packet, scope, kind, {**times, **told}, yiaddr=yiaddr)
        options = {**times, **boot.options}
        if self._client.is_pxe and not self._client.is_ipxe:
            options[Option.VENDOR_SPECIFIC] = pxe.discovery_control(self._client.firmware)
        options |= told  # The last: firmware whose buffer is short can boot without these.
        return reply.answer(packet, scope, kind, options, yiaddr=yiaddr, file=boot.file, siaddr=scope.address)

    def _boot(self) -> Boot | Ignore | None:
        """The boot part, or None for those who do not boot."""
        return bootfile.choose(self._scope, self._asked) if self._client.boots else None

    def _duration(self) -> timedelta:
        """As the settings have it, or shorter if the client asks for less (option 51)."""
        leasing = self._subnet.leasing
        ours = leasing.boot_lease_time if self._client.boots else leasing.lease_time
        asked = self._packet.options.get(Option.LEASE_TIME, b"")
        if len(asked) != 4:
            return ours
        return min(ours, max(timedelta(seconds=int.from_bytes(asked, "big")), _SHORTEST_LEASE))


_DECLINES_ALL = (
    f"it finds each address in use: it declined {DECLINES} within {QUARANTINE.seconds // 60} minutes. Something answers ARP"
    " for all of them, such as a router with proxy ARP, or the client is broken"
)


@lru_cache(maxsize=4096)
def _times(duration: timedelta, last_octet: str) -> Mapping[int, bytes]:
    """
    Lease time, T1 and T2 (RFC 2131 section 4.4.5): a half and seven eighths, less up to a twentieth.

    How much less hangs on the MAC address: machines that got their leases in one storm do not renew them in one.
    """
    seconds = int(duration.total_seconds())
    earlier = seconds * int(last_octet, 16) // (20 * 255)
    return {
        Option.LEASE_TIME: dhcp.encode_seconds(seconds),
        Option.RENEWAL_TIME: dhcp.encode_seconds(seconds // 2 - earlier),
        Option.REBINDING_TIME: dhcp.encode_seconds(seconds * 7 // 8 - earlier),
    }

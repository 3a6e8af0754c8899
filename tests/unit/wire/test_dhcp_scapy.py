"""
scapy as the second opinion on every field and option of DHCP: what we build, it reads, and the other way.

`OPTIONS` has a row for each member of `dhcp.Option`: how ours is made, and what scapy makes of it. Where scapy knows only raw
bytes (options 43, 82, 93, 97, 119, 175), its fields for the shapes inside are the opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.fields import (
    ByteField,
    FieldLenField,
    FieldListField,
    PacketListField,
    ShortField,
    StrLenField,
    UUIDField,
)
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dns import DNSStrField
from scapy.packet import Packet as Layers

from provider.domain import mac as macs
from provider.planning import reply
from provider.planning.reply import Scope
from provider.wire import dhcp, pxe
from provider.wire.dhcp import MessageType, Option, Packet, RelayOption
from tests.captures import text as captured
from tests.unit.wire.dhcp_packets import MAC, packets

Theirs = tuple[object, ...]
"""An option as scapy has it: its name, or its code where it has none for it, and its values."""

address = st.integers(0, 2**32 - 1).map(IPv4Address)
addresses = st.lists(address, min_size=1, max_size=8)
seconds = st.integers(0, 2**32 - 1)
text = st.binary(min_size=1, max_size=100)
label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
domains = st.lists(st.lists(label, min_size=1, max_size=4).map(".".join), min_size=1, max_size=4)
networks = st.builds(lambda base, length: IPv4Network((base, length), strict=False), address, st.integers(0, 32))
routes = st.lists(st.tuples(networks, address), min_size=1, max_size=8)


def known(name: str, values: st.SearchStrategy[object], ours: Callable[[object], bytes], theirs: Callable) -> object:
    return values.map(lambda value: (ours(value), (name, *theirs(value))))


def listed(name: str) -> object:
    return known(name, addresses, lambda given: dhcp.encode_addresses(*given), lambda given: map(str, given))


def one(name: str) -> object:
    return known(name, address, lambda given: given.packed, lambda given: [str(given)])


def time(name: str) -> object:
    return known(name, seconds, dhcp.encode_seconds, lambda given: [given])


def short(name: str) -> object:
    return known(name, st.integers(0, 0xFFFF), lambda given: given.to_bytes(2, "big"), lambda given: [given])


def raw(name: str | int) -> object:
    return known(name, text, bytes, lambda given: [given])


OPTIONS = {
    Option.SUBNET_MASK: one("subnet_mask"),
    Option.ROUTER: listed("router"),
    Option.DNS: listed("name_server"),
    Option.HOST_NAME: raw("hostname"),
    Option.DOMAIN_NAME: raw("domain"),
    Option.INTERFACE_MTU: short("interface-mtu"),
    Option.BROADCAST_ADDRESS: one("broadcast_address"),
    Option.NTP_SERVERS: listed("NTP_server"),
    Option.VENDOR_SPECIFIC: raw("vendor_specific"),
    Option.REQUESTED_ADDRESS: one("requested_addr"),
    Option.LEASE_TIME: time("lease_time"),
    Option.MESSAGE_TYPE: known(
        "message-type", st.sampled_from(MessageType), lambda kind: bytes((kind,)), lambda kind: [kind]
    ),
    Option.SERVER_ID: one("server_id"),
    Option.PARAMETER_LIST: known("param_req_list", text, bytes, lambda codes: [list(codes)]),
    Option.MESSAGE: raw("error_message"),
    Option.MAXIMUM_SIZE: short("max_dhcp_size"),
    Option.RENEWAL_TIME: time("renewal_time"),
    Option.REBINDING_TIME: time("rebinding_time"),
    Option.VENDOR_CLASS: raw("vendor_class_id"),
    Option.CLIENT_ID: raw("client_id"),
    Option.TFTP_SERVER_NAME: raw("tftp_server_name"),
    Option.BOOT_FILE_NAME: raw("boot-file-name"),
    Option.USER_CLASS: raw("user_class"),
    Option.RELAY_AGENT: raw("relay_agent_information"),
    Option.CLIENT_ARCH: raw("pxe_client_architecture"),
    Option.CLIENT_INTERFACE: raw("pxe_client_network_interface"),
    Option.CLIENT_UUID: raw("pxe_client_machine_identifier"),
    Option.DOMAIN_SEARCH: raw(int(Option.DOMAIN_SEARCH)),
    Option.STATIC_ROUTES: known(
        "classless_static_routes",
        routes,
        dhcp.encode_routes,
        lambda given: [[f"{to}:{gateway}" for to, gateway in given]],
    ),
    Option.TFTP_SERVER_ADDRESS: listed("tftp_server_address"),
    Option.IPXE: raw(int(Option.IPXE)),
}

any_options = st.lists(st.sampled_from([*OPTIONS]), unique=True, max_size=12).flatmap(
    lambda codes: st.fixed_dictionaries({code: OPTIONS[code] for code in codes})
)


def dissected(raw: bytes) -> list[object]:
    """The options as scapy reads them, without the padding."""
    return [option for option in BOOTP(raw)[DHCP].options if option != "pad"]


def header(layers: Layers) -> Packet:
    """The header of a message as scapy has it, in our form."""
    return Packet(
        op=layers.op,
        xid=layers.xid,
        chaddr=macs.from_bytes(layers.chaddr[:6]),
        hops=layers.hops,
        secs=layers.secs,
        flags=int(layers.flags),
        ciaddr=IPv4Address(layers.ciaddr),
        yiaddr=IPv4Address(layers.yiaddr),
        siaddr=IPv4Address(layers.siaddr),
        giaddr=IPv4Address(layers.giaddr),
        sname=layers.sname.rstrip(b"\0"),
        file=layers.file.rstrip(b"\0"),
    )


# --- header and options ----------------------------------------------------------------------------------------------


def test_no_option_is_left_out() -> None:
    """An option that was added later is made after our own fashion."""
    assert OPTIONS.keys() == captured.OPTIONS.keys() - {Option.PAD, Option.OVERLOAD, Option.END}


@given(packets)
def test_they_read_every_field_of_our_header(packet: Packet) -> None:
    """A field is at another place, or in another order, than the rest of the world has it."""
    theirs = BOOTP(dhcp.encode(packet))
    assert header(theirs) == replace(packet, options={})
    assert (theirs.htype, theirs.hlen, theirs.options) == (1, 6, dhcp.MAGIC)


@given(packets)
def test_we_read_every_field_of_their_header(packet: Packet) -> None:
    """The same for what others send."""
    theirs = BOOTP(
        op=packet.op,
        hops=packet.hops,
        xid=packet.xid,
        secs=packet.secs,
        flags=packet.flags,
        ciaddr=str(packet.ciaddr),
        yiaddr=str(packet.yiaddr),
        siaddr=str(packet.siaddr),
        giaddr=str(packet.giaddr),
        chaddr=macs.to_bytes(packet.chaddr),
        sname=packet.sname,
        file=packet.file,
    )
    assert dhcp.decode(bytes(theirs / DHCP(options=["end"]))) == replace(packet, options={})


@given(any_options)
def test_they_read_every_option_of_ours(options: dict[int, tuple[bytes, Theirs]]) -> None:
    """An option has another shape, or another place in the row, than the rest of the world takes it for."""
    packet = Packet(op=2, xid=1, chaddr=MAC, options={code: ours for code, (ours, _) in options.items()})
    assert dissected(dhcp.encode(packet)) == [*(theirs for _, theirs in options.values()), "end"]


@given(any_options)
def test_we_read_every_option_of_theirs(options: dict[int, tuple[bytes, Theirs]]) -> None:
    """The same for what others send."""
    theirs = DHCP(options=[*(spread(*theirs) for _, theirs in options.values()), "end"])
    read = dhcp.decode(bytes(BOOTP(op=1, chaddr=macs.to_bytes(MAC)) / theirs))
    assert read.options == {code: ours for code, (ours, _) in options.items()}


def spread(name: object, *values: object) -> Theirs:
    """scapy reads routes as one list, and writes them one by one."""
    return (name, *values[0]) if name == "classless_static_routes" else (name, *values)


@pytest.mark.parametrize("overload", [1, 2, 3])
def test_overload(overload: int) -> None:
    """What others put into `file` and `sname` is not read, or read twice (RFC 2132 section 9.3)."""
    inside = {"file": b"", "sname": b""}
    expected = {Option.MESSAGE_TYPE: b"\1"}
    for bit, name, code in ((1, "file", Option.HOST_NAME), (2, "sname", Option.DOMAIN_NAME)):
        inside[name] = b"a name"
        if overload & bit:
            inside[name] = bytes(DHCP(options=[("hostname" if bit == 1 else "domain", b"inside"), "end"]))
            expected[code] = b"inside"
    theirs = BOOTP(op=1, chaddr=macs.to_bytes(MAC), **inside)
    theirs /= DHCP(options=[("message-type", "discover"), ("dhcp-option-overload", overload), "end"])
    read = dhcp.decode(bytes(theirs))
    assert read.options == expected
    assert (read.file, read.sname) == (b"" if overload & 1 else b"a name", b"" if overload & 2 else b"a name")


@given(st.binary(min_size=256, max_size=900))
def test_long_option(value: bytes) -> None:
    """An option of more than 255 bytes is cut in another way than others put it together again (RFC 3396)."""
    packet = Packet(op=2, xid=1, chaddr=MAC, options={Option.STATIC_ROUTES + 100: value})
    *parts, end = dissected(dhcp.encode(packet))
    assert b"".join(part for _code, part in parts) == value
    assert {code for code, _part in parts} == {221}
    assert end == "end"


# --- shapes inside ---------------------------------------------------------------------------------------------------


class Suboption(Layers):
    """Tag, length, value (RFC 2132 section 8.4, RFC 3046 section 2.0)."""

    fields_desc: ClassVar = [
        ByteField("code", 0),
        FieldLenField("size", None, length_of="value", fmt="B"),
        StrLenField("value", b"", length_from=lambda layers: layers.size),
    ]

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        return b"", s


class Suboptions(Layers):
    """Options inside an option."""

    fields_desc: ClassVar = [PacketListField("all", [], Suboption)]


def theirs_inside(value: bytes) -> list[tuple[int, bytes]]:
    return [(each.code, each.value) for each in Suboptions(value).all]


suboptions = st.dictionaries(st.integers(1, 254), st.binary(max_size=20), max_size=6)


@given(suboptions)
def test_suboptions(options: dict[int, bytes]) -> None:
    """Relays, firmware or iPXE read other sub-options than we write, or we others than they do."""
    assert theirs_inside(dhcp.encode_suboptions(options)) == [*options.items()]
    made = bytes(Suboptions(all=[Suboption(code=code, value=value) for code, value in options.items()]))
    assert dhcp.decode_suboptions(made) == options
    assert dhcp.decode_suboptions(made + b"\xff" + made) == options


@given(st.binary(max_size=30), st.binary(max_size=30), address, address)
def test_relay(circuit_id: bytes, remote_id: bytes, link: IPv4Address, override: IPv4Address) -> None:
    """What a relay says of itself is read wrong, or does not come back to it as it was (RFC 3046, 3527, 5107)."""
    said = {1: circuit_id, 2: remote_id, 5: link.packed, 11: override.packed}
    relay = bytes(Suboptions(all=[Suboption(code=code, value=value) for code, value in said.items()]))
    theirs = BOOTP(op=1, chaddr=macs.to_bytes(MAC), giaddr="10.88.0.1")
    theirs /= DHCP(options=[("message-type", "discover"), ("relay_agent_information", relay), "end"])
    packet = dhcp.decode(bytes(theirs))
    assert packet.relay_port == (dhcp.relay_text(circuit_id), dhcp.relay_text(remote_id))
    network = IPv4Network("10.77.0.0/24")
    scope = Scope("eth0", network[1], network, proxy=False, http_port=8080, boot_files=frozenset())
    assert reply.server_id(packet, scope) == override
    assert dhcp.decode_suboptions(packet.options[Option.RELAY_AGENT])[RelayOption.LINK_SELECTION] == link.packed
    answer = dissected(dhcp.encode(reply.answer(packet, scope, MessageType.OFFER, {})))
    assert answer[-2:] == [("relay_agent_information", relay), "end"]


def test_discovery_control() -> None:
    """Firmware reads no "use the boot file here" out of option 43 (PXE 2.1 section 2.2.1)."""
    value = pxe.discovery_control(pxe.BIOS)
    assert theirs_inside(value[:-1]) == [(6, b"\x08")]
    assert value[-1:] == b"\xff"


def test_discovery_control_of_a_raspberry_pi() -> None:
    """Its ROM does not find its name in the menu (edge case 4)."""

    class MenuItem(Layers):
        fields_desc: ClassVar = [
            ShortField("type", 0),
            FieldLenField("size", None, length_of="says", fmt="B"),
            StrLenField("says", b"", length_from=lambda layers: layers.size),
        ]

    inside = dict(theirs_inside(pxe.discovery_control(pxe.RASPBERRY_PI)[:-1]))
    assert inside.keys() == {6, 9, 10}
    item = MenuItem(inside[9])
    assert (item.type, item.says, bytes(item.payload)) == (0, b"Raspberry Pi Boot", b"")
    assert inside[10] == b"\0PXE"


def test_no_proxy_wait() -> None:
    """iPXE does not read that it need not wait."""
    assert theirs_inside(pxe.no_proxy_wait()) == [(176, b"\x01")]


@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=5))
def test_architectures(codes: Sequence[int]) -> None:
    """Firmware gets the program of another processor (RFC 4578 section 2.1)."""
    value = FieldListField("codes", [], ShortField("code", 0)).addfield(None, b"", codes)
    theirs = [("vendor_class_id", b"PXEClient"), ("pxe_client_architecture", value)]
    theirs.append(("pxe_client_network_interface", b"\1\3\0"))
    packet = dhcp.decode(bytes(BOOTP(op=1, chaddr=macs.to_bytes(MAC)) / DHCP(options=[*theirs, "end"])))
    client = pxe.client(packet)
    known = [code for code in codes if any(code in each.archs for each in pxe.FIRMWARES)]
    if known:
        assert client.firmware is not None
        assert known[0] in client.firmware.archs
    else:
        assert client.unknown == ", ".join(f"0x{code:02x}" for code in codes)
    assert packet.options[Option.CLIENT_INTERFACE] == b"\1\3\0"


@given(st.uuids())
def test_uuid(uuid: UUID) -> None:
    """A machine is known by another UUID than its own (RFC 4578 section 2.3, SMBIOS 7.2.1)."""
    value = UUIDField("uuid", None, uuid_fmt=UUIDField.FORMAT_LE).addfield(None, b"\0", uuid)
    theirs = [("vendor_class_id", b"PXEClient"), ("pxe_client_machine_identifier", value)]
    packet = dhcp.decode(bytes(BOOTP(op=1, chaddr=macs.to_bytes(MAC)) / DHCP(options=[*theirs, "end"])))
    assert pxe.client(packet).uuid == str(uuid)


@given(domains)
def test_search_list(names: list[str]) -> None:
    """Clients read other domains than the operator wrote (RFC 3397)."""
    left, read = dhcp.encode_domains(names), []
    while left:
        left, name = DNSStrField("name", b"").getfield(None, left)
        read.append(name.decode())
    assert read == [f"{name}." for name in names]

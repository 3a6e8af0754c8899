"""
The settings, as they stand in the YAML file.

Durations are written as `90s`, `15m`, `1h`, `2d` or a number of seconds. Each field has a default wherever a sensible one
exists; its docstring gives type, unit and consequence. `planning` never sees these classes: it gets plain values.
"""

from __future__ import annotations

import itertools
import re
import socket
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from provider.domain import mac
from provider.domain.bmc import RedfishUse
from provider.domain.errors import PermanentError
from provider.domain.machine import AgentKind, HandOff
from provider.planning import identity, talos
from provider.planning.loader import Loader
from provider.planning.proxy_style import Style
from provider.planning.subnets import not_leasable
from provider.wire import dhcp, siderolink

_SELECTABLE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
"""What can stand in a selector of Omni (its client/pkg/cosi/labels) without quotes, which its keys cannot have."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", value.strip())
        if match:
            return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    if isinstance(value, timedelta):
        return value
    raise ValueError("write a duration as 30s, 15m, 1h or 2d")


_SIZE_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


def _size(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT]B)", value.strip())
        if match:
            return int(float(match[1]) * _SIZE_UNITS[match[2]])
    raise ValueError("write a size as 500MB, 20GB or 1TB")


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Port = Annotated[int, Field(ge=1, le=65535)]
Size = Annotated[int, BeforeValidator(_size)]
Mac = Annotated[str, AfterValidator(mac.parse)]


class Model(BaseModel):
    """Base of all settings: a name that is not declared is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


LONGEST_LABEL, MOST_LABELS = 250, 200
"""What Omni takes in any case: 1,024 bytes of a name, 256 labels with those of ours (omni: validations/metadata.go)."""


class ProviderSettings(Model):
    """Who this provider is."""

    id: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Name of this provider at the manager. Default: the host name; with Omni, what the key says. Changing it makes a new
    provider there."""
    state_dir: Path = Path("/var/lib/bootwright")
    """Folder for the database, the CA and the key that encrypts secrets. Created with mode 0700."""
    labels: dict[str, str] = {}
    """Free labels of the site (`site: ams1`), reported to the manager. Omni's machine classes select on them."""


class DhcpMode(StrEnum):
    """What we are on one interface."""

    SERVER = "server"
    PROXY = "proxy"
    PROXY_4011 = "proxy-4011"
    OFF = "off"


def _span(value: object) -> object:
    """One address is a range too."""
    return {"first": value, "last": value} if isinstance(value, str | IPv4Address) else value


def _several(value: object) -> object:
    """One of a kind, written without the list around it."""
    return (value,) if isinstance(value, dict | Model) else value


class Range(Model):
    """Addresses, both ends included."""

    first: IPv4Address
    """Lowest address."""
    last: IPv4Address
    """Highest address."""

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.last < self.first:
            raise ValueError("last is below first")
        return self


class ReservationSettings(Model):
    """An address that one client gets and nobody else; exactly one of mac, uuid, circuit_id."""

    address: IPv4Address
    """In the network; inside a pool or beside it."""
    mac: Mac | None = None
    """MAC address of the interface that boots."""
    uuid: str | None = None
    """SMBIOS UUID, as firmware tells it in option 97."""
    circuit_id: str | None = None
    """Switch port behind a relay (option 82), as text, or as `0x` and hex digits."""
    remote_id: str = ""
    """With a circuit_id: of the relay that calls itself so (option 82), likewise. Default: of any."""

    @field_validator("uuid")
    @classmethod
    def _spell_uuid(cls, value: str | None) -> str | None:
        return None if value is None else identity.parse_uuid(value)

    @field_validator("circuit_id", "remote_id")
    @classmethod
    def _spell_as_relays_do(cls, value: str | None) -> str | None:
        return value and dhcp.relay_spelling(value)

    @model_validator(mode="after")
    def _exactly_one(self) -> ReservationSettings:
        if sum(value is not None for value in (self.mac, self.uuid, self.circuit_id)) != 1:
            raise ValueError("give exactly one of mac, uuid, circuit_id")
        if self.remote_id and self.circuit_id is None:
            raise ValueError("remote_id goes with circuit_id")
        return self


class RouteSettings(Model):
    """A static route that clients are told of."""

    to: IPv4Network
    """Where it leads."""
    via: IPv4Address
    """The gateway."""


class LeaseSettings(Model):
    """How the addresses of one subnet are leased."""

    pool: Annotated[tuple[Range, ...], BeforeValidator(_several)] = ()
    """Addresses to lease: one range (first, last), or a list of them."""
    exclude: tuple[Annotated[Range, BeforeValidator(_span)], ...] = ()
    """Addresses in the pool that are somebody's already: single ones, or ranges (first, last). Our own and the router's
    always are."""
    reservations: tuple[ReservationSettings, ...] = ()
    """Addresses for certain clients. More can be made while we run: `bootwright lease reserve`."""
    lease_time: Duration = timedelta(hours=1)
    """Lease of an operating system or agent. Firmware and iPXE get `boot_lease_time`."""
    boot_lease_time: Duration = timedelta(minutes=2)
    """Lease of firmware and iPXE, short so that a storm does not eat the pool."""
    clients_per_port: int = Field(default=64, ge=0)
    """Clients at one relay port (option 82) that may have addresses once less than a quarter of the pool is left, so that one
    port cannot take the rest from all others. 0: any number."""
    router: IPv4Address | None = None
    """Default gateway handed out (option 3). Default: none."""
    dns: tuple[IPv4Address, ...] = ()
    """Name servers handed out (option 6)."""
    ntp: tuple[IPv4Address, ...] = ()
    """Time servers handed out (option 42)."""
    domain: str = ""
    """Domain name handed out (option 15)."""
    search: tuple[str, ...] = ()
    """Domains that clients look names up in (option 119)."""
    routes: tuple[RouteSettings, ...] = ()
    """Static routes handed out (option 121); the router goes with them."""
    mtu: int | None = Field(default=None, ge=576, le=65535)
    """MTU handed out (option 26), in bytes. Default: none; clients take 1500."""
    tftp_server_name: str = ""
    """Option 66 for devices that are no boot clients, such as phones and switches, if they ask for it."""
    tftp_servers: tuple[IPv4Address, ...] = ()
    """Option 150 for them."""
    boot_file: str = ""
    """Option 67 for them."""

    @field_validator("search")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"(?!.{254})[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", name):
                raise ValueError(f"{name!r} is not a domain name")
        return value


class InterfaceSettings(LeaseSettings):
    """One network interface that machines boot on. How addresses are leased counts with `dhcp: server` only."""

    name: str
    """Interface name, such as eth1."""
    dhcp: DhcpMode = DhcpMode.PROXY
    """server: we lease addresses, of its network if there is a pool, and of `subnets` behind relays; proxy: another server
    does, we add the boot part; proxy-4011: that server is on this host and sends boot clients to us, on port 4011; off: no
    DHCP here."""
    address: IPv4Address | None = None
    """Our address on it. Default: the first IPv4 address that the interface has."""
    conflict_probe: Duration = Field(default=timedelta(seconds=0.3), ge=timedelta(0), le=timedelta(seconds=2))
    """How long an offer waits for somebody to say by ARP that the address is in use. 0s: nobody is asked."""
    hasten_ipxe: bool = True
    """Answer the router solicitations of machines that are booting with an empty, unicast router advertisement.
    Without one, iPXE builds with IPv6 wait 13 s for a router. It gives no prefix and no default route."""

    @model_validator(mode="after")
    def _pool_fits_mode(self) -> InterfaceSettings:
        if self.dhcp is not DhcpMode.SERVER and (self.pool or self.reservations):
            raise ValueError("a pool is used with dhcp: server only; remove it or change dhcp")
        return self


class SubnetSettings(LeaseSettings):
    """One network behind relays that send its clients' requests to an interface of ours in server mode."""

    network: IPv4Network
    """The clients' network, such as 10.88.0.0/24; relays name an address in it (giaddr, or option 82 link selection)."""

    @model_validator(mode="after")
    def _addresses_are_inside(self) -> SubnetSettings:
        ends = [address for each in self.pool for address in (each.first, each.last)]
        outside = not_leasable((*ends, *(reservation.address for reservation in self.reservations)), self.network)
        if outside:
            raise ValueError(f"{outside[0]} cannot be leased in {self.network}")
        return self


class NetworkSettings(Model):
    """Where machines boot."""

    interfaces: tuple[InterfaceSettings, ...] = Field(min_length=1)
    """At least one."""
    subnets: tuple[SubnetSettings, ...] = ()
    """Networks behind relays."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> NetworkSettings:
        names = [interface.name for interface in self.interfaces]
        if len(set(names)) != len(names):
            raise ValueError("an interface is listed twice")
        return self

    @model_validator(mode="after")
    def _servers_have_something_to_lease(self) -> NetworkSettings:
        for interface in self.interfaces:
            if interface.dhcp is DhcpMode.SERVER and not (interface.pool or interface.reservations or self.subnets):
                raise ValueError(f"{interface.name}: dhcp: server needs a pool (first, last), or subnets behind relays")
        return self

    @model_validator(mode="after")
    def _subnets_are_served(self) -> NetworkSettings:
        if self.subnets and all(interface.dhcp is not DhcpMode.SERVER for interface in self.interfaces):
            raise ValueError("subnets behind relays need an interface with dhcp: server")
        for one, other in itertools.combinations([subnet.network for subnet in self.subnets], 2):
            if one.overlaps(other):
                raise ValueError(f"the subnets {one} and {other} overlap")
        return self


class TftpSettings(Model):
    """The TFTP server, which hands out the NBP."""

    enabled: bool = True
    port: Port = 69
    """Firmware knows only 69."""
    single_port: bool = False
    """Answer from that port too, for firewalls and address translation that know no more than it; a little slower."""
    block_size: int = Field(default=1468, ge=512, le=65464)
    """Largest block in bytes that we agree to (RFC 2348), on a path that takes it without fragments. 1468 fits Ethernet."""
    retransmit_after: Duration = timedelta(seconds=1)
    """Time until an unacknowledged block is sent again, unless the client asks for another (RFC 2349), of at most 30 s."""
    give_up_after: int = Field(default=12, ge=1, le=50)
    """Retransmissions of one block until the transfer ends; fewer if the client's own time makes that two minutes."""


class LoaderSettings(Model):
    """What the UEFI firmware behind one MAC address boots with."""

    mac: Mac
    """MAC address of the interface that boots."""
    loader: Loader


class UefiSettings(Model):
    """What UEFI firmware boots with: ipxe, or signed (shim and GRUB), which Secure Boot needs."""

    loader: Loader | Literal["learn"] = "learn"
    """learn: iPXE, and the signed chain once a machine fetched iPXE and did not run it."""
    machines: tuple[LoaderSettings, ...] = ()
    """Exceptions."""


class ProxyStyleSettings(Model):
    """How ProxyDHCP speaks to the PXE firmware behind one MAC address."""

    mac: Mac
    """MAC address of the interface that boots."""
    style: Style


class ProxyDhcpSettings(Model):
    """How ProxyDHCP speaks to PXE firmware: two-step (details on port 4011), complete (all in the offer), or menu."""

    style: Style | Literal["learn"] = "learn"
    """learn: two-step for UEFI and complete for BIOS, and the next one once a machine had an offer and fetched nothing."""
    machines: tuple[ProxyStyleSettings, ...] = ()
    """Exceptions."""


class HandOffSettings(Model):
    """How the machine with one of its MAC addresses is sent to its disk."""

    mac: Mac
    hand_off: HandOff


class DiskBootSettings(Model):
    """How iPXE sends a machine to its disk: exit, sanboot or http404; firmware hangs in one way or another."""

    hand_off: HandOff | Literal["learn"] = "learn"
    """learn: exit, and the next way once a machine came back twice within minutes and no system was heard."""
    machines: tuple[HandOffSettings, ...] = ()
    """Exceptions."""


class BootHttpSettings(Model):
    """The plain HTTP server for firmware, iPXE and kernels. It serves no secret."""

    port: Port = 8080


class AgentChoiceSettings(Model):
    """The agent of the machine with one of its MAC addresses."""

    mac: Mac
    kind: AgentKind


class AgentSettings(Model):
    """Which agent machines wait in, and the HTTPS server that ours reports to."""

    port: Port = 8443
    ticket_lifetime: Duration = timedelta(minutes=15)
    """Time between the boot script and the agent's first call. Slow networks and huge images need more."""
    install_ticket_lifetime: Duration = timedelta(hours=4)
    """Time between the install script and the event that says: installed."""
    lost_after: Duration = timedelta(seconds=60)
    """Silence after which the agent counts as gone."""
    console: str = ""
    """Kernel `console=` argument of our agent, such as `ttyS0,115200`. Default: the kernel's own choice."""
    kind: AgentKind | None = None
    """bootwright: ours, which takes the inventory and proves its wipes. talos: Talos with Sidero's metal agent, which is what
    Omni talks to. Default: talos with Omni, else bootwright."""
    machines: tuple[AgentChoiceSettings, ...] = ()
    """Exceptions, by any MAC address of the machine."""
    inventory_first: bool = False
    """Accepted machines that wait in Talos boot ours once, until there is an inventory. It costs them one boot."""
    inventory_before_acceptance: bool = False
    """So do pending ones, before the manager sees them."""
    verified_wipe: bool = False
    """Ours does the wipes of machines that wait in Talos too, because it reads back what it erased."""


class SecureBootSettings(Model):
    """Whether the machine behind one MAC address boots Talos with Secure Boot."""

    mac: Mac
    """MAC address of the interface that boots."""
    secure_boot: bool = True


class TalosSettings(Model):
    """Machines that run Talos: where it comes from, and the agent in it. Used with Omni, and with `agent.kind: talos`."""

    factory_url: str | None = Field(default=None, pattern=r"^https?://[^?#\s]+$")
    """The Image Factory; `https://USER:PASSWORD@...` if it wants a user. Default: the one that Omni uses; the public one until
    Omni has told, and without Omni."""
    pxe_url: str | None = Field(default=None, pattern=r"^https?://[^?#\s]+$")
    """Where it has its boot scripts. Default: what Omni tells, or beside the public one; a factory of your own has them at the
    same address."""
    factory_ca_file: Path | None = None
    """Certificate authority of a factory of your own, beside those that the system trusts."""
    cache_dir: Path | None = None
    """Folder of the images, each of which is fetched once. Default: `talos` in `provider.state_dir`."""
    cache_size: Size = Field(default=20 * 10**9, ge=10**9)
    """For all images together; those that were not used for longest go first. One has 100 to 400 MB."""
    agent_version: str = talos.AGENT_VERSION
    """Talos under the agent."""
    agent_extensions: tuple[str, ...] = talos.AGENT_EXTENSIONS
    """System extensions of the agent's image: firmware, and `siderolabs/metal-agent` itself."""
    agent_port: Port = 50043
    """Where agents dial us, by gRPC."""
    agent_tls: bool = True
    """They do so by TLS, and our CA is in the configuration that they get. Without, their answers may be anybody's."""
    extra_machine_configuration: Path | None = None
    """YAML documents for every machine that runs Talos, such as a proxy or name servers, beside those that make it join."""
    secure_boot: bool = False
    """Boot Talos as a signed image, which UEFI with Secure Boot runs if it has the key."""
    machines: tuple[SecureBootSettings, ...] = ()
    """Exceptions."""
    wipe_zeroes: bool = False
    """Wipes by the agent write zeroes over all of each disk, for hours, instead of tables and headers."""
    sets_up_bmc: bool = True
    """Let the agent make us an account on the BMC of an accepted machine of which we know none."""

    @field_validator("agent_version")
    @classmethod
    def _has_an_agent(cls, value: str) -> str:
        try:
            return talos.agent_version(value)
        except PermanentError as error:
            raise ValueError(f"{error}; {error.hint}") from error

    @field_validator("agent_extensions")
    @classmethod
    def _agent_is_among_them(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if talos.AGENT_EXTENSION not in value:
            raise ValueError(f"without {talos.AGENT_EXTENSION} there is no agent in the image")
        return value


class OperatorSettings(Model):
    """The operator API, for the command line."""

    socket: Path = Path("/run/bootwright/operator.sock")
    """UNIX socket; who may open it (mode 0660) is an operator."""


class MachineSelector(Model):
    """Names one machine by what it will report; exactly one of these."""

    mac: Mac | None = None
    """Any of its permanent MAC addresses."""
    uuid: str | None = None
    """SMBIOS UUID."""
    serial: str | None = None
    """SMBIOS system serial number."""

    @model_validator(mode="after")
    def _exactly_one(self) -> MachineSelector:
        if sum(value is not None for value in (self.mac, self.uuid, self.serial)) != 1:
            raise ValueError("give exactly one of mac, uuid, serial")
        return self


class BmcSettings(Model):
    """One BMC and the machine that it belongs to."""

    machine: MachineSelector
    address: str
    """IP address or name of the BMC."""
    port: Port | None = None
    """Default: 623 for IPMI, `power.redfish.port` for Redfish."""
    user: str
    password: str | None = Field(default=None, repr=False)
    """Better use `password_file`."""
    password_file: Path | None = None
    """File that holds the password; a trailing newline is cut off."""
    kind: Literal["ipmi", "redfish", "either"] = "ipmi"
    """What it speaks. `either`: as `power.redfish.use` says, and `port` is that of IPMI."""
    system: str | None = Field(default=None, min_length=1)
    """With Redfish: the id of the machine's system, where the BMC has several."""

    @model_validator(mode="after")
    def _only_redfish_has_systems(self) -> BmcSettings:
        if self.system is not None and self.kind != "redfish":
            raise ValueError("a BMC has systems in Redfish alone: set `kind: redfish`, or leave `system` out")
        return self

    @model_validator(mode="after")
    def _one_password(self) -> BmcSettings:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("give either password or password_file")
        return self


class RedfishSettings(Model):
    """How we speak Redfish; defaults as Sidero's provider has them."""

    use: RedfishUse = RedfishUse.AVAILABLE
    """For BMCs that Omni or an agent tells us of, as IPMI: `never`, `available` (where it works), or `always`."""
    port: Port = 443
    """Where those have Redfish."""
    https: bool = True
    """Without it, passwords go in clear."""
    verify: bool = False
    """Check certificates. BMCs come with one that they signed themselves, so by default nobody's is."""
    ca_file: Path | None = None
    """With `verify`: the authorities to trust. Default: those that the system trusts."""
    override_mode: bool = True
    """Say with a boot override whether it is for UEFI or BIOS; a BMC that refuses that is asked again without it."""

    @model_validator(mode="after")
    def _verified(self) -> RedfishSettings:
        if self.ca_file is not None and not self.verify:
            raise ValueError("ca_file is of no use without `verify: true`")
        if self.verify and not self.https:
            raise ValueError("there is no certificate to verify without https")
        return self


class PowerSettings(Model):
    """How we treat power and BMCs."""

    poll_interval: Duration = timedelta(seconds=60)
    """Age at which a power state is read again."""
    call_timeout: Duration = timedelta(seconds=20)
    """Deadline of one BMC call, login included."""
    minimum_reboot_interval: Duration = timedelta(minutes=15)
    """We never make one machine reboot twice within this time."""
    boot_timeout: Duration = timedelta(minutes=15)
    """Time from power-on to the agent, after which the boot counts as failed and is tried again."""
    redfish: RedfishSettings = RedfishSettings()


class WipeSettings(Model):
    """How disks are erased. What may be erased is no setting: only disks of an accepted machine, named by a plan."""

    attempts: int = Field(default=3, ge=1, le=10)
    """Tries until a machine whose wipe fails waits for an operator."""
    retry_after: Duration = timedelta(minutes=1)
    """Pause between two tries."""


class KernelProfile(Model):
    """A boot profile that starts any kernel. `{...}` in the command line is filled in; see the README."""

    kind: Literal["kernel"] = "kernel"
    kernel: Path
    """Kernel image; relative paths start at the folder of the configuration file."""
    initrds: tuple[Path, ...] = ()
    """Initial RAM disks, loaded one after the other."""
    command_line: str = ""
    """Kernel command line. Known fields: {agent_url} {install_url} {install_ticket} {boot_url} {ca_sha256} {mac}
    {machine} {arguments}."""


class NativeManager(Model):
    """A central manager that speaks the native link."""

    kind: Literal["native"] = "native"
    url: str = Field(pattern=r"^wss?://")
    """WebSocket address. `ws://` is for loopback only."""
    token_file: Path
    """File with the token that the manager gave for this provider."""
    ca_file: Path | None = None
    """Certificate authority of the manager. Default: the system's."""
    heartbeat: Duration = timedelta(seconds=15)
    """Time between two signs of life; a link that is silent for three of them is opened again."""

    @model_validator(mode="after")
    def _plain_is_local(self) -> NativeManager:
        if self.url.startswith("ws://") and not _is_local(self.url):
            raise ValueError("ws:// sends the token in the clear: use wss://")
        return self


class OmniManager(Model):
    """Sidero Omni."""

    kind: Literal["omni"]
    endpoint: str
    """Where Omni is: `https://omni.example.com`. `http://` is for loopback only."""
    key_file: Path
    """File with the service account key that `omnictl infraprovider create` printed; it says the provider's id, too."""
    ca_file: Path | None = None
    """Certificate authority of Omni. Default: those that gRPC brings along, which are the usual public ones."""

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not re.fullmatch(r"(https|http|grpc)://[^/?#\s]+/?", value):
            raise ValueError("write it as https://omni.example.com, or https://omni.example.com:8443")
        return value

    @model_validator(mode="after")
    def _plain_is_local(self) -> OmniManager:
        if not self.endpoint.startswith("https://") and not _is_local(self.endpoint):
            raise ValueError("without TLS, join token and signatures can be read on the way: use https://")
        return self


def _is_local(url: str) -> bool:
    return re.match(r"[a-z]+://(127\.|localhost[:/]|\[::1\])", f"{url}/") is not None


MANAGERS: dict[str, type[Model]] = {"native": NativeManager, "omni": OmniManager}
"""By their kind."""


def _manager_kind(value: object) -> object:
    return value.get("kind", "native") if isinstance(value, dict) else getattr(value, "kind", None)


ManagerSettings = Annotated[
    Annotated[NativeManager, Tag("native")] | Annotated[OmniManager, Tag("omni")], Discriminator(_manager_kind)
]
"""The central manager; leave the section out to run alone."""


class StoreSettings(Model):
    """Where state is kept."""

    url: str | None = Field(default=None, pattern=r"^sqlite:///")
    """SQLAlchemy URL of a SQLite file, `sqlite:////var/lib/...`. Default: `bootwright.db` in `provider.state_dir`."""


class LogSettings(Model):
    """What is logged; where it goes is up to systemd or the terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    """auto: pretty on a terminal, JSON elsewhere."""


class Settings(Model):
    """The whole file."""

    provider: ProviderSettings = ProviderSettings()
    network: NetworkSettings
    uefi: UefiSettings = UefiSettings()
    proxy_dhcp: ProxyDhcpSettings = ProxyDhcpSettings()
    disk_boot: DiskBootSettings = DiskBootSettings()
    tftp: TftpSettings = TftpSettings()
    boot_http: BootHttpSettings = BootHttpSettings()
    agent: AgentSettings = AgentSettings()
    operator: OperatorSettings = OperatorSettings()
    assets_dir: Path = Path("/var/lib/bootwright/assets")
    """What `bootwright assets build` made: kernel, initramfs, NBPs."""
    boot_files: Path | None = None
    """Folder of boot files that win over those of `assets_dir` or add to them, such as a newer iPXE; looked at when the
    daemon starts."""
    bmcs: tuple[BmcSettings, ...] = ()
    power: PowerSettings = PowerSettings()
    wipe: WipeSettings = WipeSettings()
    profiles: dict[str, KernelProfile] = {}
    """Boot profiles by the name that an allocation gives."""
    profiles_dir: Path | None = None
    """Folder of files that installers fetch besides: `FOLDER/PATH` is at {boot_url}/profiles/PATH."""
    manager: ManagerSettings | None = None
    talos: TalosSettings = TalosSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()

    @property
    def agent_kind(self) -> AgentKind:
        """What machines wait in, where nothing else is said of one."""
        default = AgentKind.TALOS if isinstance(self.manager, OmniManager) else AgentKind.BOOTWRIGHT
        return self.agent.kind or default

    @property
    def has_talos(self) -> bool:
        """Whether any machine may run Talos."""
        kinds = {self.agent_kind, *(machine.kind for machine in self.agent.machines)}
        return isinstance(self.manager, OmniManager) or AgentKind.TALOS in kinds

    @model_validator(mode="after")
    def _omnis_own_stays_omnis(self) -> Settings:
        if not isinstance(self.manager, OmniManager):
            return self
        for label, value in self.provider.labels.items():
            if label.startswith(siderolink.LABEL_PREFIX):
                raise ValueError(f"provider.labels: {label} is Omni's to give: labels of yours do not begin so")
            if not _SELECTABLE.fullmatch(label):
                raise ValueError(
                    f"provider.labels: {label!r} cannot be selected by a machine class: use letters, digits and . _ - /"
                )
            if not label or not f"{label}{value}".isprintable() or len(f"{label}{value}") > LONGEST_LABEL:
                raise ValueError(
                    f"provider.labels: Omni takes no label {label[:80]!r}: {value[:80]!r}: name it, without control characters, "
                    f"in at most {LONGEST_LABEL} characters together"
                )
        if len(self.provider.labels) > MOST_LABELS:
            raise ValueError(
                f"provider.labels: {len(self.provider.labels)} are more than Omni takes: {MOST_LABELS} of yours"
            )
        if talos.PROFILE in self.profiles:
            raise ValueError(
                f"profiles: with Omni, {talos.PROFILE} is what allocated machines boot: choose another name"
            )
        return self

"""
The composition root: settings in, every object built here, one TaskGroup.

Order of a start: look at the files that the settings name, take the lock of the state folder, open the store, bind the
sockets of all interfaces that are there, tell systemd, serve. Whatever is wrong is said before anything is served. From then on
`netboot.interfaces` opens and closes what comes and goes. A listener that dies ends the daemon with a non-zero status, and
systemd starts it again; a machine's worker never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog
import uvloop

from bootassets import manifest
from provider.bmc.pool import BmcPool
from provider.bmc.redfish import Redfish
from provider.domain import mac as macs
from provider.domain.bmc import IPMI_PORT, Bmc
from provider.domain.errors import PermanentError, SettingsError
from provider.domain.lease import Reservation, ReservedBy
from provider.domain.machine import HandOff
from provider.domain.secret import Secret
from provider.http import agents, boot, operators
from provider.http.listener import Listener
from provider.http.static import StaticFolder
from provider.http.tls import Authority
from provider.kit import logs, notify
from provider.kit.clock import utc_now
from provider.kit.jsontypes import JsonObject
from provider.manager.link import ManagerLink
from provider.netboot import boot_files
from provider.netboot.dhcp_server import DhcpServer
from provider.netboot.interfaces import Interfaces, Opens
from provider.netboot.router_advertisement import RouterAdvertiser
from provider.netboot.tftp_scripts import TftpScripts
from provider.netboot.tftp_server import TftpServer
from provider.planning import interfaces, kernels, reply
from provider.planning.forgetting import Names
from provider.planning.interfaces import Link, Opening, Service, Station, Wanted
from provider.planning.lifecycle import Policy
from provider.planning.loader import Loader
from provider.planning.proxy_style import Style
from provider.planning.subnets import Leasing, device_options, site_options
from provider.reconcile.addresses import AddressDesk
from provider.reconcile.agents import AgentDesk
from provider.reconcile.boots import BootDesk
from provider.reconcile.desired import ManagerDesk
from provider.reconcile.firmwares import Choice, Firmwares
from provider.reconcile.forgetting import Forgetter
from provider.reconcile.hand_offs import HandOffs
from provider.reconcile.machines import Machines
from provider.reconcile.operators import Decides, OperatorDesk
from provider.reconcile.worker import Workers
from provider.settings import load
from provider.settings.models import (
    BmcSettings,
    DhcpMode,
    InterfaceSettings,
    LeaseSettings,
    NativeManager,
    OmniManager,
    PowerSettings,
    RedfishSettings,
    ReservationSettings,
    Settings,
)
from provider.store.bmcs import BmcAssignment, BmcStore
from provider.store.database import Database
from provider.store.firmwares import FirmwareStore
from provider.store.leases import LeaseStore
from provider.store.machines import MachineStore
from provider.store.outbox import Outbox
from provider.store.sealing import Sealer
from provider.store.tickets import TicketStore
from provider.wire import pxe
from provider.wire.tftp_transfer import Limits

if TYPE_CHECKING:
    from provider.sidero import Sidero

log = structlog.get_logger()

Run = Callable[[], Awaitable[None]]


def serve(settings: Settings) -> None:
    """
    Run the daemon until SIGTERM or SIGINT.

    Raises:
        BootwrightError: If it cannot start; nothing was served then.
    """
    logs.configure(settings.log.level, settings.log.format)
    # gRPC's core would write a line of its own to standard error for each handshake that some peer gets wrong.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if problems := load.check(settings):
        raise SettingsError("\n".join(problems), hint="mend the configuration file, or put the files in their place")
    settings = load.identified(settings)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # Else it writes to standard error what we log ourselves.
    _raise_file_limit()
    with state_folder(settings.provider.state_dir):
        uvloop.run(_run(settings))


async def _run(settings: Settings) -> None:
    state = settings.provider.state_dir
    database = Database.open(settings.store.url or f"sqlite:///{state / 'bootwright.db'}")
    try:
        daemon = Daemon(settings, database, Authority.open(state / "tls", utc_now()), Sealer.open(state / "secret.key"))
        await daemon.start()
        await daemon.run()
    finally:
        database.close()


class _ManagerLink(Protocol):
    """The outbound link to a manager of any kind."""

    def status(self) -> JsonObject:
        """For `bootwright status`."""

    async def run(self) -> None:
        """Keep it up for ever; no failure of it ends the daemon."""


@dataclass(frozen=True)
class _OnAddresses:
    """A listener that is open on the addresses of the interfaces."""

    listener: Listener
    port: int

    def open(self, opening: Opening) -> None:
        self.listener.bind_tcp(str(opening.scope.address), self.port)

    def close(self, opening: Opening) -> None:
        self.listener.unbind_tcp(str(opening.scope.address), self.port)


class Daemon:
    """Everything, wired together. `start` binds and loads, `run` serves until a signal comes."""

    def __init__(self, settings: Settings, database: Database, authority: Authority, sealer: Sealer) -> None:
        self._settings = settings
        self._version = metadata.version("bootwright")
        self._assets = manifest.verify(settings.assets_dir)
        self._own_boot_files = {} if settings.boot_files is None else boot_files.find(settings.boot_files)
        store = MachineStore(database, policy(settings), utc_now)
        self._outbox = Outbox(database, store.outbox_rang)
        tickets = TicketStore(database, utc_now)
        self._machines = Machines(store)
        self._bmcs = BmcStore(database, sealer)
        self._powers = _powers(settings.power)
        self._agent_desk = AgentDesk(self._machines, tickets, lost_after=settings.agent.lost_after, clock=utc_now)
        boots = BootDesk(
            self._machines,
            self._hand_offs(),
            profiles=frozenset(settings.profiles),
            installs_talos=isinstance(settings.manager, OmniManager),
            ticket_lifetime=settings.agent.ticket_lifetime,
            install_ticket_lifetime=settings.agent.install_ticket_lifetime,
        )
        self._workers = Workers(self._machines, self._bmcs, self._powers, clock=utc_now)
        self._sidero = self._sidero_side(database, sealer, authority)
        self._link: _ManagerLink | None = None
        operator_desk = OperatorDesk(
            self._machines, self._bmcs, self._powers, decides=_who_decides(settings), status=self._status
        )
        leases = LeaseStore(database)
        self._addresses = AddressDesk(leases, lambda address: self._dhcp.leases_here(address), utc_now)
        self._firmwares = self._learn_firmwares(FirmwareStore(database))
        behind_relays = {subnet.network: _leasing(subnet) for subnet in settings.network.subnets}
        self._dhcp = DhcpServer(behind_relays, leases, self._addresses, self._firmwares, utc_now)
        site = self._site(authority)
        talos = None if self._sidero is None else self._sidero.boots
        self._tftp = self._tftp_server(TftpScripts(site, boots, talos))
        self._advertiser = RouterAdvertiser(self._dhcp.booted_since, utc_now)
        folder = None if settings.profiles_dir is None else StaticFolder(settings.profiles_dir)
        files = boot.Files(authority.ca_pem, self._files(), folder)
        self._boot_http = Listener("boot HTTP server", boot.application(site, files, boots, talos))
        agent_app = agents.application(self._agent_desk)
        self._agent_https = Listener("agent HTTPS server", agent_app, tls=authority.server_context())
        self._operator_api = Listener("operator API", operators.application(operator_desk, self._addresses))
        self._interfaces = self._follow_interfaces()
        self._forgetter = Forgetter(self._machines, self._firmwares, self._names, utc_now)

    async def start(self) -> None:
        """
        Load what is known and bind all sockets.

        Raises:
            BootwrightError: If that cannot be.
        """
        redfish = self._settings.power.redfish
        await self._bmcs.replace_all([_assignment(bmc, redfish) for bmc in self._settings.bmcs])
        await self._machines.load()
        await self._agent_desk.load()
        await self._addresses.load()
        await self._firmwares.load()
        if self._sidero is not None:
            await self._sidero.agent_desk.load()
        self._link = await self._manager_link()
        self._operator_api.bind_unix(self._settings.operator.socket)
        await self._dhcp.start()
        await self._interfaces.start()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        components: list[tuple[Run, str]] = [
            (self._machines.run, "events"),
            (self._workers.run, "workers"),
            (self._agent_desk.watch, "agent watch"),
            (self._firmwares.run, "firmwares"),
            (self._forgetter.run, "forgetter"),
            (self._dhcp.run, "dhcp"),
            (self._tftp.run, "tftp"),
            (self._advertiser.run, "router advertisements"),
            (self._boot_http.run, "boot http"),
            (self._agent_https.run, "agent https"),
            (self._operator_api.run, "operator api"),
            (self._interfaces.run, "interfaces"),
            (_watchdog, "watchdog"),
        ]
        if self._link is not None:
            components.append((self._link.run, "manager link"))
        if self._sidero is not None:
            components += [
                (self._sidero.agents.run, "talos agents"),
                (self._sidero.agent_desk.watch, "talos agent watch"),
            ]
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        try:
            async with self._images_open(), asyncio.TaskGroup() as group:
                tasks = [group.create_task(_named(run), name=name) for run, name in components]
                _tune_interpreter()
                notify.notify("READY=1")
                log.info("daemon.started", version=self._version, provider=self._settings.provider.id)
                await stopped.wait()
                notify.notify("STOPPING=1")
                for task in tasks:
                    task.cancel()
        finally:
            await self._powers.close()
        log.info("daemon.stopped")

    @contextlib.asynccontextmanager
    async def _images_open(self) -> AsyncIterator[None]:
        """While we serve: the images of Talos, and what fetches more of them."""
        if self._sidero is None:
            yield
            return
        async with self._sidero.factory:
            yield

    # --- building ---

    def _sidero_side(self, database: Database, sealer: Sealer, authority: Authority) -> Sidero | None:
        if not self._settings.has_talos:
            return None
        from provider import sidero

        return sidero.Sidero(
            self._settings,
            database,
            sealer,
            authority,
            self._machines,
            self._bmcs,
            self._workers,
            self._agent_desk,
            lambda address: self._dhcp.mac_of(address),
            utc_now,
        )

    def _follow_interfaces(self) -> Interfaces:
        wanted = [self._wanted(each) for each in self._settings.network.interfaces]
        behind_relays = [subnet.network for subnet in self._settings.network.subnets]

        def decide(links: Mapping[str, Link]) -> Sequence[Station]:
            return interfaces.decide(wanted, links, behind_relays)

        servers: dict[Service, Opens] = {
            Service.DHCP: self._dhcp,
            Service.TFTP: self._tftp,
            Service.ROUTER: self._advertiser,
            Service.BOOT_HTTP: _OnAddresses(self._boot_http, self._settings.boot_http.port),
            Service.AGENT_HTTPS: _OnAddresses(self._agent_https, self._settings.agent.port),
        }
        if self._sidero is not None:
            from provider import sidero

            servers[Service.TALOS_AGENTS] = sidero.AgentsOnAddresses(self._sidero.agents)
        return Interfaces([each.name for each in wanted], decide, servers)

    def _wanted(self, settings: InterfaceSettings) -> Wanted:
        services = {Service.BOOT_HTTP, Service.AGENT_HTTPS}
        if self._sidero is not None:
            services.add(Service.TALOS_AGENTS)
        if self._settings.tftp.enabled:
            services.add(Service.TFTP)
        if settings.dhcp is not DhcpMode.OFF:
            services |= {Service.DHCP, Service.ROUTER} if settings.hasten_ipxe else {Service.DHCP}
        return Wanted(
            name=settings.name,
            services=frozenset(services),
            address=settings.address,
            proxy=settings.dhcp in (DhcpMode.PROXY, DhcpMode.PROXY_4011),
            ports=(pxe.SERVER_PORT,) if settings.dhcp is DhcpMode.PROXY_4011 else (reply.SERVER_PORT, pxe.SERVER_PORT),
            leasing=_probed(settings) if settings.dhcp is DhcpMode.SERVER else None,
            http_port=self._settings.boot_http.port,
            boot_files=frozenset(self._boot_files()),
        )

    def _files(self) -> dict[str, Path]:
        """What HTTP and TFTP serve, by path: the assets that were verified, and the files of profiles."""
        files = {f"assets/{name}": self._settings.assets_dir / name for name in self._assets.files}
        files |= {f"assets/boot/{name}": path for name, path in self._own_boot_files.items()}
        for name, profile in self._settings.profiles.items():
            files[f"profiles/{name}/kernel"] = profile.kernel
            files |= {f"profiles/{name}/initrd-{number}": path for number, path in enumerate(profile.initrds)}
        return files

    def _boot_files(self) -> dict[str, Path]:
        """What DHCP may advertise, by name; TFTP has it under that name."""
        prefix = "boot/"
        names = [name for name in self._assets.files if name.startswith(prefix)]
        ours = {name.removeprefix(prefix): self._settings.assets_dir / name for name in names}
        return {**ours, **self._own_boot_files}

    def _learn_firmwares(self, store: FirmwareStore) -> Firmwares:
        uefi, proxy = self._settings.uefi, self._settings.proxy_dhcp
        loaders = {macs.parse(each.mac): each.loader for each in uefi.machines}
        styles = {macs.parse(each.mac): each.style for each in proxy.machines}
        return Firmwares(
            self._machines,
            store,
            loaders=Choice(None if uefi.loader == "learn" else Loader(uefi.loader), loaders),
            styles=Choice(None if proxy.style == "learn" else Style(proxy.style), styles),
        )

    def _names(self) -> Names:
        """What settings and operators call machines by."""
        settings = self._settings
        bmcs = [each.machine for each in settings.bmcs]
        macs = [each.mac for each in bmcs if each.mac is not None]
        macs += [each.mac for each in settings.uefi.machines]
        macs += [each.mac for each in settings.proxy_dhcp.machines]
        macs += [each.mac for each in settings.disk_boot.machines]
        named = Names(
            macs=frozenset(macs),
            uuids=frozenset(each.uuid.lower() for each in bmcs if each.uuid is not None),
            serials=frozenset(each.serial for each in bmcs if each.serial is not None),
        )
        subnets = (*settings.network.interfaces, *settings.network.subnets)
        reserved = [_reservation(each) for subnet in subnets for each in subnet.reservations]
        return named.with_reserved((*reserved, *self._addresses.reservations()))

    def _hand_offs(self) -> HandOffs:
        disk_boot = self._settings.disk_boot
        default = None if disk_boot.hand_off == "learn" else HandOff(disk_boot.hand_off)
        return HandOffs(default=default, chosen={macs.parse(each.mac): each.hand_off for each in disk_boot.machines})

    def _tftp_server(self, scripts: TftpScripts) -> TftpServer:
        tftp = self._settings.tftp
        return TftpServer(
            tftp.port,
            single_port=tftp.single_port,
            files=self._tftp_files(),
            scripts=scripts.make,
            limits=Limits(
                block_size=tftp.block_size,
                retry_after=tftp.retransmit_after.total_seconds(),
                retries=tftp.give_up_after,
            ),
            watch=self._firmwares,
            mac_of=self._dhcp.mac_of,
        )

    def _site(self, authority: Authority) -> kernels.Site:
        settings = self._settings
        console = settings.agent.console
        return kernels.Site(
            http_port=settings.boot_http.port,
            agent_port=settings.agent.port,
            ca_sha256=authority.ca_sha256,
            agent_images={
                architecture: kernels.AgentImage(f"assets/{image.kernel}", f"assets/{image.initramfs}")
                for architecture, image in self._assets.images.items()
            },
            agent_arguments=(f"console={console}",) if console else (),
            profiles={
                name: kernels.Profile(len(profile.initrds), profile.command_line)
                for name, profile in settings.profiles.items()
            },
        )

    def _tftp_files(self) -> Callable[[str], Path | None]:
        files = {**self._files(), **_with_layer(self._boot_files())}
        if self._sidero is None:
            return files.get
        images = self._sidero.boots
        return lambda path: files.get(path) or images.find(path)

    async def _manager_link(self) -> _ManagerLink | None:
        manager = self._settings.manager
        if isinstance(manager, NativeManager):
            return self._native_link(manager)
        if self._sidero is None:
            return None
        return await self._sidero.link(self._outbox, self._version, self._what_waits)

    def _native_link(self, manager: NativeManager) -> ManagerLink:
        return ManagerLink(
            url=manager.url,
            token=manager.token_file.read_text(encoding="utf-8").strip(),
            ca_file=manager.ca_file,
            heartbeat=manager.heartbeat,
            provider=self._settings.provider.id,
            version=self._version,
            labels=self._settings.provider.labels,
            outbox=self._outbox,
            desk=ManagerDesk(self._machines),
        )

    def _what_waits(self) -> str:
        """What ails the provider, for its manager."""
        return "; ".join(problem.reason for problem in self._interfaces.problems())

    def _status(self) -> JsonObject:
        modes = {each.name: each.dhcp.value for each in self._settings.network.interfaces}
        return {
            "provider": self._settings.provider.id,
            "version": self._version,
            "manager": None if self._link is None else self._link.status(),
            **({} if self._sidero is None else {"talos": self._sidero.status()}),
            "interfaces": [{**each, "dhcp": modes[str(each["name"])]} for each in self._interfaces.status()],
        }


def _with_layer(files: dict[str, Path]) -> dict[str, Path]:
    """Each file also as PXE firmware asks for it that got its name from a menu of dnsmasq's: with layer 0 (edge case 38)."""
    return {**{f"{name}.0": path for name, path in files.items()}, **files}


async def _named(run: Run) -> None:
    await run()


def _raise_file_limit() -> None:
    """Every agent, download and transfer has a descriptor; the usual soft limit of 1,024 is there for select(2) only."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tune_interpreter() -> None:
    """
    Keep pauses short: nobody is answered in them.

    What is there at the start stays, so the garbage collector need not look at it again, for a tenth of a second each
    time. Nor need it look for garbage whenever 700 objects were made: so many belong to the packets that wait for one commit,
    and they go without its help. And the thread that commits must not wait 5 ms for each of its turns while the loop is
    busy: every DHCPACK waits for it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    sys.setswitchinterval(0.001)


async def _watchdog() -> None:
    """Tell systemd that the loop still turns."""
    interval = notify.watchdog_interval()
    if interval is None:
        return
    while True:
        notify.notify("WATCHDOG=1")
        await asyncio.sleep(interval.total_seconds())


def _leasing(settings: LeaseSettings) -> Leasing:
    excluded = [(each.first, each.last) for each in settings.exclude]
    if settings.router is not None:
        excluded.append((settings.router, settings.router))
    return Leasing(
        ranges=tuple((each.first, each.last) for each in settings.pool),
        excluded=tuple(excluded),
        reservations=tuple(_reservation(each) for each in settings.reservations),
        lease_time=settings.lease_time,
        boot_lease_time=settings.boot_lease_time,
        clients_per_port=settings.clients_per_port,
        options=site_options(
            router=settings.router,
            dns=settings.dns,
            ntp=settings.ntp,
            domain=settings.domain,
            search=settings.search,
            routes=[(each.to, each.via) for each in settings.routes],
            mtu=settings.mtu,
        ),
        device_options=device_options(
            tftp_server_name=settings.tftp_server_name,
            boot_file=settings.boot_file,
            tftp_servers=settings.tftp_servers,
        ),
    )


def _probed(settings: InterfaceSettings) -> Leasing:
    return replace(_leasing(settings), conflict_probe=settings.conflict_probe)


def _reservation(settings: ReservationSettings) -> Reservation:
    ((by, value),) = settings.model_dump(include={"mac", "uuid", "circuit_id"}, exclude_none=True).items()
    return Reservation(settings.address, ReservedBy(by), value, settings.remote_id)


def policy(settings: Settings) -> Policy:
    """What decisions depend on."""
    site = Policy(
        poll_interval=settings.power.poll_interval,
        minimum_reboot_interval=settings.power.minimum_reboot_interval,
        boot_timeout=settings.power.boot_timeout,
        install_timeout=settings.agent.install_ticket_lifetime,
        wipe_attempts=settings.wipe.attempts,
        wipe_retry_after=settings.wipe.retry_after,
    )
    if not settings.has_talos:
        return site
    from provider import sidero

    return sidero.policy(settings, site)


def _who_decides(settings: Settings) -> Decides | None:
    """Who says what happens to machines, if not the operator here."""
    match settings.manager:
        case NativeManager(url=url):
            return Decides(url, "do it there (reference manager: bootwright manager accept|allocate|release|wipe ID)")
        case OmniManager(endpoint=endpoint):
            return Decides(
                endpoint, "do it in Omni: its web page or omnictl accept machines, and clusters allocate them"
            )
    return None


def _assignment(settings: BmcSettings, redfish: RedfishSettings) -> BmcAssignment:
    chosen = settings.machine.model_dump(exclude_none=True)
    ((kind, selector),) = chosen.items()
    password = Secret(load.password_of(settings))
    port = settings.port or (redfish.port if settings.kind == "redfish" else IPMI_PORT)
    bmc = Bmc(settings.address, settings.user, password, port, settings.kind, settings.system or "")
    return BmcAssignment(bmc, kind, selector)


def _powers(settings: PowerSettings) -> BmcPool:
    redfish = settings.redfish
    options = Redfish(redfish.port, redfish.https, redfish.verify, redfish.ca_file, redfish.override_mode)
    return BmcPool(settings.call_timeout, redfish.use, options)


@contextlib.contextmanager
def state_folder(folder: Path) -> Iterator[None]:
    """
    Make the folder and hold its lock: two daemons on one state would undo each other's work.

    Raises:
        PermanentError: If the folder cannot be used, or another daemon uses it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PermanentError(
            f"the state folder {folder} cannot be used: {error.strerror}", hint="check provider.state_dir and its owner"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PermanentError(
                f"another daemon uses the state folder {folder}",
                hint="stop it, or give this one another provider.state_dir",
            ) from error
        yield
    finally:
        os.close(descriptor)

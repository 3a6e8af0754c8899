"""All parts put together: `async with FakeOmni(Options()) as omni` in a test, `python -m provider.lab.omni` as a process."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grpc
from aiohttp import web

from provider.http.tls import Authority
from provider.kit.clock import utc_now
from provider.lab.omni import join, names, protos, resources
from provider.lab.omni.access import INFRA_KINDS
from provider.lab.omni.accounts import Accounts
from provider.lab.omni.desk import Desk
from provider.lab.omni.desk_http import DeskHttp
from provider.lab.omni.factory import Factory
from provider.lab.omni.faults import Faults
from provider.lab.omni.gate import Gate
from provider.lab.omni.join import JoinMode, Joins
from provider.lab.omni.life import Life
from provider.lab.omni.machine_port import MachinePort
from provider.lab.omni.management import ManagementService
from provider.lab.omni.resources import Resource
from provider.lab.omni.service import Calls, StateService
from provider.lab.omni.signatures import Signatures
from provider.lab.omni.state import State
from provider.lab.omni.storage import Storage

LARGEST_MESSAGE = 32 << 20
"""Bytes; the real one's limit."""

Address = tuple[str, int]
LOOPBACK: Address = ("127.0.0.1", 0)


@dataclass(frozen=True)
class Options:
    """How a fake is run; port 0 is one that is free."""

    folder: Path | None = None
    """Keeps what a restarted fake still knows; None: memory does."""
    listen: Address = LOOPBACK
    machines: Address = LOOPBACK
    factory: Address = LOOPBACK
    desk: Path | None = None
    """A UNIX socket for `desk_http`."""
    files: Path | None = None
    """Images of the factory."""
    tls: bool = False
    """Speak TLS with a CA of our own, whose certificate is `ca.pem` in the folder's `tls`."""
    history: int = 10_000
    """Events kept for each kind; older bookmarks are refused."""
    join_mode: JoinMode = JoinMode.LEGACY_ALLOWED
    old: bool = False
    """An Omni from before ProviderJoinConfigs."""


class FakeOmni:
    """A running fake, as an async context manager; `desk`, `faults`, `gate` and `factory` are for whoever tests."""

    def __init__(self, options: Options) -> None:
        self.options = options
        if options.folder is not None:
            options.folder.mkdir(parents=True, exist_ok=True)
        self._storage = Storage(None if options.folder is None else options.folder / "omni.db")
        self.faults = Faults()
        self.state = State(self._storage, options.history, self.faults.now)
        self._accounts = Accounts(self.state, self.faults.now)
        self.signatures = Signatures(self._accounts, self.faults.now)
        self.calls = Calls(self.signatures, self.faults)
        self.factory = Factory(options.files)
        self.gate: Gate
        self.desk: Desk
        self.life: Life
        self._opened = contextlib.AsyncExitStack()
        self.machines_url = self.factory_url = ""

    @property
    def endpoint(self) -> str:
        """What a provider is given as Omni's address."""
        return f"{'https' if self.options.tls else 'grpc'}://{self.gate.host}:{self.gate.port}"

    @property
    def ca_file(self) -> Path | None:
        """The certificate to trust; only with TLS."""
        return self.options.folder / "tls" / "ca.pem" if self.options.tls and self.options.folder else None

    async def __aenter__(self) -> FakeOmni:
        async with contextlib.AsyncExitStack() as opened:
            opened.callback(self._storage.close)
            await self._open(opened)
            self._opened = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def _open(self, opened: contextlib.AsyncExitStack) -> None:
        options = self.options
        # The join documents name the machines' port, so it is there before anything that is served on it.
        machines, factory = socket.create_server(options.machines), socket.create_server(options.factory)
        self.machines_url, self.factory_url = _url(machines), _url(factory)
        self.factory.base_url = self.factory_url
        machine_api = self.machines_url.replace("http://", "grpc://")
        self._prepare(machine_api)
        self.life = Life(self.state, self._accounts, machine_api, self.faults.now, old=options.old)
        joins = Joins(self.state, options.join_mode, self._common_token)
        self.desk = Desk(self.state, self._storage, self._accounts, joins, self.life, self.calls, self.faults)
        group = await opened.enter_async_context(asyncio.TaskGroup())
        controllers = group.create_task(self.life.run(), name="omni controllers")
        opened.callback(controllers.cancel)
        await _serve(opened, self.factory.application(), factory)
        await _serve(opened, MachinePort(self.desk).application(), machines)
        self.gate = Gate(*options.listen, server_port=await self._serve_grpc(opened), now=self.faults.now)
        await self.gate.open()
        opened.push_async_callback(self.gate.close)
        if options.desk is not None:
            await _serve(opened, DeskHttp(self.desk, self.gate).application(), _unix(options.desk))
        await self.life.settled()

    async def _serve_grpc(self, opened: contextlib.AsyncExitStack) -> int:
        limits = [
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            ("grpc.max_send_message_length", LARGEST_MESSAGE),
        ]
        server = grpc.aio.server(options=[*limits, ("grpc.so_reuseport", 0)])
        state = StateService(self.state, self._storage, self.faults)
        management = ManagementService(self.state, self._accounts)
        server.add_generic_rpc_handlers((state.handler(self.calls), management.handler(self.calls)))
        if self.options.tls:
            port = server.add_secure_port("127.0.0.1:0", self._credentials())
        else:
            port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        opened.push_async_callback(server.stop, 0)
        return int(port)

    def _credentials(self) -> grpc.ServerCredentials:
        if self.options.folder is None:
            raise ValueError("TLS needs a folder for its certificates")
        folder = self.options.folder / "tls"
        Authority.open(folder, utc_now(), sorted({"localhost", self.options.listen[0]}))
        pair = ((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())
        return grpc.ssl_server_credentials([pair])

    def _common_token(self) -> str:
        found = self.state.get(names.DEFAULT, names.CONNECTION_PARAMS, names.SIDEROLINK)
        return str(resources.spec_of(found).join_token)

    def _prepare(self, machine_api: str) -> None:
        """What every Omni has from its start: parameters of connections, features, and descriptions of its kinds."""
        specs = protos.load().specs
        ports = {"events_port": join.EVENTS_PORT, "logs_port": join.LOGS_PORT}
        known = self.state.find(names.DEFAULT, names.CONNECTION_PARAMS, names.SIDEROLINK)
        token = secrets.token_urlsafe(32) if known is None else self._common_token()
        address = join.SERVER_ADDRESS
        settings = (
            (
                names.CONNECTION_PARAMS,
                names.SIDEROLINK,
                specs.ConnectionParamsSpec(
                    args=f"siderolink.api={machine_api}?jointoken={token}",
                    api_endpoint=machine_api,
                    wireguard_endpoint=address,
                    join_token=token,
                    **ports,
                ),
            ),
            (
                names.API_CONFIG,
                names.SIDEROLINK,
                specs.SiderolinkAPIConfigSpec(
                    machine_api_advertised_url=machine_api, wireguard_advertised_endpoint=address, **ports
                ),
            ),
            (
                names.FEATURES,
                names.FEATURES_ID,
                specs.FeaturesConfigSpec(
                    image_factory_base_url=self.factory_url, image_factory_pxe_base_url=self.factory_url
                ),
            ),
        )
        for kind, identity, spec in settings:
            self._put(Resource(names.DEFAULT, kind, identity), spec)
        for kind in names.SPECS:
            if kind == names.JOIN_CONFIG and self.options.old:
                continue
            spec = specs.ResourceDefinitionSpec(
                resource_type=kind, display_type=kind.partition(".")[0], default_namespace=_namespace(kind)
            )
            self._put(Resource(names.META, names.DEFINITION, kind.lower()), spec)

    def _put(self, resource: Resource, spec: protos.Message) -> None:
        self.state.modify(resource, lambda current: resources.with_spec(current, spec))


def _namespace(kind: str) -> str:
    if kind == names.HEALTH_STATUS:
        return names.INFRA_EPHEMERAL
    if kind == names.DEFINITION:
        return names.META
    return names.INFRA if kind in INFRA_KINDS else names.DEFAULT


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://{host}:{port}"


def _unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    return bound


async def _serve(opened: contextlib.AsyncExitStack, application: web.Application, bound: socket.socket) -> None:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    opened.push_async_callback(runner.cleanup)
    await web.SockSite(runner, bound).start()

"""
A real Omni, a binary that BOOTWRIGHT_OMNI_BIN names, and what it needs around it: an image factory, a registry, machines.

It runs with an etcd of its own inside, and without the world: versions of Talos and Kubernetes come from a server here, nobody
can log in by browser (the identity provider that it wants is a name), and the first service account is the administrator.
Machines join by its machine API, as Talos does, and tell their events from their own address in its tunnel (omni: cmd/omni,
internal/pkg/siderolink, internal/pkg/machineevent). Messages that only machines send are put together by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import grpc.aio
from aiohttp import web

from provider.http.tls import Authority
from provider.kit.clock import utc_now
from provider.lab.omni import factory, keys, names
from provider.lab.omni.talos_agent.wire import last, put, read
from tests.integration.omni_client import Client, made
from tests.integration.omni_process import FILES
from tests.integration.omni_users import Users

VARIABLE = "BOOTWRIGHT_OMNI_BIN"

API, MACHINES, SURROUNDINGS = "127.0.0.1:18080", "127.0.0.1:18090", "127.0.0.1:18081"
ETCD = "127.0.0.1:2379"
OMNI, EVENTS_PORT = "fdae:41e4:649b:9303::1", 18091
"""Its own address in the tunnel to the machines, and where it takes their events."""
FORCE = "NodeForceDestroyRequests.omni.sidero.dev"
TALOS, KUBERNETES = "1.13.6", "1.35.1"
START_SECONDS = 60.0

_LISTS: dict[str, object] = {
    "/versions": [f"v{TALOS}"],
    "/v2/": {},
    "/v2/kubelet/tags/list": {"name": "kubelet", "tags": [f"v{KUBERNETES}"]},
}
"""What the image factory has, and the registry."""

_LAST_LINES = 30

_FLAGS: dict[str, str | None] = {
    "sqlite-storage-path": "sqlite.db",
    "private-key-source": "file://etcd.asc",
    "etcd-embedded-db-path": "etcd/",
    "etcd-embedded-unsafe-fsync": "true",
    "bind-addr": API,
    "cert": "api.crt",
    "key": "api.key",
    "advertised-api-url": f"https://{API}",
    "machine-api-bind-addr": MACHINES,
    "machine-api-advertised-url": f"grpc://{MACHINES}",
    "siderolink-wireguard-bind-addr": "127.0.0.1:50180",
    "siderolink-wireguard-advertised-addr": "127.0.0.1:50180",
    "event-sink-port": str(EVENTS_PORT),
    "log-server-port": "18092",
    "k8s-proxy-bind-addr": "127.0.0.1:18095",
    "metrics-bind-addr": "127.0.0.1:18096",
    "local-resource-server-enabled": "false",
    "embedded-discovery-service-enabled": "false",
    "workload-proxying-enabled": "false",
    "create-initial-service-account": "true",
    "initial-service-account-key-path": "account",
    "auth-auth0-enabled": "true",
    "auth-auth0-domain": "nobody.invalid",
    "auth-auth0-client-id": "nobody",
    "eula-accept-name": "test",
    "eula-accept-email": "test@example.com",
    "image-factory-address": f"http://{SURROUNDINGS}",
    "kubernetes-registry": f"{SURROUNDINGS}/kubelet",
}


@dataclass
class PowerApi:
    """The power helper of QEMU machines, in place of a BMC; it remembers what it was told."""

    is_on: bool = True
    told: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """One request."""
        verb = request.match_info["verb"]
        if verb == "status":
            return web.json_response({"PoweredOn": self.is_on})
        self.told.append(verb)
        self.is_on = {"poweron": True, "reboot": True, "poweroff": False}.get(verb, self.is_on)
        return web.Response()


@dataclass
class RealOmni(Users):
    """Where it answers, and its administrator."""

    folder: Path
    admin: Client
    power: PowerApi
    program: Program
    endpoint: str = f"https://{API}"

    @property
    def ca_file(self) -> Path:
        """Who signed its certificate."""
        return self.folder / "tls" / "ca.pem"

    async def give_bmc(self, uuid: str, address: str = SURROUNDINGS) -> None:
        """An administrator says how the machine's power is switched: by a power API there."""
        await self.set_bmc(uuid, api={"address": address})

    async def allocate(self, uuid: str, cluster: str = "tales") -> None:
        """A user makes a cluster of one machine."""
        group = f"{cluster}-control-planes"
        spec = put(2, KUBERNETES) + put(3, TALOS)
        labels = {names.CLUSTER_LABEL: cluster, names.CONTROL_PLANE_LABEL: ""}
        await self.admin.create(made(names.DEFAULT, names.CLUSTER, cluster, spec))
        await self.admin.create(made(names.DEFAULT, "MachineSets.omni.sidero.dev", group, put(1, 1), **labels))
        labels |= {names.MACHINE_SET_LABEL: group}
        await self.admin.create(made(names.DEFAULT, "MachineSetNodes.omni.sidero.dev", uuid, b"", **labels))

    async def release(self, uuid: str, cluster: str = "tales") -> None:
        """A user destroys the cluster, by force: Omni cannot ask this machine's Talos to reset itself."""
        if await self.find(FORCE, uuid, names.DEFAULT) is None:
            await self.admin.create(made(names.DEFAULT, FORCE, uuid))
        await self.admin.end("Teardown", names.DEFAULT, names.CLUSTER, cluster)

    async def compact(self) -> None:
        """Let its etcd forget what happened so far (etcd: api/etcdserverpb/rpc.proto, KV.Range and KV.Compact)."""
        header = last(read(await _call(ETCD, "/etcdserverpb.KV/Range", put(1, "/"))), 1, b"")
        revision = last(read(header), 3, 0)
        await _call(ETCD, "/etcdserverpb.KV/Compact", put(1, revision) + put(2, 1))


@dataclass
class Member:
    """A machine as Omni knows it: Talos, as far as joining and telling events go."""

    uuid: str
    configuration: str = field(repr=False)
    unique_token: str = ""
    address: str = ""

    async def join(self) -> None:
        """Join, as a Talos that keeps a token of its own."""
        (url,) = re.findall(r"apiUrl: (\S+)", self.configuration)
        if not self.unique_token:
            self.unique_token = json.dumps({"Fingerprint": self.uuid, "Token": secrets.token_hex(16)})
        self.address = await provision(self.uuid, join_token(url), self.unique_token, f"v{TALOS}")

    async def say(self, sequence: str, action: int, problem: str = "") -> None:
        """A SequenceEvent, from the machine's own address."""
        event = put(1, sequence) + put(2, action) + (put(3, put(2, problem)) if problem else b"")  # FATAL is zero.
        data = put(1, "type.googleapis.com/machine.SequenceEvent") + put(2, event)
        await _ip("address", "replace", f"{self.address}/128", "dev", "lo", "nodad")
        async with _from(self.address, OMNI, EVENTS_PORT) as address:
            await _call(address, "/events.EventSinkService/Publish", put(1, data))


def join_token(url: str) -> str:
    """The one in the address that machines are told."""
    return unquote(url.partition("jointoken=")[2])


async def provision(uuid: str, token: str, unique_token: str = "", talos_version: str = "", key: bytes = b"") -> str:
    """A machine's first call; gives its address in the tunnel. Without a version it is an old Talos."""
    request = (
        put(1, uuid)
        + put(2, b64encode(key or secrets.token_bytes(32)))
        + put(3, token)
        + (put(4, unique_token) if unique_token else b"")
        + (put(5, talos_version) if talos_version else b"")
    )
    answer = read(await _call(MACHINES, "/sidero.link.ProvisionService/Provision", request))
    return str(last(answer, 4, b""), "ascii").partition("/")[0]


async def _call(address: str, method: str, request: bytes) -> bytes:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        return bytes(await channel.unary_unary(method)(request, timeout=10))


@contextlib.asynccontextmanager
async def _from(source: str, host: str, port: int) -> AsyncIterator[str]:
    """A way to that port which begins at an address of ours: gRPC chooses none. Omni knows machines by their addresses."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(host, port, local_addr=(source, 0))
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, ours))
            group.create_task(_copy(theirs, writer))

    async with await asyncio.start_server(pass_on, "127.0.0.1") as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
    writer.close()


async def _ip(*words: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", *words)
    assert await process.wait() == 0, words


@contextlib.asynccontextmanager
async def running(folder: Path, **flags: str | None) -> AsyncIterator[RealOmni]:
    """Start it, with its surroundings, and stop it in order; `flags` in place of those here, None is none."""
    (folder / "omnictl").mkdir(parents=True)  # It serves the binaries in there, and does not start without.
    authority = Authority.open(folder / "tls", utc_now())
    key, certificate = authority.issue(["127.0.0.1"])
    (folder / "api.key").write_bytes(key)
    (folder / "api.crt").write_bytes(certificate)
    (folder / "etcd.asc").write_text(keys.generate("omni", "omni@example.com").armored)
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    program = Program(folder, [f"--{name}={value}" for name, value in (_FLAGS | given).items() if value is not None])
    power = PowerApi()
    async with _surroundings(folder / "files", power):
        try:
            await program.start()
            admin = Client(f"https://{API}", program.account(), folder / "tls" / "ca.pem")
            yield RealOmni(folder, admin, power, program)
            await admin.channel.close()
        finally:
            await program.kill()


class Program:
    """Its process, which may be killed and started again on what it left."""

    def __init__(self, folder: Path, flags: Sequence[str]) -> None:
        self._folder = folder
        self._flags = flags
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until its API answers."""
        with (self._folder / "omni.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                os.environ[VARIABLE], *self._flags, cwd=self._folder, stdout=log, stderr=log
            )
        async with asyncio.timeout(START_SECONDS):
            while not (self._folder / "account").exists() or not await _answers(API):
                if self._process.returncode is not None:
                    lines = (self._folder / "omni.log").read_text(errors="replace").splitlines()
                    raise AssertionError("\n".join(lines[-_LAST_LINES:]))
                await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """Let it have no last words."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def account(self) -> str:
        """The administrator's key."""
        return (self._folder / "account").read_text().strip()


async def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


@contextlib.asynccontextmanager
async def _surroundings(files: Path, power: PowerApi) -> AsyncIterator[None]:
    """An image factory, a registry of Kubernetes, and the power of machines."""
    files.mkdir()
    for name, content in FILES.items():
        (files / name).write_bytes(content)
    app = factory.Factory(files, f"http://{SURROUNDINGS}").application()
    for path, content in _LISTS.items():
        app.router.add_get(path, partial(_listed, content))
    app.router.add_route("*", "/{verb:status|reboot|poweron|poweroff|pxeboot}", power.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        host, _, port = SURROUNDINGS.partition(":")
        await web.TCPSite(runner, host, int(port)).start()
        yield
    finally:
        await runner.cleanup()


async def _listed(content: object, _request: web.Request) -> web.Response:
    return web.json_response(content)

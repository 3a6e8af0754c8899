"""
The real talos-metal-agent, a binary that BOOTWRIGHT_METAL_AGENT_BIN names, in a root folder of its own.

It wants a Talos around it: `/proc/cmdline`, the system's certificates, and the socket of machined, where this answers what the
agent asks (facts of internal/agent/agent.go and internal/service/service.go). Answers are put together by hand: three messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from provider.lab.omni.talos_agent.wire import last, put, read

VARIABLE = "BOOTWRIGHT_METAL_AGENT_BIN"


@dataclass
class Machined:
    """What the machine is, and what was done to it."""

    uuid: str
    wiped: list[list[tuple[str, int]]] = field(default_factory=list)
    """For each wipe the devices, with the method."""
    reboots: int = 0
    wipe_seconds: float = 0.0
    """For each disk."""
    wiping: set[asyncio.Task[None]] = field(default_factory=set)
    """Under way. As in Talos, they go on without whoever asked for them, until a reboot."""
    group: asyncio.TaskGroup | None = None
    """As long as it runs."""
    _locks: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def version(self, _request: bytes, _context: object) -> bytes:
        return put(1, put(2, put(1, "v1.12.2")))

    async def reboot(self, _request: bytes, _context: object) -> bytes:
        self.reboots += 1
        self.stop()
        return put(1, b"")

    async def get(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        asked = read(request)
        if last(asked, 2, b"") != b"SystemInformations.hardware.talos.dev":
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        return put(
            1, _resource(b"hardware", b"SystemInformations.hardware.talos.dev", b"systeminformation", put(5, self.uuid))
        )

    async def list(self, _request: bytes, _context: object) -> AsyncIterator[bytes]:
        for name, spec in (("vda", b""), ("sr0", put(13, 1)), ("vdb", b""), ("vdc", put(4, 1))):
            yield put(1, _resource(b"runtime", b"Disks.block.talos.dev", name.encode(), spec))

    async def wipe(self, request: bytes, _context: object) -> bytes:
        devices = []
        for raw in read(request).get(1, []):
            assert isinstance(raw, bytes)
            device = read(raw)
            name, method = last(device, 1, b""), last(device, 2, 0)
            assert isinstance(name, bytes)
            assert isinstance(method, int)
            assert last(device, 3, 0) == 1, "the volume check is skipped"
            devices.append((name.decode(), method))
        assert self.group is not None
        wiping = self.group.create_task(self._wipe(sorted(devices)), name="wipe")
        self.wiping.add(wiping)
        wiping.add_done_callback(self.wiping.discard)
        await asyncio.shield(wiping)
        return put(1, b"")

    async def _wipe(self, devices: list[tuple[str, int]]) -> None:
        for name, _method in devices:
            async with self._locks[name]:
                await asyncio.sleep(self.wipe_seconds)
        self.wiped.append(devices)

    def stop(self) -> None:
        """Be switched off."""
        for wiping in self.wiping:
            wiping.cancel()

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        services = {
            "machine.MachineService": {"Version": unary(self.version), "Reboot": unary(self.reboot)},
            "cosi.resource.State": {"Get": unary(self.get), "List": streaming(self.list)},
            "storage.StorageService": {"BlockDeviceWipe": unary(self.wipe)},
        }
        return [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]


def _resource(namespace: bytes, kind: bytes, name: bytes, spec: bytes) -> bytes:
    moment = put(1, 1_700_000_000)
    metadata = (
        put(1, namespace)
        + put(2, kind)
        + put(3, name)
        + put(4, "1")
        + put(6, "running")
        + put(7, moment)
        + put(8, moment)
    )
    return put(1, metadata) + put(2, put(1, spec))


@contextlib.asynccontextmanager
async def running(machined: Machined, arguments: str, ca_pem: bytes = b"") -> AsyncIterator[Path]:
    """
    Run the agent with these kernel arguments, and again whenever it ends, as Talos does; gives the file of its output.

    Needs root, for its own root folder.
    """
    with tempfile.TemporaryDirectory(prefix="talos-") as folder:  # Short: a socket's path has at most 107 characters.
        root = Path(folder)
        socket = root / "system/run/machined/machine.sock"
        roots = root / "etc/ssl/certs/ca-certificates.crt"
        for file in (socket, roots, root / "proc/cmdline"):
            file.parent.mkdir(parents=True)
        roots.write_bytes(ca_pem)
        (root / "proc/cmdline").write_text(arguments, encoding="ascii")
        shutil.copy(os.environ[VARIABLE], root / "agent")
        server = grpc.aio.server(handlers=machined.handlers())
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            async with asyncio.TaskGroup() as group:
                machined.group = group
                task = group.create_task(_restarted(root))
                try:
                    yield root / "output"
                finally:
                    task.cancel()
                    machined.stop()
        finally:
            await server.stop(None)


async def _restarted(root: Path) -> None:
    while True:
        with (root / "output").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                "chroot", root, "/agent", "--debug", stdout=output, stderr=output
            )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        await asyncio.sleep(0.2)

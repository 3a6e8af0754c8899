"""A plain client of the fake Omni: gRPC, its own messages, signatures by Sequoia; nothing of `provider.wire`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import pysequoia
import pytest

from provider.lab.omni import names, protos
from provider.lab.omni.fake import FakeOmni, Options
from provider.lab.omni.join import JoinRequest

COSI = protos.load().cosi
SPECS = protos.load().specs
MACHINE = "5c7b0d5e-5b7c-4d35-9d3b-000000000001"
FINALIZER = "bm.InfraMachineStatusController"
"""Ours, and one of Sidero's provider."""
PATIENCE = 10.0  # seconds


@contextlib.contextmanager
def refused(code: str, beginning: str = "") -> Iterator[None]:
    """The call inside fails with that code, and a text that begins so."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert caught.value.code().name == code, caught.value.details()
    assert (caught.value.details() or "").startswith(beginning), caught.value.details()


class Client:
    """Whoever holds a service-account key."""

    def __init__(self, endpoint: str, key: str, ca_file: Path | None = None) -> None:
        account = json.loads(base64.b64decode(key))
        tsk = pysequoia.Tsk.from_bytes(account["pgp_key"].encode())
        self.name = account["name"]
        self.fingerprint = tsk.extract_certificate().fingerprint
        self._signer = tsk.signer()
        scheme, _, address = endpoint.partition("://")
        alone = [("grpc.use_local_subchannel_pool", 1)]  # Else a fresh client inherits the pause of one that failed.
        if scheme == "https":
            assert ca_file is not None
            credentials = grpc.ssl_channel_credentials(ca_file.read_bytes())
            self.channel = grpc.aio.secure_channel(address, credentials, alone)
        else:
            self.channel = grpc.aio.insecure_channel(address, alone)

    def sign(self, method: str, seconds: int = 0, headers: object = None, **signed: str) -> list[tuple[str, str]]:
        """Metadata for a method, signed `seconds` ahead of our clock; `signed`: further headers, `headers` replaces all."""
        stamp = str(int(time.time()) + seconds)
        names_and_values = {"x-sidero-timestamp": stamp, **signed}
        listed = {name: [value] for name, value in names_and_values.items()} if headers is None else headers
        payload = json.dumps({"headers": listed, "method": method})
        raw = pysequoia.sign(self._signer, payload.encode(), mode=pysequoia.SignatureMode.DETACHED, armor=False)
        fields = f"siderov1 {self.name} {self.fingerprint} {base64.b64encode(raw).decode()}"
        return [*names_and_values.items(), ("x-sidero-payload", payload), ("x-sidero-signature", fields)]

    async def call(self, name: str, request: Any, service: str = "cosi.resource.State", metadata: Any = None) -> Any:
        """A call with one answer."""
        path = f"/{service}/{name}"
        package = COSI if service.startswith("cosi") else protos.load().management
        answer = getattr(package, f"{name}Response", None)
        stub = self.channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString if answer else bytes,
        )
        return await stub(request, metadata=metadata or self.sign(path), timeout=PATIENCE)

    def stream(self, name: str, request: Any, metadata: Any = None) -> Any:
        """A call with a stream of answers."""
        path = f"/cosi.resource.State/{name}"
        stub = self.channel.unary_stream(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(COSI, f"{name}Response").FromString,
        )
        return stub(request, metadata=metadata or self.sign(path))

    async def get(self, namespace: str, kind: str, identity: str) -> Any:
        return (await self.call("Get", COSI.GetRequest(namespace=namespace, type=kind, id=identity))).resource

    async def list(self, namespace: str, kind: str, **options: Any) -> list[Any]:
        request = COSI.ListRequest(namespace=namespace, type=kind, options=COSI.ListOptions(**options))
        return [answer.resource async for answer in self.stream("List", request)]

    async def create(self, resource: Any, owner: str = "") -> Any:
        request = COSI.CreateRequest(resource=resource, options=COSI.CreateOptions(owner=owner))
        return (await self.call("Create", request)).resource

    async def update(self, resource: Any, owner: str = "", phase: str | None = None) -> Any:
        options = COSI.UpdateOptions(owner=owner, expected_phase=phase)
        return (await self.call("Update", COSI.UpdateRequest(new_resource=resource, options=options))).resource

    async def end(self, verb: str, namespace: str, kind: str, identity: str, owner: str = "") -> Any:
        """Destroy, Teardown or TeardownAndDestroy."""
        options = getattr(COSI, f"{verb}Options")(owner=owner)
        return await self.call(
            verb, getattr(COSI, f"{verb}Request")(namespace=namespace, type=kind, id=identity, options=options)
        )

    def watch(
        self, namespace: str, kind: str, identity: str | None = None, version: int = 1, **options: Any
    ) -> Watching:
        request = COSI.WatchRequest(
            namespace=namespace, type=kind, id=identity, options=COSI.WatchOptions(**options), api_version=version
        )
        return Watching(self.stream("Watch", request))

    async def set_finalizers(self, resource: Any, finalizers: Sequence[str]) -> Any:
        """As providers do it: the stored owner, the same bytes, no expected phase."""
        del resource.metadata.finalizers[:]
        resource.metadata.finalizers.extend(finalizers)
        return await self.update(resource, resource.metadata.owner)

    async def announce(self, *, static: bool = True) -> None:
        """Write the provider's status, with the label that makes it a static one."""
        provider = self.name.partition(":")[2]
        labels = {names.STATIC_LABEL: ""} if static else {}
        await self.create(
            made(names.INFRA, names.PROVIDER_STATUS, provider, SPECS.InfraProviderStatusSpec(name="BM"), **labels)
        )


class Watching:
    """A watch that is open."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def response(self) -> list[Any]:
        """The events of the next answer."""
        async with asyncio.timeout(PATIENCE):
            return list((await self.call.read()).event)

    async def events(self, count: int) -> list[str]:
        """The next events in short: `CREATED a`."""
        found: list[str] = []
        while len(found) < count:
            found += [short(event) for event in await self.response()]
        return found

    async def quiet(self, seconds: float = 0.05) -> bool:
        """Whether nothing comes for a moment; the watch is over then."""
        try:
            async with asyncio.timeout(seconds):
                await self.call.read()
        except TimeoutError:
            return True
        return False


def short(event: Any) -> str:
    kind = COSI.EventType.Name(event.event_type)
    return f"{kind} {event.resource.metadata.id}".strip()


def made(namespace: str, kind: str, identity: str, spec: Any = None, **labels: str) -> Any:
    """A new resource."""
    metadata = COSI.Metadata(
        namespace=namespace, type=kind, id=identity, version="undefined", phase="running", labels=labels
    )
    raw = b"" if spec is None else spec if isinstance(spec, bytes) else spec.SerializeToString()
    return COSI.Resource(metadata=metadata, spec=COSI.Spec(proto_spec=raw))


@dataclass
class Site:
    """A fake with a provider `bm` that has announced itself, and an administrator."""

    omni: FakeOmni
    bm: Client
    admin: Client

    async def client(self, name: str, role: Any) -> Client:
        """A further account."""
        key = await self.omni.desk.create_account(name, role)
        return Client(self.omni.endpoint, key.service_account_key(), self.omni.ca_file)

    async def provider(self, provider: str) -> Client:
        """A further provider."""
        return Client(self.omni.endpoint, await self.omni.desk.create_provider(provider), self.omni.ca_file)

    def join_token(self, provider: str = "bm") -> str:
        """The token in the join documents of a provider."""
        found = next(each for each in self.omni.desk.providers() if each["id"] == provider)
        join: Any = found["join"]
        return unquote(join["config"]["kernel_args"][0].partition("jointoken=")[2])

    async def join(self, machine: str = MACHINE, **more: Any) -> Any:
        """A machine of `bm` joins, by the legacy flow unless it shows a token or says its version."""
        return await self.omni.desk.provision(JoinRequest(uuid=machine, token=self.join_token(), **more))

    async def infra_machine(self, machine: str = MACHINE) -> tuple[Any, Any]:
        """The InfraMachine as `bm` sees it, and its spec."""
        await self.omni.desk.settled()
        resource = await self.bm.get(names.INFRA, names.INFRA_MACHINE, machine)
        return resource, SPECS.InfraMachineSpec.FromString(resource.spec.proto_spec)

    async def say_status(self, machine: str = MACHINE, **spec: Any) -> None:
        """`bm` writes its InfraMachineStatus."""
        owner = "bm.InfraMachineStatusController"
        content = SPECS.InfraMachineStatusSpec(**spec).SerializeToString()
        found = [
            each for each in await self.bm.list(names.INFRA, names.INFRA_MACHINE_STATUS) if each.metadata.id == machine
        ]
        if found:
            found[0].spec.proto_spec = content
            await self.bm.update(found[0], owner, "running")
        else:
            await self.bm.create(made(names.INFRA, names.INFRA_MACHINE_STATUS, machine, content), owner)
        await self.omni.desk.settled()


@contextlib.asynccontextmanager
async def site(options: Options) -> AsyncIterator[Site]:
    async with FakeOmni(options) as omni:
        bm = Client(omni.endpoint, await omni.desk.create_provider("bm"), omni.ca_file)
        admin_key = (await omni.desk.create_account("automation", "Admin")).service_account_key()
        admin = Client(omni.endpoint, admin_key, omni.ca_file)
        await bm.announce()
        try:
            yield Site(omni, bm, admin)
        finally:
            await bm.channel.close()
            await admin.channel.close()


def served(use: Callable[[Site], Awaitable[None]], options: Options | None = None) -> None:
    """Run something against a fresh fake."""

    async def main() -> None:
        async with asyncio.timeout(60), site(options or Options()) as here:
            await use(here)

    asyncio.run(main())

"""A plain client of an Omni, fake or real: gRPC, its own messages, signatures by Sequoia; nothing of `provider.wire`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pysequoia
import pytest

from provider.lab.omni import names, protos
from provider.lab.omni.resources import CallError

COSI = protos.load().cosi
SPECS = protos.load().specs
MACHINE = "5c7b0d5e-5b7c-4d35-9d3b-000000000001"
FINALIZER = "bm.InfraMachineStatusController"
"""Ours, and one of Sidero's provider."""
PATIENCE = 30.0  # seconds; the real one takes ten for some things


@contextlib.contextmanager
def refused(code: str, beginning: str = "") -> Iterator[None]:
    """The call inside fails with that code, and a text that begins so; a call of the fake's desk may, too."""
    with pytest.raises((grpc.aio.AioRpcError, CallError)) as caught:
        yield
    error = caught.value
    found = (
        (error.code.name, str(error)) if isinstance(error, CallError) else (error.code().name, error.details() or "")
    )
    assert found[0] == code, found
    assert found[1].startswith(beginning), found


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

    @property
    def provider(self) -> str:
        """The id of the provider that it is."""
        return str(self.name).partition(":")[2]

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

    async def find(self, namespace: str, kind: str, identity: str) -> Any:
        """A resource; None if there is none."""
        try:
            return await self.get(namespace, kind, identity)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return None

    async def announce(self, *, static: bool = True) -> None:
        """Write the provider's status, with the label that makes it a static one."""
        labels = {names.STATIC_LABEL: ""} if static else {}
        spec = SPECS.InfraProviderStatusSpec(name="BM")
        await self.create(made(names.INFRA, names.PROVIDER_STATUS, self.provider, spec, **labels))


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

"""
Where the tests of an Omni take place: at our fake, and at the real one, which decides what is right.

What a client can do is the same at both, and so is a `Site`: a provider that announced itself, an administrator, a UUID.
The fake is new for each test. The real one lasts for a module, so each test there has a provider and a machine of its own.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provider.lab.omni import names
from provider.lab.omni.fake import FakeOmni, Options
from provider.lab.omni.join import JoinMode, JoinRequest
from tests.integration import conftest, real_omni
from tests.integration.omni_client import MACHINE, SPECS, Client, made
from tests.integration.omni_users import Users
from tests.integration.real_omni import Member, RealOmni, join_token

TALOS = "1.13.7"
PATIENCE = 30.0  # seconds


class Site(abc.ABC):
    """What is the same at both."""

    def __init__(self, users: Users, endpoint: str, ca_file: Path | None, provider: Client, machine: str) -> None:
        self.users = users
        self.admin = users.admin
        self.endpoint = endpoint
        self.ca_file = ca_file
        self.bm = provider
        self.id = provider.provider
        self.machine = machine
        self.namespace = f"{names.PRIVATE_PREFIX}{self.id}"
        self.kind = f"Thing.{self.id}{names.PRIVATE_TYPE_SUFFIX}"
        self._clients: list[Client] = []

    def client(self, key: str) -> Client:
        """Who holds a key; their channel is closed with the site."""
        client = Client(self.endpoint, key, self.ca_file)
        self._clients.append(client)
        return client

    async def close(self) -> None:
        """Close the channels that were opened here."""
        for client in (*self._clients, self.bm):
            await client.channel.close()

    async def account(self, name: str, role: str) -> Client:
        """A further account."""
        return self.client(await self.users.create_account(f"{self.id}-{name}", role))

    async def provider(self, name: str = "other") -> Client:
        """A further provider."""
        return self.client(await self.users.create_provider(f"{self.id}-{name}"))

    def why_refused(self) -> str | None:
        """Why the last signature was not good, where it is known."""
        return None

    # --- in the provider's own namespace ---

    def thing(self, identity: str, spec: bytes = b"", **labels: str) -> Any:
        """Something that nobody but the provider knows."""
        return made(self.namespace, self.kind, identity, spec, **labels)

    async def fill(self, *identities: str) -> None:
        """Make such things."""
        for identity in identities:
            await self.bm.create(self.thing(identity))

    # --- machines ---

    async def join_token(self, provider: str = "") -> str:
        """The token in the join documents of a provider."""
        provider = provider or self.id

        async def config() -> Any:
            return await self.admin.find(names.INFRA, names.JOIN_CONFIG, provider)

        found = SPECS.ProviderJoinConfigSpec.FromString((await until(config)).spec.proto_spec)
        return join_token(found.config.kernel_args[0])

    async def join(self, machine: str = "", *, token: str | None = None, talos: str = "", unique: str = "") -> None:
        """A machine joins, as an old Talos unless it says its version."""
        await self._provision(
            machine or self.machine, await self.join_token() if token is None else token, talos, unique
        )

    @abc.abstractmethod
    async def _provision(self, machine: str, token: str, talos: str, unique: str) -> None:
        """The call of a machine."""

    async def infra_machine(
        self, holds: Callable[[Any, Any], object] = lambda _resource, _spec: True
    ) -> tuple[Any, Any]:
        """The InfraMachine as the provider sees it, and its spec, as soon as there is one of which it holds."""

        async def found() -> tuple[Any, Any] | None:
            resource = await self.bm.find(names.INFRA, names.INFRA_MACHINE, self.machine)
            spec = SPECS.InfraMachineSpec.FromString(resource.spec.proto_spec) if resource else None
            return (resource, spec) if resource and holds(resource, spec) else None

        pair: tuple[Any, Any] = await until(found)
        return pair

    async def appears(self, provider: Client) -> None:
        """Wait until a provider sees the machine."""
        await until(lambda: provider.find(names.INFRA, names.INFRA_MACHINE, self.machine))

    async def accepted(self) -> tuple[Any, Any]:
        """The InfraMachine of a machine that joined and was accepted."""
        await self.join()
        await self.users.configure(self.machine, acceptance_status=SPECS.ACCEPTED)
        return await self.infra_machine(lambda _resource, spec: spec.acceptance_status == SPECS.ACCEPTED)

    async def say_status(self, **spec: Any) -> None:
        """The provider writes the machine's InfraMachineStatus."""
        owner = f"{self.id}.InfraMachineStatusController"
        content = SPECS.InfraMachineStatusSpec(**spec).SerializeToString()
        found = await self.bm.find(names.INFRA, names.INFRA_MACHINE_STATUS, self.machine)
        if found is None:
            await self.bm.create(made(names.INFRA, names.INFRA_MACHINE_STATUS, self.machine, content), owner)
        else:
            found.spec.proto_spec = content
            await self.bm.update(found, owner, "running")

    async def gone(self, kind: str = names.INFRA_MACHINE, identity: str = "", namespace: str = names.INFRA) -> None:
        """Wait until there is no such thing."""

        async def is_gone() -> bool:
            return await self.admin.find(namespace, kind, identity or self.machine) is None

        await until(is_gone)

    @abc.abstractmethod
    async def event(self, sequence: str, action: str, fatal: str) -> None:
        """Talos tells where it is; `fatal`: the text of an error."""

    @abc.abstractmethod
    async def compact(self) -> None:
        """Let Omni's etcd forget what happened so far, as it does every five hours."""

    @abc.abstractmethod
    async def allocate(self, cluster: str) -> None:
        """Put the machine into a new cluster, as its control plane."""

    @abc.abstractmethod
    async def release(self, cluster: str) -> None:
        """The end of that cluster."""


async def until(found: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is something; Omni does much a moment later."""
    end = time.monotonic() + PATIENCE
    while not (result := await found()):
        assert time.monotonic() < end, "it never came to be"
        await asyncio.sleep(0.02)
    return result


class FakeUsers(Users):
    """The fake's administrator."""

    def __init__(self, admin: Client) -> None:
        self.admin = admin


class FakeSite(Site):
    """At the fake, whose inside and desk are there, too."""

    def __init__(self, omni: FakeOmni, bm: Client, admin: Client) -> None:
        super().__init__(FakeUsers(admin), omni.endpoint, omni.ca_file, bm, MACHINE)
        self.omni = omni

    def why_refused(self) -> str | None:
        return self.omni.signatures.why

    async def _provision(self, machine: str, token: str, talos: str, unique: str) -> None:
        await self.omni.desk.provision(JoinRequest(machine, token, unique, talos and f"v{talos}"))

    async def event(self, sequence: str, action: str, fatal: str) -> None:
        await self.omni.desk.sequence_event(self.machine, sequence, action, fatal)

    async def compact(self) -> None:
        self.omni.state.compact()

    async def allocate(self, cluster: str) -> None:
        await self.omni.desk.allocate(self.machine, cluster, real_omni.TALOS)

    async def release(self, cluster: str) -> None:
        assert cluster
        await self.omni.desk.release(self.machine)


class RealSite(Site):
    """At the real one."""

    def __init__(self, omni: RealOmni, bm: Client) -> None:
        super().__init__(omni, omni.endpoint, omni.ca_file, bm, str(uuid.uuid4()))
        self.omni = omni
        self._address = ""

    async def _provision(self, machine: str, token: str, talos: str, unique: str) -> None:
        self._address = await real_omni.provision(machine, token, unique, talos and f"v{talos}")

    async def event(self, sequence: str, action: str, fatal: str) -> None:
        member = Member(self.machine, "", address=self._address)
        await member.say(sequence, {"NOOP": 0, "START": 1, "STOP": 2}[action], fatal)

    async def compact(self) -> None:
        await self.omni.compact()

    async def allocate(self, cluster: str) -> None:
        await self.omni.allocate(self.machine, cluster)

    async def release(self, cluster: str) -> None:
        await self.omni.release(self.machine, cluster)


@contextlib.asynccontextmanager
async def fake_site(options: Options) -> AsyncIterator[FakeSite]:
    """A new fake."""
    async with FakeOmni(options) as omni:
        bm = Client(omni.endpoint, await omni.desk.create_provider("bm"), omni.ca_file)
        admin_key = (await omni.desk.create_account("automation", "Admin")).service_account_key()
        here = FakeSite(omni, bm, Client(omni.endpoint, admin_key, omni.ca_file))
        await bm.announce()
        try:
            yield here
        finally:
            await here.close()
            await here.admin.channel.close()


@contextlib.asynccontextmanager
async def real_site(omni: RealOmni) -> AsyncIterator[RealSite]:
    """A new provider."""
    key = await omni.create_provider(f"bm-{secrets.token_hex(3)}")
    here = RealSite(omni, Client(omni.endpoint, key, omni.ca_file))
    await here.bm.announce()
    try:
        yield here
    finally:
        await here.close()


def served(use: Callable[[FakeSite], Awaitable[None]], options: Options | None = None) -> None:
    """Run something against a new fake."""

    async def main() -> None:
        async with asyncio.timeout(60), fake_site(options or Options()) as here:
            await use(here)

    asyncio.run(main())


class Omni(abc.ABC):
    """One of both, as the fixture `omni` gives it."""

    @abc.abstractmethod
    def served(self, use: Callable[[Site], Awaitable[None]]) -> None:
        """Run something there."""


class Fake(Omni):
    """New each time."""

    def __init__(self, mode: JoinMode) -> None:
        self._options = Options(join_mode=mode)

    def served(self, use: Callable[[Site], Awaitable[None]]) -> None:
        served(use, self._options)


class Real(Omni):
    """Runs on one event loop for as long as its module lasts."""

    def __init__(self, runner: asyncio.Runner, omni: RealOmni) -> None:
        self._runner = runner
        self._omni = omni

    def served(self, use: Callable[[Site], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), real_site(self._omni) as here:
                await use(here)

        self._runner.run(main())


@contextlib.contextmanager
def either(folder: Path, which: str, mode: JoinMode = JoinMode.LEGACY_ALLOWED) -> Iterator[Omni]:
    """The fake or the real one, in a join mode."""
    if which == "fake":
        yield Fake(mode)
        return
    with asyncio.Runner() as runner:
        running = real_omni.running(folder / "omni", join_tokens_mode=mode)
        try:
            yield Real(runner, runner.run(running.__aenter__()))
        finally:
            runner.run(running.__aexit__(None, None, None))


def in_mode(mode: JoinMode) -> pytest.MarkDecorator:
    """Both, in another join mode."""
    real = pytest.param(("real", mode), marks=conftest.without_it, id=f"real-{mode}")
    return pytest.mark.parametrize("omni", [pytest.param(("fake", mode), id=f"fake-{mode}"), real], indirect=True)


def unique_token(machine: str) -> str:
    """What a Talos keeps in META; the fingerprint is the machine's."""
    return json.dumps({"Fingerprint": machine, "Token": secrets.token_hex(16)})

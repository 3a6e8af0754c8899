"""What the users of an Omni do by its API, be it the fake or the real one."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import grpc

from provider.lab.omni import keys, names, protos
from provider.lab.omni.accounts import identity_of
from tests.integration.omni_client import COSI, SPECS, Client, made

MANAGEMENT = "management.ManagementService"


class Users:
    """An administrator."""

    admin: Client

    async def create_provider(self, provider: str) -> str:
        """As `omnictl infraprovider create` does; gives the key."""
        await self.admin.create(made(names.INFRA, names.PROVIDER, provider))
        return await self.create_account(f"infra-provider:{provider}", "InfraProvider")

    async def create_account(self, name: str, role: str) -> str:
        """A service account; gives its key."""
        return await self._register("CreateServiceAccount", name, keys.LIFETIME, role=role)

    async def renew_key(self, provider: str, lifetime: timedelta = keys.LIFETIME) -> str:
        """As `omnictl infraprovider renewkey` does; gives the key."""
        return await self._register("RenewServiceAccount", f"infra-provider:{provider}", lifetime)

    async def destroy_account(self, name: str) -> None:
        """As `omnictl serviceaccount destroy` does, with all its keys."""
        await self.manage("DestroyServiceAccount", name=name)

    async def manage(self, call: str, **fields: Any) -> Any:
        """One of the management calls."""
        request = getattr(protos.load().management, f"{call}Request")(**fields)
        return await self.admin.call(call, request, MANAGEMENT)

    async def find(self, kind: str, identity: str, namespace: str = names.INFRA) -> Any:
        """A resource; None if there is none."""
        return await self.admin.find(namespace, kind, identity)

    async def infra_machine(self, uuid: str) -> Any:
        """Spec of the InfraMachine; None if there is none."""
        found = await self.find(names.INFRA_MACHINE, uuid)
        return None if found is None else SPECS.InfraMachineSpec.FromString(found.spec.proto_spec)

    async def status(self, uuid: str) -> Any:
        """Spec of the InfraMachineStatus; an empty one if there is none."""
        found = await self.find(names.INFRA_MACHINE_STATUS, uuid)
        return SPECS.InfraMachineStatusSpec.FromString(b"" if found is None else found.spec.proto_spec)

    async def configure(self, uuid: str, **changes: Any) -> None:
        """What a user decides about a machine: its InfraMachineConfig, made or changed."""
        found = await self.find(names.USER_CONFIG, uuid, names.DEFAULT)
        spec = SPECS.InfraMachineConfigSpec.FromString(b"" if found is None else found.spec.proto_spec)
        for name, value in changes.items():
            setattr(spec, name, value)
        if found is None:
            await self.admin.create(made(names.DEFAULT, names.USER_CONFIG, uuid, spec))
        else:
            found.spec.CopyFrom(COSI.Spec(proto_spec=spec.SerializeToString()))
            await self.admin.update(found)

    async def set_bmc(self, uuid: str, **access: Any) -> None:
        """An administrator says how the machine's power is switched: `ipmi` or `api`."""
        spec = SPECS.InfraMachineBMCConfigSpec(**access)
        found = await self.find(names.USER_BMC_CONFIG, uuid, names.DEFAULT)
        if found is None:
            await self.admin.create(made(names.DEFAULT, names.USER_BMC_CONFIG, uuid, spec))
        else:
            found.spec.CopyFrom(COSI.Spec(proto_spec=spec.SerializeToString()))
            await self.admin.update(found)

    async def remove(self, uuid: str) -> None:
        """A user removes the machine from Omni."""
        await self.admin.end("Teardown", names.DEFAULT, names.LINK, uuid)

    async def remove_provider(self, provider: str) -> None:
        """
        A user removes a provider; Omni destroys it, once it is rid of the account. That it sometimes forgets, when the account's
        key is slow to go, until something of the provider changes again (omni: controllers/omni/infra_provider_cleanup.go).
        """
        await self.admin.end("Teardown", names.INFRA, names.PROVIDER, provider)
        for attempt in range(100):
            found = await self.admin.find(names.INFRA, names.PROVIDER, provider)
            if found is None:
                return
            with contextlib.suppress(grpc.aio.AioRpcError):
                found.metadata.annotations["attempt"] = str(attempt)
                await self.admin.update(found)
            await asyncio.sleep(0.1)
        raise AssertionError("the provider did not go")

    async def _register(self, call: str, name: str, lifetime: timedelta, **more: str) -> str:
        pair = keys.generate(name, identity_of(name), lifetime)
        await self.manage(call, name=name, armored_pgp_public_key=pair.public, **more)
        return pair.service_account_key()

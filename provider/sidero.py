"""
The part of the composition root for Sidero Labs' side of the world: Omni as manager, and machines that run Talos.

The daemon imports it only where the settings have either, because gRPC costs every other one memory and time.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from yarl import URL

from provider.domain import mac as macs
from provider.domain.bmc import Bmc
from provider.domain.errors import PermanentError
from provider.domain.mac import MacAddress
from provider.domain.secret import Secret
from provider.http import talos_agents
from provider.http.factory import Factory
from provider.http.talos import Documents, SecureBoot, TalosBoots
from provider.http.talos_agents import TalosAgentListener
from provider.http.tls import Authority
from provider.kit.jsontypes import JsonObject
from provider.manager.omni.credentials import Credentials, Expiry, due_warning
from provider.manager.omni.link import OmniLink
from provider.manager.omni.presence import Provider
from provider.planning import agents, omni
from provider.planning.interfaces import Opening
from provider.planning.lifecycle import Policy
from provider.planning.talos import FactoryAddress, TalosSite, factory_address
from provider.reconcile.agents import AgentDesk
from provider.reconcile.machines import Machines
from provider.reconcile.omni import OmniDesk
from provider.reconcile.talos_agents import TalosAgentDesk
from provider.reconcile.worker import Workers
from provider.settings import talos_documents
from provider.settings.models import OmniManager, Settings
from provider.store.bmcs import BmcStore
from provider.store.database import Database
from provider.store.keepsakes import KeepsakeStore
from provider.store.outbox import Outbox
from provider.store.sealing import Sealer
from provider.wire import siderolink

log = structlog.get_logger()

_CACHE = "talos"
"""Folder in `provider.state_dir`."""


@dataclass(frozen=True)
class AgentsOnAddresses:
    """The listener for Talos' agents, open on the addresses of the interfaces."""

    listener: TalosAgentListener

    def open(self, opening: Opening) -> None:
        """Serve there; raises PermanentError if it cannot."""
        self.listener.open(str(opening.scope.address))

    def close(self, opening: Opening) -> None:
        """Serve there no more."""
        self.listener.close(str(opening.scope.address))


class Sidero:
    """What a daemon has besides: load the desk with the rest, hold `factory` open, and run the others while it serves."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        sealer: Sealer,
        authority: Authority,
        machines: Machines,
        bmcs: BmcStore,
        workers: Workers,
        agent_desk: AgentDesk,
        mac_of: Callable[[str], MacAddress | None],
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._desk: OmniDesk | None = None
        if isinstance(settings.manager, OmniManager):
            self._desk = OmniDesk(
                machines,
                bmcs,
                workers,
                KeepsakeStore(database, sealer),
                sealer,
                provider_id=settings.provider.id,
                labels=settings.provider.labels,
                policy=machines.store.policy,
                clock=clock,
            )
        self.agent_desk = TalosAgentDesk(
            machines, agent_desk, bmcs, mac_of=mac_of, power_api=_no_power_api, clock=clock
        )
        certified = talos_agents.tls(authority) if settings.talos.agent_tls else None
        self.agents = TalosAgentListener(self.agent_desk, settings.talos.agent_port, certified)
        join = _nothing_to_join if self._desk is None else self._desk.join_documents
        self.factory = _factory(settings, self._address)
        self.boots = _boots(settings, self.factory, authority.ca_pem, join)

    async def link(self, outbox: Outbox, version: str, problem: Callable[[], str]) -> OmniLink | None:
        """
        Load what is kept of Omni, and give the link to it, if it is the manager.

        Raises:
            PermanentError: If its key cannot be used.
        """
        manager = self._settings.manager
        if self._desk is None or not isinstance(manager, OmniManager):
            return None
        await self._desk.load()
        us = Provider(
            self._settings.provider.id,
            f"Bootwright on {socket.gethostname()}",
            version,
            self._desk.installation,
            self._settings.provider.labels,
        )
        credentials = Credentials.load(manager.key_file.read_text(encoding="utf-8"))
        tell_of_expiry(credentials, self._clock())
        return OmniLink(
            url=manager.endpoint,
            credentials=credentials,
            ca_file=manager.ca_file,
            us=us,
            outbox=outbox,
            desk=self._desk,
            clock=self._clock,
            problem=problem,
        )

    def _address(self) -> FactoryAddress:
        talos = self._settings.talos
        told = None if self._desk is None else self._desk.factory()
        return factory_address(talos.factory_url, talos.pxe_url, told)

    def status(self) -> JsonObject:
        """For `bootwright status`."""
        images = self.factory.images
        return {
            "factory": str(URL(self._address().url).with_user(None)),
            "images": len(images),
            "megabytes": images.size // 10**6,
        }


async def _no_power_api(uuid: str) -> Bmc:
    raise PermanentError(
        f"the agent of machine {uuid} runs in test mode, where it has a power API in place of a BMC",
        hint="leave metal.provider.test.mode out of the kernel arguments",
    )


def _nothing_to_join() -> Secret:
    """Machines of other managers than Omni have no documents but ours and the operator's."""
    return Secret("")


def tell_of_expiry(credentials: Credentials, now: datetime) -> None:
    """
    Say so when the key ends soon, or has ended.

    That is no reason not to start: without Omni, machines still have their addresses, and all that was decided goes on.
    """
    expires_at, expiry = credentials.expires_at, due_warning(credentials.expires_at, now)
    if expires_at is None or expiry is None:
        return
    hint = f"make a new one: omnictl infraprovider renewkey {credentials.account.provider_id}, put it into manager.key_file"
    if expiry is Expiry.EXPIRED:
        log.error("omni.key_expired", at=expires_at.isoformat(), hint=f"{hint}, and restart")
    else:
        log.warning("omni.key_expires", at=expires_at.isoformat(), days=(expires_at - now).days, hint=hint)


def policy(settings: Settings, site: Policy) -> Policy:
    """The site's policy, with what Omni leaves to us and which agents machines boot."""
    choice = agents.Choice(
        settings.agent_kind,
        {macs.parse(machine.mac): machine.kind for machine in settings.agent.machines},
        inventory=settings.agent.inventory_first,
        inventory_before_acceptance=settings.agent.inventory_before_acceptance,
        verified_wipe=settings.agent.verified_wipe,
    )
    talos = settings.talos
    if isinstance(settings.manager, OmniManager):
        return omni.policy(site, choice, sets_up_bmc=talos.sets_up_bmc, wipe_zeroes=talos.wipe_zeroes)
    return replace(site, agent=choice, sets_up_bmc=talos.sets_up_bmc, wipe_zeroes=talos.wipe_zeroes)


def _factory(settings: Settings, address: Callable[[], FactoryAddress]) -> Factory:
    """The Image Factory, with its cache."""
    talos = settings.talos
    folder = talos.cache_dir or settings.provider.state_dir / _CACHE
    return Factory(folder, talos.cache_size, address, ca_file=talos.factory_ca_file)


def _boots(settings: Settings, factory: Factory, ca_pem: bytes, join: Callable[[], Secret | None]) -> TalosBoots:
    """
    What machines boot that run Talos.

    Raises:
        SettingsError: If the operator's documents cannot be used.
    """
    talos = settings.talos
    site = TalosSite(
        config_port=settings.boot_http.port,
        agent_port=talos.agent_port,
        is_agent_tls=talos.agent_tls,
        agent_version=talos.agent_version,
        agent_extensions=talos.agent_extensions,
    )
    extra = talos.extra_machine_configuration
    documents = Documents(
        join,
        trusted_roots=siderolink.trusted_roots(ca_pem.decode()) if talos.agent_tls else "",
        extra="" if extra is None else talos_documents.load(extra),
    )
    signed = SecureBoot(talos.secure_boot, {macs.parse(each.mac): each.secure_boot for each in talos.machines})
    return TalosBoots(factory, site, documents, signed)

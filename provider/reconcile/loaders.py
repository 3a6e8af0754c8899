"""
What each firmware boots with: what the settings say, else what was learned (`planning.loader`).

It stands between the boot servers and the registry of machines: all that they note goes through here and on, and what tells
something of the firmware is remembered. What ran is kept in the store; what is being tried is not, and is tried again after a
restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import structlog

from provider.domain.errors import BootwrightError
from provider.domain.mac import MacAddress
from provider.domain.machine import Attachment
from provider.kit.signal import Signal
from provider.planning import loader
from provider.planning.loader import Loader, Trial
from provider.reconcile.machines import Machines, Scalar
from provider.store.loaders import LoaderStore
from provider.wire import grub, ipxe, pxe

log = structlog.get_logger()

FIRMWARES = 20_000
"""MAC addresses that are remembered; the ones that asked longest ago are forgotten first."""


class Loaders:
    """Answers `loader`, and listens to what is noted. `default` None means: learn."""

    def __init__(
        self,
        machines: Machines,
        store: LoaderStore,
        *,
        default: Loader | None,
        chosen: Mapping[MacAddress, Loader],
    ) -> None:
        self._machines = machines
        self._store = store
        self._default = default
        self._chosen = chosen
        self._trials: OrderedDict[MacAddress, Trial] = OrderedDict()
        self._unsaved: dict[MacAddress, Loader] = {}
        self._proved = Signal()

    async def load(self) -> None:
        """Remember what ran; call once before anything is served."""
        for mac, proven in (await self._store.load()).items():
            self._trials[mac] = loader.ran(proven)

    async def run(self) -> None:
        """Save what was proven, for ever; a store that does not answer costs no more than another try."""
        while True:
            proved = self._proved.ticket()
            unsaved, self._unsaved = self._unsaved, {}
            try:
                if unsaved:
                    await self._store.save(unsaved)
            except BootwrightError as error:
                log.warning("loader.unsaved", count=len(unsaved), error=str(error))
            await proved.wait()

    def may_netboot(self, mac: MacAddress) -> bool:
        """Whether a machine may get boot information."""
        return self._machines.may_netboot(mac)

    def attached(self, mac: MacAddress, attachment: Attachment) -> None:
        """DHCP saw a MAC address there."""
        self._machines.attached(mac, attachment)

    def loader(self, mac: MacAddress, *, begins: bool) -> Loader:
        """What firmware gets; `begins` when it asks for the first time in a boot."""
        fixed = self._chosen.get(mac, self._default)
        if fixed is not None:
            return fixed
        trial = self._trials.get(mac, Trial())
        if begins:
            following = loader.asked_anew(trial)
            if following.loader is not trial.loader:
                reason = f"it fetched {_NAMES[trial.loader]} and did not run it: Secure Boot, or a power cut"
                self.note(mac, "loader.refused", loader=trial.loader.value, reason=reason, next=following.loader.value)
            self._remember(mac, following)
            trial = following
        return trial.loader

    def note(self, mac: MacAddress, name: str, **data: Scalar) -> None:
        """Take what was seen of a firmware, and pass it on."""
        trial = self._trials.get(mac, Trial())
        if name == "tftp.sent":
            file = str(data.get("file", ""))
            if file in pxe.BOOT_LOADERS:
                self._remember(mac, loader.fetched(trial))
            elif file == grub.FIRST:
                self._prove(mac, trial, Loader.SIGNED)
            elif file == ipxe.AUTOEXEC:
                self._prove(mac, trial, Loader.IPXE)
        elif data.get("stage") == "ipxe":
            self._prove(mac, trial, Loader.IPXE)
        self._machines.note(mac, name, **data)

    def _prove(self, mac: MacAddress, trial: Trial, proven: Loader) -> None:
        self._remember(mac, loader.ran(proven))
        if trial.proven is not proven:
            self._unsaved[mac] = proven
            self._proved.ring()

    def _remember(self, mac: MacAddress, trial: Trial) -> None:
        self._trials[mac] = trial
        self._trials.move_to_end(mac)
        if len(self._trials) > FIRMWARES:
            self._trials.popitem(last=False)


_NAMES = {Loader.IPXE: "iPXE, which is not signed,", Loader.SIGNED: "the signed boot loader"}

"""
What each firmware is given, and how: what the settings say, else what was learned (`planning.loader`, `planning.proxy_style`).

It stands between the boot servers and the registry of machines: all that they note goes through here and on, and what tells
something of the firmware is remembered. What worked is kept in the store; what is being tried is not, and is tried again
after a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import structlog

from provider.domain.errors import BootwrightError
from provider.domain.mac import MacAddress
from provider.domain.machine import Attachment
from provider.kit.signal import Signal
from provider.planning import loader, proxy_style
from provider.planning.loader import Loader
from provider.planning.proxy_style import Attempt, Style
from provider.reconcile.machines import Machines, Scalar
from provider.store.firmwares import FirmwareStore, Proven
from provider.wire import grub, ipxe, pxe

log = structlog.get_logger()

T = TypeVar("T")

FIRMWARES = 20_000
"""MAC addresses that are remembered; the ones that asked longest ago are forgotten first."""


@dataclass(frozen=True)
class Choice(Generic[T]):
    """What the settings say. `default` None means: learn."""

    default: T | None
    machines: Mapping[MacAddress, T]

    def of(self, mac: MacAddress) -> T | None:
        """For one machine; None means: learn."""
        return self.machines.get(mac, self.default)


@dataclass(frozen=True, slots=True)
class _Known:
    """What we know of the firmware behind one MAC address."""

    loader: loader.Trial = field(default_factory=loader.Trial)
    style: proxy_style.Trial | None = None
    """None until it asked for boot information beside another DHCP server."""

    @property
    def proven(self) -> Proven:
        """What is kept."""
        return Proven(self.loader.proven, None if self.style is None else self.style.proven)


_STRANGER = _Known()


class Firmwares:
    """Answers `loader` and `style`, and listens to what is noted."""

    def __init__(
        self, machines: Machines, store: FirmwareStore, *, loaders: Choice[Loader], styles: Choice[Style]
    ) -> None:
        self._machines = machines
        self._store = store
        self._loaders = loaders
        self._styles = styles
        self._known: OrderedDict[MacAddress, _Known] = OrderedDict()
        self._unsaved: dict[MacAddress, Proven] = {}
        self._proved = Signal()

    async def load(self) -> None:
        """Remember what worked; call once before anything is served."""
        for mac, proven in (await self._store.load()).items():
            self._known[mac] = _Known(
                loader.Trial() if proven.loader is None else loader.ran(proven.loader),
                None if proven.style is None else proxy_style.Trial(proven.style, proven.style),
            )

    async def run(self) -> None:
        """Save what was proven, for ever; a store that does not answer costs no more than another try."""
        while True:
            proved = self._proved.ticket()
            unsaved, self._unsaved = self._unsaved, {}
            try:
                if unsaved:
                    await self._store.save(unsaved)
            except BootwrightError as error:
                log.warning("firmware.unsaved", count=len(unsaved), error=str(error))
            await proved.wait()

    def may_netboot(self, mac: MacAddress) -> bool:
        """Whether a machine may get boot information."""
        return self._machines.may_netboot(mac)

    def attached(self, mac: MacAddress, attachment: Attachment) -> None:
        """DHCP saw a MAC address there."""
        self._machines.attached(mac, attachment)

    def loader(self, mac: MacAddress, *, begins: bool) -> Loader:
        """What firmware gets; `begins` when it asks for the first time in a boot."""
        fixed = self._loaders.of(mac)
        if fixed is not None:
            return fixed
        known = self._known.get(mac, _STRANGER)
        if not begins:
            return known.loader.loader
        following = loader.asked_anew(known.loader)
        if following.loader is not known.loader.loader:
            refused = known.loader.loader
            reason = f"it fetched {_REFUSED[refused]}, or a power cut"
            self.note(mac, "loader.refused", loader=refused.value, reason=reason, next=following.loader.value)
        self._remember(mac, replace(known, loader=following))
        return following.loader

    def style(self, mac: MacAddress, first: Style, attempt: Attempt) -> Style:
        """How PXE firmware is spoken to that sent a DHCPDISCOVER; `first` if nothing is known of it."""
        fixed = self._styles.of(mac)
        if fixed is not None:
            return fixed
        known = self._known.get(mac, _STRANGER)
        trial = known.style or proxy_style.Trial(first)
        following = proxy_style.asked(trial, attempt)
        self._remember(mac, replace(known, style=following))
        self._tell_style(mac, trial, following)
        return following.style

    def note(self, mac: MacAddress, name: str, **data: Scalar) -> None:
        """Take what was seen of a firmware, and pass it on."""
        self._machines.note(mac, name, **data)
        known = self._known.get(mac, _STRANGER)
        trial = _loader_seen(known.loader, name, data)
        style = None if known.style is None else _style_seen(known.style, name, data)
        if (trial, style) == (known.loader, known.style):  # As tuples: mostly they are the same objects.
            return
        seen = _Known(trial, style)
        self._remember(mac, seen)
        if seen.proven != known.proven:
            self._keep(mac, seen.proven)
        if known.style is not None and seen.style is not None:
            self._tell_style(mac, known.style, seen.style)

    def forget(self, macs: Iterable[MacAddress]) -> None:
        """Their machine is gone, and what was learned goes with it."""
        for mac in macs:
            known = self._known.pop(mac, None)
            if known is not None and known.proven != Proven():
                self._keep(mac, Proven())

    def _tell_style(self, mac: MacAddress, before: proxy_style.Trial, after: proxy_style.Trial) -> None:
        if after.style is not before.style:
            reason = "it had an offer and fetched nothing: refused, a power cut, or no address from the DHCP server"
            self._machines.note(
                mac, "proxy.style_changed", before=before.style.value, now=after.style.value, reason=reason
            )

    def _remember(self, mac: MacAddress, known: _Known) -> None:
        self._known[mac] = known
        self._known.move_to_end(mac)
        if len(self._known) > FIRMWARES:
            forgotten, what = self._known.popitem(last=False)
            if what.proven != Proven():
                self._keep(forgotten, Proven())

    def _keep(self, mac: MacAddress, proven: Proven) -> None:
        if len(self._unsaved) < FIRMWARES:  # The disk hangs: what is left out costs no more than another try.
            self._unsaved[mac] = proven
            self._proved.ring()


_REFUSED = {
    Loader.IPXE: "iPXE, which is not signed, and did not run it: Secure Boot",
    # GRUB 2.06 believes the lease alone, whoever the firmware had it from (capture ovmf-secure-boot-unnamed).
    Loader.SIGNED: "the signed boot loader, whose GRUB then did not ask us: a lease that names another server (siaddr)",
}


def _loader_heard(name: str, data: Mapping[str, Scalar]) -> Loader | None:
    """The boot loader that must be running, if what was noted tells of one."""
    if name == "tftp.sent":
        return {grub.FIRST: Loader.SIGNED, ipxe.AUTOEXEC: Loader.IPXE}.get(str(data.get("file")))
    return Loader.IPXE if data.get("stage") == "ipxe" else None


def _loader_seen(trial: loader.Trial, name: str, data: Mapping[str, Scalar]) -> loader.Trial:
    """What a happening tells of the loader."""
    heard = _loader_heard(name, data)
    if heard is not None:
        return loader.ran(heard)
    return loader.fetched(trial) if name == "tftp.sent" and data.get("file") in pxe.BOOT_LOADERS else trial


def _style_seen(trial: proxy_style.Trial, name: str, data: Mapping[str, Scalar]) -> proxy_style.Trial:
    """What it tells of the style: whoever asks for a boot program, even if that gets lost, has understood the offer."""
    is_fetched = name in ("tftp.sent", "tftp.failed") and data.get("file") in pxe.BOOT_LOADERS
    if is_fetched or _loader_heard(name, data) is not None:
        return proxy_style.came(trial)
    if name != "dhcp.offered" or data.get("stage") != "firmware":
        return trial
    # An offer without a style went to UEFI HTTP boot, which the same firmware turns to once PXE has failed.
    return proxy_style.offered(trial) if "style" in data else proxy_style.gave_up(trial)

"""
What machines boot that run Talos: an image of the Image Factory's, served from our own disk, and a configuration to join Omni.

`planning.talos` decides which image and which arguments, `factory` has it or fetches it. What is on its way, or cannot be had
now, is a TemporaryError: the machine is told to wait and to ask again. HTTP and TFTP serve the same files, below `talos/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from provider.domain.errors import TemporaryError
from provider.domain.mac import MacAddress
from provider.domain.machine import BootMode
from provider.domain.secret import Secret
from provider.http.factory import Factory
from provider.http.images import Image
from provider.kit import zstd
from provider.planning import talos
from provider.planning.boot import BootDecision
from provider.planning.kernels import BootPath, Caller, KernelBoot
from provider.planning.talos import TalosMachine, TalosSite
from provider.wire import siderolink

FOLDER = "talos/"
"""What paths of images begin with."""

_RETRY_AFTER = timedelta(seconds=10)


@dataclass(frozen=True)
class Documents:
    """What machines are configured with: `join` gives what Omni told, None until it has; the rest is ours and the operator's."""

    join: Callable[[], Secret | None]
    trusted_roots: str = ""
    extra: str = ""


@dataclass(frozen=True)
class SecureBoot:
    """Which machines boot signed images, by the MAC address of the interface that boots."""

    default: bool = False
    machines: Mapping[MacAddress, bool] = field(default_factory=dict)


class TalosBoots:
    """Answers for one site; `factory` must be open before it is asked for a boot."""

    def __init__(self, factory: Factory, site: TalosSite, documents: Documents, secure_boot: SecureBoot) -> None:
        self._factory = factory
        self._site = site
        self._documents = documents
        self._secure_boot = secure_boot
        self._inlined: tuple[Secret, Secret] | None = None
        """The last configuration, and the kernel argument that it makes: compressing takes its time."""

    def configuration(self) -> Secret:
        """
        All documents of a machine: the same for each.

        Raises:
            TemporaryError: If Omni has not told us yet how machines join.
        """
        join = self._documents.join()
        if join is None:
            raise TemporaryError(
                "Omni has not told yet how machines join",
                retry_after=_RETRY_AFTER,
                hint="see whether the link to Omni is up: bootwright status",
            )
        return siderolink.machine_config(join.reveal(), self._documents.trusted_roots, self._documents.extra)

    async def choose(self, decision: BootDecision, caller: Caller, uuid: str, *, is_uefi: bool) -> KernelBoot:
        """
        Give what the machine loads; `uuid` is what its boot loader cannot fill in by itself.

        Raises:
            TemporaryError: If it has to wait: the image is on its way, or factory or Omni are away.
            PermanentError: If there can be no such image.
        """
        site = replace(self._site, inline_config=self._inline(self.configuration()))
        machine = TalosMachine(
            build=caller.build,
            address=caller.address,
            is_secure_boot=self._secure_boot.machines.get(caller.mac, self._secure_boot.default),
            is_uefi=is_uefi,
            version=decision.version,
            extensions=decision.extensions,
            extra_arguments=" ".join(decision.arguments),
        )
        boot = talos.choose(decision.mode, machine, site)
        image = await self._factory.image(boot)
        what = "starting the agent in" if decision.mode is BootMode.AGENT else "installing"
        return KernelBoot(
            f"{what} Talos {boot.version}",
            _path(image, image.kernel),
            tuple(_path(image, disk) for disk in image.ram_disks),
            boot.command_line(image.arguments, uuid),
            is_unified=boot.is_secure_boot,
        )

    def find(self, path: str) -> Path | None:
        """A file of an image, by its path in URLs."""
        with self.hold(path) as found:
            return found

    @contextmanager
    def hold(self, path: str) -> Iterator[Path | None]:
        """The same; the image stays as long as this is open."""
        name, _, file = path.removeprefix(FOLDER).partition("/")
        if not path.startswith(FOLDER):
            yield None
            return
        with self._factory.images.hold(name, file) as found:
            yield found

    def _inline(self, configuration: Secret) -> Secret | None:
        """The agent must know our CA before it dials; what is configured by HTTP comes too late for that."""
        if not self._site.is_agent_tls:
            return None
        if self._inlined is None or self._inlined[0] != configuration:
            packed = zstd.compress(configuration.reveal().encode())
            self._inlined = configuration, Secret(siderolink.inline_argument(packed))
        return self._inlined[1]


def _path(image: Image, file: Path) -> BootPath:
    return BootPath(file.name, f"{FOLDER}{image.name}/{file.name}")

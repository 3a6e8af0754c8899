"""
The kernel of a boot decision: which files, and which command line. How a boot loader is told so is `wire.ipxe`'s and
`wire.grub`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address

from provider.domain.errors import PermanentError
from provider.domain.mac import MacAddress
from provider.domain.machine import BootMode
from provider.planning.boot import BootDecision
from provider.wire.agent import KernelArguments

_BUILDS = {"i386": "x86_64", "x86_64": "x86_64", "arm32": "aarch64", "arm64": "aarch64"}
"""Architecture that a boot loader was built for, to that of the machine: a 32-bit one runs on both (edge case 49)."""


@dataclass(frozen=True)
class BootPath:
    """One file to load: `name` is what the kernel may call it, `path` where our HTTP and TFTP servers have it."""

    name: str
    path: str


@dataclass(frozen=True)
class AgentImage:
    """The agent's kernel and initramfs for one architecture."""

    kernel: str
    initramfs: str


@dataclass(frozen=True)
class Profile:
    """A boot profile of kind `kernel`: how many initial RAM disks, and the command line with its fields."""

    initrds: int = 0
    command_line: str = ""


@dataclass(frozen=True)
class Site:
    """What a command line needs to know of this provider."""

    http_port: int
    agent_port: int
    ca_sha256: str
    agent_images: Mapping[str, AgentImage]
    """By architecture, as in `uname -m`; paths as in `BootPath`."""
    agent_arguments: tuple[str, ...] = ()
    """Further kernel arguments of the agent, such as `console=ttyS0`."""
    profiles: Mapping[str, Profile] = field(default_factory=dict)


@dataclass(frozen=True)
class Caller:
    """Who asked, as far as a command line tells it: `address` is ours, as the machine reached it."""

    mac: MacAddress
    build: str
    """What the boot loader was built for: i386, x86_64, arm32 or arm64; x86_64 for anything else."""
    address: IPv4Address


@dataclass(frozen=True)
class KernelBoot:
    """What to load and start."""

    title: str
    kernel: BootPath
    initrds: tuple[BootPath, ...]
    arguments: tuple[str, ...]
    is_unified: bool = False
    """The kernel is a program of UEFI with RAM disk and signed command line inside."""


def choose(decision: BootDecision, caller: Caller, site: Site) -> KernelBoot:
    """
    Give the kernel of a decision for AGENT or INSTALL.

    Raises:
        PermanentError: If there is no image for the architecture, no such profile, or no ticket.
    """
    return _agent(decision, caller, site) if decision.mode is BootMode.AGENT else _install(decision, caller, site)


def fill_in(template: str, fields: Mapping[str, str]) -> list[str]:
    """
    Fill `{name}` fields into a kernel command line and split it into arguments.

    A value is filled in as it stands, `arguments` among them may be several words. `initrd=` arguments of the template
    are dropped: only the boot loader knows the names.

    Raises:
        PermanentError: If the template has a field that is not known.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in fields:
            known = ", ".join(f"{{{name}}}" for name in sorted(fields))
            raise PermanentError(f"the command line has an unknown field {found[0]}", hint=f"known are: {known}")
        return fields[found[1]]

    filled = re.sub(r"\{([a-z_0-9]+)\}", value, template)
    return [argument for argument in filled.split() if not argument.startswith("initrd=")]


def _agent(decision: BootDecision, caller: Caller, site: Site) -> KernelBoot:
    architecture = _BUILDS.get(caller.build, "x86_64")
    image = site.agent_images.get(architecture)
    if image is None:
        hint = f"run: bootwright assets build --arch {architecture}"
        raise PermanentError(f"there is no agent image for {architecture}", hint=hint)
    arguments = KernelArguments(
        url=_agent_url(caller, site),
        boot_url=_boot_url(caller, site),
        ca=site.ca_sha256,
        ticket=_ticket(decision),
        mac=caller.mac,
    )
    own = tuple(f"bootwright.{name}={value}" for name, value in asdict(arguments).items())
    return KernelBoot(
        "starting the agent",
        BootPath("vmlinuz", image.kernel),
        (BootPath("initramfs", image.initramfs),),
        (*own, *site.agent_arguments),
    )


def _install(decision: BootDecision, caller: Caller, site: Site) -> KernelBoot:
    name = decision.profile or ""
    profile = site.profiles.get(name)
    if profile is None:
        raise PermanentError(f"there is no boot profile {name!r}", hint="add it to `profiles` in the settings")
    fields = {
        "agent_url": _agent_url(caller, site),
        "install_url": f"{_agent_url(caller, site)}/agent/v1/installed",
        "install_ticket": _ticket(decision),
        "boot_url": _boot_url(caller, site),
        "ca_sha256": site.ca_sha256,
        "mac": caller.mac,
        "machine": decision.machine_id,
        "arguments": " ".join(decision.arguments),
    }
    initrds = (f"initrd-{number}" for number in range(profile.initrds))
    return KernelBoot(
        f"installing {name}",
        BootPath("kernel", f"profiles/{name}/kernel"),
        tuple(BootPath(initrd, f"profiles/{name}/{initrd}") for initrd in initrds),
        tuple(fill_in(profile.command_line, fields)),
    )


def _agent_url(caller: Caller, site: Site) -> str:
    return f"https://{caller.address}:{site.agent_port}"


def _boot_url(caller: Caller, site: Site) -> str:
    return f"http://{caller.address}:{site.http_port}"


def _ticket(decision: BootDecision) -> str:
    if decision.ticket is None:
        raise PermanentError(f"machine {decision.machine_id} got no ticket for its {decision.mode.value} script")
    return decision.ticket.reveal()

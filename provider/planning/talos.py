"""
Which Talos a machine boots: schematic, version, architecture, and kernel arguments.

Where arguments stand decides how many images a rack downloads. In the boot script they cost nothing; in the schematic each other
set of them is another image. They must be in the schematic in two cases:

- A unified kernel image (Secure Boot) has its command line signed inside, and takes no other.
- Omni reads the schematic of a machine that is to be installed, and makes the installed system with the same arguments. In agent
  mode it does not look.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Literal

from provider.domain.errors import PermanentError
from provider.domain.machine import BootMode
from provider.domain.secret import Secret
from provider.wire import factory, siderolink

AGENT_VERSION = "v1.13.7"
"""Talos under the agent, unless the settings say another."""

PROFILE = "talos"
"""The boot profile of machines that Omni allocates; it is in no settings."""

AGENT_EXTENSION = "siderolabs/metal-agent"

AGENT_EXTENSIONS = (
    "siderolabs/amd-ucode",
    "siderolabs/amdgpu-firmware",
    "siderolabs/bnx2-bnx2x",
    "siderolabs/chelsio-firmware",
    "siderolabs/i915-ucode",
    "siderolabs/intel-ice-firmware",
    "siderolabs/intel-ucode",
    AGENT_EXTENSION,
    "siderolabs/qlogic-firmware",
    "siderolabs/realtek-firmware",
)
"""All firmware, because nobody knows yet what is in the machine; and the agent itself. The settings may say others."""

LEAST_AGENT_VERSION = (1, 9)
"""The agent's extension is there from this one on."""

FACTORY_ARGUMENTS_BYTES = 320
"""Room for what a factory puts before our arguments; of Talos 1.13 about 250."""

Architecture = Literal["amd64", "arm64"]

_CONSOLES: Mapping[Architecture, str] = {"amd64": "ttyS0", "arm64": "ttyAMA0"}

_ARCHITECTURES: Mapping[str, Architecture] = {"arm32": "arm64", "arm64": "arm64", "aarch64": "arm64"}
"""What a boot loader was built for, or the kernel's name for it; all else is amd64."""

_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})(-[0-9A-Za-z.-]{1,64})?(\+[0-9A-Za-z.-]{1,64})?", re.ASCII)


@dataclass(frozen=True)
class TalosSite:
    """What this provider puts into every boot."""

    config_port: int
    """Of the HTTP server that has `/config`."""
    agent_port: int
    """Where the agent's tunnel ends."""
    is_agent_tls: bool = False
    inline_config: Secret | None = None
    """With TLS: a whole machine configuration as `siderolink.inline_argument` gives it, so that the agent knows our CA."""
    is_agent_unverified: bool = False
    is_agent_test: bool = False
    agent_version: str = AGENT_VERSION
    agent_extensions: tuple[str, ...] = AGENT_EXTENSIONS


@dataclass(frozen=True)
class TalosMachine:
    """What is known of the machine that asks: `build` is what its boot loader was built for, `address` ours as it reached it."""

    build: str
    address: IPv4Address
    is_secure_boot: bool = False
    is_uefi: bool = True
    version: str = ""
    """Of its cluster, with or without `v`."""
    extensions: tuple[str, ...] = ()
    extra_arguments: str = ""
    """Kernel arguments, as the user wrote them at Omni."""


@dataclass(frozen=True)
class TalosBoot:
    """One Talos to boot."""

    schematic: Mapping[str, object] = field(repr=False)
    """Has the join token in it, if arguments are there and the configuration is one of them."""
    version: str
    """With `v`."""
    architecture: Architecture
    is_secure_boot: bool
    arguments: tuple[str, ...] = field(repr=False)
    """All of ours, wherever they stand."""
    are_arguments_in_schematic: bool

    @property
    def variant(self) -> str:
        """As a factory's paths have it."""
        return f"metal-{self.architecture}{'-secureboot' if self.is_secure_boot else ''}"

    def command_line(self, factory_arguments: Sequence[str], uuid: str) -> tuple[str, ...]:
        """
        The arguments for the boot script of the machine with `uuid`; the factory's come first, and have those of the schematic.

        Raises:
            PermanentError: If the kernel would not read them all.
        """
        own = () if self.are_arguments_in_schematic else self.arguments
        arguments = tuple(argument.replace("${uuid}", uuid) for argument in (*factory_arguments, *own))
        siderolink.check_length(arguments)
        return arguments


@dataclass(frozen=True)
class FactoryAddress:
    """Where an Image Factory is, and where it has its boot scripts."""

    url: str
    pxe_url: str


def factory_address(url: str | None, pxe_url: str | None, told: FactoryAddress | None) -> FactoryAddress:
    """
    The factory that images come from: the one that the settings name, else the one that Omni told of, else the public one.

    Omni reads the schematic of a machine at its own factory, and installs from there; so that one, unless somebody knows better.
    """
    if url is None and told is not None and _URL.fullmatch(told.url):
        its_own = told.pxe_url if _URL.fullmatch(told.pxe_url) else _scripts_of(told.url)
        return FactoryAddress(told.url, pxe_url or its_own)
    chosen = url or factory.DEFAULT_URL
    return FactoryAddress(chosen, pxe_url or _scripts_of(chosen))


_URL = re.compile(r"https?://[^?#\s]+")


def _scripts_of(url: str) -> str:
    """A factory of one's own has its scripts at the same address."""
    return factory.DEFAULT_PXE_URL if url.rstrip("/") == factory.DEFAULT_URL else url


def choose(mode: BootMode, machine: TalosMachine, site: TalosSite) -> TalosBoot:
    """
    Give what a machine boots that is to run the agent (AGENT) or to be installed (INSTALL).

    Raises:
        PermanentError: If there can be none: no or an unusable version, Secure Boot without UEFI, too many arguments.
    """
    is_agent = mode is BootMode.AGENT
    if machine.is_secure_boot and not machine.is_uefi:
        raise PermanentError(
            "the machine boots by BIOS, which has no Secure Boot", hint="boot it by UEFI, or without Secure Boot"
        )
    architecture = _ARCHITECTURES.get(machine.build, "amd64")
    arguments = _arguments(machine, site, architecture, is_agent=is_agent)
    siderolink.check_length(arguments, room=FACTORY_ARGUMENTS_BYTES)
    are_inside = machine.is_secure_boot or not is_agent
    return TalosBoot(
        schematic=_schematic(
            site.agent_extensions if is_agent else machine.extensions, arguments if are_inside else ()
        ),
        version=agent_version(site.agent_version) if is_agent else _cluster_version(machine.version),
        architecture=architecture,
        is_secure_boot=machine.is_secure_boot,
        arguments=arguments,
        are_arguments_in_schematic=are_inside,
    )


def _arguments(
    machine: TalosMachine, site: TalosSite, architecture: Architecture, *, is_agent: bool
) -> tuple[str, ...]:
    """
    In an order that stays, because another order is another schematic.

    Only the agent needs the configuration on the command line: to know our CA when it dials. A machine that is to be installed
    gets the same from us by HTTP, and so a join token gets into no boot loader, nor to a factory that others use.
    """
    of_agent: tuple[str, ...] = ()
    if is_agent:
        inline = (site.inline_config.reveal(),) if site.inline_config and site.is_agent_tls else ()
        address = f"{machine.address}:{site.agent_port}"
        of_agent = inline + siderolink.agent_arguments(
            address, is_tls=site.is_agent_tls, is_test=site.is_agent_test, is_unverified=site.is_agent_unverified
        )
    return (
        siderolink.config_argument(f"{machine.address}:{site.config_port}"),
        *of_agent,
        "console=tty0",
        f"console={_CONSOLES[architecture]}",
        *machine.extra_arguments.split(),
    )


def _schematic(extensions: Sequence[str], arguments: Sequence[str]) -> Mapping[str, object]:
    """As short as it can be, with extensions in order: what means the same is the same, here and for Omni, which sorts too."""
    customization: dict[str, object] = {}
    if arguments:
        customization["extraKernelArgs"] = list(arguments)
    if extensions:
        customization["systemExtensions"] = {"officialExtensions": sorted(set(extensions))}
    return {"customization": customization}


def _cluster_version(version: str) -> str:
    if not version:
        raise PermanentError("the machine is allocated to no Talos version", hint="add it to a cluster in Omni")
    return _version(version)[0]


def agent_version(version: str) -> str:
    """
    Spell a version with its `v`.

    Raises:
        PermanentError: If it is none, or there is no agent for it.
    """
    text, number = _version(version)
    if number < LEAST_AGENT_VERSION:
        least = ".".join(map(str, LEAST_AGENT_VERSION))
        raise PermanentError(f"there is no agent for Talos {text}", hint=f"set a version from {least} on for the agent")
    return text


def _version(version: str) -> tuple[str, tuple[int, int]]:
    """The version with its `v`, and its number; nothing that could be more than a part of a path."""
    found = _VERSION.fullmatch(version)
    if not found:
        raise PermanentError(f"{version[:80]!r} is no version of Talos", hint="versions are like v1.13.7")
    return f"v{version.removeprefix('v')}", (int(found[1]), int(found[2]))

"""Which Talos boots, as a table."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from provider.domain.errors import PermanentError
from provider.domain.machine import BootMode
from provider.domain.secret import Secret
from provider.planning import talos
from provider.planning.talos import (
    AGENT_EXTENSIONS,
    FactoryAddress,
    TalosBoot,
    TalosMachine,
    TalosSite,
    factory_address,
)

SITE = TalosSite(config_port=8080, agent_port=50042)
TLS = replace(SITE, agent_port=50043, is_agent_tls=True, inline_config=Secret("talos.config.inline=KLUv"))
MACHINE = TalosMachine("x86_64", IPv4Address("10.77.0.1"))
ALLOCATED = replace(MACHINE, version="1.11.2", extensions=("siderolabs/zfs", "siderolabs/gvisor"))

CONFIG = "talos.config=http://10.77.0.1:8080/config?u=${uuid}"
ADDRESS = "metal.provider.address=10.77.0.1:50042"
SECURE_ADDRESS = "metal.provider.address=https://10.77.0.1:50043"
AGENT = {"systemExtensions": {"officialExtensions": sorted(AGENT_EXTENSIONS)}}
UUID = "4c4c4544-0042-3510-8054-b4c04f4b4e32"


def choose(mode: BootMode, machine: TalosMachine, site: TalosSite = SITE) -> TalosBoot:
    return talos.choose(mode, machine, site)


@pytest.mark.parametrize(
    ("mode", "machine", "site", "arguments"),
    [
        (BootMode.AGENT, MACHINE, SITE, [CONFIG, ADDRESS, "console=tty0", "console=ttyS0"]),
        (BootMode.AGENT, replace(MACHINE, build="arm64"), SITE, [CONFIG, ADDRESS, "console=tty0", "console=ttyAMA0"]),
        (BootMode.AGENT, replace(MACHINE, extra_arguments=" a=1\t b "), SITE,
         [CONFIG, ADDRESS, "console=tty0", "console=ttyS0", "a=1", "b"]),
        (BootMode.AGENT, MACHINE, replace(SITE, is_agent_test=True),
         [CONFIG, ADDRESS, "metal.provider.test.mode=1", "console=tty0", "console=ttyS0"]),
        (BootMode.AGENT, MACHINE, TLS,
         [CONFIG, "talos.config.inline=KLUv", SECURE_ADDRESS, "console=tty0", "console=ttyS0"]),
        (BootMode.AGENT, MACHINE, replace(TLS, is_agent_unverified=True),
         [CONFIG, "talos.config.inline=KLUv", SECURE_ADDRESS, "metal.provider.tls.skip.verify=1", "console=tty0",
          "console=ttyS0"]),
        (BootMode.INSTALL, ALLOCATED, SITE, [CONFIG, "console=tty0", "console=ttyS0"]),
        (BootMode.INSTALL, ALLOCATED, TLS, [CONFIG, "console=tty0", "console=ttyS0"]),
        (BootMode.INSTALL, replace(ALLOCATED, build="arm64", extra_arguments="a=1 b"), SITE,
         [CONFIG, "console=tty0", "console=ttyAMA0", "a=1", "b"]),
    ],
)  # fmt: skip
def test_arguments(mode: BootMode, machine: TalosMachine, site: TalosSite, arguments: list[str]) -> None:
    """A machine does not find its configuration or its provider, or its schematic is another one each time."""
    assert list(choose(mode, machine, site).arguments) == arguments


@pytest.mark.parametrize(
    ("mode", "is_secure_boot", "are_inside"),
    [
        (BootMode.AGENT, False, False),
        (BootMode.AGENT, True, True),
        (BootMode.INSTALL, False, True),
        (BootMode.INSTALL, True, True),
    ],
)
def test_where_arguments_stand(mode: BootMode, is_secure_boot: bool, are_inside: bool) -> None:
    """A unified image boots without its arguments, the installed system has none, or each agent is another image."""
    boot = choose(mode, replace(ALLOCATED, is_secure_boot=is_secure_boot))
    assert boot.are_arguments_in_schematic is are_inside
    assert ("extraKernelArgs" in boot.schematic["customization"]) is are_inside  # type: ignore[operator]
    factorys = ("talos.platform=metal", *(boot.arguments if are_inside else ()))
    line = boot.command_line(factorys, UUID)
    assert line == ("talos.platform=metal", *(argument.replace("${uuid}", UUID) for argument in boot.arguments))


@pytest.mark.parametrize(
    ("mode", "machine", "schematic", "version", "variant"),
    [
        (BootMode.AGENT, MACHINE, AGENT, "v1.13.7", "metal-amd64"),
        (BootMode.AGENT, ALLOCATED, AGENT, "v1.13.7", "metal-amd64"),
        (BootMode.INSTALL, ALLOCATED,
         {"systemExtensions": {"officialExtensions": ["siderolabs/gvisor", "siderolabs/zfs"]}}, "v1.11.2", "metal-amd64"),
        (BootMode.INSTALL, replace(ALLOCATED, extensions=(), version="v1.12.0-alpha.1", build="arm64"), {}, "v1.12.0-alpha.1",
         "metal-arm64"),
        (BootMode.INSTALL, replace(ALLOCATED, extensions=(), is_secure_boot=True), {}, "v1.11.2", "metal-amd64-secureboot"),
    ],
)  # fmt: skip
def test_images(mode: BootMode, machine: TalosMachine, schematic: object, version: str, variant: str) -> None:
    """A machine gets a Talos that its cluster does not have, without its extensions, or for another processor."""
    boot = choose(mode, machine)
    customization = dict(boot.schematic["customization"])  # type: ignore[call-overload]
    arguments = customization.pop("extraKernelArgs", [])
    assert arguments == (list(boot.arguments) if boot.are_arguments_in_schematic else [])
    assert (customization, boot.version, boot.variant) == (schematic, version, variant)


@pytest.mark.parametrize(
    ("build", "variant"),
    [
        ("x86_64", "metal-amd64"),
        ("i386", "metal-amd64"),
        ("amd64", "metal-amd64"),
        ("", "metal-amd64"),
        ("arm64", "metal-arm64"),
        ("aarch64", "metal-arm64"),
        ("arm32", "metal-arm64"),
    ],
)
def test_builds(build: str, variant: str) -> None:
    """A machine gets the kernel of another processor."""
    assert choose(BootMode.AGENT, replace(MACHINE, build=build)).variant == variant


def test_all_agents_are_one_image() -> None:
    """Each machine, or each interface of ours, is another download."""
    boots = [
        choose(BootMode.AGENT, replace(MACHINE, address=IPv4Address(address), extra_arguments=extra))
        for address, extra in (("10.0.0.1", ""), ("10.0.0.2", "a"))
    ]
    assert boots[0].schematic == boots[1].schematic


def test_order_of_extensions() -> None:
    """The same extensions in another order are another image."""
    twice = replace(ALLOCATED, extensions=(*reversed(ALLOCATED.extensions), *ALLOCATED.extensions))
    assert choose(BootMode.INSTALL, twice) == choose(BootMode.INSTALL, ALLOCATED)


def test_settings_override_the_agent() -> None:
    """A site that has tried a newer Talos cannot use it."""
    site = replace(SITE, agent_version="1.14.0", agent_extensions=("ours/agent",))
    boot = choose(BootMode.AGENT, MACHINE, site)
    assert boot.version == "v1.14.0"
    assert boot.schematic == {"customization": {"systemExtensions": {"officialExtensions": ["ours/agent"]}}}


@pytest.mark.parametrize(
    ("mode", "machine", "site", "why"),
    [
        (BootMode.INSTALL, MACHINE, SITE, "allocated to no Talos version"),
        (BootMode.INSTALL, replace(MACHINE, version="latest"), SITE, "no version of Talos"),
        (BootMode.INSTALL, replace(MACHINE, version="1.2.3/../.."), SITE, "no version of Talos"),
        (BootMode.INSTALL, replace(MACHINE, version="1.2.3\n"), SITE, "no version of Talos"),
        (BootMode.INSTALL, replace(MACHINE, version="1.2.3 ; shell"), SITE, "no version of Talos"),
        (BootMode.INSTALL, replace(MACHINE, version="1.2.3-${net0/ip}"), SITE, "no version of Talos"),
        (BootMode.INSTALL, replace(MACHINE, version="\N{ARABIC-INDIC DIGIT ONE}.2.3"), SITE, "no version of Talos"),
        (BootMode.AGENT, MACHINE, replace(SITE, agent_version="v1.8.4"), "no agent for Talos v1.8.4"),
        (BootMode.AGENT, replace(MACHINE, is_secure_boot=True, is_uefi=False), SITE, "BIOS"),
        (BootMode.AGENT, replace(MACHINE, extra_arguments="a" * 1800), SITE, "command line"),
        (
            BootMode.AGENT,
            MACHINE,
            replace(TLS, inline_config=Secret("talos.config.inline=" + "x" * 1700)),
            "command line",
        ),
    ],
)
def test_refusals(mode: BootMode, machine: TalosMachine, site: TalosSite, why: str) -> None:
    """A machine boots what cannot work, and nobody is told why."""
    with pytest.raises(PermanentError, match=why) as caught:
        choose(mode, machine, site)
    assert caught.value.hint


def test_factory_with_long_arguments() -> None:
    """A kernel forgets the end of its command line because the factory's part of it was long."""
    boot = choose(BootMode.AGENT, replace(MACHINE, extra_arguments="a" * 1500))
    boot.command_line(["x" * 200], UUID)
    with pytest.raises(PermanentError, match="command line"):
        boot.command_line(["x" * 500], UUID)


def test_token_is_in_no_repr() -> None:
    """A log line has the join token."""
    assert "KLUv" not in repr(choose(BootMode.AGENT, replace(MACHINE, is_secure_boot=True), TLS))
    assert "KLUv" not in repr(TLS)


TOLD = FactoryAddress("https://factory.example.com", "https://pxe.example.com")


@pytest.mark.parametrize(
    ("url", "pxe_url", "told", "expected"),
    [
        (None, None, None, ("https://factory.talos.dev", "https://pxe.factory.talos.dev")),
        ("https://factory.talos.dev/", None, None, ("https://factory.talos.dev/", "https://pxe.factory.talos.dev")),
        ("http://f:8080", None, None, ("http://f:8080", "http://f:8080")),
        ("http://f", "http://p", TOLD, ("http://f", "http://p")),
        ("http://f", None, TOLD, ("http://f", "http://f")),
        (None, None, TOLD, ("https://factory.example.com", "https://pxe.example.com")),
        (None, "http://p", TOLD, ("https://factory.example.com", "http://p")),
        (None, None, FactoryAddress("http://f", ""), ("http://f", "http://f")),
        (None, None, FactoryAddress("http://f", "pxe.example.com"), ("http://f", "http://f")),
        (None, None, FactoryAddress("", "http://p"), ("https://factory.talos.dev", "https://pxe.factory.talos.dev")),
        (None, None, FactoryAddress("file:///etc", ""), ("https://factory.talos.dev", "https://pxe.factory.talos.dev")),
    ],
)
def test_factory(url: str | None, pxe_url: str | None, told: FactoryAddress | None, expected: tuple[str, str]) -> None:
    """Machines install from a factory that Omni does not know, or the operator is overruled."""
    assert factory_address(url, pxe_url, told) == FactoryAddress(*expected)

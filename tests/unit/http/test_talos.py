"""What machines boot that run Talos, with a factory that has what it is asked for, or has not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import zstandard

from provider.domain.errors import BootwrightError, PermanentError, TemporaryError, UnderWayError
from provider.domain.mac import MacAddress
from provider.domain.machine import AgentKind, BootMode
from provider.domain.secret import Secret
from provider.http.images import Image
from provider.http.talos import Documents, SecureBoot, TalosBoots
from provider.planning.boot import BootDecision
from provider.planning.kernels import BootPath, Caller, KernelBoot
from provider.planning.talos import TalosBoot, TalosSite
from provider.wire import ipxe, siderolink

MAC, SIGNED = MacAddress("52:54:00:12:34:56"), MacAddress("52:54:00:00:00:01")
UUID = "5c7b0d5e-5b7c-4d35-9d3b-000000000001"
JOIN = "apiVersion: v1alpha1\nkind: SideroLinkConfig\napiUrl: grpc://omni?jointoken=t\n"
JOINS = Secret(JOIN)
ROOTS = siderolink.trusted_roots("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
AGENT = BootDecision("m-1", BootMode.AGENT, "rule", "because", agent=AgentKind.TALOS, arguments=("debug",))
INSTALL = BootDecision(
    "m-1", BootMode.INSTALL, "rule", "because", profile="talos", version="1.13.7", extensions=("siderolabs/zfs",)
)


class Images:
    """One image, with one file."""

    @contextlib.contextmanager
    def hold(self, name: str, file: str) -> Iterator[Path | None]:
        yield Path("/cache/kernel") if (name, file) == ("image", "kernel") else None


class Factory:
    """Gives one image, or an error, and remembers what it was asked for."""

    def __init__(self, error: BootwrightError | None = None) -> None:
        self.images = Images()
        self.asked: list[TalosBoot] = []
        self._error = error

    async def image(self, boot: TalosBoot) -> Image:
        self.asked.append(boot)
        if self._error is not None:
            raise self._error
        arguments = ("talos.platform=metal", *(boot.arguments if boot.are_arguments_in_schematic else ()))
        return Image(Path("/cache/image"), 0 if boot.is_secure_boot else 1, arguments, 100, 0.0)


def boots(factory: Factory, join: Secret | None = JOINS, *, tls: bool = True, extra: str = "") -> TalosBoots:
    site = TalosSite(config_port=8080, agent_port=50043, is_agent_tls=tls)
    documents = Documents(lambda: join, ROOTS if tls else "", extra)
    return TalosBoots(factory, site, documents, SecureBoot(machines={SIGNED: True}))  # type: ignore[arg-type]


def chosen(
    made: TalosBoots, decision: BootDecision, mac: MacAddress = MAC, *, uuid: str = UUID, is_uefi: bool = True
) -> KernelBoot:
    caller = Caller(mac, "x86_64", IPv4Address("10.77.0.1"))
    return asyncio.run(made.choose(decision, caller, uuid, is_uefi=is_uefi))


def test_agent() -> None:
    """The agent does not find us, does not know our CA, or has another machine's configuration."""
    factory = Factory()
    boot = chosen(boots(factory), AGENT)
    assert (boot.title, boot.is_unified) == ("starting the agent in Talos v1.13.7", False)
    assert boot.kernel == BootPath("kernel", "talos/image/kernel")
    assert boot.initrds == (BootPath("initrd-0", "talos/image/initrd-0"),)
    platform, config, inline, address, *others = boot.arguments
    assert platform == "talos.platform=metal", "the factory's come first"
    assert config == f"talos.config=http://10.77.0.1:8080/config?u={UUID}"
    assert address == "metal.provider.address=https://10.77.0.1:50043"
    assert others == ["console=tty0", "console=ttyS0", "debug"]
    packed = base64.b64decode(inline.removeprefix("talos.config.inline="))
    assert zstandard.ZstdDecompressor().decompress(packed).decode() == f"{JOIN}---\n{ROOTS}"
    (asked,) = factory.asked
    assert "siderolabs/metal-agent" in str(asked.schematic)
    assert "talos.config" not in str(asked.schematic), "each provider would have an image of its own"


def test_agent_without_tls() -> None:
    """A configuration is on the command line, where there is no CA to be known."""
    boot = chosen(boots(Factory(), tls=False), AGENT)
    assert "metal.provider.address=10.77.0.1:50043" in boot.arguments
    assert not any("inline" in argument for argument in boot.arguments)


def test_installation() -> None:
    """A cluster gets another Talos than Omni told it to have."""
    factory = Factory()
    boot = chosen(boots(factory), INSTALL)
    assert boot.title == "installing Talos v1.13.7"
    assert boot.arguments.count(f"talos.config=http://10.77.0.1:8080/config?u={UUID}") == 1
    (asked,) = factory.asked
    assert (asked.version, asked.variant) == ("v1.13.7", "metal-amd64")
    customization = asked.schematic["customization"]
    assert isinstance(customization, dict)
    assert customization["systemExtensions"] == {"officialExtensions": ["siderolabs/zfs"]}
    assert "talos.config=http://10.77.0.1:8080/config?u=${uuid}" in customization["extraKernelArgs"]


def test_grub_leaves_the_uuid_to_talos() -> None:
    """A machine that boots by GRUB asks for the configuration of nobody."""
    assert (
        "talos.config=http://10.77.0.1:8080/config?u=${uuid}"
        in chosen(boots(Factory()), AGENT, uuid="${uuid}").arguments
    )


def test_secure_boot() -> None:
    """A machine with Secure Boot gets what its firmware does not run, and others what nobody can read."""
    factory = Factory()
    boot = chosen(boots(factory), AGENT, SIGNED)
    assert (boot.is_unified, boot.initrds) == (True, ())
    assert factory.asked[0].variant == "metal-amd64-secureboot"
    with pytest.raises(PermanentError, match="no Secure Boot"):
        chosen(boots(factory), AGENT, SIGNED, is_uefi=False)


@pytest.mark.parametrize("mac", [MAC, SIGNED], ids=["kernel", "unified"])
@pytest.mark.parametrize("decision", [AGENT, INSTALL], ids=["agent", "installation"])
@pytest.mark.parametrize(
    "written",
    ["a ; shell", "a\n;\nshell", "a || shell", "a && shell", "# a", "$${uuid}{net0/ip}", "${netX/mac}", "\x1b[2J"],
)
def test_what_omni_tells_is_no_command(written: str, decision: BootDecision, mac: MacAddress) -> None:
    """Who may write kernel arguments in Omni runs commands in every iPXE of the rack."""
    told = replace(decision, arguments=(written,))
    boot = chosen(boots(Factory()), told, mac, uuid="")
    kernel = ipxe.Image(boot.kernel.name, f"http://10.77.0.1:8080/{boot.kernel.path}")
    with pytest.raises(PermanentError, match="cannot stand in a boot script"):
        ipxe.kernel_script(boot.title, "http://10.77.0.1:8080", mac, kernel, [], boot.arguments)


def test_without_join_documents_it_waits() -> None:
    """A machine boots an agent that never finds Omni, because Omni was away when we started."""
    factory = Factory()
    made = boots(factory, join=None)
    with pytest.raises(TemporaryError, match="Omni has not told yet how machines join"):
        chosen(made, AGENT)
    with pytest.raises(TemporaryError):
        made.configuration()
    assert factory.asked == []


@pytest.mark.parametrize(
    "error",
    [UnderWayError("12 MiB so far", retry_after=timedelta(seconds=5)), PermanentError("no such version")],
)
def test_what_the_factory_says(error: BootwrightError) -> None:
    """A machine goes to its disk while its image is fetched, or waits for one that will never be."""
    with pytest.raises(type(error), match=str(error)):
        chosen(boots(Factory(error)), AGENT)


def test_configuration() -> None:
    """A document of the operator is lost, or cuts off those that make the machine join."""
    extra = "apiVersion: v1alpha1\nkind: ResolverConfig\n"
    assert boots(Factory(), extra=extra).configuration().reveal() == f"{JOIN}---\n{ROOTS}---\n{extra}"
    assert JOIN not in repr(boots(Factory()).configuration())


def test_token_is_changed_while_we_run() -> None:
    """Machines join with a token that Omni does not take any more."""
    join = [Secret(JOIN)]
    site = TalosSite(config_port=8080, agent_port=50043, is_agent_tls=True)
    made = TalosBoots(Factory(), site, Documents(lambda: join[0], ROOTS), SecureBoot())  # type: ignore[arg-type]
    before = chosen(made, AGENT).arguments
    assert chosen(made, AGENT).arguments == before
    join[0] = Secret(JOIN.replace("token=t", "token=u"))
    assert chosen(made, AGENT).arguments != before


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        ("talos/image/kernel", True),
        ("talos/image/image.json", False),
        ("talos/kernel", False),
        ("talos/../image/kernel", False),
        ("assets/image/kernel", False),
        ("image/kernel", False),
        ("", False),
    ],
)
def test_files(path: str, is_there: bool) -> None:
    """Something is served that is no file of an image."""
    assert (boots(Factory()).find(path) is not None) is is_there

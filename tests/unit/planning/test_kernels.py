"""Which kernel and which command line a decision means."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from provider.domain.errors import PermanentError
from provider.domain.mac import MacAddress
from provider.domain.machine import BootMode
from provider.domain.secret import Secret
from provider.planning import kernels
from provider.planning.boot import BootDecision
from provider.planning.kernels import AgentImage, BootPath, Caller, Profile, Site

CALLER = Caller(MacAddress("52:54:00:12:34:56"), "x86_64", IPv4Address("10.77.0.1"))
SITE = Site(
    http_port=8080,
    agent_port=8443,
    ca_sha256="ab" * 32,
    agent_images={"x86_64": AgentImage("assets/x86_64/vmlinuz", "assets/x86_64/initramfs.zst")},
    agent_arguments=("console=ttyS0",),
    profiles={"debian": Profile(2, "url={install_url} ticket={install_ticket} initrd=mine {arguments}")},
)
AGENT = BootDecision("m-1", BootMode.AGENT, "pending", "", ticket=Secret("t"))
INSTALL = BootDecision(
    "m-1", BootMode.INSTALL, "", "", ticket=Secret("t"), profile="debian", arguments=("quiet", "x=y")
)


def test_agent() -> None:
    """The agent starts and does not know whom to call, or its kernel waits for DHCP on ports without a cable (edge case 58)."""
    chosen = kernels.choose(AGENT, CALLER, SITE)
    assert chosen.kernel == BootPath("vmlinuz", "assets/x86_64/vmlinuz")
    assert chosen.initrds == (BootPath("initramfs", "assets/x86_64/initramfs.zst"),)
    assert chosen.arguments == (
        "bootwright.url=https://10.77.0.1:8443",
        "bootwright.boot_url=http://10.77.0.1:8080",
        f"bootwright.ca={'ab' * 32}",
        "bootwright.ticket=t",
        "bootwright.mac=52:54:00:12:34:56",
        "console=ttyS0",
    )


def test_install() -> None:
    """An installer is not told where to report, or loses what the allocation adds."""
    chosen = kernels.choose(INSTALL, CALLER, SITE)
    assert chosen.kernel.path == "profiles/debian/kernel"
    assert [initrd.path for initrd in chosen.initrds] == ["profiles/debian/initrd-0", "profiles/debian/initrd-1"]
    assert chosen.arguments == ("url=https://10.77.0.1:8443/agent/v1/installed", "ticket=t", "quiet", "x=y")


@pytest.mark.parametrize("build", ["i386", "x86_64", "", "nonsense"])
def test_builds_for_x86(build: str) -> None:
    """A 32-bit iPXE on a 64-bit machine, which is the usual one on BIOS, finds no image (edge case 49)."""
    assert kernels.choose(AGENT, replace(CALLER, build=build), SITE).kernel.path == "assets/x86_64/vmlinuz"


@pytest.mark.parametrize(
    ("decision", "caller", "says"),
    [
        (AGENT, replace(CALLER, build="arm64"), "no agent image for aarch64"),
        (replace(INSTALL, profile="gone"), CALLER, "no boot profile 'gone'"),
        (replace(AGENT, ticket=None), CALLER, "got no ticket"),
    ],
)
def test_what_cannot_be(decision: BootDecision, caller: Caller, says: str) -> None:
    """A machine gets half a script."""
    with pytest.raises(PermanentError, match=says):
        kernels.choose(decision, caller, SITE)


def test_unknown_field() -> None:
    """A typing error in a profile reaches the kernel."""
    with pytest.raises(PermanentError, match="unknown field"):
        kernels.fill_in("{instal_url}", {"install_url": ""})

"""Scripts by TFTP: which names have one, and what stands in it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from provider.domain.errors import BootwrightError, RefusedError, TemporaryError
from provider.domain.inventory import FirmwareKind
from provider.domain.machine import BootMode, Evidence
from provider.domain.secret import Secret
from provider.netboot.tftp_scripts import TftpScripts
from provider.planning.boot import BootDecision
from provider.planning.kernels import AgentImage, Profile, Site

MACHINE = "grub/machine/x86_64/52:54:00:12:34:56"
SITE = Site(
    http_port=8080,
    agent_port=8443,
    ca_sha256="ab",
    agent_images={"x86_64": AgentImage("assets/x86_64/vmlinuz", "assets/x86_64/initramfs.zst")},
    profiles={"linux": Profile(0, "{arguments}")},
)


class Boots:
    """Decides as it is told to."""

    def __init__(self, decision: BootDecision | BootwrightError) -> None:
        self.decision = decision
        self.asked: list[Evidence] = []

    async def decide(self, evidence: Evidence) -> BootDecision:
        self.asked.append(evidence)
        if isinstance(self.decision, BootwrightError):
            raise self.decision
        return self.decision


def decided(mode: BootMode, *arguments: str) -> BootDecision:
    return BootDecision("m-1", mode, "rule", "because", Secret("ticket"), "linux", arguments)


def made(name: str, decision: BootDecision | BootwrightError) -> str | None:
    content = asyncio.run(TftpScripts(SITE, Boots(decision)).make(name, "10.77.0.1"))
    return None if content is None else content.decode()


@pytest.mark.parametrize(
    "name", ["pxelinux.cfg/default", "pxelinux.cfg/01-52-54-00-12-34-56", "boot/grub/x.lst", "x", "grub/x.mod"]
)
def test_names_without_a_script(name: str) -> None:
    """PXELINUX takes an empty file for its configuration, and stops there (edge case 33)."""
    assert made(name, decided(BootMode.AGENT)) is None


@pytest.mark.parametrize("name", ["grub/x86_64-efi/command.lst", "grub/arm64-efi/fs.lst"])
def test_lists_of_modules_are_empty(name: str) -> None:
    """GRUB complains of each list that it does not find (edge case 33)."""
    assert made(name, decided(BootMode.AGENT)) == ""


def test_agent() -> None:
    """GRUB, which knows no HTTP, gets no kernel, or one without its ticket (edge case 57)."""
    script = made(MACHINE, decided(BootMode.AGENT)) or ""
    assert "linux '(tftp,10.77.0.1)/assets/x86_64/vmlinuz'" in script
    assert "'bootwright.ticket=ticket'" in script
    assert "http,10.77.0.1" not in script


def test_evidence() -> None:
    """A machine that boots by GRUB becomes a second one, or one with a BIOS."""
    boots = Boots(decided(BootMode.NOTHING))
    asyncio.run(TftpScripts(SITE, boots).make(MACHINE, "10.77.0.1"))
    (evidence,) = boots.asked
    assert (evidence.macs, evidence.firmware) == (("52:54:00:12:34:56",), FirmwareKind.UEFI)


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (decided(BootMode.DISK), "because, going on to the disk"),
        (decided(BootMode.NOTHING), "because, nothing to boot from here"),
        (RefusedError("two machines at once"), "refuses this machine, nothing to boot from here"),
        (decided(BootMode.INSTALL, "it's"), "cannot stand in a boot script"),
    ],
)
def test_what_else_is_decided(decision: BootDecision | BootwrightError, words: str) -> None:
    """A machine that gets no kernel hangs in GRUB instead of going on."""
    script = made(MACHINE, decision) or ""
    assert words in script
    assert script.endswith("exit\n")


def test_without_a_decision_it_shall_ask_again() -> None:
    """A store that is busy sends machines away for good."""
    with pytest.raises(OSError, match="cannot tell"):
        made(MACHINE, TemporaryError("busy", retry_after=timedelta(seconds=1)))

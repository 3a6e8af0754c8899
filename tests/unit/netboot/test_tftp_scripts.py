"""Scripts by TFTP: which names have one, and what stands in it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from provider.domain.errors import BootwrightError, PermanentError, RefusedError, TemporaryError, UnderWayError
from provider.domain.inventory import FirmwareKind
from provider.domain.machine import AgentKind, BootMode, Evidence
from provider.domain.secret import Secret
from provider.netboot.tftp_scripts import TftpScripts
from provider.planning.boot import BootDecision
from provider.planning.kernels import AgentImage, BootPath, Caller, KernelBoot, Profile, Site

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

        self.again: list[bool] = []
        self.waits: list[str] = []
        self.impossible: list[str] = []

    def note_waiting(self, machine_id: str, reason: str) -> None:
        self.waits.append(reason)

    def note_impossible(self, machine_id: str, error: PermanentError) -> None:
        self.impossible.append(str(error))

    async def decide(self, evidence: Evidence, *, again: bool = False) -> BootDecision:
        self.asked.append(evidence)
        self.again.append(again)
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


TALOS = BootDecision("m-1", BootMode.AGENT, "rule", "because", agent=AgentKind.TALOS)


class Talos:
    """Has a kernel, or not yet."""

    def __init__(self, found: KernelBoot | BootwrightError) -> None:
        self.found = found

    async def choose(self, decision: BootDecision, caller: Caller, uuid: str, *, is_uefi: bool) -> KernelBoot:
        assert (uuid, is_uefi) == ("${uuid}", True)
        if isinstance(self.found, BootwrightError):
            raise self.found
        return self.found


def talos_script(name: str, found: KernelBoot | BootwrightError) -> tuple[str, Boots]:
    boots = Boots(TALOS)
    content = asyncio.run(TftpScripts(SITE, boots, Talos(found)).make(name, "10.77.0.1"))
    return (content or b"").decode(), boots


def test_talos() -> None:
    """A machine that only GRUB boots (arm64) gets our agent where it should get Talos."""
    kernel, disk = BootPath("kernel", "talos/x/kernel"), BootPath("initrd-0", "talos/x/initrd-0")
    script, _ = talos_script(MACHINE, KernelBoot("Talos", kernel, (disk,), ("talos.config=http://x?u=${uuid}",)))
    assert "linux '(tftp,10.77.0.1)/talos/x/kernel' 'talos.config=http://x?u=${uuid}'" in script
    assert "initrd '(tftp,10.77.0.1)/talos/x/initrd-0'" in script
    signed, _ = talos_script(MACHINE, KernelBoot("Talos", kernel, (), (), is_unified=True))
    assert "chainloader '(tftp,10.77.0.1)/talos/x/kernel'" in signed


def test_talos_that_is_under_way() -> None:
    """A machine goes to its disk while its kernel is fetched, or its events have a line for each time that it asks."""
    soon = timedelta(seconds=5)
    first, boots = talos_script(MACHINE, UnderWayError("1 MiB", retry_after=soon))
    assert (boots.again, boots.waits) == ([False], ["1 MiB"])
    assert "set again=/fetching" in first
    _, boots = talos_script(f"{MACHINE}/fetching", UnderWayError("2 MiB", retry_after=soon))
    assert (boots.again, boots.waits) == ([True], [])
    later, boots = talos_script(f"{MACHINE}/fetching", TemporaryError("the factory is away", retry_after=soon))
    assert boots.waits == ["the factory is away"]
    assert "set again=/waiting" in later


def test_talos_that_will_never_be() -> None:
    """A machine asks for ever for a version that does not exist."""
    script, boots = talos_script(MACHINE, PermanentError("no such version"))
    assert boots.impossible == ["no such version"]
    assert "no script can be made: no such version, nothing to boot from here" in script

"""
Firmware that does not boot by PXE and iPXE: UEFI HTTP boot, Secure Boot with the keys that every machine has, ARM, U-Boot.
And PXE that has to be learned.

The story is told as far as the first wipe: the agent came up, and with it the whole way from the firmware.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from provider.domain.event import Event
from provider.lab import lab as labs
from provider.lab import settings as lab_settings
from provider.lab import view
from provider.lab.firmware import Firmware
from provider.lab.lab import Lab
from provider.lab.settings import LabFile
from provider.lab.story import Story

PATIENCE = 600.0  # seconds

BY_TFTP = {
    Firmware.UEFI_HTTP: set[str](),
    Firmware.SECURE_BOOT: {
        "shimx64.efi",
        "grubx64.efi",
        "assets/x86_64/vmlinuz",
        "assets/x86_64/initramfs.zst",
        "grub/grub.cfg",
        "grub/machine/x86_64/52:54:00:77:00:01",
    },
    Firmware.UEFI_ARM64: {
        "shimaa64.efi",
        "grubaa64.efi",
        "assets/aarch64/vmlinuz",
        "assets/aarch64/initramfs.zst",
        "grub/grub.cfg",
        "grub/machine/arm64/52:54:00:77:00:01",
    },
}
BY_TFTP[Firmware.U_BOOT_ARM64] = BY_TFTP[Firmware.UEFI_ARM64] - {"shimaa64.efi"}
"""The files; GRUB knows no HTTP."""


def _settings(firmware: Firmware, *, dhcp: str = "server", **serve: Any) -> LabFile:
    """One machine; `serve` is added to the provider's configuration."""
    file = lab_settings.load()
    lab = file.lab.model_copy(update={"machines": 1, "firmware": firmware, "dhcp": dhcp})
    return file.model_copy(update={"lab": lab, "serve": {**file.serve, **serve}})


def _events(lab: Lab, story: Story, name: str) -> list[Event]:
    return list(lab.witness.events_of(story.actors[0].id, name))


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("firmware", BY_TFTP)
def test_story_until_the_wipe(assets: Path, folder: Path, firmware: Firmware) -> None:
    """A kind of firmware does not get as far as the agent."""

    async def main() -> None:
        accelerator = await labs.choose_accelerator(assets)
        async with labs.up(_settings(firmware), folder / "run", assets, accelerator) as lab:
            story = Story(lab, view.for_console(Console(stderr=True)))
            await story.discover()
            await story.wipe()
            sent = {event.data["file"] for event in _events(lab, story, "tftp.sent")}
            assert sent == BY_TFTP[firmware], "the rest came by HTTP"
            said = lab.machines[0].files.console_log.read_text(errors="replace")
            is_secure = "secureboot: Secure boot enabled" in said
            assert is_secure == (firmware is Firmware.SECURE_BOOT), "the agent's kernel says so"

    asyncio.run(main())


@pytest.mark.timeout(PATIENCE)
def test_firmware_that_refuses_what_is_not_signed(assets: Path, folder: Path) -> None:
    """Nobody learns why a machine with Secure Boot does not come, and it never gets what it could run."""

    async def main() -> None:
        accelerator = await labs.choose_accelerator(assets)
        file = _settings(Firmware.SECURE_BOOT, uefi={"loader": "learn"})
        async with labs.up(file, folder / "run", assets, accelerator) as lab:
            machine = lab.machines[0]
            await machine.press_power_button()
            async with asyncio.timeout(PATIENCE):
                while "loader.refused" not in lab.provider.log_file.read_text():
                    await asyncio.sleep(0.5)
            await machine.die()
            await machine.wait_for_power(on=False)
            story = Story(lab, view.for_console(Console(stderr=True)))
            await story.discover()
            refused = _events(lab, story, "loader.refused")
            assert [event.data["next"] for event in refused] == ["signed"]
            assert "Secure Boot" in str(refused[0].data["reason"])

    asyncio.run(main())


@pytest.mark.timeout(PATIENCE)
def test_firmware_that_is_kept_from_port_4011(assets: Path, folder: Path) -> None:
    """
    Beside another DHCP server, firmware that does not get what we offered asks in vain at each of its boots.

    OVMF understands every style, so a firewall makes it fail: it asks on port 4011 for 10 s, and gives up.
    """

    async def main() -> None:
        accelerator = await labs.choose_accelerator(assets)
        async with labs.up(_settings(Firmware.UEFI, dhcp="proxy"), folder / "run", assets, accelerator) as lab:
            machine = lab.machines[0]
            await machine.press_power_button()
            async with asyncio.timeout(PATIENCE):
                await machine.console_says("PXE-E16")
            await machine.die()
            await machine.wait_for_power(on=False)
            story = Story(lab, view.for_console(Console(stderr=True)))
            await story.discover()
            changed = [event.data for event in _events(lab, story, "proxy.style_changed")]
            assert [(data["before"], data["now"]) for data in changed] == [("two-step", "complete")]
            assert [event.data["file"] for event in _events(lab, story, "tftp.sent")] == ["snponly.efi"]
            assert not _events(lab, story, "pxe.acknowledged")

    with _closed(4011):
        asyncio.run(main())


@contextlib.contextmanager
def _closed(port: int) -> Iterator[None]:
    """Drop what comes to a UDP port of ours."""
    rules = f"table inet firewall {{ chain input {{ type filter hook input priority 0; udp dport {port} drop; }}; }}"
    subprocess.run(["nft", rules], check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete table inet firewall"], check=True)

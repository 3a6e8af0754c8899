"""
`config/lab.yaml`: what the lab is like, and the configuration file that its provider gets.

The second part is an ordinary one, and is checked like any other by the provider that reads it.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import Field, model_validator

from provider.domain.errors import SettingsError
from provider.lab.firmware import Q35, Firmware, board
from provider.settings import plain_yaml
from provider.settings.models import Duration, Model

DEFAULT_FILE = Path(__file__).resolve().parents[2] / "config" / "lab.yaml"


class Patience(Model):
    """How long the story waits for one thing to happen."""

    start: Duration = timedelta(minutes=1)
    """Until provider and manager answer."""
    boot: Duration = timedelta(minutes=10)
    """From power-on to the agent's inventory at the manager, or to the installer's event."""
    wipe: Duration = timedelta(minutes=5)
    """From acceptance, or from the agent's return, to the end of the wipe."""
    power: Duration = timedelta(minutes=2)
    """Until a machine is on or off."""
    report: Duration = timedelta(minutes=1)
    """From something that happened to the manager's knowing it."""


class LabSettings(Model):
    """The lab itself."""

    machines: int = Field(default=2, ge=1, le=8)
    firmware: Firmware | Literal["mixed"] = "mixed"
    dhcp: Literal["server", "proxy"] = "server"
    """server: the provider leases the addresses. proxy: dnsmasq does, and the provider adds the boot part."""
    manager: Literal["reference", "omni"] = "reference"
    """reference: our own. omni: the fake Omni; machines run a stand-in for Talos then."""
    memory_mib: int = Field(default=768, ge=512)
    """Of each machine."""
    disk_mib: int = Field(default=128, ge=16)
    """Of each disk."""
    disk_bytes_per_second: int = Field(default=0, ge=0)
    """Limit of each disk; 0 for none."""
    patience: Patience = Patience()

    @model_validator(mode="after")
    def _talos_has_a_stand_in(self) -> LabSettings:
        boards = {board(self.firmware_of(number)) for number in (1, 2)}
        if self.manager == "omni" and (boards != {Q35} or self.firmware is Firmware.SECURE_BOOT):
            raise ValueError("with manager: omni, machines are bios, uefi, uefi-http or mixed")
        return self

    def firmware_of(self, number: int) -> Firmware:
        """Firmware of machine `number`, counted from 1; mixed begins with BIOS."""
        if self.firmware == "mixed":
            return Firmware.BIOS if number % 2 else Firmware.UEFI
        return self.firmware


class LabFile(Model):
    """The whole file."""

    lab: LabSettings = LabSettings()
    serve: dict[str, Any]
    """The provider's configuration, as it stands for `dhcp: server`."""

    def provider_settings(self) -> dict[str, Any]:
        """The provider's configuration for the lab's kind of DHCP; a proxy has no pools."""
        if self.lab.dhcp == "server":
            return self.serve
        network = self.serve["network"]
        interfaces = [
            {**{key: value for key, value in interface.items() if key != "pool"}, "dhcp": self.lab.dhcp}
            for interface in network["interfaces"]
        ]
        return {**self.serve, "network": {**network, "interfaces": interfaces}}


def load(file: Path = DEFAULT_FILE) -> LabFile:
    """
    Read the file.

    Raises:
        SettingsError: If it cannot be used; names every problem.
    """
    try:
        return LabFile.model_validate(plain_yaml.load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{file} is not YAML: {error}") from error
    except pydantic.ValidationError as error:
        problems = [f"{file}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise SettingsError("\n".join(problems)) from error

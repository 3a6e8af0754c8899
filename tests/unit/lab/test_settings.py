"""config/lab.yaml: loads, and its second part is a configuration file that the provider takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from provider.domain.errors import SettingsError
from provider.lab import settings
from provider.lab.firmware import Firmware
from provider.lab.settings import LabSettings
from provider.settings.models import Settings


def test_example_loads() -> None:
    """`bootwright lab` does not start from a fresh clone."""
    file = settings.load()
    assert file.lab.machines == 2
    Settings.model_validate(file.serve)


def test_mixed_firmware_begins_with_bios() -> None:
    """The default lab of two machines has not one of each."""
    mixed = LabSettings(firmware="mixed")
    assert [mixed.firmware_of(number) for number in (1, 2, 3)] == [
        Firmware.BIOS,
        Firmware.UEFI,
        Firmware.BIOS,
    ]
    assert LabSettings(firmware="uefi").firmware_of(1) is Firmware.UEFI


def test_all_problems_are_named(tmp_path: Path) -> None:
    """Somebody mends one mistake only to be told of the next."""
    file = tmp_path / "lab.yaml"
    file.write_text("lab: {machines: 0, firmwear: bios}\nserve: {}\n")
    with pytest.raises(SettingsError) as caught:
        settings.load(file)
    assert "lab.machines" in str(caught.value)
    assert "lab.firmwear" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    """A wrong path ends in a traceback."""
    with pytest.raises(SettingsError, match=r"nowhere\.yaml cannot be read"):
        settings.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("firmware", ["uefi-arm64", "secure-boot"])
def test_omni_has_machines_of_its_own(firmware: str) -> None:
    """A machine boots nothing, because the stand-in for Talos is not made for it."""
    with pytest.raises(ValueError, match="with manager: omni"):
        LabSettings.model_validate({"manager": "omni", "firmware": firmware})
    assert LabSettings.model_validate({"manager": "omni"}).firmware == "mixed"

"""Loading drivers by what the devices ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from provider.agent import drivers
from tests.unit.agent import sysfs_tree

NIC = "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00"
VIRTIO_NIC = "virtio:d00000001v00001AF4"
DISK_CONTROLLER = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"


class Modprobe:
    """Keeps what was asked for; loading one alias may bring another device."""

    def __init__(self, root: Path, brings: dict[str, str] | None = None, *, in_time: bool = True) -> None:
        self.root = root
        self.brings = brings or {}
        self.in_time = in_time
        self.calls: list[list[str]] = []

    def __call__(self, aliases: Sequence[str]) -> bool:
        self.calls.append(list(aliases))
        for alias in aliases:
            if alias in self.brings:
                sysfs_tree.make(self.root, {f"sys/bus/new/devices/{len(self.calls)}/modalias": self.brings[alias]})
        return self.in_time


def devices(root: Path, *aliases: str) -> Path:
    """Put devices on the bus."""
    return sysfs_tree.make(root, {f"sys/bus/pci/devices/{n}/modalias": alias for n, alias in enumerate(aliases)})


def test_network_cards_go_first(tmp_path: Path) -> None:
    """Breaks if the network has to wait for slow storage controllers, or a virtio card for the second round."""
    virtio_pci = "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00"
    root = devices(tmp_path, NIC, DISK_CONTROLLER, virtio_pci)
    modprobe = Modprobe(root, {virtio_pci: VIRTIO_NIC})
    found = drivers.Drivers(root / "sys", modprobe)
    found.load_network()
    assert modprobe.calls == [sorted([NIC, virtio_pci]), [VIRTIO_NIC]]
    found.load_all()
    assert modprobe.calls[2:] == [[DISK_CONTROLLER]]


def test_rounds_until_nothing_new_comes(tmp_path: Path) -> None:
    """Breaks if a disk behind a controller behind a bridge gets no driver, or one alias is tried for ever."""
    root = devices(tmp_path, "a")
    modprobe = Modprobe(root, {"a": "b", "b": "c", "c": "a"})
    drivers.Drivers(root / "sys", modprobe).load_all()
    assert modprobe.calls == [["a"], ["b"], ["c"]]


def test_driver_that_hangs_is_a_problem_not_the_end(tmp_path: Path) -> None:
    """Breaks if a BMC that does not answer keeps the machine from reporting anything."""
    found = drivers.Drivers(devices(tmp_path, "a") / "sys", Modprobe(tmp_path, in_time=False))
    found.load_all()
    assert "did not end" in found.problems[0]


def test_late_usb_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if a USB disk, which appears seconds after its driver, is missing from the inventory."""
    root = sysfs_tree.make(tmp_path, {"sys/bus/usb/devices/1-1:1.0/bInterfaceClass": "08"})
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        device = "sys/bus/usb/devices/1-1:1.0/host4/target4:0:0/4:0:0:0"
        sysfs_tree.make(tmp_path, [{f"{device}/type": "0"}, {f"{device}/block/sdb/size": "1"}][len(slept) - 1])

    monkeypatch.setattr(drivers.time, "sleep", sleep)
    found = drivers.Drivers(root / "sys", Modprobe(root))
    found.load_all()
    assert len(slept) == 2
    assert found.problems == []


def test_usb_device_that_never_shows_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if a broken USB stick holds up the machine for ever, or without a word."""
    root = sysfs_tree.make(tmp_path, {"sys/bus/usb/devices/1-1:1.0/bInterfaceClass": "08"})
    now = [0.0]
    monkeypatch.setattr(drivers.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(drivers.time, "monotonic", lambda: now[0])
    found = drivers.Drivers(root / "sys", Modprobe(root))
    found.load_all()
    assert "1-1:1.0" in found.problems[0]


def test_virtual_cd_is_not_waited_for(tmp_path: Path) -> None:
    """Breaks if the virtual CD of a BMC (SCSI type 5), for which there is no driver, costs eight seconds."""
    device = "sys/bus/usb/devices/1-1:1.0/host4/target4:0:0/4:0:0:0"
    files = {"sys/bus/usb/devices/1-1:1.0/bInterfaceClass": "08", f"{device}/type": "5"}
    found = drivers.Drivers(sysfs_tree.make(tmp_path, files) / "sys", Modprobe(tmp_path))
    found.load_all()
    assert found.problems == []

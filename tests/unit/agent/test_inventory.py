"""The inventory, from trees of sysfs files as different machines have them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.agent import inventory
from provider.agent.inventory import bmc, cpu, disks, memory, nics, smbios, sysfs, system
from provider.domain.inventory import BmcPresence, DiskKind, FirmwareKind
from tests.unit.agent import sysfs_tree

PCI = "pci0000:00/0000:00:1f.2"


def read_disk(root: Path, name: str) -> disks.Disk:
    """Read all disks and give one."""
    (found,) = [disk for disk in disks.read(root / "sys") if disk.path == f"/dev/{name}"]
    return found


def test_virtio_disk(tmp_path: Path) -> None:
    """Breaks if a virtual disk has no name or the wrong kind."""
    files = sysfs_tree.disk("vda", f"{PCI}/virtio1", serial="VB0001", queue__discard_max_bytes="2147483136")
    found = read_disk(sysfs_tree.make(tmp_path, files), "vda")
    assert (found.serial, found.transport, found.kind) == ("VB0001", "virtio", DiskKind.VIRTUAL)
    assert found.size_bytes == 131072 * 512
    assert found.supports_discard


def test_nvme_disk(tmp_path: Path) -> None:
    """Breaks if an NVMe disk loses its serial number (which stands at the controller) or its WWN."""
    files = sysfs_tree.disk(
        "nvme0n1",
        f"{PCI}/nvme/nvme0",
        wwid="eui.0025388b710116a1",
        device__serial="S4EVNX0R  ",
        device__model="SAMSUNG MZ",
    )
    found = read_disk(sysfs_tree.make(tmp_path, files), "nvme0n1")
    assert (found.serial, found.wwn) == ("S4EVNX0R", "eui.0025388b710116a1")
    assert (found.model, found.transport, found.kind) == ("SAMSUNG MZ", "nvme", DiskKind.NVME)


def test_sata_disk(tmp_path: Path) -> None:
    """Breaks if VPD page 80h is read with its header, or rust is taken for flash."""
    files = sysfs_tree.disk(
        "sda",
        f"{PCI}/ata1/host0/target0:0:0/0:0:0:0",
        device__vpd_pg80=b"\x00\x80\x00\x14            WD-WX12\0\0",
        device__wwid="naa.50014ee2b5f0c0de",
        device__model="WDC WD40EFRX-68N",
        device__vendor="ATA",
        queue__rotational="1",
        queue__logical_block_size="4096",
    )
    found = read_disk(sysfs_tree.make(tmp_path, files), "sda")
    assert (found.serial, found.wwn) == ("WD-WX12", "naa.50014ee2b5f0c0de")
    assert (found.transport, found.kind, found.rotational) == ("sata", DiskKind.HDD, True)
    assert found.logical_block_bytes == 4096


def test_usb_disk_has_the_serial_of_its_bridge(tmp_path: Path) -> None:
    """Breaks if a USB disk, which is a SCSI disk too, is called SCSI or stays without a name."""
    files = sysfs_tree.disk(
        "sdb",
        "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host4/target4:0:0/4:0:0:0",
        removable="1",
        device__vendor="Kingston",
    )
    files |= {
        "sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/idVendor": "0951",
        "sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/serial": "60A44C4250",
    }
    found = read_disk(sysfs_tree.make(tmp_path, files), "sdb")
    assert (found.serial, found.transport, found.removable) == ("60A44C4250", "usb", True)


def test_sas_disk_behind_qemu_is_virtual(tmp_path: Path) -> None:
    """Breaks if an emulated SCSI disk counts as a real one."""
    files = sysfs_tree.disk(
        "sda",
        f"{PCI}/host2/port-2:0/end_device-2:0/target2:0:0/2:0:0:0",
        device__vendor="QEMU",
        device__model="QEMU HARDDISK",
    )
    found = read_disk(sysfs_tree.make(tmp_path, files), "sda")
    assert (found.transport, found.kind) == ("sas", DiskKind.VIRTUAL)


def test_t10_name_is_no_wwn(tmp_path: Path) -> None:
    """Breaks if text made up from vendor and model, equal for a batch of disks, is taken for a world-wide name."""
    files = sysfs_tree.disk("sda", f"{PCI}/ata1/host0/target0:0:0/0:0:0:0", device__wwid="t10.ATA     QEMU HARDDISK")
    assert read_disk(sysfs_tree.make(tmp_path, files), "sda").wwn == ""


def test_what_is_no_disk(tmp_path: Path) -> None:
    """Breaks if partitions, optical drives, empty card readers, RAM or single NVMe paths are offered for wiping."""
    files: dict[str, sysfs_tree.Content] = {}
    for name in ("sr0", "fd0", "loop0", "ram0", "zram0", "dm-0", "md0", "mmcblk0boot0", "mmcblk0rpmb"):
        files |= sysfs_tree.disk(name, f"virtual/{name}")
    files |= sysfs_tree.disk("sdc", f"{PCI}/host9/x", size="0")
    files |= sysfs_tree.disk("nvme0c0n1", f"{PCI}/nvme/nvme0", hidden="1")
    files |= sysfs_tree.disk("vda1", f"{PCI}/virtio1", partition="1")
    assert disks.read(sysfs_tree.make(tmp_path, files) / "sys") == ()


def test_mmc_disk_is_one(tmp_path: Path) -> None:
    """Breaks if an eMMC module is passed over together with its boot partitions."""
    files = sysfs_tree.disk("mmcblk0", "platform/mmc0/mmc0:0001", device__serial="0x1234", device__name="DG4016")
    found = read_disk(sysfs_tree.make(tmp_path, files), "mmcblk0")
    assert (found.serial, found.model, found.transport) == ("0x1234", "DG4016", "mmc")


def nic_files(name: str, **values: sysfs_tree.Content) -> dict[str, sysfs_tree.Content]:
    """One network interface with a device."""
    files: dict[str, sysfs_tree.Content] = {
        f"sys/class/net/{name}/device": None,
        f"sys/class/net/{name}/type": "1",
        f"sys/class/net/{name}/address": "52:54:00:00:00:01",
        f"sys/class/net/{name}/carrier": "1",
        f"sys/class/net/{name}/speed": "25000",
    }
    return {**files, **{f"sys/class/net/{name}/{key}": value for key, value in values.items()}}


def test_nics(tmp_path: Path) -> None:
    """Breaks if the address of a bond is reported, an unplugged port is lost, or lo and Infiniband are listed."""
    root = sysfs_tree.make(
        tmp_path,
        nic_files("eth0")
        | nic_files("eth1", carrier="0", speed="-1", address="52:54:00:00:00:02")
        | nic_files("ib0", type="32")
        | {"sys/class/net/lo/type": "772", "sys/class/net/lo/address": "00:00:00:00:00:00"},
    )
    found = nics.read(
        root / "sys", "52:54:00:00:00:aa", lambda problem: None, lambda name: f"52:54:00:00:00:{name[-1]}a"
    )
    assert [(nic.name, nic.mac, nic.link, nic.speed_mbps) for nic in found] == [
        ("eth0", "52:54:00:00:00:0a", True, 25000),
        ("eth1", "52:54:00:00:00:1a", False, 0),
    ]


def test_nic_without_permanent_address(tmp_path: Path) -> None:
    """Breaks if a driver that knows no permanent address (veth, some virtual cards) costs the interface."""

    def unknown(name: str) -> str:
        raise OSError(95, "Operation not supported")

    root = sysfs_tree.make(tmp_path, nic_files("eth0"))
    (found,) = nics.read(root / "sys", "52:54:00:00:00:01", lambda problem: None, unknown)
    assert (found.mac, found.booted_from) == ("52:54:00:00:00:01", True)


def test_one_bad_nic_is_noted(tmp_path: Path) -> None:
    """Breaks if one interface with a broken address takes the others with it, or goes unnoticed."""
    root = sysfs_tree.make(tmp_path, nic_files("eth0", address="nonsense") | nic_files("eth1"))
    problems: list[str] = []
    found = nics.read(root / "sys", "", problems.append, lambda name: "52:54:00:00:00:01")
    assert [nic.name for nic in found] == ["eth1"]
    assert "eth0" in problems[0]


def test_system(tmp_path: Path) -> None:
    """Breaks if padding or NUL bytes of firmware get into an identity."""
    files: dict[str, sysfs_tree.Content] = {
        "sys/class/dmi/id/product_uuid": "4C4C4544-0042-3510-8052-B4C04F4E4E31",
        "sys/class/dmi/id/sys_vendor": "Dell Inc.",
        "sys/class/dmi/id/product_serial": b"B5R\0\0  NN1 \n",
        "sys/firmware/efi": None,
    }
    root = sysfs_tree.make(tmp_path, files)
    found = system.read(root / "sys")
    assert found.uuid == "4c4c4544-0042-3510-8052-b4c04f4e4e31"
    assert found.serial == "B5R NN1"
    assert found.board_serial == ""
    assert system.firmware(root / "sys") is FirmwareKind.UEFI
    assert system.firmware(root) is FirmwareKind.BIOS


def test_cpu_counts_cores_not_numbers(tmp_path: Path) -> None:
    """Breaks if two sockets with the same core ids count as one, or the speed of the moment is reported."""
    files: dict[str, sysfs_tree.Content] = {
        "proc/cpuinfo": "model name\t: Intel(R) Xeon(R) CPU E5-2630 v4 @ 2.20GHz\ncpu MHz\t: 1200.0",
        "sys/devices/system/cpu/cpufreq": None,
    }
    for number, (package, core) in enumerate([(0, 0), (0, 0), (0, 17), (0, 17), (1, 0), (1, 0), (1, 17), (1, 17)]):
        files[f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id"] = str(package)
        files[f"sys/devices/system/cpu/cpu{number}/topology/core_id"] = str(core)
    root = sysfs_tree.make(tmp_path, files)
    found = cpu.read(root / "sys", root / "proc")
    assert (found.sockets, found.cores, found.threads) == (2, 4, 8)
    assert (found.model, found.mhz) == ("Intel(R) Xeon(R) CPU E5-2630 v4 @ 2.20GHz", 2200)


def structure(kind: int, body: bytes, strings: bytes = b"\0\0") -> bytes:
    """One SMBIOS structure."""
    return struct.pack("<BBH", kind, 4 + len(body), kind) + body + strings


def memory_module(size: int, extended: int = 0) -> bytes:
    """SMBIOS type 17: size at 0Ch, extended size at 1Ch."""
    return structure(17, bytes(8) + struct.pack("<H", size) + bytes(14) + struct.pack("<I", extended), b"DIMM A\0\0")


def test_memory_is_the_sum_of_modules(tmp_path: Path) -> None:
    """Breaks if big modules (extended size), small ones (KiB) or empty slots are counted wrong."""
    table = memory_module(0x7FFF, 65536) + memory_module(16384) + memory_module(0x8000 | 512) + memory_module(0)
    table += memory_module(0xFFFF) + structure(127, b"")
    root = sysfs_tree.make(tmp_path, {"sys/firmware/dmi/tables/DMI": table, "proc/meminfo": "MemTotal: 1 kB"})
    assert memory.read(root / "sys", root / "proc") == (65536 << 20) + (16384 << 20) + (512 << 10)


def test_memory_without_smbios(tmp_path: Path) -> None:
    """Breaks if a machine without SMBIOS has no memory."""
    root = sysfs_tree.make(tmp_path, {"proc/meminfo": "MemTotal:       16316412 kB\nMemFree: 1 kB"})
    assert memory.read(root / "sys", root / "proc") == 16316412 << 10


def test_bmc(tmp_path: Path) -> None:
    """Breaks if a BMC is seen only when its driver works, or only when SMBIOS tells of it."""
    described = {
        "sys/firmware/dmi/tables/DMI": structure(38, bytes([1, 0x20, 0x20, 0]) + bytes(10)) + structure(127, b"")
    }
    assert bmc.read(sysfs_tree.make(tmp_path / "a", described) / "sys") == BmcPresence(present=True, interface="kcs")
    driven = {"sys/class/ipmi/ipmi0/dev": "247:0"}
    assert bmc.read(sysfs_tree.make(tmp_path / "b", driven) / "sys") == BmcPresence(present=True)
    assert bmc.read(tmp_path) == BmcPresence()


@given(st.binary(max_size=300))
def test_any_smbios_table(table: bytes) -> None:
    """Breaks if a table that firmware left in pieces hangs or crashes the agent."""
    for found in smbios.parse(table):
        assert found.unsigned(0x0C, 2) >= 0


@given(st.binary())
def test_any_firmware_string(raw: bytes) -> None:
    """Breaks if a string of firmware cannot be sent as JSON or printed on a console."""
    assert sysfs.clean(raw).isprintable()


def test_holes_do_not_stop_the_report(tmp_path: Path) -> None:
    """Breaks if a machine on which hardly anything can be read reports nothing at all."""
    found = inventory.gather("52:54:00:00:00:01", "v1", ["a driver hung"], tmp_path)
    assert found.agent_version == "v1"
    assert found.problems[0] == "a driver hung"
    assert any("disks" in problem for problem in found.problems)
    assert any("SMBIOS" in problem for problem in found.problems)
    assert found.disks == ()


def test_whole_machine(tmp_path: Path) -> None:
    """Breaks if the parts do not come together, or a good machine has problems."""
    files = sysfs_tree.disk("vda", f"{PCI}/virtio1", serial="VB0001") | nic_files("eth0")
    files |= {"sys/class/dmi/id/sys_vendor": "QEMU", "proc/cpuinfo": "model name : x", "proc/meminfo": "MemTotal: 4 kB"}
    found = inventory.gather("52:54:00:00:00:01", "v1", (), sysfs_tree.make(tmp_path, files))
    assert found.problems == ()
    assert found.system.manufacturer == "QEMU"
    assert found.memory_bytes == 4096
    assert found.nics[0].booted_from


@pytest.mark.parametrize("value", ["", "abc", "1 2"])
def test_numbers_that_are_none(tmp_path: Path, value: str) -> None:
    """Breaks if a value that is no number is more than its default."""
    (tmp_path / "value").write_text(value)
    assert sysfs.number(tmp_path / "value", 7) == 7

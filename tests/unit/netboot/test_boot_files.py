"""Which boot files of an operator are taken."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from provider.domain.errors import SettingsError
from provider.netboot import boot_files


def program(machine: int) -> bytes:
    """The beginning of a PE file for a processor."""
    return b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", machine) + bytes(100)


def test_files_are_found(tmp_path: Path) -> None:
    """An operator's iPXE is not served."""
    (tmp_path / "snponly.efi").write_bytes(program(0x8664))
    (tmp_path / "undionly.kpxe").write_bytes(b"\xea\x05")
    (tmp_path / ".git").mkdir()
    assert boot_files.find(tmp_path) == {name: tmp_path / name for name in ("snponly.efi", "undionly.kpxe")}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("snponly.efi", b"", "it is empty"),
        ("snponly.efi", b"MZ", "no UEFI program"),
        ("snponly.efi", b"#!ipxe\n" * 20, "no UEFI program"),
        ("snponly.efi", program(0x0200), "no UEFI program"),
        ("snponly.efi", program(0x8664)[:64], "no UEFI program"),
        ("snponly.efi", program(0xAA64), "it is for arm64, and x86-64 machines would get it"),
        ("snponly.efi", b"MZ".ljust(60, b"\0") + b"\xff\xff\xff\xff" + bytes(10), "no UEFI program"),
        ("undionly.kpxe", b"<html>\n<title>404 Not Found</title>\n", "it is text, and no boot program"),
        ("ipxe.pxe", b"#!ipxe\n", "it is text, and no boot program"),
        ("with blank.kpxe", b"x", "cannot ask for this name"),
        ("ä.kpxe", b"x", "cannot ask for this name"),
        ("a" * 200, b"x", "cannot ask for this name"),
    ],
)
def test_file_that_no_machine_can_use(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    """Machines get what they cannot run, and nobody learns why they do not come (edge case 39)."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=problem):
        boot_files.find(tmp_path)


def test_every_problem_is_named(tmp_path: Path) -> None:
    """An operator mends one file after the other."""
    (tmp_path / "a.kpxe").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(SettingsError) as caught:
        boot_files.find(tmp_path)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("name", ["undionly.kpxe", "snponly.efi", "config.txt"])
def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The daemon starts, advertises a file that it may not read, and machines get an error."""
    (tmp_path / name).write_bytes(b"x")

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root, who runs the tests, may read everything.
    with pytest.raises(SettingsError, match=f"{name} cannot be read: Permission denied"):
        boot_files.find(tmp_path)


def test_text_that_is_asked_for(tmp_path: Path) -> None:
    """A Raspberry Pi's configuration is refused because it is no program."""
    (tmp_path / "config.txt").write_text("arm_64bit=1\n")
    assert boot_files.find(tmp_path) == {"config.txt": tmp_path / "config.txt"}


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """A mistyped folder ends in a traceback."""
    with pytest.raises(SettingsError, match="missing cannot be read"):
        boot_files.find(tmp_path / "missing")

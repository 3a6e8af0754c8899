"""Reading libraries and module information out of ELF files."""

from __future__ import annotations

import sys
from pathlib import Path

from bootassets import elf
from tests.unit.bootassets import elf_files


def test_needed_libraries_in_order() -> None:
    """Breaks if a library of a program is missed: the program would not start in the image."""
    assert elf.needed(elf_files.linked_with("libssl.so.3", "libc.so.6")) == ("libssl.so.3", "libc.so.6")


def test_static_program_needs_nothing() -> None:
    """Breaks if a file without dynamic section (busybox-static) is an error."""
    assert elf.needed(elf_files.make({})) == ()


def test_real_interpreter() -> None:
    """Breaks if our reading of the headers fits only our own test files."""
    interpreter = Path(sys.executable).resolve().read_bytes()
    assert elf.is_elf(interpreter)
    assert "libc.so.6" in elf.needed(interpreter)


def test_module_information_keeps_repeated_keys() -> None:
    """Breaks if only the first of several `firmware=` lines is seen."""
    module = elf_files.module(depends=["a,b"], firmware=["x.bin", "y.bin"])
    assert list(elf.module_information(module)) == [("depends", "a,b"), ("firmware", "x.bin"), ("firmware", "y.bin")]


def test_scripts_are_no_elf() -> None:
    """Breaks if a shell script in the tree is parsed as a program."""
    assert not elf.is_elf(b"#!/bin/sh\n")

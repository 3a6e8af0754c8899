"""GRUB scripts: what stands in them, and what can never get into them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain import mac as macs
from provider.domain.errors import PermanentError
from provider.domain.mac import MacAddress
from provider.wire import grub
from provider.wire.grub import Asking

MAC = MacAddress("52:54:00:12:34:56")


def test_bootstrap_asks_for_the_path_that_we_serve() -> None:
    """GRUB asks for a name that nobody knows."""
    asks = next(line.split()[1] for line in grub.bootstrap_script().splitlines() if line.lstrip().startswith("source"))
    name = asks.replace("$prefix", "grub").replace("$grub_cpu", "arm64").replace("$net_default_mac", MAC)
    assert grub.machine_of(name.replace("$again", "")) == Asking("arm64", MAC)
    assert grub.machine_of(name.replace("$again", "/fetching")) == Asking("arm64", MAC, "fetching")


@pytest.mark.parametrize(
    "name",
    [
        "grub/machine/x86_64/",
        "grub/machine/x86_64/../../x",
        "grub/grub.cfg",
        "grub/machine/x/52:54:00:12:34:5",
        "grub/machine/x/52:54:0:000:00:01",
        "grub/machine/x/:::::::::::::::::",
    ],
)
def test_nobody_asks(name: str) -> None:
    """A name that is no machine's makes one, or a traceback."""
    assert grub.machine_of(name) is None


@given(st.from_regex(r"grub/machine/[a-z0-9_]+/[0-9a-f:]{0,20}", fullmatch=True) | st.text())
def test_whoever_asks_has_a_mac_address(name: str) -> None:
    """Anybody can cause a traceback by asking for a script with something that is nearly a MAC address (invariant 7)."""
    asking = grub.machine_of(name)
    assert asking is None or macs.parse(asking.mac) == asking.mac


def test_kernel() -> None:
    """A file or an argument is missing, or in the wrong place."""
    script = grub.kernel_script(
        "agent", "10.77.0.1", "assets/x/vmlinuz", ["assets/x/initramfs"], ["a=b", "console=ttyS0"]
    )
    assert "if linux '(tftp,10.77.0.1)/assets/x/vmlinuz' 'a=b' 'console=ttyS0'; then" in script
    assert "if initrd '(tftp,10.77.0.1)/assets/x/initramfs'; then boot; fi" in script


@pytest.mark.parametrize(
    "argument", ["cc:{datasource_list:[MAAS]}end_cc", "a=$b", 'a="b"', "a;reboot", "a\\b", "<x>&|#"]
)
def test_braces_and_others_are_quoted(argument: str) -> None:
    """GRUB takes a brace, a dollar or a semicolon of an argument for its own (edge case 55)."""
    assert f" '{argument}'; then" in grub.kernel_script("x", "10.77.0.1", "k", [], [argument])


def test_short_list_of_boot_loaders() -> None:
    """Under Secure Boot a distribution's own loader starts, and fails to go on (edge case 56)."""
    script = grub.disk_script("installed")
    assert re.findall(r"chainloader \(\$disk\)(\S+)", script) == ["/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/BOOTAA64.EFI"]


def test_kernel_without_initrd_boots() -> None:
    """A profile without an initial RAM disk is loaded and never started."""
    assert re.search(r"^ +boot$", grub.kernel_script("x", "10.77.0.1", "k", [], []), re.MULTILINE)


@given(st.text(max_size=40))
def test_any_argument_is_carried_whole_or_refused(argument: str) -> None:
    """An argument arrives changed, or becomes a command."""
    try:
        script = grub.kernel_script("x", "10.77.0.1", "kernel", [], [argument])
    except PermanentError:
        return
    assert f" '{argument}'; then" in script
    assert "'" not in argument
    assert argument.isprintable()


@given(st.text(max_size=50))
def test_no_text_becomes_a_command(text: str) -> None:
    """A machine's name or a reason ends its line and goes on as a command."""
    for script in (grub.disk_script(text), grub.nothing_script(text)):
        greeting = script.splitlines()[0]
        assert re.fullmatch(r"echo '[A-Za-z0-9 .,:/()_-]*'", greeting)
        assert script.endswith("exit\n")


def test_waiting() -> None:
    """A machine that waits for its kernel goes on to its disk, or asks without a pause."""
    script = grub.waiting_script("it's on its way", "fetching", 7).splitlines()
    assert script == [
        "echo 'Bootwright: its on its way, asking again in 7 s'",
        "set again=/fetching",
        "sleep 7",
        "set waits=yes",
    ]
    first = grub.bootstrap_script()
    assert "while test x$waits = xyes; do" in first
    assert first.index("set waits=no") < first.index("source ") < first.index("sleep $pause")


def test_program() -> None:
    """A unified kernel image is started as a kernel, which it is not."""
    script = grub.program_script("Talos", "10.77.0.1", "talos/x/kernel")
    assert "if chainloader '(tftp,10.77.0.1)/talos/x/kernel'; then boot; fi" in script

"""iPXE scripts: what stands in them, and what can never get into them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.errors import PermanentError
from provider.domain.mac import MacAddress
from provider.domain.machine import HandOff
from provider.wire import ipxe
from provider.wire.ipxe import Image

KERNEL = Image("vmlinuz", "http://10.77.0.1:8080/assets/x86_64/vmlinuz")
INITRAMFS = Image("initramfs", "http://10.77.0.1:8080/assets/x86_64/initramfs.zst")


BASE = "http://10.77.0.1:8080"
MAC = MacAddress("52:54:00:12:34:56")


def kernel_script(kernel: Image, initrds: list[Image], arguments: list[str]) -> str:
    return ipxe.kernel_script("x", BASE, MAC, kernel, initrds, arguments)


def lines(script: str) -> list[str]:
    assert script.startswith("#!ipxe\n")
    return script.splitlines()[1:]


def test_bootstrap_tells_of_the_interface_that_booted() -> None:
    """A machine with two cards says the address of the other one (edge case 46)."""
    chain = next(line for line in lines(ipxe.bootstrap_script(BASE)) if line.startswith("chain"))
    assert "/machine.ipxe?mac=${netX/mac:hexhyp}&uuid=${uuid}" in chain


def test_bootstrap_tries_again_and_gives_up() -> None:
    """A lost packet ends the boot, or a dead provider holds the machine for ever (edge case 51)."""
    script = lines(ipxe.bootstrap_script(BASE))
    pauses = [int(line.removeprefix("sleep ")) for line in script if line.startswith("sleep ")]
    assert pauses == sorted(pauses)
    assert len(pauses) == len(ipxe.PAUSES)
    assert script[-1] == "exit 1"


def test_bootstrap_tries_each_interface() -> None:
    """A machine whose first link is dead after all never reaches us over the second one (edge case 44)."""
    script = lines(ipxe.bootstrap_script(BASE))
    assert "iflinkwait --timeout 5000 net1 ||" in script
    assert script.index("ifopen net1 || goto net2") < script.index("dhcp net1 || goto net2")
    chain, report = (line for line in script if "mac=${net1/mac:hexhyp}" in line)
    assert chain.endswith(" ||"), "the next one has its turn"
    assert report.startswith(f"imgfetch {BASE}/failed?")


def test_only_one_interface_is_open() -> None:
    """The routes of the interface that cannot reach us win, and every other one is tried in vain (edge case 44)."""
    script = lines(ipxe.bootstrap_script(BASE))
    for number in range(ipxe.INTERFACES):
        assert script[script.index(f"ifopen net{number} || goto net{number + 1}") - 1] == "ifclose ||"


def test_waiting() -> None:
    """A machine asks again at once, as somebody else, or with a word that makes another line in its events each time."""
    script = lines(ipxe.waiting_script("Talos || ${x} is on its way", BASE, MAC, "fetching", 7))
    assert script[0] == "echo Bootwright: Talos  x is on its way, asking again in 7 s"
    assert script[1] == "sleep 7"
    (chain,) = (line for line in script if line.startswith("chain"))
    assert chain.startswith(f"chain --replace --autofree {BASE}/machine.ipxe?mac={MAC}&uuid=${{uuid}}&")
    assert "&again=fetching || goto wait_" in chain
    assert script[-1] == "exit 1"


WAITING = ipxe.waiting_script("x", BASE, MAC, "waiting", 2)


@pytest.mark.parametrize("script", [ipxe.bootstrap_script(BASE), kernel_script(KERNEL, [], []), WAITING])
def test_failure_is_reported(script: str) -> None:
    """A machine gives up, and only its screen says so."""
    *_, report = (line for line in lines(script) if line.startswith("imgfetch"))
    assert report.startswith(f"imgfetch {BASE}/failed?mac=")
    assert report.endswith("error=${error} ||"), "what fails there must not keep it from its disk"


OLD_COMMANDS = {
    *("boot", "chain", "dhcp", "echo", "exit", "goto", "ifclose", "iflinkwait", "ifopen"),
    *("imgfetch", "imgfree", "initrd", "isset", "kernel", "sanboot", "set", "sleep"),
}


@pytest.mark.parametrize(
    "script",
    [
        ipxe.bootstrap_script(BASE, is_autoexec=True),
        kernel_script(KERNEL, [INITRAMFS], ["a=b"]),
        ipxe.nothing_script("x"),
        *(ipxe.disk_script("x", hand_off) for hand_off in HandOff),
    ],
)
def test_only_commands_that_old_roms_have(script: str) -> None:
    """An old ROM stops at a command that it does not know, such as `inc` (edge case 45)."""
    assert {line.split()[0] for line in lines(script) if not line.startswith(":")} <= OLD_COMMANDS


@pytest.mark.parametrize("script_text", [ipxe.bootstrap_script(BASE), kernel_script(KERNEL, [INITRAMFS], [])])
def test_every_label_is_there(script_text: str) -> None:
    """A script jumps to a label that it does not have, and stops."""
    script = lines(script_text)
    labels = {line[1:] for line in script if line.startswith(":")}
    pauses = {line.removeprefix("set pause ") for line in script if line.startswith("set pause ")}
    assert {f"wait_{pause}" for pause in pauses} <= labels
    jumps = {label for line in script for label in re.findall(r"goto (\S+)", line)}
    assert {jump for jump in jumps if "${" not in jump} <= labels


def test_kernel_gets_its_arguments() -> None:
    """A kernel starts without an argument, or does not find its RAM disk."""
    script = lines(kernel_script(KERNEL, [INITRAMFS], ["a=b", "console=ttyS0"]))
    assert f"kernel {KERNEL.url} initrd=initramfs a=b console=ttyS0 || goto wait_${{pause}}" in script
    assert any(line.startswith(f"initrd --name initramfs {INITRAMFS.url} ") for line in script)


@pytest.mark.parametrize(
    "argument",
    ["a b", "a\nboot", "a\tb", "${net0/mac}", "||", "&&", ";", "#", "#x", "\x1b[0m", "ä", ""],
)
def test_argument_cannot_break_out(argument: str) -> None:
    """An argument from a manager becomes a command of the script (edge case 168)."""
    with pytest.raises(PermanentError):
        kernel_script(KERNEL, [], [argument])


@given(st.text(max_size=50))
def test_no_text_becomes_a_command(text: str) -> None:
    """A machine's name or a reason ends its line and goes on as a command."""
    for script in (ipxe.disk_script(text), ipxe.nothing_script(text)):
        greeting, *rest = lines(script)
        assert greeting.startswith("echo ")
        assert rest == ["exit 1"]
        assert not set("$|&#\n") & set(greeting)


@given(st.text(max_size=40))
def test_any_argument_is_carried_whole_or_refused(argument: str) -> None:
    """An argument arrives changed."""
    try:
        script = kernel_script(KERNEL, [], [argument])
    except PermanentError:
        return
    kernel = next(line for line in lines(script) if line.startswith("kernel "))
    assert kernel.split(" ")[2] == argument


def test_line_that_a_kernel_would_cut_is_refused() -> None:
    """The end of a long command line is lost without a word."""
    with pytest.raises(PermanentError, match="kernel reads"):
        kernel_script(KERNEL, [], [f"argument={number}" for number in range(300)])


@pytest.mark.parametrize(
    ("hand_off", "last"),
    [
        (HandOff.EXIT, "exit 1"),
        (HandOff.SANBOOT, "sanboot --no-describe --drive 0x80 || exit 1"),
        (HandOff.HTTP_404, "chain --replace /next-boot-device"),
    ],
)
def test_hand_off(hand_off: HandOff, last: str) -> None:
    """A firmware that hangs one way cannot be sent to its disk another way (edge cases 47, 48)."""
    assert lines(ipxe.disk_script("installed", hand_off))[-1] == last

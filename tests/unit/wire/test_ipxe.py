"""iPXE scripts: what stands in them, and what can never get into them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.errors import PermanentError
from provider.wire import ipxe
from provider.wire.ipxe import HandOff, Image

KERNEL = Image("vmlinuz", "http://10.77.0.1:8080/assets/x86_64/vmlinuz")
INITRAMFS = Image("initramfs", "http://10.77.0.1:8080/assets/x86_64/initramfs.zst")


def lines(script: str) -> list[str]:
    assert script.startswith("#!ipxe\n")
    return script.splitlines()[1:]


def test_bootstrap_tells_of_the_interface_that_booted() -> None:
    """A machine with two cards says the address of the other one (edge case 46)."""
    chain = next(line for line in lines(ipxe.bootstrap_script("http://10.77.0.1:8080")) if line.startswith("chain"))
    assert "/machine.ipxe?mac=${netX/mac:hexhyp}&uuid=${uuid}" in chain


def test_bootstrap_tries_again_and_gives_up() -> None:
    """A lost packet ends the boot, or a dead provider holds the machine for ever (edge case 51)."""
    script = lines(ipxe.bootstrap_script("http://10.77.0.1:8080"))
    pauses = [int(line.removeprefix("sleep ")) for line in script if line.startswith("sleep ")]
    assert pauses == sorted(pauses)
    assert len(pauses) == len(ipxe.PAUSES)
    assert script[-1] == "exit 1"


def test_every_label_is_there() -> None:
    """A script jumps to a label that it does not have, and stops."""
    script = lines(ipxe.kernel_script("x", KERNEL, [INITRAMFS], []))
    labels = {line[1:] for line in script if line.startswith(":")}
    pauses = {line.removeprefix("set pause ") for line in script if line.startswith("set pause ")}
    assert {f"wait_{pause}" for pause in pauses} <= labels
    assert {line.removeprefix("goto ") for line in script if line.startswith("goto ")} <= labels


def test_kernel_gets_its_arguments() -> None:
    """A kernel starts without an argument, or does not find its RAM disk."""
    script = lines(ipxe.kernel_script("x", KERNEL, [INITRAMFS], ["a=b", "console=ttyS0"]))
    assert f"kernel {KERNEL.url} initrd=initramfs a=b console=ttyS0 || goto wait_${{pause}}" in script
    assert any(line.startswith(f"initrd --name initramfs {INITRAMFS.url} ") for line in script)


@pytest.mark.parametrize(
    "argument",
    ["a b", "a\nboot", "a\tb", "${net0/mac}", "||", "&&", "#x", "\x1b[0m", "ä", ""],
)
def test_argument_cannot_break_out(argument: str) -> None:
    """An argument from a manager becomes a command of the script (edge case 168)."""
    with pytest.raises(PermanentError):
        ipxe.kernel_script("x", KERNEL, [], [argument])


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
        script = ipxe.kernel_script("x", KERNEL, [], [argument])
    except PermanentError:
        return
    kernel = next(line for line in lines(script) if line.startswith("kernel "))
    assert kernel.split(" ")[2] == argument


def test_line_that_a_kernel_would_cut_is_refused() -> None:
    """The end of a long command line is lost without a word."""
    with pytest.raises(PermanentError, match="kernel reads"):
        ipxe.kernel_script("x", KERNEL, [], [f"argument={number}" for number in range(300)])


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

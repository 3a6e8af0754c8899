"""The README promises nothing that is not there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main

from provider.cli import main
from provider.wire import pxe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LINES = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.split("#")[0].strip()
]
OURS = [line for line in LINES if line.startswith("bootwright ")]


def words_and_options(line: str) -> tuple[list[str], list[str]]:
    """The verbs of a command, and the options that it uses."""
    parts = shlex.split(line)[1:]
    return [part for part in parts if re.fullmatch(r"[a-z]+", part)], [part for part in parts if part.startswith("--")]


@pytest.mark.parametrize("line", OURS)
def test_every_command_exists_with_its_options(line: str) -> None:
    """The README shows a verb or an option that the program does not have."""
    words, options = words_and_options(line)
    command = typer.main.get_command(main.application(words[0]))
    path = []
    for word in words:
        subcommands = getattr(command, "commands", {})
        if word not in subcommands:
            break
        command = subcommands[word]
        path.append(word)
    assert path, line
    known = {name for parameter in command.params for name in parameter.opts}
    assert set(options) <= known, line


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("./dev")])
def test_every_dev_verb_exists(line: str) -> None:
    """The README shows a verb that ./dev does not have."""
    verb = shlex.split(line)[1]
    help_text = subprocess.run(["./dev", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  {verb}\b", help_text, re.MULTILINE), line


def test_files_that_are_named_are_there() -> None:
    """The README points at a file that has moved."""
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:provider|bootassets|config|systemd)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path


def test_all_commands_are_shell() -> None:
    """A line in a block of commands is none of ours."""
    assert OURS
    assert all(line.startswith(("./dev ", "bootwright ")) for line in LINES)


def row(firmware: pxe.Firmware) -> str:
    """As the README has it."""
    *others, last = [f"`{name}`" for name in firmware.programs]
    programs = " or ".join(filter(None, [", ".join(others), last]))
    archs = ", ".join(f"0x{arch:02x}" for arch in firmware.archs)
    signed = f" `{firmware.signed}`" if firmware.signed else ""
    return f"| {firmware.title} | {archs} | {programs} |{signed} | {'HTTP' if firmware.by_http else 'TFTP'} |"


def test_who_gets_what() -> None:
    """The README's table of boot programs is not that of the code."""
    table = README.split("### Who gets what")[1].split("\n\n")[1].splitlines()
    assert table[2:] == [row(firmware) for firmware in pxe.FIRMWARES]

"""
`bootwright lab`: machines, provider and manager on this box, in namespaces of their own.

The first process checks, builds what is missing and waits; the second, inside the namespaces, runs the lab
(`provider.lab.namespaces` tells how they belong together). What people read goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import pydantic
import structlog
import typer
from rich.console import Console

from bootassets import base_layer
from bootassets import build as builder
from provider.domain.errors import BootwrightError, SettingsError
from provider.kit import logs
from provider.lab import firmware, namespaces, summary, talos, view
from provider.lab import lab as labs
from provider.lab import settings as lab_settings
from provider.lab.daemons import Places
from provider.lab.firmware import Firmware
from provider.lab.lab import Lab
from provider.lab.lock import Lock
from provider.lab.omni_story import story_of
from provider.lab.settings import LabFile, LabSettings
from provider.lab.story import Story
from provider.lab.witness import StageError

lab_app = typer.Typer(
    help="A whole lab on this box: machines with BMCs, provider, manager.", invoke_without_command=True
)

_DEFAULT_STATE = Path(".bootwright/lab")
_DEFAULT_ASSETS = Path(".bootwright/assets")
_INTERRUPTED = 130
_WIDTH = 150


class Kind(StrEnum):
    """What the machines boot with: all alike, or BIOS and UEFI by turns."""

    BIOS = Firmware.BIOS
    UEFI = Firmware.UEFI
    UEFI_HTTP = Firmware.UEFI_HTTP
    SECURE_BOOT = Firmware.SECURE_BOOT
    UEFI_ARM64 = Firmware.UEFI_ARM64
    U_BOOT_ARM64 = Firmware.U_BOOT_ARM64
    MIXED = "mixed"


class Dhcp(StrEnum):
    """Who leases addresses to the machines."""

    SERVER = "server"
    PROXY = "proxy"


class ManagerKind(StrEnum):
    """Who decides about the machines."""

    REFERENCE = "reference"
    OMNI = "omni"


_State = Annotated[Path, typer.Option("--state-dir", help="Folder of the lab: logs, disks, sockets.")]
_Assets = Annotated[
    Path, typer.Option("--assets-dir", help="Folder of the boot assets; built if something is missing.")
]
_Config = Annotated[Path, typer.Option("--config", help="What the lab and its provider are like.")]
_Machines = Annotated[int | None, typer.Option("--machines", min=1, max=8, help="How many machines.")]
_Firmware = Annotated[Kind | None, typer.Option("--firmware", help="What they boot with.")]
_Dhcp = Annotated[
    Dhcp | None,
    typer.Option("--dhcp", help="Who leases addresses: the provider (server), or dnsmasq beside it (proxy)."),
]
_Manager = Annotated[
    ManagerKind | None,
    typer.Option("--manager", help="Who decides: our reference manager, or a fake Omni, with a stand-in for Talos."),
]
_Once = Annotated[bool, typer.Option("--once", help="Run the whole story, then end.")]
_Json = Annotated[bool, typer.Option("--json", help="With --once: print the summary as JSON on standard output.")]


@dataclass(frozen=True)
class _Options:
    """What was asked for on the command line."""

    state_dir: Path
    assets_dir: Path
    config: Path
    machines: int | None
    firmware: Kind | None
    dhcp: Dhcp | None
    manager: ManagerKind | None
    once: bool = False
    as_json: bool = False


@lab_app.callback()
def lab(
    context: typer.Context,
    once: _Once = False,
    machines: _Machines = None,
    firmware: _Firmware = None,
    dhcp: _Dhcp = None,
    manager: _Manager = None,
    as_json: _Json = False,
    state_dir: _State = _DEFAULT_STATE,
    assets_dir: _Assets = _DEFAULT_ASSETS,
    config: _Config = lab_settings.DEFAULT_FILE,
) -> None:
    """Bring a lab up and leave it up until Ctrl-C; with --once run the whole story and end."""
    if context.invoked_subcommand is None:
        _start(_Options(state_dir, assets_dir, config, machines, firmware, dhcp, manager, once, as_json))


@lab_app.command()
def up(
    machines: _Machines = None,
    firmware: _Firmware = None,
    dhcp: _Dhcp = None,
    manager: _Manager = None,
    state_dir: _State = _DEFAULT_STATE,
    assets_dir: _Assets = _DEFAULT_ASSETS,
    config: _Config = lab_settings.DEFAULT_FILE,
) -> None:
    """Bring a lab up, discover its machines, and leave it up until Ctrl-C."""
    _start(_Options(state_dir, assets_dir, config, machines, firmware, dhcp, manager))


@lab_app.command()
def down(state_dir: _State = _DEFAULT_STATE) -> None:
    """End the lab that is up, if one is, and wait until nothing of it is left."""
    console = Console(stderr=True)
    try:
        ended = Lock(state_dir).end_owner()
    except BootwrightError as error:
        _complain(console, error)
        raise typer.Exit(1) from error
    console.print("the lab is down" if ended else "no lab is up", highlight=False)


def _start(options: _Options) -> NoReturn:
    # Where nobody looks, the table is as wide as it needs to be.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH)
    try:
        status = _inner(console, options) if namespaces.inside() else _outer(console, options)
    except BootwrightError as error:
        _complain(console, error)
        status = 1
    raise typer.Exit(status)


# --- the outer process -----------------------------------------------------------------------------------------------


def _outer(console: Console, options: _Options) -> int:
    """Take the lock, build what is missing while there is a network, and go inside."""
    logs.configure("warning", "auto")
    settings = _settings(options).lab  # A mistake in the file is told before anything is built.
    lock = Lock(options.state_dir)
    lock.take()
    boards = {firmware.board(settings.firmware_of(number)) for number in (1, 2)}
    images = [board.architecture for board in (firmware.Q35, *boards)]

    def told(step: str, _fraction: float) -> None:
        console.print(f"boot assets: {step}", highlight=False)

    if settings.manager == "omni":
        talos.require_libraries()
    builder.build(options.assets_dir, images, told)
    if settings.manager == "omni":
        base_layer.interpreter(builder.default_cache(), told)  # Inside there is no network to make it.
    return namespaces.run_inside(namespaces.own_command(), keep=[lock.descriptor])


def _settings(options: _Options) -> LabFile:
    """The file, and what the command line changes in it."""
    file = lab_settings.load(options.config)
    changes: dict[str, object] = {}
    if options.machines is not None:
        changes["machines"] = options.machines
    if options.firmware is not None:
        changes["firmware"] = options.firmware.value
    if options.dhcp is not None:
        changes["dhcp"] = options.dhcp.value
    if options.manager is not None:
        changes["manager"] = options.manager.value
    try:
        return file.model_copy(update={"lab": LabSettings.model_validate(file.lab.model_dump() | changes)})
    except pydantic.ValidationError as error:
        problems = [str(item["msg"]).removeprefix("Value error, ") for item in error.errors()]
        raise SettingsError("\n".join(problems)) from error


# --- the inner process -----------------------------------------------------------------------------------------------


def _inner(console: Console, options: _Options) -> int:
    """Run the lab in the namespaces that the outer process has made."""
    with (options.state_dir / "lab.log").open("w", encoding="utf-8") as log_file:
        logs.configure("debug", "json")
        structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=log_file))
        try:
            return asyncio.run(_run(console, options))
        except asyncio.CancelledError:
            console.print("ended on request; nothing is left", highlight=False)
            return _INTERRUPTED


async def _run(console: Console, options: _Options) -> int:
    shown = view.for_console(console)
    started = time.monotonic()
    with namespaces.ended_by_outer():
        accelerator = await labs.choose_accelerator(options.assets_dir)
        shown.say(f"machines run on {accelerator.upper()}; logs are in {options.state_dir}")
        folder = options.state_dir / "run"
        async with labs.up(_settings(options), folder, options.assets_dir, accelerator) as lab:
            story = story_of(lab, shown)
            shown.say("provider and manager are up")
            if not options.once:
                return await _stay(console, shown, story, lab)
            failure = await _tell(shown, story)
        seconds = time.monotonic() - started
    if failure is not None:
        _complain(console, failure)
        console.print(f"look into {options.state_dir}/lab.log and {folder}/*.log, {folder}/LAB-*/console.log")
    if options.as_json:
        stage, error = (failure.stage, str(failure)) if failure is not None else ("", "")
        sys.stdout.write(json.dumps(summary.document(story.rows, seconds, stage, error)) + "\n")
    return 0 if failure is None else 1


async def _tell(shown: view.View, story: Story) -> StageError | None:
    """The whole story; gives the stage that failed."""
    with shown.showing(story.rows):
        try:
            await story.tell()
        except StageError as error:
            return error
    return None


async def _stay(console: Console, shown: view.View, story: Story, lab: Lab) -> int:
    """Discover the machines, tell how to look around, and stay up until the outer process ends it."""
    with shown.showing(story.rows):
        await story.discover()
    console.print(_how_to_look_around(lab, story), highlight=False, markup=False, soft_wrap=True)
    await asyncio.Event().wait()
    raise AssertionError("only cancellation ends this")


def _how_to_look_around(lab: Lab, story: Story) -> str:
    """Commands that work from any other terminal, with this lab's machines in them."""
    places = lab.places
    ids = [row.id for row in story.rows]
    operator = f"--socket {places.operator_socket}"
    decide = _at_omni(lab, story) if lab.settings.manager == "omni" else _at_reference_manager(places, ids[0])
    console = story.actors[0].machine.files.console_socket
    return f"""
The lab is up; Ctrl-C ends it, or from elsewhere: bootwright lab down. In another terminal:

  bootwright machine list {operator}
  bootwright machine show {ids[0]} {operator}
  bootwright machine explain {ids[0]} {operator}
  bootwright machine events {ids[0]} {operator}
  bootwright machine power {ids[0]} status {operator}
{decide}

Logs: {places.folder}/*.log. Serial console of {story.rows[0].name}: socat -,raw,echo=0 UNIX-CONNECT:{console}
"""


def _at_reference_manager(places: Places, machine: str) -> str:
    state = f"--state {places.manager_state}"
    verbs = ("machines", f"accept {machine}", f"allocate {machine} marker", f"release {machine}")
    return "\n".join(f"  bootwright manager {verb} {state}" for verb in verbs)


def _at_omni(lab: Lab, story: Story) -> str:
    desk = f"  curl -s --unix-socket {lab.places.desk_socket} http://omni/v1"
    body = json.dumps({"machine": story.actors[0].known_as})
    verbs = ("accept", "allocate", "release", "remove")
    return "\n".join([f"{desk}/machines", *(f"{desk}/{verb} -d '{body}'" for verb in verbs)])


def _complain(console: Console, error: BootwrightError) -> None:
    console.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
    if error.hint:
        console.print(f"hint: {error.hint}", highlight=False, markup=False, soft_wrap=True)

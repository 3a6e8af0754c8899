"""`bootwright assets`: build the agent image and everything else that machines boot from, and check it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bootassets import build as builder
from bootassets import manifest
from bootassets import progress as build_progress
from provider.domain.errors import BootwrightError
from provider.settings.models import Settings

assets_app = typer.Typer(help="The agent image and the boot files.", no_args_is_help=True)

_DEFAULT_DIR = Path(str(Settings.model_fields["assets_dir"].default))
_Dir = Annotated[Path, typer.Option("--dir", help="Folder of the boot assets (`assets_dir` in the configuration).")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
_Force = Annotated[bool, typer.Option("--force", help="Look for newer packages even if nothing of ours changed.")]
_Arch = Annotated[
    list[str] | None,
    typer.Option("--arch", help="Also for this architecture: x86_64 (the default) or aarch64. May be repeated."),
]


@assets_app.command()
def build(folder: _Dir = _DEFAULT_DIR, arch: _Arch = None, force: _Force = False, as_json: _Json = False) -> None:
    """Build what is missing or out of date; takes about a minute the first time, no time when nothing changed."""
    started = time.monotonic()
    console = Console(stderr=True)
    try:
        made = _build(console, folder, arch or [], force=force)
    except BootwrightError as error:
        _fail(console, error)
    _report(console, folder, made, seconds=time.monotonic() - started, as_json=as_json)


@assets_app.command()
def verify(folder: _Dir = _DEFAULT_DIR, as_json: _Json = False) -> None:
    """Compare every file with its checksum, as the daemon does when it starts."""
    started = time.monotonic()
    console = Console(stderr=True)
    try:
        found = manifest.verify(folder)
    except BootwrightError as error:
        _fail(console, error)
    _report(console, folder, found, seconds=time.monotonic() - started, as_json=as_json)


def _build(console: Console, folder: Path, wanted: Sequence[str], *, force: bool) -> manifest.Manifest:
    if not console.is_terminal:
        return builder.build(folder, wanted, progress=_plain_lines(console), force=force)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("boot assets", total=1.0)
        return builder.build(
            folder, wanted, lambda step, done: bar.update(task, description=step, completed=done), force=force
        )


def _plain_lines(console: Console) -> build_progress.Progress:
    started = time.monotonic()
    return lambda step, _: console.print(f"{time.monotonic() - started:6.1f} s  {step}", highlight=False)


def _report(console: Console, folder: Path, made: manifest.Manifest, *, seconds: float, as_json: bool) -> None:
    if as_json:
        json.dump({"ok": True, "dir": str(folder), "seconds": round(seconds, 1), **asdict(made)}, sys.stdout)
        sys.stdout.write("\n")
        return
    for name, file in sorted(made.files.items()):
        console.print(
            f"{file.bytes / 1e6:8.1f} MB  {file.sha256[:12]}  {folder / name}", highlight=False, soft_wrap=True
        )
    for note in made.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    console.print(f"boot assets complete after {seconds:.1f} s", highlight=False)


def _fail(console: Console, error: BootwrightError) -> None:
    console.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
    if error.hint:
        console.print(f"hint: {error.hint}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1) from error

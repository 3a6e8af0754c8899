"""
`python -m bench NAME [--json]`, which is what `./dev bench` starts.

The first process makes the folder and waits; the second, in namespaces of its own, measures (`provider.lab.namespaces` tells
how they belong together). Progress goes to standard error, the result to standard output. Status 1: a measurement failed;
a target that is missed is a result like any other.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench import dhcp, http, omni, report, stage, storm, tftp
from bench.report import Row
from bench.stage import Stage
from bootassets import build as builder
from provider.domain.errors import BootwrightError
from provider.kit import logs
from provider.lab import namespaces

_SCRATCH = Path(".bootwright")
_FOLDER = "BOOTWRIGHT_BENCH_FOLDER"
"""Environment variable that tells the inner process where the outer one made the folder."""

_INTERRUPTED = 130


Bench = Callable[[Stage], Awaitable[list[Row]]]


class Name(StrEnum):
    """What there is to measure."""

    DHCP = "dhcp"
    TFTP = "tftp"
    HTTP = "http"
    STORM = "storm"
    OMNI = "omni"


_Assets = Annotated[
    Path, typer.Option("--assets-dir", help="Folder of the boot assets; built if something is missing.")
]
_Machines = Annotated[int, typer.Option("--machines", min=1, max=20_000, help="Machines of storm and omni.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def bench(
    name: Annotated[Name, typer.Argument(help="What to measure.")],
    machines: _Machines = storm.MACHINES,
    as_json: _Json = False,
    assets_dir: _Assets = Path(".bootwright/assets"),
) -> None:
    """Measure ours and the peers side by side."""
    benches: dict[Name, Bench] = {
        Name.DHCP: dhcp.run,
        Name.TFTP: tftp.run,
        Name.HTTP: http.run,
        Name.STORM: functools.partial(storm.run, machines=machines),
        Name.OMNI: functools.partial(omni.run, machines=machines),
    }
    logs.configure("warning", "auto")
    try:
        status = _inner(name, benches[name], as_json, assets_dir) if namespaces.inside() else _outer(assets_dir)
    except* BootwrightError as errors:
        for error in _leaves(errors):
            stage.say(f"error: {error}")
            if error.hint:
                stage.say(f"hint: {error.hint}")
        status = 1
    raise typer.Exit(status)


def _outer(assets_dir: Path) -> int:
    """Build what is missing while there is a network, make the folder, go inside, and remove the folder in any case."""
    builder.build(assets_dir, progress=lambda step, _: stage.say(f"boot assets: {step}"))
    _SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_SCRATCH) as folder:
        os.environ[_FOLDER] = str(Path(folder).resolve())
        return namespaces.run_inside([sys.executable, "-m", "bench", *sys.argv[1:]])


def _inner(name: Name, measure: Bench, as_json: bool, assets_dir: Path) -> int:
    try:
        rows = asyncio.run(_measured(measure, assets_dir.resolve()))
    except asyncio.CancelledError:
        stage.say("ended on request; nothing is left")
        return _INTERRUPTED
    report.show(name.value, rows, as_json=as_json)
    return 0


async def _measured(measure: Bench, assets_dir: Path) -> list[Row]:
    with namespaces.ended_by_outer():
        on = stage.build(Path(os.environ[_FOLDER]), assets_dir)
        where = f"servers on CPUs {on.server_cpus}, load on {on.load_cpus}" if on.apart else "too few CPUs to part them"
        stage.say(f"{where}; load average before: {os.getloadavg()[0]:.1f}")
        return await measure(on)


def _leaves(errors: BaseExceptionGroup[BootwrightError]) -> list[BootwrightError]:
    found: list[BootwrightError] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    app(prog_name="./dev bench")

"""
`python -m fuzz NAME`, which is what `./dev fuzz` starts.

It puts the kept inputs into `.bootwright/fuzz/NAME/corpus`, beside what earlier runs found, starts `fuzz.engine`, and tells how
that ended. Status 1: something broke; the input that broke it is printed as one line for `tests/unit/fuzz/NAME.txt`, where the
unit tests play it from then on.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fuzz import inputs, sieve

_SCRATCH = Path(".bootwright/fuzz")


class Name(StrEnum):
    """What there is to fuzz."""

    DHCP = "dhcp"
    TFTP = "tftp"


_Minutes = Annotated[float, typer.Option("--minutes", min=0, help="How long; 0: without end.")]
_Runs = Annotated[int, typer.Option("--runs", min=0, help="End after so many inputs; 0: by time only.")]
_Keep = Annotated[bool, typer.Option("--keep", help="Add what reaches new code to the inputs of the unit tests.")]

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def fuzz(
    name: Annotated[Name, typer.Argument(help="Whose port.")],
    minutes: _Minutes = 5.0,
    runs: _Runs = 0,
    keep: _Keep = False,
) -> None:
    """Send any bytes to a port, by the million, and look for what breaks."""
    folder = _SCRATCH / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in inputs.corpus(name):
        (corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    for path in _broken(folder):
        path.unlink()
    status = _run(name, folder, runs, minutes)
    if status == 0 and keep:
        new = sieve.reaches_more(name, [path.read_bytes() for path in sorted(corpus.iterdir())])
        inputs.keep(name, new)
        typer.echo(f"{name}: {len(new)} inputs were added to {inputs.file(name)}")
    raise typer.Exit(status)


def _run(name: str, folder: Path, runs: int, minutes: float) -> int:
    """Run the engine; 1 if anything broke, however it came to its end."""
    log = folder / "libfuzzer.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "fuzz.engine", name, str(folder), str(runs), str(minutes * 60)]
        status = subprocess.run(command, stderr=file, check=False).returncode
    said = log.read_text(errors="replace")
    for places in re.findall(r" cov: (\d+) ", said)[-1:]:
        typer.echo(f"{name}: {places} places in the code were reached")
    if status == 0:
        return 0
    for path in _broken(folder):
        *before, last = path.read_text().splitlines() if path.suffix == ".txt" else [path.read_bytes().hex()]
        after = f" after {len(before)} others, all in {path}" if before else ""
        typer.echo(f"{name}: broken by this input{after}; put it into {inputs.file(name)}:\n{last}")
        return 1
    typer.echo(said[-4000:])
    return 1


def _broken(folder: Path) -> list[Path]:
    """What our own code found broken, and what LibFuzzer did: the process crashed, or was too slow or too large."""
    patterns = ("broken.txt", "crash-*", "timeout-*", "oom-*")
    return [path for pattern in patterns for path in folder.glob(pattern)]


if __name__ == "__main__":
    app(prog_name="./dev fuzz")

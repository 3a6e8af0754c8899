"""
The process that atheris runs in: plays inputs, counts them, and ends at the first that breaks something.

Atheris is LibFuzzer with Python's bytecode instrumented: an input that reaches something new is kept and changed further.
`fuzz.__main__` starts `python -m fuzz.engine NAME FOLDER RUNS SECONDS`; RUNS or SECONDS may be 0, which is no limit. FOLDER has
`corpus`, where inputs are found and left, and gets `broken.txt`.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

import atheris
import typer

with atheris.instrument_imports(include=["provider", "tftpy"]):
    from fuzz.targets import TARGETS

from fuzz.inputs import demand

BROKEN = "broken.txt"
"""File with the input that broke something; those that led there before it, one a line."""

LONGEST_INPUT = 1024
"""Bytes; longer ones find nothing new and take longer."""

SLOWEST_SECONDS = 5
"""An input that takes longer is a finding."""

WARM_UP = 50_000
"""Inputs after which memory is measured first: caches are full then."""

MOST_GROWTH = 64
"""MiB that memory may grow from then on; LibFuzzer's own inputs take some of it."""

_PROGRESS_SECONDS = 5.0
_LOOKS = 256
_LIVES_ON = 8
"""One input of so many also goes to a provider that lives on."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Run:
    """One run: what atheris calls for each input."""

    def __init__(self, name: str, folder: Path, runs: int, seconds: float) -> None:
        self._name = name
        self._target = TARGETS[name]
        self._folder = folder
        self._runs = runs
        self._started = self._told = time.monotonic()
        self._until = self._started + seconds if seconds else float("inf")
        self._inputs = 0
        self._told_inputs = 0
        self._memory = 0.0

    def play(self, data: bytes) -> None:
        """Play one input, and end the process if it is the last or breaks something."""
        played = [data]
        try:
            self._target.play(data)
            if self._target.lives_on is not None and self._inputs % _LIVES_ON == 0:
                played = self._target.lives_on.journal
                self._target.lives_on.play(data)
            self._inputs += 1
            if self._inputs % _LOOKS == 0 or self._inputs == self._runs:
                self._look_around()
        except Exception:  # noqa: BLE001 - whatever comes out is what we look for
            traceback.print_exc(file=sys.stdout)
            (self._folder / BROKEN).write_text("".join(f"{each.hex()}\n" for each in played))
            _end(1)

    def _look_around(self) -> None:
        now = time.monotonic()
        memory = _memory()
        if self._inputs >= WARM_UP and not self._memory:
            self._memory = memory
        grown = memory - self._memory if self._memory else 0.0
        demand(grown <= MOST_GROWTH, f"memory grew by {grown:.0f} MiB since input {WARM_UP}")
        is_last = now >= self._until or (self._runs > 0 and self._inputs >= self._runs)
        if is_last or now >= self._told + _PROGRESS_SECONDS:
            self._tell(now, memory)
        if is_last:
            seconds = now - self._started
            self._say(
                f"done: {self._inputs} inputs in {seconds:.0f} s, {self._inputs / seconds:.0f} a second, memory"
                f" {self._memory or memory:.0f} MiB when it was warm and {memory:.0f} MiB now, nothing broke"
            )
            _end(0)

    def _tell(self, now: float, memory: float) -> None:
        rate = (self._inputs - self._told_inputs) / max(now - self._told, 0.001)
        kept = sum(1 for _ in (self._folder / "corpus").iterdir())
        self._say(f"{self._inputs} inputs, {rate:.0f} a second, {kept} kept, memory {memory:.0f} MiB")
        self._told, self._told_inputs = now, self._inputs

    def _say(self, what: str) -> None:
        typer.echo(f"{self._name}: {what}")


def _memory() -> float:
    """Resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / (1 << 20)


def _end(status: int) -> None:
    """At once: LibFuzzer takes a process that ends in any other way for one that crashed."""
    sys.stdout.flush()
    os._exit(status)


def main(name: str, folder: Path, runs: int, seconds: float) -> None:
    """Run until something ends it."""
    run = Run(name, folder, runs, seconds)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in TARGETS[name].words()))
    options: dict[str, object] = {
        "artifact_prefix": f"{folder}/",
        "dict": words,
        "max_len": LONGEST_INPUT,
        "timeout": SLOWEST_SECONDS,
        "len_control": 20,
    }
    arguments = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(folder / "corpus")], run.play)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))

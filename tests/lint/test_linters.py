"""Lint as tests: `./dev lint` and `./dev test` are the same commands, and what they print is the failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent

LINTERS = {
    "ruff check": ["ruff", "check", "--quiet", "."],
    "ruff format": ["ruff", "format", "--quiet", "--diff", "."],
    "mypy": ["mypy", "--no-error-summary"],
    "import-linter": ["lint-imports", "--no-logo"],
}


def finds_nothing(*command: str | Path) -> None:
    """Fail with the linter's own words alone: nobody needs to read this file to understand them."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{done.stdout}\nrun it alone with: {' '.join(map(str, command))}", pytrace=False)


@pytest.mark.timeout(600)  # mypy without its cache reads every library once.
@pytest.mark.parametrize("name", LINTERS)
def test_python(name: str) -> None:
    """Python code is not in the house's style, or an arrow points upwards."""
    program, *arguments = LINTERS[name]
    finds_nothing(TOOLS / program, *arguments)


def test_shell() -> None:
    """A shell script holds what shellcheck knows to go wrong."""
    scripts = [ROOT / "dev", ROOT / ".ci/run", *ROOT.glob("provider/**/*.sh"), *ROOT.glob("bootassets/**/*.sh")]
    assert len(scripts) > 2
    finds_nothing("shellcheck", *(script.relative_to(ROOT) for script in scripts))

"""
Kills itself between any two steps of fetching an image: `python -m tests.integration.factory_killed FOLDER URL`.

Each step is a fork that dies by SIGKILL at the n-th thing that it does to the disk. Then others look at what is left: with the
factory away, and with the factory there. Prints the problems as JSON.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provider.domain.errors import TemporaryError
from provider.http import factory, images
from provider.http.factory import Factory, Patience
from provider.planning.talos import FactoryAddress, TalosBoot
from tests.fakes import image_factory

OLD, NEW = (TalosBoot({"customization": {}}, version, "amd64", False, (), True) for version in ("v1.10.0", "v1.11.0"))
SIZES = (300_000, 700_001)
MOST_BYTES = 1_500_000
"""Room for one image."""

NOWHERE = "http://127.0.0.1:9"


def steps(kill_at: int) -> None:
    """Make this process die at a step."""
    counter = itertools.count(1)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            if next(counter) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return step

    for name in ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "utime"):
        setattr(os, name, dying(getattr(os, name)))
    writer = io.BufferedWriter
    opened = Path.open

    def open_(path: Path, *arguments: Any, **named: Any) -> Any:
        file = opened(path, *arguments, **named)
        return Dying(file.detach()) if isinstance(file, writer) else file

    class Dying(writer):
        write = dying(writer.write)

    Path.open = dying(open_)  # type: ignore[method-assign]


async def fetch(folder: Path, url: str, boot: TalosBoot) -> list[Path]:
    """The files of an image."""
    images.FRESH_SECONDS = -1.0
    factory._CHUNK_BYTES = 100_000
    patience = Patience(connect=1)
    async with Factory(folder, MOST_BYTES, lambda: FactoryAddress(url, url), patience=patience) as client:
        image = await client.image(boot)
        return [image.kernel, *image.ram_disks]


def wrong(files: list[Path]) -> list[str]:
    """Which files are not what the factory has."""
    name, version = files[0].parent.name[:64], files[0].parent.name.split("-")[1]
    expected = [f"/image/{name}/{version}/{file}" for file in ("kernel-amd64", "initramfs-amd64.xz")]
    contents = [image_factory.content(path, size) for path, size in zip(expected, SIZES, strict=True)]
    return [str(file) for file, content in zip(files, contents, strict=True) if file.read_bytes() != content]


def in_fork(function: Callable[[], list[str]]) -> list[str] | None:
    """What a function gives in a process of its own; None if that was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(function()).encode())
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(writer, json.dumps([f"{type(error).__name__}: {error}"]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    said = os.read(reader, 65536)
    os.close(reader)
    return None if os.WIFSIGNALED(status) else json.loads(said)


def try_step(folder: Path, url: str, kill_at: int) -> tuple[bool, list[str]]:
    """Whether the step was there, and what is wrong after it."""

    def fetched(boot: TalosBoot, source: str) -> Callable[[], list[str]]:
        return lambda: wrong(asyncio.run(fetch(folder, source, boot)))

    def killed() -> list[str]:
        steps(kill_at)
        return fetched(NEW, url)()

    def with_the_factory_away(boot: TalosBoot) -> Callable[[], list[str]]:
        def look() -> list[str]:
            try:
                return fetched(boot, NOWHERE)()
            except TemporaryError:
                return []

        return look

    def left_over() -> list[str]:
        return [str(path) for part in folder.iterdir() for path in part.iterdir() if path.name.startswith(".")]

    problems = in_fork(fetched(OLD, url)) or []
    outcome = in_fork(killed)
    problems += outcome or []
    for boot in (OLD, NEW):
        problems += in_fork(with_the_factory_away(boot)) or []
    problems += left_over()
    problems += in_fork(fetched(NEW, url)) or []
    problems += left_over()
    return outcome is None, [f"step {kill_at}: {problem}" for problem in problems]


def main(folder: Path, url: str) -> None:
    """Try every step."""
    problems: list[str] = []
    for kill_at in itertools.count(1):
        was_killed, found = try_step(folder / str(kill_at), url, kill_at)
        problems += found
        if not was_killed:
            print(json.dumps({"steps": kill_at - 1, "problems": problems}))
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

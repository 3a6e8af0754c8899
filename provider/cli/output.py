"""How verbs print: tables for people, JSON for programs, and the way to the daemon."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from provider.domain.errors import PermanentError
from provider.kit.jsontypes import JsonObject
from provider.kit.unixhttp import UnixHttp, UnixHttpError, path
from provider.settings.models import OperatorSettings

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Socket = Annotated[Path, typer.Option("--socket", envvar="BOOTWRIGHT_SOCKET", help="Operator socket of the daemon.")]
DEFAULT_SOCKET = OperatorSettings().socket


def call(work: Callable[[], Awaitable[T]]) -> T:
    """Run a verb's work; what the other end refuses becomes an error of ours."""

    async def run() -> T:
        return await work()

    try:
        return asyncio.run(run())
    except UnixHttpError as error:
        raise PermanentError(str(error), hint=error.hint) from error


def ask(socket: Path, *segments: str) -> JsonObject:
    """GET from the daemon; the segments of the path may be what somebody typed."""

    async def work() -> JsonObject:
        async with UnixHttp(socket, "the daemon") as http:
            return await http.get(path(*segments))

    return call(work)


def tell(socket: Path, *segments: str, body: JsonObject | None = None) -> JsonObject:
    """POST to the daemon, likewise."""

    async def work() -> JsonObject:
        async with UnixHttp(socket, "the daemon") as http:
            return await http.post(path(*segments), body)

    return call(work)


def show(value: object) -> None:
    """JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; as wide as it needs to be where nobody looks."""
    console = Console(width=None if sys.stdout.isatty() else 250)
    drawn = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        drawn.add_column(column)
    for row in rows:
        drawn.add_row(*map(text, row))
    console.print(drawn, markup=False)


def flat(document: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """
    Name and value of everything in a document that fits on a line; names of nested objects are put together.

    Nothing stands for what is empty, and lists of objects are left to tables of their own.
    """
    for key, value in document.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat(value, f"{name} ")
        elif isinstance(value, list):
            if not any(isinstance(item, dict) for item in value):
                yield name, text(value)
        else:
            yield name, text(value)


def text(value: object) -> str:
    """A value for people: nothing for None, and what is in a list."""
    if isinstance(value, list):
        return " ".join(map(text, value))
    return "" if value is None else str(value)


def objects(answer: JsonObject, name: str) -> list[JsonObject]:
    """The list of objects under `name`."""
    found = answer.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

"""`bootwright manager`: the reference manager and what people say through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from provider.cli import output
from provider.kit import logs
from provider.kit.jsontypes import JsonObject
from provider.manager import messages
from provider.reference_manager import run
from provider.reference_manager.client import Client, control_socket

manager_app = typer.Typer(no_args_is_help=True)

State = Annotated[Path, typer.Option("--state", envvar="BOOTWRIGHT_MANAGER_STATE", help="State folder of the manager.")]
Id = Annotated[str, typer.Argument(help="Machine id, or its beginning.")]

_DEFAULT_STATE = Path("/var/lib/bootwright-manager")


@manager_app.command()
def serve(
    state: State = _DEFAULT_STATE,
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT for the providers' links.")] = "127.0.0.1:9443",
) -> None:
    """Run the reference manager in the foreground until SIGTERM."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise typer.BadParameter("write HOST:PORT, such as 127.0.0.1:9443", param_hint="--listen")
    logs.configure("info", "auto")
    asyncio.run(run.serve(state, host, int(port)))


@manager_app.command()
def machines(state: State = _DEFAULT_STATE, as_json: output.AsJson = False) -> None:
    """All machines of all providers."""
    found = _call(state, lambda client: client.machines())
    if as_json:
        output.show({"machines": found})
        return
    output.table(
        ("MACHINE", "PROVIDER", "PHASE", "POWER", "WANTED", "SERIAL", "BECAUSE"), [_line(each) for each in found]
    )


@manager_app.command()
def show(machine: Id, state: State = _DEFAULT_STATE) -> None:
    """All that the provider said about one machine, and what is wanted of it."""
    output.show(_call(state, lambda client: client.machine(machine)))


@manager_app.command()
def providers(state: State = _DEFAULT_STATE, as_json: output.AsJson = False) -> None:
    """The providers and whether their links are up."""
    found = _call(state, lambda client: client.providers())
    if as_json:
        output.show({"providers": found})
        return
    rows = [(each["id"], each["connected"], each["version"], each["last_sequence"]) for each in found]
    output.table(("PROVIDER", "CONNECTED", "VERSION", "LAST NUMBER"), rows)


@manager_app.command()
def accept(machine: Id, state: State = _DEFAULT_STATE, as_json: output.AsJson = False) -> None:
    """Say that the machine is ours: its provider wipes it and makes it ready."""
    _want(state, machine, "accept", as_json=as_json)


@manager_app.command()
def reject(machine: Id, state: State = _DEFAULT_STATE, as_json: output.AsJson = False) -> None:
    """Say that the machine is not ours: it is left alone."""
    _want(state, machine, "reject", as_json=as_json)


@manager_app.command()
def allocate(
    machine: Id,
    profile: Annotated[str, typer.Argument(help="A boot profile of the provider's settings.")],
    argument: Annotated[
        list[str] | None, typer.Option("--argument", help="A kernel argument to add; may repeat.")
    ] = None,
    state: State = _DEFAULT_STATE,
    as_json: output.AsJson = False,
) -> None:
    """Run a boot profile on it."""
    _said(_call(state, lambda client: client.allocate(machine, profile, argument or ())), as_json=as_json)


@manager_app.command()
def release(machine: Id, state: State = _DEFAULT_STATE, as_json: output.AsJson = False) -> None:
    """Nobody uses it any more: it is wiped and rests."""
    _want(state, machine, "release", as_json=as_json)


@manager_app.command()
def wipe(machine: Id, state: State = _DEFAULT_STATE, as_json: output.AsJson = False) -> None:
    """Wipe it again."""
    _want(state, machine, "wipe", as_json=as_json)


@manager_app.command()
def reboot(machine: Id, state: State = _DEFAULT_STATE, as_json: output.AsJson = False) -> None:
    """Reboot it once."""
    _want(state, machine, "reboot", as_json=as_json)


@manager_app.command()
def events(state: State = _DEFAULT_STATE, after: int = 0, wait: int = 0) -> None:
    """What was applied, in order, as JSON: row id, provider, sequence number, machine, event or phase."""
    output.show({"log": _call(state, lambda client: client.watch(after, wait))})


@manager_app.command()
def schema() -> None:
    """JSON Schema of the link's messages, both directions."""
    output.show(messages.json_schema())


def _want(state: Path, machine: str, verb: str, *, as_json: bool) -> None:
    _said(_call(state, lambda client: client.want(machine, verb)), as_json=as_json)


def _said(answer: JsonObject, *, as_json: bool) -> None:
    if as_json:
        output.show(answer)
    else:
        typer.echo(f"{answer['machine']}: revision {answer['revision']} goes to {answer['provider']}")


def _call(state: Path, work: Callable[[Client], Awaitable[output.T]]) -> output.T:
    async def run_it() -> output.T:
        async with Client(control_socket(state)) as client:
            return await work(client)

    return output.call(run_it)


def _line(machine: JsonObject) -> tuple[object, ...]:
    said, wanted = _object(machine["state"]), _object(machine["desired"])
    allocation = _object(wanted.get("allocation"))
    what = allocation.get("profile") or wanted.get("acceptance") or ""
    identity, power = _object(said.get("identity")), _object(said.get("power"))
    serial, state = identity.get("serial"), power.get("state")
    return machine["id"], machine["provider"], said.get("phase"), state, what, serial, said.get("because")


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}

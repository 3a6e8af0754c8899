"""`bootwright machine`: everything about machines, over the operator API."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from provider.cli import output
from provider.kit import unixhttp
from provider.kit.jsontypes import JsonObject
from provider.kit.unixhttp import UnixHttp

machine_app = typer.Typer(no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="Id, its beginning, a MAC address, UUID or serial.")]


class PowerVerb(StrEnum):
    """What can be done to the power of a machine."""

    STATUS = "status"
    ON = "on"
    OFF = "off"
    CYCLE = "cycle"


@machine_app.command("list")
def list_machines(socket: output.Socket = output.DEFAULT_SOCKET, as_json: output.AsJson = False) -> None:
    """All machines, a line each."""
    answer = output.ask(socket, "machines")
    if as_json:
        output.show(answer)
        return
    _summaries(output.objects(answer, "machines"))


@machine_app.command()
def show(machine: Id, socket: output.Socket = output.DEFAULT_SOCKET, as_json: output.AsJson = False) -> None:
    """All that is known about one machine."""
    answer = output.ask(socket, "machines", machine)
    if as_json:
        output.show(answer)
        return
    inventory = answer.pop("inventory", None)
    output.table(("", ""), output.flat(answer))
    attachments = output.objects(answer, "attachments")
    if attachments:
        typer.echo("\nSeen by DHCP")
        names = ("mac", "interface", "relay", "circuit_id", "remote_id")
        output.table(
            ("  MAC", "ON", "BEHIND RELAY", "CIRCUIT-ID", "REMOTE-ID"),
            [("  " + str(each["mac"]), *(each[name] for name in names[1:])) for each in attachments],
        )
    if isinstance(inventory, dict):
        _inventory(inventory)


@machine_app.command()
def explain(machine: Id, socket: output.Socket = output.DEFAULT_SOCKET, as_json: output.AsJson = False) -> None:
    """Why the machine is where it is: facts, the rule that decided, the next step."""
    answer = output.ask(socket, "machines", machine, "explain")
    if as_json:
        output.show(answer)
        return
    facts = answer.pop("facts")
    typer.echo("What is known and wanted")
    output.table(("", ""), [("  " + str(name), value) for name, value in facts] if isinstance(facts, list) else [])
    typer.echo("\nWhat was decided")
    output.table(("", ""), [("  " + name.replace("_", " "), value) for name, value in answer.items()])


@machine_app.command()
def accept(machine: Id, socket: output.Socket = output.DEFAULT_SOCKET, as_json: output.AsJson = False) -> None:
    """Say that the machine is ours: its disks will be wiped. With a manager, do it there."""
    _changed(output.tell(socket, "machines", machine, "accept"), as_json=as_json)


@machine_app.command()
def wipe(machine: Id, socket: output.Socket = output.DEFAULT_SOCKET, as_json: output.AsJson = False) -> None:
    """Wipe an accepted machine again. With a manager, do it there."""
    _changed(output.tell(socket, "machines", machine, "wipe"), as_json=as_json)


@machine_app.command()
def power(
    machine: Id,
    verb: Annotated[PowerVerb, typer.Argument(help="What to do.")] = PowerVerb.STATUS,
    socket: output.Socket = output.DEFAULT_SOCKET,
    as_json: output.AsJson = False,
) -> None:
    """Read or switch the power through the BMC, now."""
    answer = output.tell(socket, "machines", machine, "power", body={"action": verb.value})
    if as_json:
        output.show(answer)
        return
    wanted = answer.get("wanted")
    note = f"; the plan wants it {wanted}" if wanted is not None and wanted != answer["state"] else ""
    typer.echo(f"{answer['id']} is {answer['state']}{note}")


@machine_app.command()
def events(
    machine: Annotated[str | None, typer.Argument(help="One machine only.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many of the last ones.")] = 50,
    socket: output.Socket = output.DEFAULT_SOCKET,
    as_json: output.AsJson = False,
) -> None:
    """What happened to a machine, or to all."""

    async def listen() -> None:
        query: dict[str, str | int | float] = {} if machine is None else {"machine": unixhttp.name(machine)}
        async with UnixHttp(socket, "the daemon") as http:
            found = output.objects(await http.get("/v1/events", limit=limit, **query), "events")
            last = _print_events(found, 0, as_json=as_json)
            while follow:
                found = output.objects(await http.get("/v1/events", after=last, wait=30, limit=1000, **query), "events")
                last = _print_events(found, last, as_json=as_json)

    output.call(listen)


def _print_events(events: list[JsonObject], last: int, *, as_json: bool) -> int:
    for event in events:
        if as_json:
            output.show(event)
        else:
            data = event["data"]
            said = data.items() if isinstance(data, dict) else ()
            facts = " ".join(f"{key}={value}" for key, value in said if value not in (None, ""))
            at = datetime.fromisoformat(str(event["at"])).astimezone()
            typer.echo(f"{at:%Y-%m-%d %H:%M:%S}  {event['machine']}  {event['name']}  {facts}".rstrip())
        last = int(str(event["id"]))
    return last


def _changed(answer: JsonObject, *, as_json: bool) -> None:
    if as_json:
        output.show(answer)
    else:
        _summaries([answer])


def _summaries(machines: list[JsonObject]) -> None:
    output.table(
        ("MACHINE", "PHASE", "POWER", "AGENT", "ALLOCATION", "SERIAL", "MAC", "BECAUSE"),
        [
            (
                each["id"],
                each["phase"] if each["percent"] is None else f"{each['phase']} {each['percent']} %",
                each["power"],
                "yes" if each["agent"] else "",
                each["allocation"],
                each["serial"],
                " ".join(str(mac) for mac in each["macs"]) if isinstance(each["macs"], list) else "",
                each["because"],
            )
            for each in machines
        ],
    )


def _inventory(inventory: JsonObject) -> None:
    disks, nics = output.objects(inventory, "disks"), output.objects(inventory, "nics")
    typer.echo("\nInventory")
    output.table(("", ""), (("  " + name, value) for name, value in output.flat(inventory)))
    typer.echo("\nDisks")
    output.table(
        ("  PATH", "SERIAL", "MODEL", "KIND", "BYTES"),
        [("  " + str(d["path"]), d["serial"] or d["wwn"], d["model"], d["kind"], d["size_bytes"]) for d in disks],
    )
    typer.echo("\nNetwork interfaces")
    output.table(
        ("  NAME", "MAC", "LINK", "DRIVER", "BOOTED FROM"),
        [("  " + str(n["name"]), n["mac"], n["link"], n["driver"], "yes" if n["booted_from"] else "") for n in nics],
    )

"""`bootwright status`: how the daemon is."""

from __future__ import annotations

import typer

from provider.cli import output
from provider.kit.jsontypes import JsonObject

status_app = typer.Typer(invoke_without_command=True)


@status_app.callback()
def status(socket: output.Socket = output.DEFAULT_SOCKET, as_json: output.AsJson = False) -> None:
    """Version, interfaces, manager link and counts."""
    answer = output.ask(socket, "status")
    if as_json:
        output.show(answer)
        return
    output.table(("", ""), output.flat(answer))
    typer.echo("\nInterfaces")
    rows = [row for each in output.objects(answer, "interfaces") for row in interface_rows(each)]
    output.table(("name", "dhcp", "address", "serves", "waits for"), rows)


def interface_rows(interface: JsonObject) -> list[tuple[object, ...]]:
    """One interface: what is open on it, and a line for each thing that it waits for."""
    serves = interface["serves"]
    first = (
        interface["name"],
        interface["dhcp"],
        interface["address"],
        ", ".join(map(str, serves)) if isinstance(serves, list) else "",
    )
    waits_for = [f"{each['reason']} ({each['hint']})" for each in output.objects(interface, "waits_for")]
    rows: list[tuple[object, ...]] = [(*first, next(iter(waits_for), ""))]
    rows += [("", "", "", "", more) for more in waits_for[1:]]
    return rows

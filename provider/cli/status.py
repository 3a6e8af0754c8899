"""`bootwright status`: how the daemon is."""

from __future__ import annotations

import typer

from provider.cli import output

status_app = typer.Typer(invoke_without_command=True)


@status_app.callback()
def status(socket: output.Socket = output.DEFAULT_SOCKET, as_json: output.AsJson = False) -> None:
    """Version, interfaces, manager link and counts."""
    answer = output.ask(socket, "/v1/status")
    if as_json:
        output.show(answer)
        return
    output.table(("", ""), output.flat(answer))

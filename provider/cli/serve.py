"""`bootwright serve`: run the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from provider import daemon
from provider.settings import load

serve_app = typer.Typer(invoke_without_command=True)


@serve_app.callback()
def serve(
    config: Annotated[Path, typer.Option("--config", help="The configuration file.")] = Path(
        "/etc/bootwright/provider.yaml"
    ),
) -> None:
    """Run the daemon in the foreground until SIGTERM; logs go to standard error."""
    daemon.serve(load.load(config))

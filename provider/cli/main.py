"""
`bootwright`: the verbs, each in a file of its own that is imported when the verb is used, so that `--help` is quick.

Errors are translated here, once: `bootwright: what and why` and `hint: what to do` on standard error, status 1.
"""

from __future__ import annotations

import importlib
import sys

import typer

from provider.domain.errors import BootwrightError

_VERBS = {
    "serve": ("provider.cli.serve", "serve_app", "Run the daemon."),
    "status": ("provider.cli.status", "status_app", "Ask the daemon how it is."),
    "machine": ("provider.cli.machine", "machine_app", "List machines, look at one, accept, wipe, switch its power."),
    "lease": ("provider.cli.lease", "lease_app", "Who has which address; keep addresses for certain clients."),
    "assets": ("provider.cli.assets", "assets_app", "Build and check the agent image and the boot files."),
    "manager": ("provider.cli.manager", "manager_app", "The reference manager: run it, and say what machines are for."),
    "omni": ("provider.cli.omni", "omni_app", "Take machines over from Sidero's own provider for Omni."),
    "lab": ("provider.cli.lab", "lab_app", "A whole lab on this box: machines, BMCs, provider and manager."),
}


def application(wanted: str | None) -> typer.Typer:
    """The command line with the module of the wanted verb; the others are there by name and help only."""
    app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback()
    def bootwright() -> None:
        """Bare-metal infrastructure provider: boots, discovers, wipes and powers machines."""

    for verb, (module, name, text) in _VERBS.items():
        if verb == wanted:
            app.add_typer(getattr(importlib.import_module(module), name), name=verb, help=text)
        else:
            app.command(verb, help=text)(lambda: None)
    return app


def main() -> None:
    """Entry point of the distribution."""
    wanted = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    try:
        application(wanted)(prog_name="bootwright")
    except BootwrightError as error:
        fail(str(error), error.hint)
    except BrokenPipeError:
        sys.stderr.close()  # Whoever read us has enough: `bootwright machine events | head`.
        sys.exit(1)


def fail(message: str, hint: str = "") -> None:
    """Say what went wrong, and end with status 1."""
    sys.stderr.write(f"bootwright: {message}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")
    sys.exit(1)

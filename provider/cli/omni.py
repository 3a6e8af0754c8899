"""`bootwright omni`: what is done once with Sidero Omni."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from provider import daemon
from provider.cli import output
from provider.domain.errors import PermanentError
from provider.kit import logs
from provider.kit.clock import utc_now
from provider.kit.jsontypes import JsonObject
from provider.manager.omni import adoption, server_clock
from provider.manager.omni.credentials import Credentials
from provider.manager.omni.state import Endpoint, State, open_channel
from provider.planning.adoption import summary
from provider.planning.lifecycle import Policy
from provider.reconcile.adoption import Adopted, AdoptionDesk
from provider.settings import load
from provider.settings.models import OmniManager
from provider.store.bmcs import BmcStore
from provider.store.database import Database
from provider.store.keepsakes import KeepsakeStore
from provider.store.machines import MachineStore
from provider.store.sealing import Sealer

omni_app = typer.Typer(no_args_is_help=True)


@dataclass(frozen=True)
class Account:
    """Which Omni, and who we are there."""

    endpoint: str
    key_file: Path
    ca_file: Path | None = None

    def credentials(self) -> Credentials:
        """
        The key.

        Raises:
            PermanentError: If it cannot be used.
        """
        try:
            return Credentials.load(self.key_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PermanentError(
                f"the key file {self.key_file} cannot be read: {error}", hint="check manager.key_file and its owner"
            ) from error


@omni_app.callback()
def _omni() -> None:
    """Sidero Omni."""


@omni_app.command()
def adopt(
    config: Annotated[Path, typer.Option("--config", help="The configuration file.")] = Path(
        "/etc/bootwright/provider.yaml"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be taken over, and write nothing.")
    ] = False,
    as_json: output.AsJson = False,
) -> None:
    """
    Take machines over from Sidero's own provider, so that none is wiped or rebooted by the change.

    Stop that provider first, and start this one afterwards. What was taken over already stays; so it may be run again.
    It is also how to go on, knowing what will be wiped, where the state folder of another Bootwright with this key was lost.
    """
    settings = load.load(config)
    logs.configure("warning", settings.log.format)
    manager = settings.manager
    if not isinstance(manager, OmniManager):
        raise PermanentError(f"{config} names no Omni", hint="set manager: {kind: omni, endpoint: ..., key_file: ...}")
    account, policy = Account(manager.endpoint, manager.key_file, manager.ca_file), daemon.policy(settings)
    folder = settings.provider.state_dir
    database = Path((settings.store.url or f"sqlite:///{folder / 'bootwright.db'}").removeprefix("sqlite:///"))
    with _rehearsal(folder, database) if dry_run else _performance(folder, database) as (folder, database):
        adopted = asyncio.run(take_over(account, folder, database, policy, rehearses=dry_run))
    if as_json:
        output.show({"dry_run": dry_run, "machines": [_document(each) for each in adopted]})
    else:
        _tell(adopted, dry_run=dry_run)


async def take_over(
    account: Account, folder: Path, database: Path, policy: Policy, *, rehearses: bool = False
) -> list[Adopted]:
    """
    Take all machines of an account over into a database, whose key is in `folder`.

    Raises:
        BootwrightError: If that cannot be; see `manager.omni.adoption.adopt`.
    """
    credentials = account.credentials()
    opened = Database.open(f"sqlite:///{database}")
    try:
        sealer = Sealer.open(folder / "secret.key")
        store = MachineStore(opened, policy, utc_now)
        desk = AdoptionDesk(store, BmcStore(opened, sealer), KeepsakeStore(opened, sealer), sealer)
        endpoint = Endpoint.parse(account.endpoint)
        channel = open_channel(endpoint, account.ca_file)
        try:
            state = State(channel, credentials, utc_now, partial(server_clock.ask, endpoint.page, account.ca_file))
            return await adoption.adopt(state, credentials.account.provider_id, desk, utc_now, rehearses=rehearses)
        finally:
            await channel.close()
    finally:
        opened.close()


@contextlib.contextmanager
def _performance(folder: Path, database: Path) -> Iterator[tuple[Path, Path]]:
    """The state itself, while no daemon uses it."""
    with daemon.state_folder(folder):
        yield folder, database


@contextlib.contextmanager
def _rehearsal(folder: Path, database: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of the state: all is done as ever, and thrown away."""
    with tempfile.TemporaryDirectory(prefix="bootwright-") as name:
        copy = Path(name)
        if (folder / "lock").exists():  # Else no daemon was ever there, and nothing is to be made.
            with daemon.state_folder(folder):
                for file in (folder / "secret.key", database, database.with_name(f"{database.name}-wal")):
                    if file.exists():
                        shutil.copyfile(file, copy / file.name)
        yield copy, copy / database.name


# --- printing --------------------------------------------------------------------------------------------------------


def _tell(adopted: Sequence[Adopted], *, dry_run: bool) -> None:
    lines = [(each.uuid, ", ".join(summary(each.adoption)) or "nothing new", _next(each)) for each in adopted]
    if sys.stdout.isatty():
        output.table(("UUID", "WOULD BE TAKEN OVER" if dry_run else "TAKEN OVER", "NEXT"), lines)
    else:
        for line in lines:
            typer.echo("\t".join(line))
    changed = sum(1 for each in adopted if each.adoption)
    typer.echo(
        f"{changed} of {len(adopted)} machines {'would be changed; nothing was written' if dry_run else 'changed'}"
    )


def _next(each: Adopted) -> str:
    """What will happen, and what somebody should know; the remarks say it where they say it better."""
    remarks = list(each.adoption.remarks)
    if each.plan is not None and each.plan.rule not in _TOLD_BY_REMARKS:
        remarks.insert(0, f"{each.plan.phase.value}: {each.plan.because}")
    return "; ".join(remarks)


_TOLD_BY_REMARKS = ("rejected", "cordoned", "pending", "wipe-due", "bmc-missing")


def _document(each: Adopted) -> JsonObject:
    plan, machine = each.plan, each.machine
    return {
        "uuid": each.uuid,
        "machine": None if machine is None else machine.id,
        "changed": bool(each.adoption),
        "taken_over": list(summary(each.adoption)),
        "remarks": list(each.adoption.remarks),
        "phase": None if plan is None else plan.phase.value,
        "rule": None if plan is None else plan.rule,
        "because": None if plan is None else plan.because,
    }

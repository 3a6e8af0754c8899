"""`bootwright lease`: who has which address, and which are kept for whom."""

from __future__ import annotations

from datetime import datetime
from ipaddress import IPv4Address
from typing import Annotated

import typer

from provider.cli import output
from provider.domain.errors import PermanentError
from provider.kit.jsontypes import JsonObject

lease_app = typer.Typer(no_args_is_help=True)

Address = Annotated[str, typer.Argument(help="IPv4 address in a network that the provider leases addresses of.")]


@lease_app.command("list")
def list_leases(socket: output.Socket = output.DEFAULT_SOCKET, as_json: output.AsJson = False) -> None:
    """Leases in force, addresses in quarantine, and reservations made here."""
    answer = output.ask(socket, "leases")
    if as_json:
        output.show(answer)
        return
    output.table(
        ("ADDRESS", "MAC", "UUID", "CIRCUIT-ID", "REMOTE-ID", "UNTIL", ""),
        [
            (
                each["address"],
                each["mac"],
                each["uuid"],
                each["circuit_id"],
                each["remote_id"],
                _until(each),
                "in quarantine" if each["quarantined"] else "",
            )
            for each in output.objects(answer, "leases")
        ],
    )
    reservations = output.objects(answer, "reservations")
    if reservations:
        typer.echo("\nReservations")
        output.table(
            ("  ADDRESS", "FOR", "", "REMOTE-ID"),
            [("  " + str(each["address"]), each["by"], each["value"], each["remote_id"]) for each in reservations],
        )


@lease_app.command()
def reserve(
    address: Address,
    mac: Annotated[str | None, typer.Option("--mac", help="For the interface with this MAC address.")] = None,
    uuid: Annotated[str | None, typer.Option("--uuid", help="For the machine with this SMBIOS UUID.")] = None,
    circuit_id: Annotated[
        str | None, typer.Option("--circuit-id", help="For whoever is on this port of a relay (option 82).")
    ] = None,
    remote_id: Annotated[
        str | None, typer.Option("--remote-id", help="With --circuit-id: of the relay with this name.")
    ] = None,
    socket: output.Socket = output.DEFAULT_SOCKET,
    as_json: output.AsJson = False,
) -> None:
    """Keep an address for one client; it gets it at its next DHCPDISCOVER, once nobody else has it."""
    wanted = {"address": address, "mac": mac, "uuid": uuid, "circuit_id": circuit_id, "remote_id": remote_id}
    answer = output.tell(
        socket, "reservations", body={key: value for key, value in wanted.items() if value is not None}
    )
    _said(answer, "reserved for", as_json=as_json)
    held = answer.get("held_by")
    if isinstance(held, dict) and not as_json:
        if held["quarantined"]:
            typer.echo(f"It is in quarantine until {_until(held)}: somebody uses it without a lease.")
        else:
            typer.echo(f"{held['mac']} has it until {_until(held)}, or until that asks for it again.")


@lease_app.command()
def unreserve(address: Address, socket: output.Socket = output.DEFAULT_SOCKET, as_json: output.AsJson = False) -> None:
    """Give a reserved address back to its pool. Who has it keeps it until its lease ends."""
    try:
        IPv4Address(address)
    except ValueError as error:
        raise PermanentError(
            f"{address!r} is not an IPv4 address", hint="list those that are reserved: bootwright lease list"
        ) from error
    answer = output.tell(socket, "reservations", address, "remove")
    _said(answer, "no longer reserved for", as_json=as_json)


def _until(lease: JsonObject) -> str:
    return f"{datetime.fromisoformat(str(lease['expires_at'])).astimezone():%Y-%m-%d %H:%M:%S}"


def _said(answer: JsonObject, what: str, *, as_json: bool) -> None:
    reservation = answer["reservation"]
    if as_json or not isinstance(reservation, dict):
        output.show(answer)
    else:
        typer.echo(f"{reservation['address']} is {what} {reservation['by']} {reservation['value']}")

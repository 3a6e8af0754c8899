"""The address desk: which addresses are leased, and which an operator keeps for one client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Address

from provider.domain import mac as macs
from provider.domain.errors import NotFoundError, PermanentError, RefusedError
from provider.domain.lease import Lease, Reservation, ReservedBy
from provider.kit.jsontypes import JsonObject
from provider.kit.signal import Signal
from provider.planning import identity
from provider.store.leases import LeaseStore
from provider.wire import dhcp


class AddressDesk:
    """
    What `http.operators` calls about addresses, and where the DHCP server hears of reservations.

    `leased_here` tells whether an address can be a client's: of a network that we lease addresses of, not our own, and not
    reserved by the settings.
    """

    def __init__(
        self, store: LeaseStore, leased_here: Callable[[IPv4Address], bool], clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._leased_here = leased_here
        self._clock = clock
        self._reservations: list[Reservation] = []
        self.changed = Signal()
        """Rings when `reservations` has changed."""

    async def load(self) -> None:
        """Read the reservations; call once before anything is served."""
        self._reservations = await self._store.reservations()

    def reservations(self) -> Sequence[Reservation]:
        """All reservations of the operators."""
        return self._reservations

    async def addresses(self) -> JsonObject:
        """The leases in force, the addresses in quarantine, and the reservations."""
        now = self._clock()
        leases = [lease for lease in await self._store.load() if lease.expires_at > now]
        return {
            "leases": [_lease(lease) for lease in sorted(leases, key=lambda lease: lease.address)],
            "reservations": [_reserved(each) for each in self._reservations],
        }

    async def reserve(self, wanted: Mapping[str, object]) -> JsonObject:
        """
        Keep an address for one client: `address`, one of `mac`, `uuid`, `circuit_id`, and with the last one `remote_id`.

        The answer has the lease of who holds the address now, if that is somebody else: the client must wait for its end.

        Raises:
            PermanentError: If it is not well said.
            RefusedError: If the address is not ours to give.
        """
        reservation = _reservation(wanted)
        if not self._leased_here(reservation.address):
            raise RefusedError(
                f"{reservation.address} is in no network that we lease addresses of, is no client's address there, or is"
                " reserved by the settings",
                hint="see network.interfaces and network.subnets in the configuration file",
            )
        await self._store.reserve(reservation)
        await self._reload()
        return {"reservation": _reserved(reservation), "held_by": await self._held_by_another(reservation)}

    async def unreserve(self, address: str) -> JsonObject:
        """
        Give an address back to its pool.

        Raises:
            NotFoundError: If it is not reserved.
        """
        found = next((each for each in self._reservations if str(each.address) == address), None)
        if found is None:
            raise NotFoundError(
                f"{address} is not reserved by an operator", hint="list them with: bootwright lease list"
            )
        await self._store.unreserve(found.address)
        await self._reload()
        return {"reservation": _reserved(found)}

    async def _held_by_another(self, reservation: Reservation) -> JsonObject | None:
        lease = await self._store.of(reservation.address)
        if lease is None or lease.expires_at <= self._clock():
            return None
        return None if reservation.is_for(lease.claimant) and not lease.declined else _lease(lease)

    async def _reload(self) -> None:
        self._reservations = await self._store.reservations()
        self.changed.ring()


def _reservation(wanted: Mapping[str, object]) -> Reservation:
    given = [by for by in ReservedBy if wanted.get(by.value)]
    if len(given) != 1:
        raise PermanentError("a reservation is for one client", hint="give exactly one of mac, uuid, circuit_id")
    by, value = given[0], str(wanted[given[0].value])
    remote_id = str(wanted.get("remote_id") or "")
    if remote_id and by is not ReservedBy.CIRCUIT_ID:
        raise PermanentError("a remote-id names no client", hint="give it together with circuit_id")
    try:
        address = IPv4Address(str(wanted.get("address")))
        match by:
            case ReservedBy.MAC:
                value = macs.parse(value)
            case ReservedBy.UUID:
                value = identity.parse_uuid(value)
            case ReservedBy.CIRCUIT_ID:
                value, remote_id = dhcp.relay_spelling(value), dhcp.relay_spelling(remote_id)
    except ValueError as error:
        raise PermanentError(str(error)) from error
    return Reservation(address, by, value, remote_id)


def _lease(lease: Lease) -> JsonObject:
    claimant = lease.claimant
    return {
        "address": str(lease.address),
        "mac": claimant.mac,
        "uuid": claimant.uuid,
        "circuit_id": claimant.circuit_id,
        "remote_id": claimant.remote_id,
        "expires_at": lease.expires_at.isoformat(),
        "quarantined": lease.declined,
    }


def _reserved(reservation: Reservation) -> JsonObject:
    return {
        "address": str(reservation.address),
        "by": reservation.by.value,
        "value": reservation.value,
        "remote_id": reservation.remote_id,
    }

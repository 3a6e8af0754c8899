"""
Which machine is this?

Firmware lies: UUIDs and serials are missing, placeholders, shared by a whole batch, spelled in another byte order, or
change with a setting. MAC addresses are burnt into hardware that can be moved, but two powered machines on one network
cannot work with the same one. So:

* Only a common MAC address makes two pieces of evidence one machine.
* A MAC address whose machine is contradicted by both UUID and serial has moved to another machine.
* Equal UUIDs or serials without a common MAC address make two machines and a warning, never one.

A machine wrongly split in two costs an operator a minute. Two machines wrongly made one cost somebody's disks.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from provider.domain import smbios
from provider.domain.mac import MacAddress
from provider.domain.machine import Evidence, Identity

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_PLACEHOLDER_UUIDS = frozenset(
    {
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "78563412-3412-7856-90ab-cddeefaabbcc",
        "fefefefe-fefe-fefe-fefe-fefefefefefe",
    }
)

_PLACEHOLDER_SERIALS = frozenset(
    {
        "0",
        "0123456789",
        "012345678",
        "123456789",
        "1234567890",
        "chassis serial number",
        "default string",
        "empty",
        "n/a",
        "na",
        "none",
        "not applicable",
        "not available",
        "not settable",
        "not specified",
        "null",
        "o.e.m.",
        "oem",
        "serial",
        "serial number",
        "system serial number",
        "to be filled by o.e.m.",
        "unknown",
        "xxxxxxx",
    }
)


_TWINS_TOLD = 3
"""Machines that a new one is said to have the UUID or serial of: a batch of cloned firmware has hundreds."""


def believable_uuid(text: str) -> str:
    """Normalise an SMBIOS UUID; empty if it is none, or one that firmware makers leave in by the thousand."""
    lowered = text.strip().strip("\0").lower()
    if not _UUID.fullmatch(lowered) or lowered in _PLACEHOLDER_UUIDS:
        return ""
    if len(set(lowered.replace("-", ""))) == 1:
        return ""
    return lowered


def parse_uuid(text: str) -> str:
    """
    Read the SMBIOS UUID of one machine, in any common spelling.

    Raises:
        ValueError: If it is none, or one that many machines have.
    """
    try:
        uuid = str(UUID(text.strip()))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a UUID such as 00112233-4455-6677-8899-aabbccddeeff") from error
    if not believable_uuid(uuid):
        raise ValueError(f"{uuid} is a placeholder, which many machines have")
    return uuid


def believable_serial(text: str) -> str:
    """Normalise a serial number; empty if it is a placeholder."""
    stripped = " ".join(text.replace("\0", " ").split())
    if stripped.lower() in _PLACEHOLDER_SERIALS or not stripped.strip("0.-_ xX"):
        return ""
    return stripped


def believe(evidence: Evidence) -> Evidence:
    """Drop what firmware made up."""
    return replace(
        evidence,
        uuid=believable_uuid(evidence.uuid),
        serial=believable_serial(evidence.serial),
        board_serial=believable_serial(evidence.board_serial),
        chassis_serial=believable_serial(evidence.chassis_serial),
    )


@dataclass(frozen=True)
class Match:
    """
    Who the evidence belongs to.

    `machine_id` is None for a machine not seen before. `absorbs` are machines that turned out to be parts of it, and
    may be forgotten. `steals` are MAC addresses that other machines lose to it. `warnings` are sentences for its
    operator.
    """

    machine_id: str | None
    absorbs: tuple[str, ...] = ()
    steals: tuple[MacAddress, ...] = ()
    warnings: tuple[str, ...] = ()
    conflict: str = ""
    """Not empty: the evidence claims to be several established machines at once, and is nobody."""


def match(evidence: Evidence, known: Sequence[Identity], settled: frozenset[str]) -> Match:
    """
    Find the machine that believed `evidence` belongs to.

    `known` are all machines that share a MAC address, UUID (in either byte order) or serial with it; `settled` are the
    ids among them that have reported an inventory or that somebody has decided about, so that they must not be
    absorbed.
    """
    if not evidence.macs:
        return _by_uuid(evidence, known)
    sharing = [identity for identity in known if set(identity.macs) & set(evidence.macs)]
    agreeing = [identity for identity in sharing if not contradicts(evidence, identity)]
    agreeing += [each for each in _nameless(evidence, known) if not agreeing or each.id not in settled]
    moved = tuple(
        mac for identity in sharing if identity not in agreeing for mac in identity.macs if mac in evidence.macs
    )
    if agreeing:
        return _one_of(evidence, agreeing, settled, moved)
    if moved:
        return _moved(evidence, known, moved)
    return Match(machine_id=None, warnings=tuple(_twin_warning(evidence, twin) for twin in known[:_TWINS_TOLD]))


def _by_uuid(evidence: Evidence, known: Sequence[Identity]) -> Match:
    """Whose UUID it is, for a manager that knows machines by nothing else; it must be one machine's alone."""
    found = [identity.id for identity in known if evidence.uuid and _same_uuid(evidence.uuid, identity.uuid)]
    if len(found) > 1:
        return Match(None, conflict=f"has the UUID {evidence.uuid}, and so have {' and '.join(sorted(found))}")
    return Match(found[0] if found else None)


def _nameless(evidence: Evidence, known: Sequence[Identity]) -> list[Identity]:
    """Of whom a manager has told us the UUID, and who has not been seen yet."""
    return [each for each in known if not each.macs and evidence.uuid and _same_uuid(evidence.uuid, each.uuid)]


def contradicts(evidence: Evidence, identity: Identity) -> bool:
    """Whether UUID and serial both say that this is another machine; one alone may change with a firmware setting."""
    if not (evidence.uuid and identity.uuid and evidence.serial and identity.serial):
        return False
    return not _same_uuid(evidence.uuid, identity.uuid) and evidence.serial != identity.serial


def refuted(uuid: str, owner: Identity | None, named: Sequence[Identity]) -> str:
    """
    Why who calls from the address of `owner` cannot be the machine with this UUID, or empty.

    `owner` is whose MAC address is there, None if we do not know; `named` are all that have the UUID. A MAC address that
    nobody has shown refutes nothing: it may be the second network card of a machine that booted from its first.
    """
    if owner is not None and owner.uuid and not _same_uuid(uuid, owner.uuid):
        return f"the address is the one of {owner.id}, whose UUID is {owner.uuid}"
    others = sorted(each.id for each in named if each.macs and (owner is None or each.id != owner.id))
    if owner is not None and not owner.uuid and others:
        return f"the address is the one of {owner.id}, and the UUID that of {' and '.join(others)}"
    if owner is None and len(named) > 1:
        return f"the UUID is that of {' and '.join(sorted(each.id for each in named))}"
    return ""


def new_id(evidence: Evidence, is_taken: Callable[[str], bool]) -> str:
    """
    Mint a machine id that a provider which lost its store would mint again: `m-` and 10 hex digits.

    It is made from the lowest MAC address, the strongest evidence that every boot shows; from the UUID if there is none.
    """
    seed = min(evidence.macs, default=evidence.uuid)
    candidates = (f"m-{hashlib.sha256(f'{seed}/{salt}'.encode()).hexdigest()[:10]}" for salt in itertools.count())
    return next(candidate for candidate in candidates if not is_taken(candidate))


def merged(identity: Identity, evidence: Evidence) -> Identity:
    """Add what the evidence says; the newest word wins, and an empty one says nothing."""
    return Identity(
        id=identity.id,
        uuid=_settled_uuid(identity.uuid, evidence.uuid),
        serial=evidence.serial or identity.serial,
        board_serial=evidence.board_serial or identity.board_serial,
        chassis_serial=evidence.chassis_serial or identity.chassis_serial,
        macs=tuple(sorted({*identity.macs, *evidence.macs})),
    )


def _one_of(
    evidence: Evidence, agreeing: list[Identity], settled: frozenset[str], moved: tuple[MacAddress, ...]
) -> Match:
    established = [identity for identity in agreeing if identity.id in settled]
    if len(established) > 1:
        ids = ", ".join(sorted(identity.id for identity in established))
        return Match(machine_id=None, conflict=f"shows MAC addresses of several machines at once: {ids}")
    chosen = established[0] if established else min(agreeing, key=lambda identity: identity.id)
    warnings = []
    if chosen.uuid and evidence.uuid and not _same_uuid(chosen.uuid, evidence.uuid):
        warnings.append(f"SMBIOS UUID changed from {chosen.uuid} to {evidence.uuid}")
    if moved:
        warnings.append(f"took over MAC addresses of another machine: {', '.join(moved)}")
    return Match(
        machine_id=chosen.id,
        absorbs=tuple(identity.id for identity in agreeing if identity is not chosen),
        steals=moved,
        warnings=tuple(warnings),
    )


def _moved(evidence: Evidence, known: Sequence[Identity], moved: tuple[MacAddress, ...]) -> Match:
    warning = f"took over MAC addresses of another machine: {', '.join(moved)}"
    owners = [
        identity
        for identity in known
        if _same_uuid(identity.uuid, evidence.uuid) and identity.serial == evidence.serial
    ]
    return Match(machine_id=owners[0].id if len(owners) == 1 else None, steals=moved, warnings=(warning,))


def _twin_warning(evidence: Evidence, twin: Identity) -> str:
    same = "SMBIOS UUID" if _same_uuid(evidence.uuid, twin.uuid) else "serial number"
    return f"has the {same} of {twin.id} but none of its MAC addresses: cloned firmware, or a replaced network card"


def _same_uuid(one: str, other: str) -> bool:
    return bool(one) and one in (other, smbios.byte_swapped(other))


def _settled_uuid(ours: str, seen: str) -> str:
    """A UUID in the other byte order is no news."""
    if not seen or _same_uuid(ours, seen):
        return ours or seen
    return seen

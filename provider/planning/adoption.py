"""
Moving over from Sidero's own bare-metal provider: what it left in Omni of a machine becomes what we know of it.

It keeps its memory in Omni, in a namespace of its own (siderolabs/omni-infra-provider-bare-metal, `internal/provider/machine`
and `controllers`). Whoever takes its place without that memory would wipe every machine once more. So, before our first start:

| It has | We write |
|---|---|
| WipeStatus, once the initial wipe is done | a WIPE record: wipe id, install event, and the token that was on the disks |
| RebootStatus | a REBOOT record, and the time of the last reboot |
| PowerOperation | a POWER_OFF record with the wipe id that it was noted under, and the time of the last power-on |
| BMCConfiguration | the machine's BMC, by the manager if somebody configured it, else as found out through an agent |
| MachineStatus | the last power state, to be read anew before anything follows from it; whether an agent waits |

and what Omni wants, as the link would write it. Nothing that we know is forgotten: what was answered stays answered, the newest
record of a kind stays the last one, and a BMC that we have stays. What it left of a machine that was given up since, by us,
is of another life. Taking all this over for a second time changes nothing.

Where it did something that we know nothing of, because it came back since or was never adopted (`is_ahead`), the link takes
nothing that Omni wants of the machine. The way back is `planning/way_back.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from provider.domain.bmc import EITHER, IPMI_PORT, Bmc, PowerReading, PowerState
from provider.domain.machine import Acceptance, BmcFacts, BootMode, Desired, Facts, Machine, Record, RecordKind
from provider.domain.secret import Secret
from provider.planning import lifecycle, omni
from provider.planning.omni import MOST_INSTALL_EVENTS, Seen
from provider.wire import omni as wire

HTTP_PORT = 80


@dataclass(frozen=True)
class Left:
    """What Sidero's provider left of one machine, None where there is no such resource, and when that was last written."""

    bmc: wire.BmcConfiguration | None = None
    status: wire.MachineStatus | None = None
    power: wire.PowerOperation | None = None
    power_at: datetime | None = None
    wipe: wire.WipeStatus | None = None
    wipe_at: datetime | None = None
    reboot: wire.RebootStatus | None = None


@dataclass(frozen=True)
class FoundBmc:
    """The BMC that it worked with. `is_configured`: somebody said so in Omni; else an account was made through an agent."""

    bmc: Bmc
    is_configured: bool


@dataclass(frozen=True)
class Adoption:
    """What is to be written of one machine; falsy if that is nothing."""

    desired: Desired | None = None
    records: tuple[Record, ...] = ()
    """In this order, after all that are there."""
    bmc: FoundBmc | None = None
    last_reboot_at: datetime | None = None
    last_power_on_at: datetime | None = None
    power: PowerState | None = None
    waits_in_agent: bool = False
    """Its last script told it to boot an agent, which calls Sidero's provider and never us: a boot brings it here."""
    remarks: tuple[str, ...] = ()
    """What a person should know, whether anything is written or not."""

    def __bool__(self) -> bool:
        return self != Adoption(remarks=self.remarks)


def adopt(seen: Seen, left: Left, machine: Machine, *, token: str, seal: Callable[[str], str]) -> Adoption:
    """
    Decide what is taken over of a machine, which may be one that we have just made.

    `token` is the node unique token, sealed, as for `omni.desired`; `seal` seals the one that was wiped.
    """
    before, facts = machine.desired, machine.facts
    if seen.tearing_down:
        return Adoption(remarks=("Omni is removing it: nothing to take over",))
    if omni.is_outlived(seen, facts):
        return Adoption(
            remarks=("it was removed, and came back with a backup of Omni: it has to be removed once more",)
        )
    wanted = omni.desired(seen, before, facts, token=token)
    found = _bmc(left.bmc) if facts.bmc is None else None
    reboot, power = left.reboot or wire.RebootStatus(), left.power or wire.PowerOperation()
    taken = Adoption(
        desired=None if wanted == before else wanted,
        records=tuple(_records(left, facts, seal)),
        bmc=found,
        last_reboot_at=_later(reboot.last_reboot_timestamp, facts.last_reboot_at),
        last_power_on_at=_later(power.last_power_on_timestamp, facts.last_power_on_at),
        power=_power(left, before, found),
        waits_in_agent=_waits_in_agent(left, facts),
    )
    return replace(taken, remarks=tuple(_remarks(seen, left, machine, after(machine, taken))))


def after(machine: Machine, adoption: Adoption) -> Machine:
    """The machine with all of it written."""
    facts, bmc = machine.facts, adoption.bmc
    return replace(
        machine,
        desired=adoption.desired or machine.desired,
        facts=replace(
            facts,
            records=(*facts.records, *adoption.records),
            bmc=facts.bmc if bmc is None else BmcFacts(bmc.bmc.name),
            last_reboot_at=adoption.last_reboot_at or facts.last_reboot_at,
            last_power_on_at=adoption.last_power_on_at or facts.last_power_on_at,
            power=facts.power if adoption.power is None else PowerReading(adoption.power, None, "bmc"),
            last_script_mode=BootMode.AGENT if adoption.waits_in_agent else facts.last_script_mode,
        ),
    )


def summary(adoption: Adoption) -> Iterator[str]:
    """What is taken over, in words."""
    for record in adoption.records:
        yield _named(record)
    if adoption.bmc is not None:
        yield f"BMC {adoption.bmc.bmc.name}"
    if adoption.last_reboot_at is not None:
        yield f"last reboot {adoption.last_reboot_at:%Y-%m-%d %H:%M} UTC"
    if adoption.last_power_on_at is not None:
        yield f"last power-on {adoption.last_power_on_at:%Y-%m-%d %H:%M} UTC"
    if adoption.desired is not None:
        yield "what Omni wants"


def is_ahead(left: Left, facts: Facts) -> bool:
    """Whether it did something that we know nothing of: it was at work since the last adoption, or there never was one."""
    return any(True for _ in _records(left, facts, str))


# --- its words and ours ----------------------------------------------------------------------------------------------


def _records(left: Left, facts: Facts, seal: Callable[[str], str]) -> Iterator[Record]:
    wipe, reboot, power = left.wipe, left.reboot, left.power
    if wipe is not None and wipe.initial_wipe_done and not is_of_another_life(left, facts):
        yield from _added(
            facts,
            Record(
                RecordKind.WIPE,
                wipe.last_wipe_id,
                left.wipe_at or facts.first_seen,
                detail=_BY,
                install_event=min(wipe.last_wipe_install_event_id, MOST_INSTALL_EVENTS),
                manager_token=wipe.wiped_node_unique_token,
            ),
            seal,
        )
    if reboot is not None and reboot.last_reboot_id:
        at = reboot.last_reboot_timestamp or facts.first_seen
        yield from _added(facts, Record(RecordKind.REBOOT, reboot.last_reboot_id, at, detail=_BY), seal)
    if power is not None and power.last_power_off_id:
        at, wipe_id = left.power_at or facts.first_seen, power.wipe_id_at_power_off
        noted = Record(RecordKind.POWER_OFF, power.last_power_off_id, at, detail=_BY, wipe_id=wipe_id)
        yield from _added(facts, noted, seal)


_BY = "by the provider before us"


def _added(facts: Facts, record: Record, seal: Callable[[str], str]) -> Iterator[Record]:
    """The record, and after it the newest that we have, if that is newer: decisions look at the last one of a kind."""
    known = lifecycle.records_of(facts, record.kind)
    if any(_is_same(record, each) for each in known):
        return
    yield replace(record, manager_token=seal(record.manager_token) if record.manager_token else "")
    if known and known[-1].at > record.at:
        yield known[-1]


def _is_same(one: Record, other: Record) -> bool:
    """Sealed tokens cannot be compared, and need not be."""
    return (one.request_id, one.install_event, one.wipe_id) == (other.request_id, other.install_event, other.wipe_id)


def is_of_another_life(left: Left, facts: Facts) -> bool:
    """Whether we gave the machine up after its last wipe by Sidero's provider, which knows nothing of that."""
    removals = [record.at for record in facts.records if record.kind is RecordKind.REMOVED]
    return bool(removals) and (left.wipe_at is None or left.wipe_at <= removals[-1])


def _later(theirs: datetime | None, ours: datetime | None) -> datetime | None:
    """Theirs, if it is the later one."""
    return theirs if theirs is not None and (ours is None or theirs > ours) else None


def _power(left: Left, before: Desired, found: FoundBmc | None) -> PowerState | None:
    """Its last word, until we have asked the BMC ourselves: Omni would show the machine as disconnected meanwhile."""
    is_first = before.revision == 0 and found is not None
    return _POWER.get(left.status.power_state) if is_first and left.status is not None else None


def _waits_in_agent(left: Left, facts: Facts) -> bool:
    """Without this, one that is allocated next would be taken for a machine that runs something of its own."""
    return left.status is not None and left.status.agent_accessible and facts.last_script_mode is None


_POWER: dict[int, PowerState] = {wire.PowerState.ON: PowerState.ON, wire.PowerState.OFF: PowerState.OFF}


def _bmc(left: wire.BmcConfiguration | None) -> FoundBmc | None:
    """Where there are both, it used the HTTP API (internal/provider/bmc/bmc.go of it)."""
    if left is None:
        return None
    if left.api is not None and left.api.address:
        host, port = _host_and_port(left.api.address)
        return FoundBmc(Bmc(host, "", Secret(""), port, "api"), left.manually_configured)
    if left.ipmi is not None and left.ipmi.address:
        ipmi = left.ipmi
        bmc = Bmc(ipmi.address, ipmi.username, Secret(ipmi.password), ipmi.port or IPMI_PORT, EITHER)
        return FoundBmc(bmc, left.manually_configured)
    return None


def _host_and_port(address: str) -> tuple[str, int]:
    """It is put behind `http://` as it is."""
    host, colon, port = address.rpartition(":")
    return (host, int(port)) if colon and port.isascii() and port.isdigit() else (address, HTTP_PORT)


# --- for people ------------------------------------------------------------------------------------------------------


def _remarks(seen: Seen, left: Left, machine: Machine, adopted: Machine) -> Iterator[str]:
    desired, facts = adopted.desired, adopted.facts
    if desired.acceptance is Acceptance.PENDING:
        yield "nobody has accepted it in Omni yet"
    elif desired.acceptance is Acceptance.REJECTED:
        yield "it is rejected in Omni: we leave it alone"
    if desired.cordoned:
        yield "it is cordoned: we leave it alone until that ends"
    if is_of_another_life(left, facts) and left.wipe is not None:
        yield "its wipe by Sidero's provider was before it was removed here: it does not count"
    yield from _of_wipe(seen, adopted)
    yield from _of_bmc(left, machine.facts, facts)
    if _waits_in_agent(left, machine.facts):
        yield "an agent of Sidero's provider runs on it: it comes to us when it boots again"
    ours = [each for each in lifecycle.records_of(machine.facts, RecordKind.WIPE) if each.detail != _BY]
    if ours:
        yield "we have wiped it ourselves since: that stays known"


def _of_wipe(seen: Seen, adopted: Machine) -> Iterator[str]:
    asked = replace(adopted.desired, acceptance=Acceptance.ACCEPTED)
    if adopted.desired.acceptance is Acceptance.REJECTED or not lifecycle.requires_wipe(asked, adopted.facts):
        return
    when = "will be wiped" if adopted.desired.acceptance is Acceptance.ACCEPTED else "will be wiped once accepted"
    if lifecycle.last_wipe(adopted.facts) is not None:
        yield f"{when}: Omni asks for a wipe that was not done yet"
        return
    yield f"{when}: Sidero's provider has not wiped it yet"
    if seen.spec.install_event_id > 0:
        yield "but a system was installed on it: is this the account of the provider that did that?"


def _of_bmc(left: Left, ours: Facts, adopted: Facts) -> Iterator[str]:
    theirs = _bmc(left.bmc)
    if adopted.bmc is None:
        yield "no BMC is known of it: its power stays as it is until one is"
    elif ours.bmc is not None and theirs is not None and theirs.bmc.name != ours.bmc.name:
        yield f"its BMC stays {ours.bmc.name}, as we know it, and not {theirs.bmc.name}"
    elif ours.bmc is None and theirs is not None and theirs.bmc.kind == "api":
        yield f"its BMC is the power API of a test at {theirs.bmc.name}: give it one that speaks IPMI"


def _named(record: Record) -> str:
    match record.kind:
        case RecordKind.WIPE:
            return f"wipe {record.request_id}" if record.request_id else "the initial wipe"
        case RecordKind.REBOOT:
            return f"reboot {record.request_id}"
        case _:
            return f"power-off {record.request_id}"

"""
The way back to Sidero's own provider: what it should know of a machine by now, in its own words.

The other direction of `adoption.py`. It finds in Omni what it would have written itself, had it done all that we did since we
took the machines over, and so does none of it again: no wipe, no reboot. Its BMC configuration stays as it was, because
passwords that we made stay here; of a machine that came to us it makes an account of its own, at the next boot into its agent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from provider.domain.machine import Facts, RecordKind
from provider.planning import lifecycle
from provider.planning.adoption import Left
from provider.wire import omni as wire


def remembered(left: Left, facts: Facts, unseal: Callable[[str], str]) -> Left:
    """What is to be there of a machine, where this was left; `unseal` opens the node unique token that was wiped."""
    return replace(
        left,
        wipe=_wipe(facts, unseal) or left.wipe,
        reboot=_reboot(facts) or left.reboot,
        power=_power(facts, left.power or wire.PowerOperation()) or left.power,
    )


def _wipe(facts: Facts, unseal: Callable[[str], str]) -> wire.WipeStatus | None:
    last = lifecycle.last_wipe(facts)
    if last is None:
        return None
    return wire.WipeStatus(last.request_id, last.install_event, True, unseal(last.manager_token))


def _reboot(facts: Facts) -> wire.RebootStatus | None:
    requests = lifecycle.records_of(facts, RecordKind.REBOOT)
    if not requests and facts.last_reboot_at is None:
        return None
    return wire.RebootStatus(requests[-1].request_id if requests else "", facts.last_reboot_at)


def _power(facts: Facts, before: wire.PowerOperation) -> wire.PowerOperation | None:
    requests = lifecycle.records_of(facts, RecordKind.POWER_OFF)
    if not requests and facts.last_power_on_at is None:
        return None
    request_id, wipe_id = (requests[-1].request_id, requests[-1].wipe_id) if requests else ("", "")
    return wire.PowerOperation(before.last_power_operation, facts.last_power_on_at, request_id, wipe_id)

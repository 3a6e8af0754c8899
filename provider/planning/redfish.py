"""
What to ask of a Redfish service, and what to make of its answers (DSP0266, and ComputerSystem in DSP0268).

Redfish says what an implementation may do, and little of what it must. Each rule here names whose firmware it is for; "edge
case" is a row of our collection of them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from provider.domain.bmc import NextBoot, PowerAction, PowerState
from provider.domain.errors import NotFoundError, PermanentError
from provider.domain.inventory import FirmwareKind

FUTURE_STATE = "OperationSupportedInFutureStateURI"
"""AMI's way to say: not here, but at the settings of the next boot (edge case 96)."""

LONGEST_TEXT = 500
"""Letters of what a BMC says about an error."""

_STATES = {
    "On": PowerState.ON,
    "Off": PowerState.OFF,
    # As IPMI does it: the old state until the new one is reached.
    "PoweringOn": PowerState.OFF,
    "PoweringOff": PowerState.ON,
    "Paused": PowerState.ON,
}

_RESETS = {
    PowerAction.ON: ("On", "ForceOn"),
    PowerAction.OFF: ("ForceOff",),
    # What Sidero's provider asks for; PowerCycle takes the power away, for seconds, and not every BMC has it.
    PowerAction.CYCLE: ("ForceRestart", "PowerCycle"),
    PowerAction.RESET: ("ForceRestart",),
    PowerAction.SOFT_OFF: ("GracefulShutdown",),
}

_RESULTS = {
    PowerAction.ON: PowerState.ON,
    PowerAction.OFF: PowerState.OFF,
    PowerAction.SOFT_OFF: PowerState.OFF,
}

_TARGETS = {NextBoot.NETWORK: "Pxe", NextBoot.DISK: "Hdd", NextBoot.DEFAULT: "None"}

_MODES = {FirmwareKind.UEFI: "UEFI", FirmwareKind.BIOS: "Legacy"}

_BUSY = frozenset({409, 423, 429, 503})

_REFUSALS = frozenset({400, 405, 422, 501})

_BUSY_WORDS = ("InvalidOperationForSystemState", "SYS518")
"""iLO while the machine is in POST (edge case 102), and an iDRAC that is not done with what came before."""


def power_state(told: object) -> PowerState:
    """What `PowerState` of a system means; UNKNOWN for null and for what no specification knows."""
    return _STATES.get(told, PowerState.UNKNOWN) if isinstance(told, str) else PowerState.UNKNOWN


def reset_type(action: PowerAction, state: PowerState, allowed: Sequence[str]) -> str:
    """
    The reset that does `action`, of those that are `allowed`; none: the BMC does not say.

    What is off cannot be restarted, and is switched on instead (edge case 75).

    Raises:
        PermanentError: If this BMC has no such reset.
    """
    if action in (PowerAction.CYCLE, PowerAction.RESET) and state is PowerState.OFF:
        action = PowerAction.ON
    wanted = _RESETS[action]
    if not allowed:
        return wanted[0]
    for reset in wanted:
        if reset in allowed:
            return reset
    raise PermanentError(f"it has no reset {wanted[0]}, only {', '.join(allowed)}")


def is_moot(action: PowerAction, state: PowerState) -> bool:
    """Whether a refused action has nothing left to do: many refuse On when on, and Off when off (edge case 74)."""
    return action in _RESULTS and _RESULTS[action] is state


def boot_overrides(
    device: NextBoot, firmware: FirmwareKind | None, current: Mapping[str, object], *, sets_mode: bool
) -> list[dict[str, str]]:
    """
    The Boot objects that ask for it, the next one for when the one before was refused.

    Always a whole object: AMI, ASRock and Lenovo take no part of one, Supermicro wants Enabled each time (edge cases 98, 101).
    Once, because Continuous is gone from many (100). HPE Gen9 and others refuse the mode, wherever it is sent (99, 105).
    """
    enabled = "Disabled" if device is NextBoot.DEFAULT else "Once"
    override = {"BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": _TARGETS[device]}
    mode = current.get("BootSourceOverrideMode") if firmware is None else _MODES[firmware]
    if not sets_mode or not isinstance(mode, str):
        return [override]
    return [{**override, "BootSourceOverrideMode": mode}, override]


def is_busy(status: int, text: str) -> bool:
    """Whether an answer means: later. An iDRAC10 refuses On just after it switched off with 409 (edge case 103)."""
    return status in _BUSY or any(word in text for word in _BUSY_WORDS)


def is_refusal(status: int, text: str) -> bool:
    """Whether an answer means: not so; asking otherwise may help."""
    return status in _REFUSALS and FUTURE_STATE not in text and not is_busy(status, text)


def etag(header: str | None, document: Mapping[str, object]) -> str | None:
    """The ETag of a resource, which some tell in the body alone, and some as an empty header (edge case 106)."""
    told = header or document.get("@odata.etag")
    return told if isinstance(told, str) and told else None


def settings_path(system: Mapping[str, object]) -> str | None:
    """Where settings of the next boot are (DSP0266 section 9.10); more than the name of a place is not said here."""
    settings = system.get("@Redfish.Settings")
    place = settings.get("SettingsObject") if isinstance(settings, dict) else None
    path = place.get("@odata.id") if isinstance(place, dict) else None
    return path if isinstance(path, str) and path else None


def chosen_system(paths: Sequence[str], wanted: str) -> str:
    """
    The path of the system with the id `wanted`; with none given, that of the only one (edge case 113).

    Raises:
        NotFoundError: If there is no such system, or which one is meant is not said.
    """
    ids = [path.rstrip("/").rpartition("/")[2] for path in paths]
    if wanted in ids:
        return paths[ids.index(wanted)]
    if not wanted and len(paths) == 1:
        return paths[0]
    have = f"it has {', '.join(ids[:10])}" if ids else "it has none at all"
    if wanted:
        raise NotFoundError(f"it has no system {wanted!r}: {have}")
    raise NotFoundError(f"which of its systems is meant is not said: {have}")


def secrets(user: str, password: str, tokens: Iterable[str]) -> list[str]:
    """What a BMC was sent and may say back: the password, as it is and as Basic authentication has it, and session tokens."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    return [secret for secret in (password, login, *tokens) if secret]


def told(text: str, secrets: Iterable[str]) -> str:
    """What a BMC says, made fit to be logged: one short line, without our secrets."""
    for secret in secrets:
        text = text.replace(secret, "********")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:LONGEST_TEXT]

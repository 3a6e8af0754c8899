"""What is asked of a Redfish service, and what its answers mean."""

from __future__ import annotations

from typing import Any

import pytest

from provider.domain.bmc import NextBoot, PowerAction, PowerState
from provider.domain.errors import NotFoundError, PermanentError
from provider.domain.inventory import FirmwareKind
from provider.planning import redfish

ON, OFF, UNKNOWN = PowerState.ON, PowerState.OFF, PowerState.UNKNOWN


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("On", ON),
        ("Off", OFF),
        ("PoweringOn", OFF),
        ("PoweringOff", ON),
        ("Paused", ON),
        ("on", UNKNOWN),
        (None, UNKNOWN),
        (["On"], UNKNOWN),
    ],
)
def test_power_state(told: object, expected: PowerState) -> None:
    """A machine on its way counts as arrived, or an odd answer as off."""
    assert redfish.power_state(told) is expected


ALL = ["On", "ForceOff", "ForceRestart", "GracefulShutdown", "PowerCycle"]


@pytest.mark.parametrize(
    ("action", "state", "allowed", "expected"),
    [
        (PowerAction.ON, OFF, ALL, "On"),
        (PowerAction.ON, OFF, ["ForceOn"], "ForceOn"),
        (PowerAction.ON, ON, ALL, "On"),
        (PowerAction.OFF, ON, ALL, "ForceOff"),
        (PowerAction.OFF, ON, [], "ForceOff"),
        (PowerAction.CYCLE, ON, ALL, "ForceRestart"),
        (PowerAction.CYCLE, ON, ["On", "PowerCycle"], "PowerCycle"),
        (PowerAction.CYCLE, OFF, ALL, "On"),
        (PowerAction.CYCLE, UNKNOWN, ALL, "ForceRestart"),
        (PowerAction.RESET, OFF, ALL, "On"),
        (PowerAction.SOFT_OFF, ON, ALL, "GracefulShutdown"),
    ],
)
def test_reset(action: PowerAction, state: PowerState, allowed: list[str], expected: str) -> None:
    """Edge case 75: a machine that is off is restarted, which leaves it off."""
    assert redfish.reset_type(action, state, allowed) == expected


def test_reset_that_it_does_not_have() -> None:
    """A BMC is asked for what it says it cannot do, or nobody learns what it can."""
    with pytest.raises(PermanentError, match="no reset GracefulShutdown, only On, ForceOff"):
        redfish.reset_type(PowerAction.SOFT_OFF, ON, ["On", "ForceOff"])


@pytest.mark.parametrize(
    ("action", "state", "expected"),
    [
        (PowerAction.ON, ON, True),
        (PowerAction.ON, OFF, False),
        (PowerAction.OFF, OFF, True),
        (PowerAction.SOFT_OFF, OFF, True),
        (PowerAction.CYCLE, ON, False),
        (PowerAction.RESET, ON, False),
        (PowerAction.OFF, UNKNOWN, False),
    ],
)
def test_moot(action: PowerAction, state: PowerState, expected: bool) -> None:
    """Edge case 74: switching off what is off fails, or a refused restart counts as done."""
    assert redfish.is_moot(action, state) is expected


@pytest.mark.parametrize(
    ("device", "firmware", "current", "sets_mode", "expected"),
    [
        (NextBoot.NETWORK, FirmwareKind.UEFI, {}, True, [("Once", "Pxe", "UEFI"), ("Once", "Pxe", None)]),
        (NextBoot.NETWORK, FirmwareKind.BIOS, {}, True, [("Once", "Pxe", "Legacy"), ("Once", "Pxe", None)]),
        (NextBoot.NETWORK, FirmwareKind.UEFI, {}, False, [("Once", "Pxe", None)]),
        (NextBoot.NETWORK, None, {}, True, [("Once", "Pxe", None)]),
        (NextBoot.DISK, None, {"mode": "Legacy"}, True, [("Once", "Hdd", "Legacy"), ("Once", "Hdd", None)]),
        (NextBoot.DISK, None, {"mode": 7}, True, [("Once", "Hdd", None)]),
        (NextBoot.DEFAULT, None, {}, True, [("Disabled", "None", None)]),
    ],
)
def test_boot_overrides(
    device: NextBoot, firmware: FirmwareKind | None, current: dict[str, Any], sets_mode: bool, expected: list[Any]
) -> None:
    """Edge cases 98 to 101 and 105: a part of a Boot object, Continuous, or a mode that is refused and not left out."""
    told = {f"BootSourceOverride{name.title()}": value for name, value in current.items()}
    overrides = redfish.boot_overrides(device, firmware, told, sets_mode=sets_mode)
    names = ("BootSourceOverrideEnabled", "BootSourceOverrideTarget", "BootSourceOverrideMode")
    assert [tuple(override.get(name) for name in names) for override in overrides] == expected


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (409, "", True),
        (503, "", True),
        (400, "iLO.2.15.InvalidOperationForSystemState", True),
        (500, "IDRAC.2.1.SYS518", True),
        (400, "Base.1.0.PropertyValueNotInList", False),
        (500, "", False),
    ],
)
def test_busy(status: int, text: str, expected: bool) -> None:
    """Edge cases 102 and 103: what works a minute later waits for a person."""
    assert redfish.is_busy(status, text) is expected


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (400, "Base.1.0.PropertyNotWritable", True),
        (501, "", True),
        (400, f"Ami.1.0.{redfish.FUTURE_STATE}", False),
        (400, "InvalidOperationForSystemState", False),
        (401, "", False),
        (412, "", False),
        (500, "", False),
    ],
)
def test_refusal(status: int, text: str, expected: bool) -> None:
    """Edge case 99: a login is tried twice because of a boot mode, or a refused mode ends the call."""
    assert redfish.is_refusal(status, text) is expected


@pytest.mark.parametrize(
    ("header", "document", "expected"),
    [
        ('W/"7"', {}, 'W/"7"'),
        ("", {"@odata.etag": '"8"'}, '"8"'),
        (None, {"@odata.etag": '"8"'}, '"8"'),
        ("", {}, None),
        (None, {"@odata.etag": 8}, None),
    ],
)
def test_etag(header: str | None, document: dict[str, object], expected: str | None) -> None:
    """Edge case 106: an ETag in the body is not seen, or an empty one is sent back."""
    assert redfish.etag(header, document) == expected


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (
            {"@Redfish.Settings": {"SettingsObject": {"@odata.id": "/redfish/v1/Systems/1/SD"}}},
            "/redfish/v1/Systems/1/SD",
        ),
        ({"@Redfish.Settings": {"SettingsObject": {"@odata.id": ""}}}, None),
        ({"@Redfish.Settings": {"SettingsObject": []}}, None),
        ({"@Redfish.Settings": None}, None),
        ({}, None),
    ],
)
def test_settings_path(system: dict[str, object], expected: str | None) -> None:
    """Edge case 97: the place for the next boot's settings is guessed, or an odd document ends the call."""
    assert redfish.settings_path(system) == expected


def test_chosen_system() -> None:
    """Edge case 113: another machine behind the same BMC is switched."""
    paths = ["/redfish/v1/Systems/blade1", "/redfish/v1/Systems/blade2/"]
    assert redfish.chosen_system(paths, "blade2") == paths[1]
    assert redfish.chosen_system(paths[:1], "") == paths[0]
    with pytest.raises(NotFoundError, match="meant is not said: it has blade1, blade2"):
        redfish.chosen_system(paths, "")
    with pytest.raises(NotFoundError, match="no system 'blade3': it has blade1, blade2"):
        redfish.chosen_system(paths, "blade3")
    with pytest.raises(NotFoundError, match="none at all"):
        redfish.chosen_system([], "")


def test_told() -> None:
    """A BMC says our password back, or fills the log with lines of its own (invariant 8)."""
    secrets = redfish.secrets("ops", "pw", ["token-1", ""])
    assert redfish.told("Basic b3BzOnB3, pw, token-1\n\x1b[2Jx", secrets) == "Basic ********, ********, ******** [2Jx"
    assert redfish.told("x" * 9999, redfish.secrets("ops", "", [])) == "x" * redfish.LONGEST_TEXT

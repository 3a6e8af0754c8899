"""What BMCs were seen to do with Redfish's rules about power and boot overrides; "edge case" is a row of our collection."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from provider.bmc.base import Power
from provider.domain.bmc import NextBoot, PowerAction, PowerState
from provider.domain.errors import PermanentError, TemporaryError
from provider.domain.inventory import FirmwareKind
from tests.fakes.redfish_bmc import RESET, SESSIONS, SYSTEM, Asked, RedfishBmc, refusal
from tests.integration.redfish_rig import PLAIN, with_bmc

UEFI = FirmwareKind.UEFI

WHOLE = {
    "BootSourceOverrideEnabled": "Once",
    "BootSourceOverrideTarget": "Pxe",
    "BootSourceOverrideMode": "UEFI",
}
PART = {name: value for name, value in WHOLE.items() if "Mode" not in name}


async def to_network(power: Power) -> None:
    await power.set_next_boot(NextBoot.NETWORK, UEFI)


def test_power_and_boot() -> None:
    """Power cannot be read or switched, or a reading costs more than one request once the system is known."""
    bmc = RedfishBmc()

    async def use(power: Power) -> None:
        assert await power.read() is PowerState.OFF
        await to_network(power)
        await power.act(PowerAction.CYCLE)
        assert await power.read() is PowerState.ON
        await power.act(PowerAction.CYCLE)
        await power.act(PowerAction.SOFT_OFF)
        await power.act(PowerAction.ON)
        await power.act(PowerAction.OFF)
        bmc.asked.clear()
        assert await power.read() is PowerState.OFF
        assert [(each.method, each.path) for each in bmc.asked] == [("GET", SYSTEM)]
        # Edge case 111: connections that stay open choke some BMCs.
        assert bmc.asked[0].headers["Connection"] == "close"

    with_bmc(bmc, use)


@pytest.mark.parametrize("power", [None, "Sleeping"])
def test_no_power_state(power: str | None) -> None:
    """A BMC that starts up itself counts as a machine that is off, and its machine is switched."""

    async def use(way: Power) -> None:
        with pytest.raises(TemporaryError, match="does not say whether it is on"):
            await way.read()

    with_bmc(RedfishBmc(power=power), use)


def test_ami_future_state() -> None:
    """Edge case 96: AMI refuses at the system, and wants it at /SD, with the ETag that is there."""
    patched = []

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.path == f"{SYSTEM}/SD" and asked.method == "GET":
            return web.json_response({"Boot": bmc.boot}, headers={"ETag": '"sd-7"'})
        if asked.method == "PATCH" and asked.path == SYSTEM:
            return refusal(400, "Ami.1.0.OperationSupportedInFutureStateURI", "see the future state")
        if asked.method == "PATCH":
            patched.append((asked.path, asked.headers.get("If-Match"), asked.body))
            return web.Response(status=204)
        return None

    bmc = RedfishBmc(quirk=quirk)
    with_bmc(bmc, to_network)
    assert patched == [(f"{SYSTEM}/SD", '"sd-7"', {"Boot": WHOLE})]


SETTINGS = {"@Redfish.Settings": {"SettingsObject": {"@odata.id": f"{SYSTEM}/Settings"}}}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"Boot": {"BootSourceOverrideTarget": "None"}}, f"{SYSTEM}/Settings"),
        ({"Boot": {"BootOrder": []}}, SYSTEM),
        ({"Boot": None}, SYSTEM),
        (None, SYSTEM),
    ],
)
def test_settings_object(settings: dict[str, Any] | None, expected: str) -> None:
    """Edge case 97: the place where overrides are set is guessed, or is a document that has none."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if not asked.path.startswith(f"{SYSTEM}/Settings"):
            return None
        if asked.method == "PATCH":
            return web.Response(status=202)
        return refusal(404, "Base.1.0.ResourceMissingAtURI", "") if settings is None else web.json_response(settings)

    bmc = RedfishBmc(quirk=quirk, extra=SETTINGS)
    with_bmc(bmc, to_network)
    assert bmc.said("PATCH") == [(expected, {"Boot": WHOLE})]


def test_whole_boot_object_each_time() -> None:
    """Edge cases 98, 100, 101: AMI, ASRock and Supermicro take no part of a Boot object; Once is gone after a boot."""
    bmc = RedfishBmc()

    async def use(power: Power) -> None:
        await to_network(power)
        await to_network(power)
        await power.set_next_boot(NextBoot.DISK, None)
        await power.set_next_boot(NextBoot.DEFAULT, None)

    with_bmc(bmc, use)
    enabled, target, mode = WHOLE
    assert [body["Boot"] for _, body in bmc.said("PATCH")] == [
        WHOLE,
        WHOLE,
        {enabled: "Once", target: "Hdd", mode: "UEFI"},
        {enabled: "Disabled", target: "None", mode: "UEFI"},
    ]


@pytest.mark.parametrize("status", [400, 405, 501])
def test_mode_that_is_refused(status: int) -> None:
    """Edge cases 99 and 105: HPE Gen9 and others cannot set the mode, and refuse all because of it."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.method == "PATCH" and "BootSourceOverrideMode" in asked.body["Boot"]:
            return refusal(status, "Base.1.0.PropertyNotWritable", "BootSourceOverrideMode")
        return None

    bmc = RedfishBmc(quirk=quirk)
    with_bmc(bmc, to_network)
    assert bmc.boot["BootSourceOverrideTarget"] == "Pxe"
    assert [body["Boot"] for _, body in bmc.said("PATCH")] == [WHOLE, PART]


def test_mode_that_is_not_wanted() -> None:
    """Edge case 99: `override_mode: false` (Sidero's --redfish-set-boot-source-override-mode) does nothing."""
    bmc = RedfishBmc()
    with_bmc(bmc, to_network, replace(PLAIN, override_mode=False))
    assert bmc.said("PATCH") == [(SYSTEM, {"Boot": PART})]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        # Edge case 102: iLO refuses boot changes during POST.
        ("PATCH", (400, "iLO.2.15.InvalidOperationForSystemState")),
        ("PATCH", (503, "Base.1.0.ServiceTemporarilyUnavailable")),
        # Edge case 103: an iDRAC10 answers 409 to On just after it switched off.
        ("POST", (409, "IDRAC.2.8.PSU501")),
    ],
)
def test_busy_for_a_moment(method: str, answer: tuple[int, str]) -> None:
    """Edge cases 102, 103: what would work two seconds later fails."""
    refusals = [answer, answer]

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return refusal(*refusals.pop(), "not now") if asked.method == method and refusals else None

    async def use(power: Power) -> None:
        await to_network(power)
        await power.act(PowerAction.ON)

    bmc = RedfishBmc(quirk=quirk)
    with_bmc(bmc, use)
    assert bmc.power == "On"
    assert bmc.boot["BootSourceOverrideTarget"] == "Pxe"


def test_busy_for_long() -> None:
    """Edge case 103: a BMC that is busy until the deadline waits for a person, or is asked in a hurry."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return refusal(409, "IDRAC.2.8.PSU501", "a job is running") if asked.method in ("POST", "PATCH") else None

    async def use(power: Power) -> None:
        with pytest.raises(TemporaryError, match=r"BMC 127.0.0.1:\d+ is busy: 409 .*a job is running"):
            await power.act(PowerAction.ON)
        # Else a BMC with a job that never ends could not be told to switch: power is worth more than the override.
        with pytest.raises(PermanentError, match="refused to boot network uefi"):
            await to_network(power)

    bmc = RedfishBmc(quirk=quirk)
    with_bmc(bmc, use, deadline=timedelta(seconds=6))
    assert 2 <= len(bmc.said("POST")) <= 3


@pytest.mark.parametrize(("action", "power"), [(PowerAction.OFF, "Off"), (PowerAction.ON, "On")])
def test_nothing_to_do(action: PowerAction, power: str) -> None:
    """Edge case 74: what is off already refuses to be switched off; that is no failure."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        return refusal(400, "Base.1.0.ActionParameterNotSupported", "") if asked.path == RESET else None

    async def use(way: Power) -> None:
        await way.act(action)

    with_bmc(RedfishBmc(quirk=quirk, power=power), use)


def test_off_cannot_be_restarted() -> None:
    """Edge case 75: a restart of what is off leaves it off."""
    bmc = RedfishBmc()

    async def use(power: Power) -> None:
        await power.act(PowerAction.CYCLE)

    with_bmc(bmc, use)
    assert bmc.said("POST") == [(RESET, {"ResetType": "On"})]


def test_power_state_that_is_wrong() -> None:
    """Edge case 122: an ASRock says on when it is off; it is told all the same."""
    bmc = RedfishBmc(power="On")

    async def use(power: Power) -> None:
        await power.act(PowerAction.ON)

    with_bmc(bmc, use)
    assert bmc.said("POST") == [(RESET, {"ResetType": "On"})]


@pytest.mark.parametrize(
    ("etag", "accepted"),
    [
        ('W/"77"', '"77"'),  # Weak because of a compression that is not there.
        ('W/"7-7"', None),
        ('"77"', None),
        ("", None),
    ],
)
def test_etags(etag: str, accepted: str | None) -> None:
    """Edge case 106: an ETag that the BMC gave does not match, and nothing else is tried."""
    tried: list[str | None] = []

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.method != "PATCH":
            return None
        tried.append(asked.headers.get("If-Match"))
        return None if tried[-1] == accepted else refusal(412, "Base.1.0.PreconditionFailed", "")

    bmc = RedfishBmc(quirk=quirk, etag=etag)
    with_bmc(bmc, to_network)
    assert tried[-1] == accepted
    assert "" not in tried


def test_etag_in_the_body() -> None:
    """Edge case 106: Some tell the ETag in the document alone, and want it."""

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        wrong = asked.method == "PATCH" and asked.headers.get("If-Match") != '"body"'
        return refusal(428, "Base.1.0.PreconditionRequired", "") if wrong else None

    with_bmc(RedfishBmc(quirk=quirk, etag="", extra={"@odata.etag": '"body"'}), to_network)


def test_sessions_alone() -> None:
    """A BMC without Basic authentication is shut out, its sessions are left open, or each call knocks at the wrong door."""
    bmc = RedfishBmc(takes_basic=False)

    async def use(power: Power) -> None:
        assert await power.read() is PowerState.OFF
        bmc.asked.clear()
        await power.act(PowerAction.ON)
        assert not [each for each in bmc.asked if "Authorization" in each.headers]
        assert bmc.tokens == set()
        assert [path for path, _ in bmc.said("POST")] == [SESSIONS, RESET]

    with_bmc(bmc, use)


def test_session_that_is_dropped() -> None:
    """Edge case 112: a session that the BMC dropped meanwhile fails the call."""
    drops = [1]

    async def quirk(_request: web.Request, asked: Asked) -> web.StreamResponse | None:
        if asked.path == SYSTEM and drops:
            drops.pop()
            bmc.tokens.clear()
        return None

    async def use(power: Power) -> None:
        assert await power.read() is PowerState.OFF

    bmc = RedfishBmc(takes_basic=False, quirk=quirk)
    with_bmc(bmc, use)


def test_several_systems() -> None:
    """Edge case 113: a chassis has two systems, and we switch the first one."""
    bmc = RedfishBmc(members=["/redfish/v1/Systems/0", SYSTEM])

    async def unnamed(power: Power) -> None:
        with pytest.raises(PermanentError, match="which of its systems is meant is not said: it has 0, 1") as caught:
            await power.act(PowerAction.ON)
        assert "`system`" in caught.value.hint

    async def named(power: Power) -> None:
        await power.act(PowerAction.ON)

    async def wrong(power: Power) -> None:
        with pytest.raises(PermanentError, match="it has no system '7': it has 0, 1"):
            await power.read()

    with_bmc(bmc, unnamed)
    with_bmc(bmc, wrong, system="7")
    assert bmc.said("POST") == []
    with_bmc(bmc, named, system="1")
    assert bmc.said("POST") == [(RESET, {"ResetType": "On"})]


def test_system_that_moves() -> None:
    """After an update of the BMC its system has another path, and the old one is asked for ever."""
    bmc = RedfishBmc(members=["/redfish/v1/Systems/old"])

    async def use(power: Power) -> None:
        await power.read()
        bmc.members = [SYSTEM]
        with pytest.raises(PermanentError):
            await power.read()
        assert await power.read() is PowerState.OFF

    with_bmc(bmc, use)

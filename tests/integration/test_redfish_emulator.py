"""Redfish against sushy-emulator, with TLS, and pyghmi's Redfish client as the second opinion."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from pyghmi.redfish.command import Command
from typer.testing import CliRunner

from provider.bmc.pool import BmcPool
from provider.bmc.redfish import Redfish
from provider.cli.machine import machine_app
from provider.domain.bmc import EITHER, NextBoot, PowerAction, PowerState, RedfishUse
from provider.domain.errors import PermanentError
from provider.domain.inventory import FirmwareKind
from tests.fakes.redfish_bmc import PASSWORD, USER
from tests.integration.provider_process import MAC, ProviderProcess, provider_process
from tests.integration.redfish_emulator import PORT, UUIDS, emulator
from tests.integration.redfish_rig import access, with_pool
from tests.integration.test_bmc import bmc as ipmi_bmc
from tests.integration.test_bmc import ipmi_sim

TLS = Redfish(port=PORT)

OTHER_MAC = "52:54:00:12:34:57"


def test_power_and_boot(tmp_path: Path) -> None:
    """What we set is not what somebody else reads."""

    async def use(pool: BmcPool) -> None:
        power = pool.power(access(PORT))
        assert await power.read() is PowerState.OFF
        await power.set_next_boot(NextBoot.NETWORK, FirmwareKind.UEFI)
        await power.act(PowerAction.CYCLE)  # Off: it is switched on.
        while await power.read() is not PowerState.ON:  # It takes its time.
            pass
        await power.act(PowerAction.ON)

    with emulator(tmp_path):
        with_pool(use, TLS)


def test_second_opinion(tmp_path: Path) -> None:
    """pyghmi reads another boot device or power state than the one that we set."""

    async def to_network(pool: BmcPool) -> None:
        await pool.power(access(PORT)).set_next_boot(NextBoot.NETWORK, FirmwareKind.BIOS)

    async def on(pool: BmcPool) -> None:
        power = pool.power(access(PORT))
        await power.act(PowerAction.ON)
        while await power.read() is not PowerState.ON:
            pass

    def theirs() -> Command:  # It remembers what it read.
        return Command("127.0.0.1", USER, PASSWORD, verifycallback=lambda _certificate: True)

    with emulator(tmp_path):
        assert theirs().get_power()["powerstate"] == "off"
        with_pool(to_network, TLS)
        boot = theirs().get_bootdev()
        assert (boot["bootdev"], boot["uefimode"]) == ("network", False)
        with_pool(on, TLS)
        assert theirs().get_power()["powerstate"] == "on"


def test_certificates(tmp_path: Path) -> None:
    """`verify` lets anybody have the password, or a known authority's BMC is refused."""

    async def refused(pool: BmcPool) -> None:
        with pytest.raises(PermanentError, match="certificate that we do not trust: self-signed") as caught:
            await pool.power(access(PORT)).read()
        assert "ca_file" in caught.value.hint

    async def trusted(pool: BmcPool) -> None:
        assert await pool.power(access(PORT)).read() is PowerState.OFF

    async def of_another(pool: BmcPool) -> None:
        with pytest.raises(PermanentError, match=r"certificate that we do not trust: .*127\.0\.0\.2"):
            await pool.power(replace(access(PORT), address="127.0.0.2")).read()

    with emulator(tmp_path) as cert:
        with_pool(of_another, Redfish(verify=True, ca_file=cert))
        with_pool(refused, Redfish(verify=True))
        with_pool(trusted, Redfish(verify=True, ca_file=cert))
        with_pool(trusted, TLS)


@pytest.mark.parametrize("days", [-5, 5])
def test_clock_of_the_bmc(tmp_path: Path, days: int) -> None:
    """Edge case 120: a BMC with a wrong clock makes itself a certificate that is over, or not yet valid."""

    async def verified(pool: BmcPool) -> None:
        with pytest.raises(PermanentError, match=r"expired|not yet valid") as caught:
            await pool.power(access(PORT)).read()
        assert "clock of the BMC" in caught.value.hint

    async def unverified(pool: BmcPool) -> None:
        assert await pool.power(access(PORT)).read() is PowerState.OFF

    with emulator(tmp_path, begins=datetime.now(UTC) + timedelta(days=days)) as cert:
        with_pool(verified, Redfish(verify=True, ca_file=cert))
        with_pool(unverified, TLS)


def test_refused_login(tmp_path: Path) -> None:
    """A wrong password is tried for ever, or nobody is told whose it is."""

    async def use(pool: BmcPool) -> None:
        with pytest.raises(PermanentError, match=rf"BMC 127.0.0.1:{PORT} refused the login of 'ops': 401") as caught:
            await pool.power(access(PORT, password="wrong-one")).read()
        assert "password" in caught.value.hint
        assert "wrong-one" not in str(caught.value)

    with emulator(tmp_path):
        with_pool(use, TLS)


@pytest.mark.parametrize(
    ("wanted", "port", "expected"),
    [
        (RedfishUse.AVAILABLE, PORT, PowerState.OFF),
        (RedfishUse.AVAILABLE, PORT + 1, PowerState.ON),
        (RedfishUse.ALWAYS, PORT, PowerState.OFF),
        (RedfishUse.NEVER, PORT, PowerState.ON),
    ],
)
def test_either(tmp_path: Path, wanted: RedfishUse, port: int, expected: PowerState) -> None:
    """A BMC of Omni's is spoken to in the other way than the settings say. Here it is on by IPMI, and off by Redfish."""

    async def use(pool: BmcPool) -> None:
        async with ipmi_sim(tmp_path / "sim") as virtual:
            virtual.switch.show("power", "1")
            told = replace(ipmi_bmc(), kind=EITHER)
            assert await pool.power(told).read() is expected

    with emulator(tmp_path):
        with_pool(use, Redfish(port=port), wanted=wanted)


def test_on_the_command_line(tmp_path: Path) -> None:
    """An operator cannot read the power of a machine with such a BMC, or is not told what to do."""
    access = {"user": USER, "password": PASSWORD, "address": "127.0.0.1", "kind": "redfish"}
    bmcs = [
        {**access, "machine": {"mac": MAC}, "system": UUIDS[1]},
        {**access, "machine": {"mac": OTHER_MAC}, "system": "blade7"},
    ]
    with emulator(tmp_path, UUIDS), provider_process(tmp_path, bmcs=bmcs) as served:
        for mac in (MAC, OTHER_MAC):
            served.ticket(mac)
        assert json.loads(power_status(served, MAC).output)["state"] == "off"
        failed = power_status(served, OTHER_MAC).exception
    assert isinstance(failed, PermanentError)
    assert f"it has no system 'blade7': it has {UUIDS[0]}, {UUIDS[1]}" in str(failed)
    assert failed.hint.startswith("set `system` of this BMC in `bmcs`; see: curl")
    for file in (tmp_path / "provider.log", *(tmp_path / "state").glob("bootwright.db*")):
        assert PASSWORD.encode() not in file.read_bytes(), file


def power_status(served: ProviderProcess, mac: str) -> Result:
    arguments = ["power", mac, "status", "--json", "--socket", str(served.operator_socket)]
    return CliRunner().invoke(machine_app, arguments)

"""Which way a BMC is spoken to that was told as IPMI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from provider.bmc import either
from provider.bmc.either import EitherPower, Speaks
from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerState
from provider.domain.errors import BootwrightError, PermanentError, TemporaryError
from provider.domain.inventory import FirmwareKind
from provider.domain.secret import Secret

SILENCE = TemporaryError("silent", retry_after=timedelta(seconds=10))
REFUSAL = PermanentError("login refused")


class Way:
    """Remembers what it was told; `fault` is raised by every call."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.fault: BootwrightError | None = None

    async def read(self) -> PowerState:
        self._tell("read")
        return PowerState.ON

    async def act(self, action: PowerAction) -> None:
        self._tell(action.value)

    async def set_next_boot(self, device: NextBoot, firmware: FirmwareKind | None) -> None:
        self._tell(device.value)

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if self.fault is not None:
            raise self.fault


class World:
    """Both ways, what a look at the service root sees, and how often somebody looked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, speaks: Speaks) -> None:
        self.ipmi, self.redfish = Way(), Way()
        self.speaks = speaks
        self.looks = 0
        bmc = Bmc("10.0.0.1", "ops", Secret("pw"), kind="either")
        self.power = EitherPower(bmc, "https://10.0.0.1:443", self.ipmi, self.redfish, asyncio.Semaphore(1))
        monkeypatch.setattr(either, "look", self._look)
        monkeypatch.setattr(either, "LOOK_AGAIN", timedelta(0))

    async def _look(self, url: str) -> tuple[Speaks, str]:
        assert url == "https://10.0.0.1:443"
        self.looks += 1
        return self.speaks, "because"

    def run(self, *calls: Callable[[EitherPower], Awaitable[object]]) -> None:
        async def main() -> None:
            for call in calls:
                await call(self.power)

        asyncio.run(main())


async def read(power: EitherPower) -> None:
    await power.read()


async def cycle(power: EitherPower) -> None:
    await power.set_next_boot(NextBoot.NETWORK, None)
    await power.act(PowerAction.CYCLE)


def test_redfish_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redfish service that is silent for once, or in the middle of a command, is given up for IPMI."""
    world = World(monkeypatch, Speaks.YES)
    world.run(read, cycle)
    world.redfish.fault = SILENCE
    world.speaks = Speaks.SILENT
    for _ in range(2):
        with pytest.raises(TemporaryError):
            world.run(read)
    assert (world.looks, world.ipmi.told) == (1, [])
    assert world.redfish.told == ["read", "read", "network", "cycle", "read", "read"]


@pytest.mark.parametrize("fault", [None, REFUSAL])
def test_ipmi_stays(monkeypatch: pytest.MonkeyPatch, fault: BootwrightError | None) -> None:
    """A BMC without Redfish, or whose Redfish has nothing for this account, is asked for it again and again."""
    world = World(monkeypatch, Speaks.NO if fault is None else Speaks.YES)
    world.redfish.fault = fault
    world.run(cycle, read, read, cycle)
    assert world.looks == 1
    assert world.ipmi.told == ["network", "cycle", "read", "read", "network", "cycle"]
    assert world.redfish.told == ([] if fault is None else ["read"])


@pytest.mark.parametrize("fault", [None, SILENCE])
def test_silence_is_looked_into_again(monkeypatch: pytest.MonkeyPatch, fault: BootwrightError | None) -> None:
    """A BMC that was busy once is spoken to by IPMI for ever; or the way changes between two parts of one command."""
    world = World(monkeypatch, Speaks.SILENT if fault is None else Speaks.YES)
    world.redfish.fault = fault
    world.run(read)
    world.redfish.fault, world.speaks = None, Speaks.YES
    world.run(cycle)
    assert (world.looks, world.ipmi.told) == (1, ["read", "network", "cycle"])
    world.run(read, cycle)
    assert world.looks == 2
    assert world.redfish.told[-3:] == ["read", "network", "cycle"]
    assert world.ipmi.told == ["read", "network", "cycle"]

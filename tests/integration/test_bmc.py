"""The IPMI client against OpenIPMI's ipmi_sim and pyghmi's own server, well-behaved and otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from provider.bmc.pool import BmcPool
from provider.domain.bmc import Bmc, NextBoot, PowerAction, PowerState
from provider.domain.errors import BootwrightError, PermanentError, TemporaryError
from provider.domain.inventory import FirmwareKind
from provider.domain.secret import Secret
from provider.lab.bmc import Account, VirtualBmc

ACCOUNT = Account("admin", "secret12")
PYGHMI_PORT = 6230
DEADLINE = timedelta(seconds=8)


def bmc(address: str = "127.0.9.1", port: int = 623, user: str = "admin", password: str = "secret12") -> Bmc:
    return Bmc(address, user, Secret(password), port)


@contextlib.asynccontextmanager
async def ipmi_sim(folder: Path, address: str = "127.0.9.1", kcs_port: int = 9100) -> AsyncIterator[VirtualBmc]:
    """A BMC of OpenIPMI, without a machine behind it."""
    folder.mkdir()
    virtual = VirtualBmc("sim", folder, IPv4Address(address), kcs_port, "11111111-2222-4333-8444-555555555555", ACCOUNT)
    await virtual.open()
    try:
        yield virtual
    finally:
        await virtual.close()


@contextlib.contextmanager
def pyghmi_server() -> Iterator[subprocess.Popen[str]]:
    """A BMC of pyghmi's server class."""
    command = [sys.executable, "-m", "tests.fakes.pyghmi_bmc", str(PYGHMI_PORT), "admin", "secret12"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield server
        finally:
            server.kill()


def with_pool(use: Callable[[BmcPool], Awaitable[None]], deadline: timedelta = DEADLINE) -> None:
    async def main() -> None:
        pool = BmcPool(deadline)
        try:
            async with asyncio.timeout(100):
                await use(pool)
        finally:
            await pool.close()

    asyncio.run(main())


async def said(folder: Path, virtual: VirtualBmc, expected: tuple[str, str]) -> None:
    """Wait for a command at the power switch."""
    async for command in virtual.switch.commands():
        if command == expected:
            return


def test_ipmi_sim_obeys(tmp_path: Path) -> None:
    """Power is not switched or read on a BMC that we did not write."""

    async def use(pool: BmcPool) -> None:
        async with ipmi_sim(tmp_path / "sim") as virtual:
            power = pool.power(bmc())
            assert await power.read() is PowerState.OFF
            await power.set_next_boot(NextBoot.NETWORK, FirmwareKind.UEFI)
            await said(tmp_path, virtual, ("boot", "pxe"))
            await power.act(PowerAction.ON)
            await said(tmp_path, virtual, ("power", "1"))
            virtual.switch.show("power", "1")
            assert await power.read() is PowerState.ON
            await power.act(PowerAction.OFF)
            await said(tmp_path, virtual, ("power", "0"))

    with_pool(use)


def test_two_bmcs_are_not_mixed_up(tmp_path: Path) -> None:
    """The library answers for the BMC that was asked before: seen, and a machine was never switched off."""

    async def use(pool: BmcPool) -> None:
        async with ipmi_sim(tmp_path / "a") as first, ipmi_sim(tmp_path / "b", "127.0.9.2", 9101):
            first.switch.show("power", "1")
            for _ in range(3):
                assert await pool.power(bmc()).read() is PowerState.ON
                assert await pool.power(bmc("127.0.9.2")).read() is PowerState.OFF

    with_pool(use)


def test_pyghmi_server_obeys() -> None:
    """The same against the other implementation; what is off is switched on by a cycle (edge case 75)."""

    async def use(pool: BmcPool) -> None:
        power = pool.power(bmc("127.0.0.1", PYGHMI_PORT))
        assert await power.read() is PowerState.OFF
        await power.set_next_boot(NextBoot.NETWORK, FirmwareKind.BIOS)
        await power.act(PowerAction.CYCLE)
        assert await power.read() is PowerState.ON
        await power.act(PowerAction.ON)
        await power.act(PowerAction.CYCLE)
        await power.act(PowerAction.OFF)
        await power.act(PowerAction.OFF)
        assert await power.read() is PowerState.OFF

    with pyghmi_server() as server:
        with_pool(use)
        server.kill()
        assert server.stdout is not None
        assert server.stdout.read().split("\n") == ["boot network", "on", "cycle", "off", ""]


@pytest.mark.parametrize("wrong", [bmc(password="wrong-one"), bmc(user="nobody")])
def test_refused_login_is_permanent(tmp_path: Path, wrong: Bmc) -> None:
    """A wrong password is tried for ever, or nobody is told whose it is."""

    async def use(pool: BmcPool) -> None:
        async with ipmi_sim(tmp_path / "sim"):
            with pytest.raises(PermanentError, match=r"BMC 127\.0\.9\.1:623 refused the login") as caught:
                await pool.power(wrong).read()
            assert "bmcs" in caught.value.hint
            assert "wrong-one" not in str(caught.value)

    with_pool(use)


def test_bmc_that_speaks_something_else() -> None:
    """A BMC that was taken over from another provider ends the worker with a traceback instead of a word."""

    async def use(pool: BmcPool) -> None:
        with pytest.raises(PermanentError, match=r"BMC 127.0.9.1:9000 speaks snmp, and we do not"):
            pool.power(Bmc("127.0.9.1", "", Secret(""), 9000, "snmp"))

    with_pool(use)


def test_silence_ends_at_the_deadline() -> None:
    """A BMC that says nothing holds its caller for ever; pyghmi's server is silent to users that it does not know."""

    async def use(pool: BmcPool) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TemporaryError, match="does not answer"):
            await pool.power(bmc("127.0.0.1", PYGHMI_PORT, user="nobody")).read()
        assert loop.time() - began < 6

    with pyghmi_server():
        with_pool(use, timedelta(seconds=3))


def test_closed_port_and_dead_air() -> None:
    """A BMC that is not there gives an empty message, or none."""

    async def use(pool: BmcPool) -> None:
        for port in (6299, dead.getsockname()[1]):
            with pytest.raises(TemporaryError, match=r"does not answer: .+"):
                await pool.power(bmc("127.0.0.1", port)).read()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead:
        dead.bind(("127.0.0.1", 0))
        with_pool(use)


def test_dead_bmcs_do_not_hold_up_live_ones(tmp_path: Path) -> None:
    """One bad neighbour slows down the others (invariant 6)."""

    async def read(pool: BmcPool, one: Bmc) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with contextlib.suppress(BootwrightError):
            await pool.power(one).read()
        return loop.time() - began

    async def use(pool: BmcPool) -> None:
        async with ipmi_sim(tmp_path / "sim"):
            dead = [bmc("127.0.0.1", 6300 + number) for number in range(4)]
            async with asyncio.TaskGroup() as group:
                for one in dead:
                    group.create_task(read(pool, one))
                await asyncio.sleep(0.5)
                assert await read(pool, bmc()) < 2.5

    with_pool(use)

"""What is made of a Talos agent's word on its BMC, and of those who lie."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from provider.domain.errors import PermanentError
from provider.reconcile import talos_agents
from provider.reconcile.talos_agents import TalosAgentDesk, bmc_of
from provider.wire.talos_agent import Ipmi


@pytest.mark.parametrize(
    ("told", "name"), [(Ipmi("10.0.0.9", 0), "10.0.0.9:623"), (Ipmi("10.0.0.9", 6230), "10.0.0.9:6230")]
)
def test_bmc(told: Ipmi, name: str) -> None:
    """The port that the agent does not tell is not the usual one."""
    assert bmc_of(told).name == name


def test_password() -> None:
    """A BMC cuts the password off, or two BMCs have the same."""
    one, other = (bmc_of(Ipmi("10.0.0.9")).password.reveal() for _ in range(2))
    assert one != other
    assert len(one) == 16
    assert one.isascii()
    assert one.isalnum()


@pytest.mark.parametrize("address", ["", "0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "bmc.example.com", "<nil>"])
def test_bmc_without_an_address(address: str) -> None:
    """A BMC that waits for DHCP gets an account that we can never use, and the machine counts as set up."""
    with pytest.raises(PermanentError, match="BMC"):
        bmc_of(Ipmi(address))


def test_port_that_is_none() -> None:
    """A number from the network becomes a port."""
    with pytest.raises(PermanentError):
        bmc_of(Ipmi("10.0.0.9", 70000))


def test_refusals_are_told_once_and_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who claims to be one machine after the other fills our memory, or the events of one."""
    monkeypatch.setattr(talos_agents, "MOST_REFUSALS", 2)
    now, told = datetime(2026, 1, 1, tzinfo=UTC), []

    async def note(machine_id: str, _name: str, **data: str) -> None:
        told.append((machine_id, data["reason"]))

    machines = SimpleNamespace(store=SimpleNamespace(note=note))
    desk = TalosAgentDesk(machines, None, None, mac_of=None, power_api=None, clock=lambda: now)  # type: ignore[arg-type]

    async def refuse(*ids: str) -> None:
        for machine_id in ids:
            await desk._note_refusal(machine_id, "why", "10.0.0.1")

    asyncio.run(refuse("a", "a", "b", "b", "a"))
    assert told == [("a", "why"), ("b", "why")]
    asyncio.run(refuse("c", "d"))
    assert list(desk._refusals) == ["c", "d"]
    now += timedelta(hours=1)
    asyncio.run(refuse("c", "e"))
    assert list(desk._refusals) == ["c", "e"], "the oldest goes first"

"""What is made of a Talos agent's word on its BMC."""

from __future__ import annotations

import pytest

from provider.domain.errors import PermanentError
from provider.reconcile.talos_agents import bmc_of
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

"""What the fuzzer found worth keeping is played to the same functions in every run of the unit tests."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from fuzz import dhcp, inputs
from fuzz.inputs import BrokenInvariantError
from fuzz.targets import TARGETS
from provider.domain.lease import Claimant
from provider.planning import bootfile, reply
from provider.planning.leases import LeaseTable
from provider.wire import tftp, tftp_transfer

KEPT = [(name, data) for name in TARGETS for data in inputs.corpus(name)]
MOST_KEPT = 100
LONGEST_KEPT = 1024


@pytest.mark.parametrize(("name", "data"), KEPT, ids=[f"{name} {data[:12].hex()}" for name, data in KEPT])
def test_input(name: str, data: bytes) -> None:
    """An invariant does not hold any more for something that once came in."""
    TARGETS[name].play(data)


def test_one_provider_takes_them_all() -> None:
    """The tables of a provider grow with what it is sent (invariant 7)."""
    world = dhcp.World()
    for data in inputs.corpus("dhcp"):
        world.play(data)
    first = world.weigh()
    for _ in range(20):
        for data in inputs.corpus("dhcp"):
            world.play(data)
    assert world.weigh() < 1.5 * first


def test_they_are_few_and_small() -> None:
    """Nobody can review them, or they take longer than the rest of the unit tests."""
    for name in TARGETS:
        kept = inputs.corpus(name)
        assert 10 < len(kept) <= MOST_KEPT
        assert len(set(kept)) == len(kept)
        assert max(map(len, kept)) <= LONGEST_KEPT
    for data in inputs.corpus("dhcp"):
        assert data


# --- and they would notice -------------------------------------------------------------------------------------------


def broken(name: str) -> set[str]:
    """What the kept inputs say of a product that is broken."""
    said = set()
    for data in inputs.corpus(name):
        try:
            TARGETS[name].play(data)
        except BrokenInvariantError as error:
            said.add(str(error))
    return said


def test_an_address_that_is_taken_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer would not see that two machines get one address (invariant 5)."""
    monkeypatch.setattr(LeaseTable, "_may_have", lambda *_: True)
    assert broken("dhcp") & {"an address that somebody has is given away", "an address in quarantine is given away"}


def test_an_ack_that_is_not_saved_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer would not see a lease that is not on disk (invariant 4)."""

    def grant(table: LeaseTable, claimant: Claimant, address: IPv4Address, *_: object) -> tuple[()]:
        return ()

    monkeypatch.setattr(LeaseTable, "grant", grant)
    assert "an address is acknowledged and not saved" in broken("dhcp")


def test_a_boot_file_that_is_not_there_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer would not see that DHCP names a file that nobody serves (invariant 10)."""
    monkeypatch.setattr(bootfile.pxe, "bootstrap_programs", lambda *_, **__: ["undionly.kpxe", "nothing.efi"])
    monkeypatch.setattr(reply.Scope, "file_url", lambda scope, name: f"http://elsewhere/{name}")
    assert any(text.startswith("a boot file is named that is not there") for text in broken("dhcp"))


def test_a_name_that_leads_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer would not see a way out of the folder."""
    monkeypatch.setattr(tftp_transfer, "_relative", lambda name: name)
    assert any("leads out" in text or "odd letters" in text for text in broken("tftp"))


def test_a_block_too_many_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer would not see what a client gets."""
    monkeypatch.setattr(
        tftp_transfer.Transfer, "_data", lambda transfer, block: tftp.encode_data(block, transfer.content[block:])
    )
    assert "a block is not that part of the file" in broken("tftp")


def test_a_transfer_without_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer would not see a client that is served for ever."""
    monkeypatch.setattr(tftp_transfer.Transfer, "_end", lambda transfer, outcome: None)
    assert "a client that is silent is served for ever" in broken("tftp")


def test_growth_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer would not see a table without a bound."""
    monkeypatch.setattr(dhcp, "LIFE", 4)
    monkeypatch.setattr(dhcp, "MOST_BYTES", 1000)
    life = dhcp.LongLife()
    for _ in range(dhcp.LIFE):
        life.play(b"")
    with pytest.raises(BrokenInvariantError, match="the tables grew"):
        life.play(b"")

"""Who is who, when firmware lies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provider.domain import smbios
from provider.domain.mac import MacAddress
from provider.domain.machine import Evidence, Identity
from provider.planning import identity
from provider.planning.identity import Match

A1, A2, B1 = (MacAddress(f"52:54:00:00:00:{n}") for n in ("a1", "a2", "b1"))
U1 = "4c4c4544-0051-3510-8051-c4c04f373732"
U1_SWAPPED = "44454c4c-5100-1035-8051-c4c04f373732"
U2 = "11111111-2222-3333-4444-555555555555"
A = Identity("m-a", uuid=U1, serial="S1", macs=(A1, A2))
B = Identity("m-b", uuid=U2, serial="S2", macs=(B1,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (U1.upper(), U1),
        ("", ""),
        ("Not Settable", ""),
        ("00000000-0000-0000-0000-000000000000", ""),
        ("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", ""),
        ("03000200-0400-0500-0006-000700080009", ""),
        ("5XK7J02", ""),
    ],
)
def test_believable_uuid(text: str, expected: str) -> None:
    """A placeholder UUID makes a whole batch one machine (edge cases 148, 149)."""
    assert identity.believable_uuid(text) == expected


@pytest.mark.parametrize("text", ["", "None", "0123456789", "To Be Filled By O.E.M.", "0000000", "\0\0", "xxxxxxx"])
def test_placeholder_serials_are_no_serials(text: str) -> None:
    """A placeholder serial counts as evidence (edge case 148)."""
    assert identity.believable_serial(text) == ""


def test_serial_is_cleaned() -> None:
    """NUL bytes and padding make one machine two (edge case 156)."""
    assert identity.believable_serial(" ABC 123\0 ") == "ABC 123"


def test_byte_swap_is_its_own_inverse() -> None:
    """The UUID of DHCP option 97 is not recognised in SMBIOS byte order."""
    assert smbios.byte_swapped(U1) == U1_SWAPPED
    assert smbios.byte_swapped(U1_SWAPPED) == U1


@pytest.mark.parametrize(
    ("evidence", "known", "expected"),
    [
        (Evidence((A1,)), [], Match(None)),
        (Evidence((A1,), uuid=U1), [A], Match("m-a")),
        (Evidence((A2,), uuid=U1_SWAPPED), [A], Match("m-a")),
        (Evidence((A1, B1)), [Identity("m-x", macs=(B1,)), A], Match("m-a", absorbs=("m-x",))),
    ],
)
def test_matches(evidence: Evidence, known: list[Identity], expected: Match) -> None:
    """A machine is not recognised by another of its cards, in the other byte order, or after its first boot."""
    assert identity.match(evidence, known, frozenset({"m-a", "m-b"})) == expected


def test_equal_uuids_make_two_machines() -> None:
    """Two machines with one UUID and serial become one: accepting the first would wipe the second."""
    found = identity.match(Evidence((B1,), uuid=U1, serial="S1"), [A], frozenset({"m-a"}))
    assert found.machine_id is None
    assert "m-a" in found.warnings[0]


def test_changed_uuid_is_the_same_machine_and_a_warning() -> None:
    """A NIC setting that changes the UUID makes a new machine (edge case 150)."""
    found = identity.match(Evidence((A1,), uuid=U2, serial="S1"), [A], frozenset({"m-a"}))
    assert found.machine_id == "m-a"
    assert "UUID changed" in found.warnings[0]


def test_moved_card_belongs_to_its_new_machine() -> None:
    """A network card moved to another machine takes the identity of its old one along."""
    found = identity.match(Evidence((A1,), uuid=U2, serial="S2"), [A, B], frozenset({"m-a", "m-b"}))
    assert (found.machine_id, found.steals) == ("m-b", (A1,))
    stranger = identity.match(Evidence((A1,), uuid=U2, serial="S9"), [A], frozenset({"m-a"}))
    assert (stranger.machine_id, stranger.steals) == (None, (A1,))


def test_evidence_of_two_settled_machines_is_nobody() -> None:
    """A machine that shows the MAC addresses of two others becomes one of them."""
    found = identity.match(Evidence((A1, B1)), [A, B], frozenset({"m-a", "m-b"}))
    assert found.machine_id is None
    assert "m-a, m-b" in found.conflict


def test_ids_are_minted_again_after_a_loss() -> None:
    """A provider that lost its store gives a machine another id, or two machines the same."""
    first = identity.new_id(Evidence((A2, A1)), lambda _id: False)
    assert first == identity.new_id(Evidence((A1,)), lambda _id: False)
    assert identity.new_id(Evidence((A1,)), lambda each: each == first) != first


@pytest.mark.parametrize("text", [U1, U1.upper(), U1.replace("-", ""), f"{{{U1}}}", f" {U1}\n"])
def test_uuid_of_one_machine(text: str) -> None:
    """An operator's way to write a UUID is refused, or taken for another machine."""
    assert identity.parse_uuid(text) == U1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("52:54:00:12:34:56", "is not a UUID"),
        ("", "is not a UUID"),
        ("03000200-0400-0500-0006-000700080009", "placeholder"),
        ("00000000-0000-0000-0000-000000000000", "placeholder"),
    ],
)
def test_uuid_of_nobody_or_of_many(text: str, why: str) -> None:
    """An address is kept for a whole batch of machines that have one UUID (edge cases 148, 149), or for none."""
    with pytest.raises(ValueError, match=why):
        identity.parse_uuid(text)


NAMELESS = Identity("m-n", uuid=U1)
"""A manager knows it, and it was not seen yet."""


@pytest.mark.parametrize(
    ("evidence", "known", "settled", "expected"),
    [
        (Evidence(uuid=U1), [], set(), Match(None)),
        (Evidence(uuid=U1), [A], {"m-a"}, Match("m-a")),
        (Evidence(uuid=smbios.byte_swapped(U1)), [A], {"m-a"}, Match("m-a")),
        (Evidence(macs=(A1,), uuid=U1), [NAMELESS], {"m-n"}, Match("m-n")),
        (Evidence(macs=(A1,), uuid=U1, serial="S1"), [A, NAMELESS], {"m-a"}, Match("m-a", absorbs=("m-n",))),
    ],
)
def test_machine_that_a_manager_knows_by_its_uuid(
    evidence: Evidence, known: list[Identity], settled: set[str], expected: Match
) -> None:
    """The manager's machine and the one that boots here are two, and what is wanted of it never reaches it."""
    assert identity.match(evidence, known, frozenset(settled)) == expected


def test_uuid_of_two_machines_is_nobodys() -> None:
    """What a manager wants of one machine, such as a wipe, is done to its twin."""
    twin = Identity("m-t", uuid=U1, macs=(MacAddress("52:54:00:00:00:99"),))
    found = identity.match(Evidence(uuid=U1), [A, twin], frozenset())
    assert found.machine_id is None
    assert "m-a and m-t" in found.conflict


def test_two_settled_ones_do_not_become_one() -> None:
    """A machine that was accepted by its UUID alone is absorbed by whoever shows it."""
    found = identity.match(Evidence(macs=(A1,), uuid=U1), [A, NAMELESS], frozenset({"m-a", "m-n"}))
    assert found.absorbs == ()


TWIN = Identity("m-t", uuid=U1, macs=(B1,))
YOUNG = Identity("m-y", macs=(B1,))


@pytest.mark.parametrize(
    ("owner", "named", "why"),
    [
        pytest.param(A, [A], "", id="its own address"),
        pytest.param(replace(A, uuid=U1_SWAPPED), [A], "", id="in the other byte order"),
        pytest.param(A, [A, TWIN], "", id="a twin is somewhere else"),
        pytest.param(B, [A], f"the address is the one of m-b, whose UUID is {U2}", id="another's address"),
        pytest.param(B, [], f"the address is the one of m-b, whose UUID is {U2}", id="a UUID of nobody"),
        pytest.param(YOUNG, [A], "the address is the one of m-y, and the UUID that of m-a", id="two machines at once"),
        pytest.param(YOUNG, [], "", id="the first to tell its UUID"),
        pytest.param(YOUNG, [NAMELESS], "", id="whom a manager knew by it"),
        pytest.param(None, [A], "", id="its second network card"),
        pytest.param(None, [], "", id="nobody knows it"),
        pytest.param(None, [A, TWIN], "the UUID is that of m-a and m-t", id="twins"),
    ],
)
def test_who_calls_from_an_address(owner: Identity | None, named: list[Identity], why: str) -> None:
    """An agent speaks for a machine that is not its own, and has it wiped (edge case 149)."""
    assert identity.refuted(U1, owner, named) == why

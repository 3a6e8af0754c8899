"""What a machine says of itself when it asks for its script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.inventory import FirmwareKind
from provider.http.boot import explained, read_evidence

MAC = {"mac": "52-54-00-12-34-56"}


def test_all_of_it() -> None:
    """Something that a machine says of itself is lost."""
    evidence = read_evidence(
        {
            **MAC,
            "uuid": "4C4C4544-0051-3510-8051-C4C04F373732",
            "serial": "SN 1",
            "board_serial": "B",
            "platform": "efi",
        }
    )
    assert evidence.macs == ("52:54:00:12:34:56",)
    assert evidence.uuid == "4c4c4544-0051-3510-8051-c4c04f373732"
    assert (evidence.serial, evidence.board_serial, evidence.firmware) == ("SN 1", "B", FirmwareKind.UEFI)


@given(st.dictionaries(st.sampled_from(["uuid", "serial", "board_serial", "platform", "x"]), st.text(max_size=300)))
def test_nonsense_beside_the_mac_is_no_error(query: dict[str, str]) -> None:
    """A firmware that says nonsense is not booted."""
    evidence = read_evidence({**query, **MAC})
    assert evidence.macs == ("52:54:00:12:34:56",)
    assert len(evidence.serial) <= 128


@pytest.mark.parametrize("query", [{}, {"mac": ""}, {"mac": "${netX/mac}"}, {"mac": "52:54:00:12:34"}])
def test_without_a_mac_there_is_nobody(query: dict[str, str]) -> None:
    """A request without an address becomes a machine."""
    with pytest.raises(ValueError, match="MAC address"):
        read_evidence(query)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("0x2d0c618e", "https://ipxe.org/2d0c618e"),
        ("", ""),
        ("${errno}", "${errno}"),
        ("0x../evil", "0x../evil"),
        ("-1", "-1"),
    ],
)
def test_error_of_ipxe(error: str, text: str) -> None:
    """An operator reads a number that nobody can look up, or nonsense in its place ends in a traceback."""
    assert explained(error) == text

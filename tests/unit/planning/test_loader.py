"""What UEFI firmware boots with, learned from what it does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from provider.planning import loader
from provider.planning.loader import Loader, Trial

BEGINS, FETCHES, IPXE, GRUB = "begins", "fetches", "iPXE is heard", "GRUB is heard"


def told(trial: Trial, happenings: Sequence[str]) -> Trial:
    """What is known after these happenings, in order."""
    for happening in happenings:
        match happening:
            case "begins":
                trial = loader.asked_anew(trial)
            case "fetches":
                trial = loader.fetched(trial)
            case "iPXE is heard":
                trial = loader.ran(Loader.IPXE)
            case "GRUB is heard":
                trial = loader.ran(Loader.SIGNED)
    return trial


@pytest.mark.parametrize(
    ("happenings", "gets"),
    [
        ([BEGINS], Loader.IPXE),
        ([BEGINS, BEGINS, BEGINS], Loader.IPXE),  # Firmware repeats its DHCPDISCOVER.
        ([BEGINS, FETCHES, IPXE, BEGINS], Loader.IPXE),
        ([BEGINS, FETCHES, BEGINS], Loader.SIGNED),
        ([BEGINS, FETCHES, BEGINS, BEGINS], Loader.SIGNED),
        ([BEGINS, FETCHES, BEGINS, FETCHES, GRUB, BEGINS], Loader.SIGNED),
        ([BEGINS, FETCHES, BEGINS, FETCHES, BEGINS], Loader.IPXE),  # It runs neither: by turns.
        ([IPXE, BEGINS, FETCHES, BEGINS], Loader.IPXE),  # A power cut.
        ([IPXE, BEGINS, FETCHES, BEGINS, FETCHES, BEGINS], Loader.SIGNED),  # Secure Boot was switched on.
        ([IPXE, BEGINS, FETCHES, BEGINS, FETCHES, IPXE, BEGINS, FETCHES, BEGINS], Loader.IPXE),
        ([GRUB, BEGINS, FETCHES, BEGINS], Loader.SIGNED),
        ([GRUB, BEGINS, FETCHES, BEGINS, FETCHES, BEGINS], Loader.IPXE),  # It was switched off, and dislikes the shim.
        ([GRUB, IPXE, BEGINS], Loader.IPXE),
    ],
)
def test_next_loader(happenings: list[str], gets: Loader) -> None:
    """A machine with Secure Boot never gets what it can run, or one without it is sent the slow way for ever."""
    assert told(Trial(), happenings).loader is gets

"""
How ProxyDHCP speaks to PXE firmware: three styles, of which each firmware takes one, two or all. Learned by trying.

| Style | Offer on port 67 | Answer on port 4011 |
|---|---|---|
| two-step | option 60 PXEClient and siaddr; no file, no option 43 | the file |
| complete | the file as well, and option 43.6 = 8: discover no further | (not asked for) |
| menu | no file; option 43 with boot servers (8), menu (9), prompt (10) | the file, and the boot item (43.71) back |

What firmware does with them (PXE specification 2.1, sections 2.2 and 2.4):

- EDK2 (`PxeBcDhcp4.c`) sorts offers by their option 43. Without one it asks on port 4011, from port 4011, and takes no notice
  of a file. With 43.6 = 8 it takes the file, and with a menu it asks the boot server of the entry.
- Vendors' UEFI is made of older EDK2 or of none, and some of it falls silent at an offer that EDK2 would take.
- ROMs of network cards are made after the specification, which has all three.
- iPXE (`dhcp.c`) is content with an offer that has siaddr and a file, or a menu. Else it asks on port 4011, from port 68, and
  drops an answer without siaddr or file. U-Boot takes the file of an offer and never asks on port 4011 (edge case 12). A
  Raspberry Pi looks for its name in option 43 (edge case 4). UEFI HTTP boot has no second step. All of these get the complete
  offer, and nothing is learned of them.

Nobody tells us that an offer was refused. What we see is that firmware begins anew, and fetched nothing in between. A power
cut looks the same, and so does a DHCP server that leases nothing, so a style that is proven is given up later than others.
Firmware that fetched its boot program and did not run it has accepted the style: that is `planning.loader`'s affair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from provider.wire import pxe


class Style(StrEnum):
    """One conversation of ProxyDHCP; the module tells their differences."""

    TWO_STEP = "two-step"
    COMPLETE = "complete"
    MENU = "menu"


ORDER = tuple(Style)
"""The next one of the last is the first."""

_EDK2 = (pxe.UEFI_X64, pxe.UEFI_IA32, pxe.UEFI_ARM64)
"""Whose firmware is EDK2 or made like it."""


def first(client: pxe.Client) -> Style:
    """The style to start with, or the only one of those that have one."""
    return Style.TWO_STEP if has_choice(client) and client.firmware in _EDK2 else Style.COMPLETE


def has_choice(client: pxe.Client) -> bool:
    """Whether it may be spoken to in any style."""
    return client.is_pxe and not client.is_ipxe and client.firmware in (*_EDK2, pxe.BIOS)


PATIENCE = 2
"""Refusals of a style that is proven, until the next one is tried."""

LONGEST_ATTEMPT = timedelta(seconds=60)
"""PXE firmware sends DHCPDISCOVER at 0, 4, 12 and 28 s, and gives up at 60."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One boot as far as DHCPDISCOVER tells: from the first one to the last."""

    xid: int
    secs: int
    """Of the last one: seconds since the first, as the client counts."""
    at: datetime
    """Of the first one."""

    def goes_on(self, later: Attempt) -> bool:
        """
        Whether `later` is of this attempt too: a retransmission.

        Clients may choose a new xid for each (RFC 2131 section 4.1), some never choose one, and some count no seconds.
        """
        if later.at - self.at >= LONGEST_ATTEMPT:
            return False
        return later.secs > self.secs or (later.xid == self.xid and later.secs == self.secs)


@dataclass(frozen=True, slots=True)
class Trial:
    """What we know of the firmware behind one MAC address."""

    style: Style
    """What it is spoken to in."""
    proven: Style | None = None
    """What it accepted last."""
    attempt: Attempt | None = None
    """The last one."""
    offered: bool = False
    """It had an offer in that attempt, and fetched nothing since."""
    refusals: int = 0
    """How often in a row it began anew after such an offer."""


def asked(trial: Trial, now: Attempt) -> Trial:
    """Firmware sent a DHCPDISCOVER."""
    if trial.attempt is not None and trial.attempt.goes_on(now):
        return replace(trial, attempt=replace(trial.attempt, secs=now.secs))
    return replace(gave_up(trial), attempt=now)


def offered(trial: Trial) -> Trial:
    """It was sent an offer."""
    return replace(trial, offered=True)


def gave_up(trial: Trial) -> Trial:
    """Its attempt is over: it begins anew, or turned to something else than PXE."""
    if not trial.offered:
        return trial
    refusals = trial.refusals + 1
    if trial.style is trial.proven and refusals < PATIENCE:
        return replace(trial, offered=False, refusals=refusals)
    following = ORDER[(ORDER.index(trial.style) + 1) % len(ORDER)]
    return Trial(following, trial.proven)


def came(trial: Trial) -> Trial:
    """It came for its boot program, or that was heard: if there was an offer before, the offer did it."""
    if not trial.offered:
        return trial
    return Trial(trial.style, proven=trial.style, attempt=trial.attempt)

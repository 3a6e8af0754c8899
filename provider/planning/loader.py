"""
Which network boot loader UEFI firmware gets: iPXE, or the signed chain of shim and GRUB. A pure decision, learned by trying.

Firmware with Secure Boot fetches iPXE, which nobody signed, and refuses to run it; it tells nobody. What we see is that it
asks anew, and no iPXE was heard in between. So it gets the signed chain the next time. That works without Secure Boot as
well, though more slowly (kernels come by TFTP), so a machine on which iPXE once ran gets another chance with it first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Loader(StrEnum):
    """A way from firmware to a kernel."""

    IPXE = "ipxe"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Trial:
    """What we know of the firmware behind one MAC address."""

    loader: Loader = Loader.IPXE
    """What it gets next."""
    proven: Loader | None = None
    """What ran there last."""
    fetched: bool = False
    """It has the loader, and nothing was heard from that since."""
    refusals: int = 0
    """How often in a row it fetched and did not run it."""


PATIENCE = 2
"""Refusals of a loader that is proven, until the other one is tried: a power cut looks the same."""


def asked_anew(trial: Trial) -> Trial:
    """Firmware begins a boot."""
    if not trial.fetched:
        return trial
    refusals = trial.refusals + 1
    if trial.loader is trial.proven and refusals < PATIENCE:
        return replace(trial, fetched=False, refusals=refusals)
    other = Loader.IPXE if trial.loader is Loader.SIGNED else Loader.SIGNED
    return Trial(other, trial.proven)


def fetched(trial: Trial) -> Trial:
    """Firmware has fetched a loader whole."""
    return replace(trial, fetched=True)


def ran(loader: Loader) -> Trial:
    """A loader was heard: whatever was known before is over."""
    return Trial(loader, proven=loader)

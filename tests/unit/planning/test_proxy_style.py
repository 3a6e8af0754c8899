"""How ProxyDHCP speaks to PXE firmware, learned from what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.planning import proxy_style
from provider.planning.proxy_style import ORDER, PATIENCE, Attempt, Style, Trial
from provider.wire import pxe

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TWO_STEP, COMPLETE, MENU = Style

CLIENT = pxe.Client(is_pxe=True, is_http=False, is_ipxe=False, knows_http=False, firmware=pxe.BIOS, uuid="")


@pytest.mark.parametrize(
    ("client", "style", "has_choice"),
    [
        (CLIENT, COMPLETE, True),
        (replace(CLIENT, firmware=pxe.UEFI_X64), TWO_STEP, True),
        (replace(CLIENT, firmware=pxe.UEFI_IA32), TWO_STEP, True),
        (replace(CLIENT, firmware=pxe.UEFI_ARM64), TWO_STEP, True),
        (replace(CLIENT, firmware=pxe.UBOOT_ARM64), COMPLETE, False),  # It never asks on port 4011 (edge case 12).
        (replace(CLIENT, firmware=pxe.RASPBERRY_PI), COMPLETE, False),
        (replace(CLIENT, firmware=pxe.HTTP_X64, is_pxe=False, is_http=True), COMPLETE, False),
        (replace(CLIENT, is_ipxe=True), COMPLETE, False),
        (replace(CLIENT, firmware=pxe.UEFI_X64, is_ipxe=True), COMPLETE, False),
    ],
)
def test_first_style(client: pxe.Client, style: Style, has_choice: bool) -> None:
    """Firmware starts with a style that it does not know, or is tried with others though it has but one."""
    assert proxy_style.first(client) is style
    assert proxy_style.has_choice(client) is has_choice


def attempt(second: float, xid: int = 1, secs: int = 0) -> Attempt:
    return Attempt(xid, secs, NOON + timedelta(seconds=second))


@pytest.mark.parametrize(
    ("first", "later", "goes_on"),
    [
        (attempt(0), attempt(4, secs=4), True),
        (attempt(0, secs=12), attempt(28, secs=28), True),
        (attempt(0), attempt(0), True),  # It came over two interfaces, or through two relays.
        (attempt(0, secs=4), attempt(8, xid=2, secs=12), True),  # A new xid for each retransmission.
        (attempt(0), attempt(32), True),  # It counts no seconds.
        (attempt(0), attempt(20, xid=2), False),
        (attempt(0, secs=12), attempt(20, secs=0), False),  # A reset; some make the xid of their MAC address.
        (attempt(0, secs=4), attempt(30, xid=2, secs=4), False),  # Some begin to count at 4.
        (attempt(0), attempt(60), False),
        (attempt(0), attempt(3600, secs=3600), False),
    ],
)
def test_attempts_are_told_apart(first: Attempt, later: Attempt, goes_on: bool) -> None:
    """A retransmission is taken for a refusal, or a refusal for a retransmission."""
    assert first.goes_on(later) is goes_on


BOOTS, REPEATS, FETCHES, HTTP = "boots", "repeats", "fetches", "turns to HTTP boot"


def told(trial: Trial, happenings: Sequence[str]) -> Trial:
    """What is known after these happenings, in order; each boot is a minute later, and each DHCPDISCOVER has an offer."""
    for minute, happening in enumerate(happenings):
        match happening:
            case "boots":
                trial = proxy_style.offered(proxy_style.asked(trial, attempt(60 * minute, xid=minute)))
            case "repeats":
                assert trial.attempt is not None
                again = replace(trial.attempt, secs=trial.attempt.secs + 4)
                trial = proxy_style.offered(proxy_style.asked(trial, again))
            case "fetches":
                trial = proxy_style.came(trial)
            case "turns to HTTP boot":
                trial = proxy_style.gave_up(trial)
    return trial


@pytest.mark.parametrize(
    ("happenings", "style", "proven"),
    [
        ([BOOTS], TWO_STEP, None),
        ([BOOTS, REPEATS, REPEATS, REPEATS], TWO_STEP, None),
        ([BOOTS, FETCHES], TWO_STEP, TWO_STEP),
        ([BOOTS, BOOTS], COMPLETE, None),
        ([BOOTS, REPEATS, BOOTS, REPEATS, BOOTS, REPEATS], MENU, None),
        ([BOOTS, BOOTS, BOOTS, BOOTS], TWO_STEP, None),  # Round and round.
        ([BOOTS, BOOTS, FETCHES, BOOTS], COMPLETE, COMPLETE),
        ([BOOTS, HTTP], COMPLETE, None),
        ([BOOTS, HTTP, HTTP, BOOTS, FETCHES], COMPLETE, COMPLETE),
        ([BOOTS, FETCHES, HTTP, BOOTS], TWO_STEP, TWO_STEP),
        ([BOOTS, FETCHES, BOOTS, FETCHES, BOOTS], TWO_STEP, TWO_STEP),
        ([BOOTS, FETCHES, BOOTS, BOOTS], TWO_STEP, TWO_STEP),  # A power cut.
        ([BOOTS, FETCHES, BOOTS, BOOTS, BOOTS], COMPLETE, TWO_STEP),  # Somebody updated the firmware.
        ([BOOTS, FETCHES, BOOTS, BOOTS, FETCHES, BOOTS, BOOTS], TWO_STEP, TWO_STEP),
        ([BOOTS, FETCHES, *[BOOTS] * 5], TWO_STEP, TWO_STEP),  # The DHCP server was down: back again.
        ([FETCHES], TWO_STEP, None),  # Not for an offer of ours.
    ],
)
def test_next_style(happenings: list[str], style: Style, proven: Style | None) -> None:
    """Firmware that refuses a style is offered it for ever, or a retransmission or a power cut counts as a refusal."""
    trial = told(Trial(TWO_STEP), happenings)
    assert (trial.style, trial.proven) == (style, proven)


def boots_until_accepted(trial: Trial, accepts: frozenset[Style], repeats: int) -> int:
    """Boots until one of the styles is met that a firmware accepts; each has so many retransmissions."""
    for boots in range(1, 20):
        trial = told(trial, [BOOTS, *[REPEATS] * repeats])
        trial = replace(trial, attempt=None)  # The next boot is a new one.
        if trial.style in accepts:
            return boots
    raise AssertionError("it never boots")


SOME_STYLES = st.frozensets(st.sampled_from(ORDER), min_size=1)
PAST = st.lists(st.sampled_from([BOOTS, FETCHES, HTTP]), max_size=30)


@given(first=st.sampled_from(ORDER), past=PAST, accepts=SOME_STYLES, repeats=st.integers(0, 3))
def test_no_firmware_is_stuck(first: Style, past: list[str], accepts: frozenset[Style], repeats: int) -> None:
    """Whatever happened before, a firmware that accepts any style at all is not offered it within a few boots."""
    assert boots_until_accepted(told(Trial(first), past), accepts, repeats) <= PATIENCE + len(ORDER) - 1


@given(first=st.sampled_from(ORDER), past=PAST, power_cuts=st.integers(0, 20))
def test_proven_style_comes_back(first: Style, past: list[str], power_cuts: int) -> None:
    """After power cuts or hours without leases, firmware is not offered what it is known to accept."""
    trial = told(Trial(first), [*past, BOOTS, FETCHES])
    proven = trial.proven
    assert proven is not None
    unlucky = told(trial, [BOOTS] * power_cuts)
    assert unlucky.proven is proven
    assert boots_until_accepted(unlucky, frozenset({proven}), repeats=0) <= len(ORDER)


@given(past=PAST)
def test_what_is_known_is_small(past: list[str]) -> None:
    """A peer makes us remember more and more of one MAC address."""
    trial = told(Trial(TWO_STEP), past)
    assert 0 <= trial.refusals < PATIENCE
    assert trial.style in ORDER

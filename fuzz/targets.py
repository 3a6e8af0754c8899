"""What inputs are played to, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fuzz import dhcp, tftp


@dataclass(frozen=True)
class Target:
    """One port."""

    play: Callable[[bytes], None]
    """Plays one input from a clean start; raises if something is broken."""
    words: Callable[[], Iterable[bytes]]
    """What inputs are made of, for the fuzzer to try."""
    lives_on: dhcp.LongLife | None = None
    """What takes one input after the other, and must not grow."""


TARGETS = {
    "dhcp": Target(dhcp.play, dhcp.words, dhcp.LongLife()),
    "tftp": Target(tftp.play, tftp.words),
}

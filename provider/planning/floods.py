"""
Who asks too often: a limit for each source of DHCP packets, so that a machine gone mad, or bad, costs next to nothing.

A source is a MAC address, at its relay port if the packet came from one (giaddr and option 82): nobody at another port can get a
machine ignored by taking its MAC address. A real client sends a packet a second for a while, or eight in the half second
in which firmware, iPXE and agent follow each other; it never comes near `BURST`. Who exceeds it is ignored until it was quiet for
some seconds, and those who go on asking stay ignored.

Floods from ever new MAC addresses are limited elsewhere: by relay port (`LeaseTable.crowded`), and by taking back offers
that nobody took up. This memory forgets its oldest entries under them, and that is all that they do here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from datetime import datetime

from provider.planning.reply import Ignore, Scope, whence
from provider.planning.seldom import Seldom
from provider.wire import dhcp
from provider.wire.dhcp import Option, Packet

BURST = 20
"""Packets that one source may send at once."""

RATE = 5.0
"""Packets a second that it may go on with."""

_SOURCES = 16_384
"""Sources remembered. One that was quiet for `BURST / RATE` seconds could as well be forgotten."""

_ROOM = BURST / RATE + 0.001  # Twenty steps of a float since 1970 are not as long as one of four seconds.
_WORST = _ROOM + 10.0
"""Seconds until the worst flooder counts as quiet again."""

_STILL = Ignore("asks too often still")


class Floods:
    """
    How far ahead of its rate each source is (the generic cell rate algorithm, ITU-T I.371): a source that has kept to it is
    due now or earlier, each packet makes it due 1 / RATE seconds later, and who is due in more than BURST / RATE is ignored.
    """

    def __init__(self) -> None:
        self._due: OrderedDict[Hashable, float] = OrderedDict()
        """Seconds since the epoch; who was heard last is last. (A dict looks for its first entry past all that were deleted.)"""
        self._told = Seldom()

    def excess(self, packet: Packet, scope: Scope, now: datetime) -> Ignore | None:
        """Why this packet is ignored, or None. It counts either way."""
        at, source = now.timestamp(), _source(packet)
        due = self._due.pop(source, 0.0)
        if due < at or due > at + _WORST:  # The latter if the clock was set back.
            due = at
        due = min(due + 1 / RATE, at + _WORST)
        self._due[source] = due
        if len(self._due) > _SOURCES:
            self._due.popitem(last=False)
        if due <= at + _ROOM:
            return None
        where = whence(packet, scope)
        if not self._told.may(where, now):
            return _STILL
        often = f"more than {BURST} times at once and {RATE:g} times a second"
        return Ignore(f"asks {often}: ignored until it is quiet; it is {where}", warn=True, again=True)


def _source(packet: Packet) -> Hashable:
    said = packet.options.get(Option.RELAY_AGENT)
    if said is None and packet.giaddr == dhcp.NOWHERE:
        return packet.chaddr
    # Option 82 may have kilobytes. Python's hash of bytes is keyed anew in each process: nobody can aim at another's.
    return packet.chaddr, packet.giaddr.packed, hash(said)

"""
Which relay ports the addresses of a subnet are used at, as option 82 tells.

A port is the circuit-id and the remote-id. The relay's address is not part of it: two routers that stand in for each other relay
each packet twice, and these are one port.
"""

from __future__ import annotations

from collections.abc import Mapping

Port = tuple[str, str]
"""Circuit-id and remote-id, as `domain.lease.Claimant` has them; empty where option 82 does not tell."""


class Ports:
    """The addresses, as numbers, by the port that each was last offered or leased at. Bounded by the addresses."""

    def __init__(self) -> None:
        self._at: dict[Port, dict[int, None]] = {}
        self._of: dict[int, Port] = {}

    def put(self, number: int, port: Port) -> None:
        """The address is used at this port now, and nowhere else; or at none, without a circuit-id."""
        before = self._of.get(number)
        if before == port:
            return
        if before is not None:
            self.drop(number)
        if port[0]:
            self._of[number] = port
            self._at.setdefault(port, {})[number] = None

    def drop(self, number: int) -> None:
        """The address is used nowhere."""
        port = self._of.pop(number, None)
        if port is None:
            return
        del self._at[port][number]
        if not self._at[port]:
            del self._at[port]

    def at(self, port: Port) -> Mapping[int, None]:
        """The addresses that were last used there."""
        return self._at.get(port, {})


def spell(port: Port) -> str:
    """A port for people."""
    circuit_id, remote_id = port
    if not circuit_id:
        return f"behind {remote_id}" if remote_id else "without option 82"
    return f"at {circuit_id} of {remote_id}" if remote_id else f"at {circuit_id}"

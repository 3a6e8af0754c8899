"""
A BMC made of pyghmi's own server class, as a program: the second implementation that the IPMI client is tested against.

    python -m tests.fakes.pyghmi_bmc PORT USER PASSWORD

prints each chassis command on standard output, a line each. The faults of the class that would stop it are mended here; the
one that matters for us stays: to a user that it does not know it answers nothing at all.
"""

from __future__ import annotations

import sys
import traceback

from pyghmi.ipmi.bmc import Bmc
from pyghmi.ipmi.private import serversession
from pyghmi.ipmi.private.session import Session

ALGORITHM_BYTE = 12
"""Where an RMCP+ open session request names its authentication algorithm (IPMI 2.0 table 13-9)."""

HMAC_SHA1 = 1


class HonestSession(serversession.ServerSession):
    """Refuses algorithms that it does not have, instead of promising one and using another."""

    def create_open_session_response(self, request: bytes) -> bytes | list[int]:
        """Answer SHA1 only to those who asked for it; others fall back to it."""
        if request[ALGORITHM_BYTE] & 0x3F != HMAC_SHA1:
            self.clientsessionid = request[8:12] if hasattr(self, "clientsessionid") else b""
            return [request[0], 4, 0, 0, *request[4:8]]
        return super().create_open_session_response(request)


class Chassis(Bmc):
    """Power that does as it is told."""

    state = "off"

    def get_power_state(self) -> str:
        return self.state

    def power_on(self) -> None:
        self._told("on")

    def power_off(self) -> None:
        self._told("off")

    def power_cycle(self) -> int | None:
        if self.state == "off":
            return 0xD5  # Not in this state (edge case 75).
        self._told("cycle")
        return None

    def power_reset(self) -> None:
        self._told("reset")

    def set_boot_device(self, bootdevice: str) -> None:
        print(f"boot {bootdevice}", flush=True)

    def get_boot_device(self) -> str:
        return "default"

    def _told(self, what: str) -> None:
        self.state = {"on": "on", "off": "off"}.get(what, self.state)
        print(what, flush=True)


def main() -> None:
    """Serve until killed."""
    port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    serversession.ServerSession = HonestSession
    Session._assignsocket()  # Its I/O thread wakes itself by a packet to its first socket, which must be a wildcard one.
    Chassis({user: password}, port=port, address="127.0.0.1")
    print("ready", flush=True)
    while True:
        try:
            Session.wait_for_rsp(30)
        except Exception:  # noqa: BLE001 - the class dies of anything, and this is a server
            traceback.print_exc()


if __name__ == "__main__":
    main()

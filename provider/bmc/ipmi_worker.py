"""
The worker process of `ipmi.py`, and the only module that imports pyghmi.

Each call needs a child of its own (`children.py`): pyghmi keeps sessions, sockets and a thread in globals, and after a logout
the next call in the same process was seen to answer for the BMC before it, or to fail in its own bookkeeping.
"""

from __future__ import annotations

from typing import Any

from pyghmi.exceptions import IpmiException
from pyghmi.ipmi.command import Command

from provider.bmc import children

_CHASSIS_CONTROL = (0x00, 0x02)
_CYCLE = 0x02  # IPMI 2.0 table 28-4; pyghmi has no word for it.
_NOT_IN_THIS_STATE = 0xD5

_LOGIN_WORDS = ("password", "unauthorized", "rakp", "privilege", "authtype", "user")
"""What pyghmi's messages have in common when the BMC answers and refuses us."""

_ACTIONS = {"on": "on", "off": "off", "reset": "reset", "soft_off": "softoff"}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        # As bytes: with str, pyghmi does not find the session again that it wants to forget after the login (it keys it by
        # what it was given, and looks for what it encoded), and gives the dead one to the next caller.
        command = Command(
            bmc=request["address"],
            userid=request["user"].encode(),
            password=request["password"].encode(),
            port=request["port"],
            keepalive=False,
        )
    except IpmiException as error:
        text = str(error)
        if any(word in text.lower() for word in _LOGIN_WORDS):
            return {"failed": "login", "error": text}
        # The text is empty, or "None", when nothing came back at all.
        return {"failed": "silent", "error": text if text not in ("", "None") else "nothing came back"}
    except OSError as error:
        return {"failed": "silent", "error": str(error)}
    try:
        return _perform(command, request)
    except IpmiException as error:
        silent = "no longer connected" in str(error) or "timeout" in str(error)
        return {"failed": "silent" if silent else "refused", "error": str(error)}
    finally:
        command.ipmi_session.logout()


def _perform(command: Command, request: dict[str, Any]) -> dict[str, Any]:
    match request["call"]:
        case "read":
            return {"power": command.get_power()["powerstate"]}
        case "act":
            _act(command, request["action"])
        case "boot":
            answer = command.set_bootdev(request["device"], persist=False, uefiboot=request["uefi"])
            if "error" in answer:
                return {"failed": "refused", "error": answer["error"]}
    return {}


def _act(command: Command, action: str) -> None:
    if action != "cycle":
        command.set_power(_ACTIONS[action])
        return
    answer = command.raw_command(*_CHASSIS_CONTROL, data=[_CYCLE])
    if answer.get("code") == _NOT_IN_THIS_STATE:
        command.set_power("on")  # Off: there is nothing to cycle (edge case 75).
    elif "error" in answer:
        raise IpmiException(answer["error"])


if __name__ == "__main__":
    children.serve(_answer)

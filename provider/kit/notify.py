"""Telling systemd how we are (sd_notify(3)); does nothing where systemd does not listen."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import timedelta


def notify(message: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send `READY=1`, `WATCHDOG=1`, `STATUS=...`, `STOPPING=1` to $NOTIFY_SOCKET, if there is one."""
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(message.encode(), address)


def watchdog_interval(environment: Mapping[str, str] = os.environ) -> timedelta | None:
    """How often systemd wants to hear `WATCHDOG=1`: half of what the unit allows; None if not at all."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or int(microseconds) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return timedelta(microseconds=int(microseconds)) / 2

"""
Accounts on the machine's BMC, from inside: IPMI by /dev/ipmi0, as an agent makes one for its provider (IPMI 2.0, section 22).

It runs in the machine, beside `lab_talos`: the standard library alone, and without ctypes.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import struct
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provider.lab.omni.talos_agent import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEVICE = Path("/dev/ipmi0")

_SEND_COMMAND, _RECEIVE_MESSAGE = 0x8028690D, 0xC030690B
"""IPMICTL_SEND_COMMAND and IPMICTL_RECEIVE_MSG_TRUNC of linux/ipmi.h, with the structures of 64 bits."""
_REQUEST = struct.Struct("=QI4xqBBH4xQ")
_ANSWER = struct.Struct("=i4xQI4xqBBH4xQ")
_BMC = struct.pack("=ihBx", 0x0C, 0x0F, 0)  # the system interface, the BMC's channel, LUN 0

_APPLICATION = 0x06
_SET_USER_ACCESS, _SET_USER_NAME, _GET_USER_NAME, _SET_USER_PASSWORD = 0x43, 0x45, 0x46, 0x47
_ENABLE, _SET_PASSWORD = 1, 2
_MESSAGES_ON_CHANNEL_1, _ADMINISTRATOR = 0x91, 4
_USERS = range(3, 9)
"""Ids; the first is nobody's, and the second belongs to the lab."""

_SECONDS = 5.0
_MOST_BYTES = 64


@dataclass
class Ipmi(machine.Ipmi):
    """The BMC of this computer; raises OSError where the BMC refuses."""

    def has(self, name: str) -> bool:
        """Whether there is such an account."""
        with _opened() as device:
            return _find(device, name) is not None

    def set(self, name: str, password: str) -> None:
        """Make an administrator, or give the one of that name another password."""
        with _opened() as device:
            user = _find(device, name) or _find(device, "")
            if user is None:
                raise OSError(errno.ENOSPC, "the BMC has no room for another account")
            _command(device, _SET_USER_NAME, bytes([user]) + name.encode().ljust(16, b"\0"))
            _command(device, _SET_USER_PASSWORD, bytes([user, _SET_PASSWORD]) + password.encode().ljust(16, b"\0"))
            _command(device, _SET_USER_PASSWORD, bytes([user, _ENABLE]))
            _command(device, _SET_USER_ACCESS, bytes([_MESSAGES_ON_CHANNEL_1, user, _ADMINISTRATOR, 0]))


def _find(device: int, name: str) -> int | None:
    return next(
        (user for user in _USERS if _command(device, _GET_USER_NAME, bytes([user])).rstrip(b"\0") == name.encode()),
        None,
    )


@contextmanager
def _opened() -> Iterator[int]:
    if not _DEVICE.exists():  # No device asks for this module.
        subprocess.run(["modprobe", "ipmi_devintf"], check=False)
    device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield device
    finally:
        os.close(device)


def _command(device: int, command: int, data: bytes) -> bytes:
    """One command and what it is answered with, without the completion code, which has to be 0."""
    address, body = array.array("B", _BMC), array.array("B", data)
    request = _REQUEST.pack(_at(address), len(address), 1, _APPLICATION, command, len(body), _at(body))
    fcntl.ioctl(device, _SEND_COMMAND, request)
    if not select.select([device], [], [], _SECONDS)[0]:
        raise TimeoutError(errno.ETIMEDOUT, "the BMC does not answer")
    sender, answer = array.array("B", bytes(_MOST_BYTES)), array.array("B", bytes(_MOST_BYTES))
    empty = _ANSWER.pack(0, _at(sender), len(sender), 0, 0, 0, len(answer), _at(answer))
    *_, length, _place = _ANSWER.unpack(fcntl.ioctl(device, _RECEIVE_MESSAGE, empty))
    code, rest = answer[0], answer[1:length].tobytes()
    if code != 0:
        raise OSError(errno.EIO, f"the BMC refused command {command:#x} with code {code:#x}")
    return rest


def _at(buffer: array.array[int]) -> int:
    return buffer.buffer_info()[0]

"""What goes wrong on demand; all off at first, and to be changed at any time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Faults:
    """Faults in force."""

    negotiates: bool = True
    """Off: an agent from before protocol revisions."""
    revisions: tuple[int, ...] = (0, 1)
    window: int = 65536
    """What it lets the provider send of a request before it has read it."""
    ignores_windows: bool = False
    """Of what it sends itself."""
    padding: int = 0
    """Bytes that a Hello is answered with; the provider has to drop them."""
    answers_hello: bool = True
    floods: bool = False
    """Sends frames that nobody asked for, as fast as it can."""
    huge_frame: int = 0
    """Bytes of one frame that it sends at the start."""
    garbage: bytes = b""
    """Sent as its first frame."""
    wipe_seconds: float = 0.0
    wipe_error: str = ""
    dies_in_wipe: bool = False
    """Its process ends in the middle of one, and is started again."""
    power_management_error: str = ""
    knows: tuple[str, ...] = ("Hello", "GetPowerManagement", "SetPowerManagement", "Reboot", "WipeDisks")
    """Its methods."""
    says_uuid: str = ""
    """Instead of the machine's."""

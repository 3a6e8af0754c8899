"""Restart and switch off: at once, through reboot(2), with everything written to the disks first."""

from __future__ import annotations

import os
import subprocess
import time

from provider.agent.console import say


def restart(reason: str) -> None:
    """Restart the machine; does not come back unless the kernel refuses."""
    _leave(["reboot", "-f"], f"restarting the machine: {reason}")


def switch_off(reason: str) -> None:
    """Switch the machine off; does not come back unless the kernel refuses."""
    _leave(["poweroff", "-f"], f"switching the machine off: {reason}")


def _leave(command: list[str], words: str) -> None:
    say(words)
    os.sync()
    # busybox: -f calls reboot(2) itself instead of asking an init.
    subprocess.run(command, check=False)
    time.sleep(30)
    say(f"the kernel did not do it: {' '.join(command)}")

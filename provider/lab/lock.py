"""
One lab per state folder, and a way to find it from another terminal.

The lock file holds the process id of the lab's outer process. The lock itself is the kernel's (flock): outer and inner
process share it, so it is free exactly when both are gone, however they went. A stale file means nothing.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

from provider.domain.errors import PermanentError

_END_SECONDS = 60.0
"""Time for a lab to end in order, before it is killed."""
_LOOK_SECONDS = 0.1


class Lock:
    """The lock of one state folder."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self._state_dir = state_dir
        self.descriptor = os.open(state_dir / "lab.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def take(self) -> None:
        """
        Take it for this process and its heirs.

        Raises:
            PermanentError: If a lab is up in this folder.
        """
        if not self._try():
            raise PermanentError(
                f"a lab is already up in {self._state_dir} (process {self._owner()})",
                hint=f"run: bootwright lab down --state-dir {self._state_dir}",
            )
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"{os.getpid()}\n".encode(), 0)

    def end_owner(self) -> bool:
        """End the lab that holds it and wait until nothing of it is left; False if there was none."""
        if self._try():
            return False
        for signal_, patience in ((signal.SIGTERM, _END_SECONDS), (signal.SIGKILL, _END_SECONDS)):
            os.kill(self._owner(), signal_)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if self._try():
                    return True
                time.sleep(_LOOK_SECONDS)
        raise PermanentError(f"the lab in {self._state_dir} (process {self._owner()}) does not end")

    def _try(self) -> bool:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _owner(self) -> int:
        written = os.pread(self.descriptor, 32, 0).decode().strip()
        if not written.isdigit():  # It has the lock and has not come to writing; or somebody else wrote here.
            raise PermanentError(f"{self._state_dir}/lab.lock does not say whose it is", hint="try again")
        return int(written)

"""
The way to the provider: an address by DHCP on the interface that the machine booted from.

busybox's udhcpc asks, renews and rebinds; its script (bootassets/image/udhcpc.sh) sets the address and leaves a file
for us.
"""

from __future__ import annotations

import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path

from provider.agent.console import say
from provider.domain.errors import TemporaryError

_LEASE = Path("/run/bootwright-lease")
_SCRIPT = "/usr/lib/bootwright/udhcpc"
_DHCP_OPTIONS = ("-t4", "-T2", "-A2", "-S", "-Vbootwright-agent")
"""Four tries, two seconds apart, again after two seconds; log to the kernel's log; option 60."""

_INTERFACES = Path("/sys/class/net")
_POLL_SECONDS = 0.05


def bring_all_up() -> None:
    """Switch on every interface that has hardware, so that its link can be seen; this asks nobody for anything."""
    for interface in physical_interfaces():
        subprocess.run(["ip", "link", "set", "dev", interface, "up"], check=False)


def physical_interfaces(folder: Path = _INTERFACES) -> list[str]:
    """Give the names of the interfaces with a device behind them, sorted."""
    return sorted(path.name for path in folder.iterdir() if (path / "device").exists())


def find_interface(mac: str, folder: Path = _INTERFACES) -> str | None:
    """Give the interface with this address, if its driver has brought it."""
    for name in physical_interfaces(folder):
        try:
            if (folder / name / "address").read_text(encoding="ascii").strip() == mac:
                return name
        except OSError:
            continue  # It is just going away.
    return None


def wait_for_interface(mac: str, seconds: float) -> str:
    """
    Wait until the interface that the machine booted from is there.

    Raises:
        TemporaryError: If it does not come; names those that are there.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := find_interface(mac):
            return found
        time.sleep(_POLL_SECONDS)
    others = ", ".join(physical_interfaces()) or "none"
    raise TemporaryError(
        f"no network interface has the address {mac} (there are: {others})",
        retry_after=timedelta(seconds=10),
        hint="its driver may be missing from the agent image",
    )


def start_dhcp(interface: str) -> None:
    """Ask for an address and keep it, in the background, for as long as the agent runs."""
    _LEASE.unlink(missing_ok=True)
    command = ["udhcpc", "-f", "-i", interface, "-s", _SCRIPT, *_DHCP_OPTIONS]

    def keep_running() -> None:
        while True:
            status = subprocess.run(command, check=False).returncode
            say(f"the DHCP client ended with status {status}; starting it again")
            time.sleep(5)

    threading.Thread(target=keep_running, name="dhcp", daemon=True).start()


def wait_for_lease(seconds: float) -> str:
    """
    Wait for the address; give it with its interface, for people.

    Raises:
        TemporaryError: If no DHCP server answers in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _LEASE.exists():
            return _LEASE.read_text(encoding="ascii").strip()
        time.sleep(_POLL_SECONDS)
    raise TemporaryError(
        f"no DHCP server answered within {seconds:.0f} s",
        retry_after=timedelta(seconds=1),
        hint="check the cable, the switch port and the provider's DHCP",
    )

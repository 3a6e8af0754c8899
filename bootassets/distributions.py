"""
What differs between the distributions that we build images from: the names of packages.

Everything else (paths inside the packages, versions, compression of modules) is found by looking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provider.domain.errors import PermanentError

OS_RELEASE = Path("/etc/os-release")


@dataclass(frozen=True)
class Distribution:
    """The packages of one distribution, by purpose."""

    name: str
    kernel: str
    """
    Metapackage of the generic kernel, with `{}` for the architecture.

    Not the "cloud" or "virtual" flavour: those have no bare-metal drivers.
    """
    firmware: tuple[str, ...]
    """Packages with firmware files for network cards; taken if the configured sources have them."""
    firmware_hint: str
    """What to do when they do not."""


_DEBIAN_HINT = "add the component non-free-firmware to the apt sources, then run: bootwright assets build --force"
_DEBIAN_FIRMWARE = ("firmware-bnx2", "firmware-bnx2x", "firmware-misc-nonfree", "firmware-qlogic", "firmware-realtek")

DISTRIBUTIONS: Mapping[tuple[str, str], Distribution] = {
    ("debian", "12"): Distribution("Debian 12", "linux-image-{}", _DEBIAN_FIRMWARE, _DEBIAN_HINT),
    ("debian", "13"): Distribution(
        "Debian 13", "linux-image-{}", (*_DEBIAN_FIRMWARE, "firmware-intel-misc"), _DEBIAN_HINT
    ),
    # Ubuntu has one package of half a gigabyte with all firmware there is: not worth it for five old network cards.
    ("ubuntu", "24.04"): Distribution(
        "Ubuntu 24.04", "linux-image-generic", (), "Ubuntu's linux-firmware is too large to be fetched for them"
    ),
}

PYTHON = "python3"
TOOLS = ("busybox-static", "kmod")

NOT_FOLLOWED = frozenset(
    {
        # A kernel's way onto an installed system.
        "initramfs-tools", "linux-initramfs-tool", "dracut", "linux-base", "intel-microcode", "amd64-microcode",
        "linux-firmware", "wireless-regdb", "thermald",
        # Python's way onto one, and parts of it that are left out of the image.
        "debconf", "debconf-2.0", "dpkg", "media-types", "mime-support", "mailcap", "tzdata", "netbase",
        "python3-minimal", "libsqlite3-0", "libncursesw6", "libreadline8", "libreadline8t64", "readline-common",
        "libdb5.3", "libdb5.3t64", "libnsl2", "libtirpc3", "libtirpc3t64", "libgcc-s1", "gcc-12-base", "lsb-base",
    }
)  # fmt: skip
"""Dependencies that are not downloaded: they are needed to install a package, or by parts of it that we do not take."""


def current() -> Distribution:
    """
    Find out what this system is.

    Raises:
        PermanentError: If it is none that we know how to build from.
    """
    release = _release()
    key = (release.get("ID", ""), release.get("VERSION_ID", ""))
    if key not in DISTRIBUTIONS:
        known = ", ".join(distribution.name for distribution in DISTRIBUTIONS.values())
        raise PermanentError(
            f"the agent image is not built on {release.get('PRETTY_NAME', 'this system')}",
            hint=f"build it on {known}, in a container if need be, and copy the folder",
        )
    return DISTRIBUTIONS[key]


def _release() -> dict[str, str]:
    lines = OS_RELEASE.read_text(encoding="utf-8").splitlines() if OS_RELEASE.exists() else []
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key: value.strip("\"'") for key, value in pairs}

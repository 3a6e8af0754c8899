"""
Provider and manager as they run in production: processes of their own, with files of configuration and no back door.

A daemon can be stopped, killed and started again at any time; one that ends without being told to ends the lab. Ready
is when it answers on its UNIX socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
import yaml

from provider.domain.errors import PermanentError
from provider.lab import firmware, network
from provider.lab.bmc import PORT as BMC_PORT
from provider.lab.firmware import Firmware
from provider.lab.machines import LabMachine
from provider.lab.processes import Process
from provider.lab.uplink import HOST

log = structlog.get_logger()

MANAGER_PORT = 9443
UPLINK_PORT = 9444
"""Where the provider finds the manager: the lab's uplink is in between."""

MACHINE_PORT, FACTORY_PORT = 9445, 9446
"""Of the fake Omni: where machines find it, on the provider's address, and its Image Factory."""

_KNOCK_SECONDS = 0.05


def bootwright(*arguments: str | Path) -> list[str | Path]:
    """Command line of our own program, run from the same installation as the lab."""
    return [sys.executable, "-P", "-m", "provider", *arguments]


class Daemon:
    """One of our programs; `socket` is where it answers when it is ready."""

    def __init__(
        self, name: str, command: Sequence[str | Path], socket: Path, log_file: Path, patience: timedelta
    ) -> None:
        self.name = name
        self.log_file = log_file
        self.socket = socket
        self._command = command
        self._patience = patience
        self._process: Process | None = None
        self._up = asyncio.Event()

    async def start(self) -> None:
        """
        Start it and wait until it answers.

        Raises:
            PermanentError: If it ends instead, or takes too long; says what it logged last.
        """
        self.socket.unlink(missing_ok=True)  # After a kill -9 the old one is still there, and answers nothing.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._process = await Process.start(self.name, self._command, self.log_file, environment)
        log.info("daemon.started", name=self.name, pid=self._process.pid)
        try:
            async with asyncio.timeout(self._patience.total_seconds()):
                await self._answers(self._process)
        except TimeoutError as error:
            raise PermanentError(f"the {self.name} is not ready after {self._patience}:\n{self._said()}") from error
        self._up.set()
        log.info("daemon.ready", name=self.name)

    async def stop(self) -> None:
        """End it in order, as systemd does."""
        self._up.clear()
        if self._process is not None:
            await self._process.terminate()

    async def kill(self) -> None:
        """End it without a warning: SIGKILL."""
        self._up.clear()
        if self._process is not None:
            await self._process.kill()
            log.info("daemon.killed", name=self.name, pid=self._process.pid)

    async def watch(self) -> None:
        """
        Wait until it ends by itself, however often it is killed and started again meanwhile.

        Raises:
            PermanentError: When that happens; says what it logged last.
        """
        while True:
            await self._up.wait()
            process = self._process
            status = 0 if process is None else await process.wait()
            if self._up.is_set() and self._process is process:
                raise PermanentError(f"the {self.name} ended by itself with status {status}:\n{self._said()}")

    async def _answers(self, process: Process) -> None:
        while process.running:
            try:
                _, writer = await asyncio.open_unix_connection(self.socket)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(_KNOCK_SECONDS)
                continue
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            return
        raise PermanentError(f"the {self.name} does not start:\n{self._said()}")

    def _said(self) -> str:
        return self._process.tail() if self._process is not None else ""


@dataclass(frozen=True)
class Places:
    """Where things are in the folder of one run of the lab."""

    folder: Path

    @property
    def provider_state(self) -> Path:
        """The provider's own state."""
        return self.folder / "provider"

    @property
    def manager_state(self) -> Path:
        """The manager's own state, its certificate authority and its token."""
        return self.folder / "manager"

    @property
    def configuration(self) -> Path:
        """The provider's configuration file."""
        return self.folder / "provider.yaml"

    @property
    def operator_socket(self) -> Path:
        """The provider's operator API."""
        return self.folder / "operator.sock"

    @property
    def manager_socket(self) -> Path:
        """The manager's control API."""
        return self.manager_state / "control.sock"

    @property
    def desk_socket(self) -> Path:
        """The desk of the fake Omni."""
        return self.manager_state / "desk.sock"

    @property
    def omni_key(self) -> Path:
        """The provider's key for Omni."""
        return self.folder / "omni-key"

    @property
    def talos(self) -> Path:
        """The images of the stand-in for Talos."""
        return self.folder / "talos"

    def machine(self, name: str) -> Path:
        """What belongs to one machine."""
        return self.folder / name

    def log(self, name: str) -> Path:
        """What a daemon, or the lab itself, logged."""
        return self.folder / f"{name}.log"


def make_manager(places: Places, patience: timedelta) -> Daemon:
    """The reference manager."""
    command = bootwright("manager", "serve", "--state", places.manager_state, "--listen", f"{HOST}:{MANAGER_PORT}")
    return Daemon("manager", command, places.manager_socket, places.log("manager"), patience)


def make_omni(places: Places, patience: timedelta) -> Daemon:
    """The fake Omni with its Image Factory, which has the images of `places.talos`."""
    command: list[str | Path] = [
        sys.executable,
        "-P",
        "-m",
        "provider.lab.omni",
        "--state",
        places.manager_state,
        "--tls",
    ]
    command += ["--listen", f"{HOST}:{MANAGER_PORT}", "--machines", f"{network.PROVIDER_ADDRESS.ip}:{MACHINE_PORT}"]
    command += ["--factory", f"{HOST}:{FACTORY_PORT}", "--files", places.talos]
    return Daemon("manager", command, places.desk_socket, places.log("manager"), patience)


def keep_omni_key(places: Places, key: str) -> None:
    """Where the provider finds it, and nobody else."""
    places.omni_key.touch(mode=0o600)
    places.omni_key.write_text(key, encoding="ascii")


def make_provider(places: Places, patience: timedelta) -> Daemon:
    """The provider; `write_configuration` comes first."""
    command = bootwright("serve", "--config", places.configuration)
    return Daemon("provider", command, places.operator_socket, places.log("provider"), patience)


def write_configuration(
    places: Places,
    template: Mapping[str, Any],
    assets: Path,
    machines: Sequence[LabMachine],
    manager: Mapping[str, Any],
) -> None:
    """Write the provider's configuration file: the template, what the lab alone knows, and the part about the manager."""
    board = firmware.board(machines[0].hardware.firmware)
    link = places.folder / "image"
    link.unlink(missing_ok=True)
    link.symlink_to(assets.resolve() / board.architecture)
    document = {
        **template,
        "provider": {**template.get("provider", {}), "state_dir": str(places.provider_state)},
        "operator": {"socket": str(places.operator_socket)},
        "assets_dir": str(assets.resolve()),
        "agent": {**template.get("agent", {}), "console": f"{board.console},115200"},
        "uefi": template.get(
            "uefi", {"machines": [_signed(machine) for machine in machines if _needs_signed(machine)]}
        ),
        **manager,
    }
    places.configuration.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    places.configuration.chmod(0o600)  # There are passwords in it.


def of_reference_manager(places: Places, machines: Sequence[LabMachine]) -> Mapping[str, Any]:
    """The part of the configuration that names it; the BMCs are ours to know."""
    return {
        "bmcs": [_bmc(machine) for machine in machines],
        "manager": {
            "url": f"wss://{HOST}:{UPLINK_PORT}/link",
            "token_file": str(places.manager_state / "token"),
            "ca_file": str(places.manager_state / "ca.pem"),
            "heartbeat": "2s",
        },
    }


def of_omni(places: Places) -> Mapping[str, Any]:
    """The part that names Omni. The agent gets us into the BMCs, and wipes all of each disk, so that the lab can prove it."""
    return {
        "manager": {
            "kind": "omni",
            "endpoint": f"https://{HOST}:{UPLINK_PORT}",
            "key_file": str(places.omni_key),
            "ca_file": str(places.manager_state / "tls" / "ca.pem"),
        },
        "talos": {"factory_url": f"http://{HOST}:{FACTORY_PORT}", "wipe_zeroes": True},
    }


def _needs_signed(machine: LabMachine) -> bool:
    return machine.hardware.firmware is Firmware.SECURE_BOOT


def _signed(machine: LabMachine) -> dict[str, Any]:
    """What an operator writes who knows that it boots nothing else; the provider would find out, but it takes a boot."""
    return {"mac": machine.hardware.mac, "loader": "signed"}


def _bmc(machine: LabMachine) -> dict[str, Any]:
    return {
        "machine": {"mac": machine.hardware.mac},
        "address": str(machine.bmc.address),
        "port": BMC_PORT,
        "user": machine.bmc.account.user,
        "password": machine.bmc.account.password,
    }

"""
Every `bootwright` command of the README, run as it stands there and in that order, against a provider and a manager.

Only what a reader would replace is replaced: the id of the machine, the folders, the address of the manager. The machine is a
name in a request for a boot script; its BMC is ipmi_sim. `./dev` commands are what the whole suite and the lab are started with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.integration.test_bmc import ACCOUNT, ipmi_sim
from tests.integration.wires import Wire, must, wire
from tests.unit.test_readme import OURS

PATIENCE = 60.0  # seconds
MAC = "52:54:00:12:34:56"
SAMPLE_ID = "m-176ecee0bf"
BMC_ADDRESS = "127.0.9.1"

EXPECTED = {
    "machine list": MAC,
    "machine show": MAC,
    "machine explain": "nobody accepted it yet",
    "machine events": "boot.script_served",
    "machine power": "is off",
    "status": "wire-ours  server  10.77.0.1",
    "lease list": "ADDRESS",
    "lease reserve": "is reserved for mac 52:54:00:12:34:56",
    "lease unreserve": "is no longer reserved for mac 52:54:00:12:34:56",
    "assets build": "boot assets complete",
    "assets verify": "boot assets complete",
    "manager machines": "nobody accepted it yet",
    "manager accept": "revision 1 goes to readme",
    "manager allocate": "revision 2 goes to readme",
    "manager release": "revision 3 goes to readme",
    "manager wipe": "revision 4 goes to readme",
}
"""What each command must say; one that is not here fails the test."""

FOLLOWS = "--follow"
SERVES = "bootwright manager serve "


@dataclass(frozen=True)
class Place:
    """A provider and a manager that run, and the environment that leads the commands to them."""

    folder: Path
    assets: Path
    environment: Mapping[str, str]
    cable: Wire

    def words(self, line: str, machine: str = SAMPLE_ID) -> list[str]:
        """The command with the reader's own names, to be run from this checkout."""
        replaced = line.replace("/var/lib/bootwright-manager", str(self.folder / "manager"))
        replaced = replaced.replace("/var/lib/bootwright/assets", str(self.assets)).replace(SAMPLE_ID, machine)
        return [sys.executable, "-m", "provider", *replaced.split()[1:]]

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Run to the end: status, standard output, standard error."""
        process = await asyncio.create_subprocess_exec(
            *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment
        )
        async with asyncio.timeout(PATIENCE):
            output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async def machine(self) -> str:
        """Ask for a script, and wait until the manager knows who asked."""
        must(*self.cable.inside("ip", "addr", "add", "10.77.0.9/24", "dev", self.cable.theirs))
        query = f"mac={MAC.replace(':', '-')}&platform=efi"
        must(*self.cable.inside("curl", "-sf", f"http://10.77.0.1:8080/machine.ipxe?{query}"))
        async with asyncio.timeout(PATIENCE):
            while True:
                status, said, _ = await self.run(*self.words("bootwright manager machines --json"))
                if status == 0 and (machines := json.loads(said)["machines"]):
                    return str(machines[0]["id"])


@contextlib.asynccontextmanager
async def running(place: Place, log: Path, *words: str, until: str) -> AsyncIterator[None]:
    """Run something that stays, from when its log has `until` in it; it must end well when it is told to."""
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(*words, stderr=stream, env=place.environment)
    try:
        async with asyncio.timeout(PATIENCE):
            while until not in log.read_text():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        assert await process.wait() == 0, log.read_text()
        assert "Traceback" not in log.read_text()


def configuration(place: Place) -> Path:
    """The provider's own, with a manager, a BMC, and the profile that the README allocates."""
    path = place.folder / "provider.yaml"
    manager = place.folder / "manager"
    document = {
        "provider": {"id": "readme", "state_dir": str(place.folder / "state")},
        "network": {
            "interfaces": [
                {"name": place.cable.ours, "dhcp": "server", "pool": {"first": "10.77.0.100", "last": "10.77.0.199"}}
            ]
        },
        "operator": {"socket": place.environment["BOOTWRIGHT_SOCKET"]},
        "assets_dir": str(place.assets),
        "bmcs": [{"machine": {"mac": MAC}, "address": BMC_ADDRESS, "user": ACCOUNT.user, "password": ACCOUNT.password}],
        "profiles": {"debian": {"kernel": str(place.assets / "x86_64/vmlinuz")}},
        "manager": {
            "url": "wss://127.0.0.1:9443/link",
            "token_file": str(manager / "token"),
            "ca_file": str(manager / "ca.pem"),
        },
    }
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    return path


@contextlib.asynccontextmanager
async def place_of(folder: Path, assets: Path) -> AsyncIterator[Place]:
    """Manager by the README's own command, BMC, provider."""
    environment = {
        **os.environ,
        "BOOTWRIGHT_SOCKET": str(folder / "operator.sock"),
        "BOOTWRIGHT_MANAGER_STATE": str(folder / "manager"),
        "COLUMNS": "250",
    }
    (serves,) = (line for line in OURS if line.startswith(SERVES))
    with wire() as cable:
        place = Place(folder, assets, environment, cable)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(
                running(place, folder / "manager.log", *place.words(serves), until="manager.started")
            )
            await stack.enter_async_context(ipmi_sim(folder / "bmc", BMC_ADDRESS))
            serve = (sys.executable, "-m", "provider", "serve", "--config", str(configuration(place)))
            await stack.enter_async_context(running(place, folder / "log", *serve, until="daemon.started"))
            yield place


@pytest.mark.timeout(180)
def test_every_command_does_what_the_readme_says(tmp_path: Path, assets: Path) -> None:
    """A newcomer copies a command from the README, and it fails or says something else."""

    async def main() -> None:
        async with place_of(tmp_path, assets) as place:
            machine = await place.machine()
            for line in OURS:
                if line.startswith(SERVES):
                    continue
                words = place.words(line, machine)
                if FOLLOWS in words:
                    await follows_until_interrupted(place, words)
                    continue
                await says_what_is_expected(place, line, words)
                if not any(word in line for word in ("assets", "manager", "unreserve")):
                    status, output, errors = await place.run(*words, "--json")
                    assert status == 0, errors
                    assert json.loads(output), line

    asyncio.run(main())


async def says_what_is_expected(place: Place, line: str, words: list[str]) -> None:
    verbs = " ".join(line.split()[1:3])
    expected = EXPECTED[next(known for known in EXPECTED if verbs.startswith(known))]
    status, output, errors = await place.run(*words)
    assert status == 0, f"{line}: {errors}"
    assert expected in output + errors, line


async def follows_until_interrupted(place: Place, words: list[str]) -> None:
    """Ctrl-C ends it as it ends any program, without a traceback."""
    # A suite that runs in a shell's background ignores SIGINT, and so would whatever it starts.
    process = await asyncio.create_subprocess_exec(
        "env", "--default-signal=INT", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=place.environment
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert b"machine.discovered" in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert b"Traceback" not in errors, errors.decode()
    assert process.returncode == 130

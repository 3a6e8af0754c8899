"""
A stand-in for Talos: it runs in the machine, in the agent image, in place of our own agent.

It believes its kernel's command line, as Talos does. `talos.config` is where the documents are that make it join Omni and trust
the provider. With `metal.provider.address` it is Talos in maintenance, with the metal agent: the fake one of
`provider.lab.omni`, on real disks and a real BMC. Without, it is Talos that is to be installed: it waits until Omni would
configure it, writes the boot sector of `lab_installer` to the first disk, tells Omni, and restarts the machine.

META, where Talos keeps the token that Omni gave it, is a block of the first disk; before there is a Talos on the disk, memory is.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
import textwrap
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from provider.agent import kernel_line, network, patience, power
from provider.agent.console import say
from provider.agent.drivers import Drivers
from provider.domain.errors import PermanentError, TemporaryError
from provider.lab import lab_installer, lab_ipmi
from provider.lab.omni.talos_agent import machine as machines
from provider.lab.omni.talos_agent.agent import TalosAgent
from provider.lab.omni.talos_agent.machine import Machine

BMCS = Path("/usr/lib/bootwright/lab-bmcs.json")
"""Address of the BMC by the machine's UUID: the simulated one does not tell it to its machine."""

_META_AT = 64 << 10  # bytes; between boot sector and first partition, where a fast wipe comes by.
_META_BYTES = 4096
_META_MAGIC = b"META of the lab "

_CALL_SECONDS = 15.0
_LOOK_SECONDS = 0.5
_REBOOT_SECONDS = 0.5
"""Until the answer to a request to reboot is with who asked."""


@dataclass(frozen=True)
class Documents:
    """What a machine is configured with, as far as the stand-in needs it."""

    omni: str
    """HOST:PORT where machines speak to it (`omni.machine_port`)."""
    token: str = field(repr=False)
    """By which they join."""
    certificates: str
    """PEM; whom to trust besides."""


def read_documents(text: str) -> Documents:
    """
    Find what is needed.

    Raises:
        PermanentError: If the documents do not say how to join; names what is missing.
    """
    parts = re.split(r"^---$", text, flags=re.MULTILINE)
    kinds = {kind[1]: part for part in parts if (kind := re.search(r"^kind: (\w+)$", part, re.MULTILINE))}
    if missing := {"SideroLinkConfig", "EventSinkConfig", "KmsgLogConfig"} - kinds.keys():
        raise PermanentError(f"the configuration has no {', '.join(sorted(missing))}")
    url = re.search(r"^apiUrl: grpc://(\S+)\?jointoken=(\S+)$", kinds["SideroLinkConfig"], re.MULTILINE)
    if url is None:
        raise PermanentError("the SideroLinkConfig names no machine API with a join token")
    _, _, certificates = kinds.get("TrustedRootsConfig", "").partition("certificates: |\n")
    return Documents(url[1], unquote(url[2]), textwrap.dedent(certificates))


def main() -> None:
    """Do what the command line says; a failure is tried again by init."""
    given = kernel_line.options(kernel_line.COMMAND_LINE.read_text(encoding="ascii"))
    agent_address = given.get("metal.provider.address", "")
    say(f"stand-in for Talos: {'the agent for ' + agent_address if agent_address else 'to be installed'}")
    _start_network()
    text = patience.until_done(lambda: _get(given["talos.config"]))
    documents = read_documents(text)
    uuid = machines.own_uuid()
    member = Member(documents, uuid, Meta(min(path for path in machines.own_disks() if "vd" in path.name)))
    patience.until_done(member.join)
    say(f"joined Omni at {documents.omni} as {uuid}")
    if agent_address:
        asyncio.run(_serve(agent_address, _this_machine(uuid), documents.certificates))
        time.sleep(60)  # The restart is on its way.
    else:
        member.be_installed()


def _start_network() -> None:
    drivers = Drivers()
    drivers.load_network()
    network.start_dhcp(patience.until_done(_first_interface, at_most_seconds=60))
    drivers.load_all()
    say(network.wait_for_lease(60))


def _first_interface() -> str:
    for _ in range(40):
        if found := network.physical_interfaces():
            return found[0]
        time.sleep(_LOOK_SECONDS / 10)
    raise TemporaryError("there is no network interface", retry_after=timedelta(seconds=1))


# --- with Omni -------------------------------------------------------------------------------------------------------


class Meta:
    """The block of a disk where Talos keeps what has to outlive a boot; only an installed Talos has one."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk

    def read(self) -> str:
        """The token; empty if there is none."""
        with self._disk.open("rb") as disk:
            disk.seek(_META_AT)
            block = disk.read(_META_BYTES)
        return block.removeprefix(_META_MAGIC).rstrip(b"\0").decode() if block.startswith(_META_MAGIC) else ""

    def write(self, token: str) -> None:
        """Keep a token."""
        with self._disk.open("r+b") as disk:
            disk.seek(_META_AT)
            disk.write((_META_MAGIC + token.encode()).ljust(_META_BYTES, b"\0"))


@dataclass
class Member:
    """The machine as Omni knows it."""

    documents: Documents
    uuid: str
    meta: Meta
    _token: str = ""

    def join(self) -> None:
        """
        Provision, and say on which disk Talos is.

        Raises:
            TemporaryError: If Omni is not there, or refuses.
        """
        kept = self.meta.read()
        self._token = self._token or kept
        answer = self._provision(installed=bool(kept))
        if answer["conflict"]:
            raise TemporaryError("Omni knows another machine of this UUID", retry_after=timedelta(seconds=5))
        if answer["pending"]:
            self._token = answer["unique_token"]
            self._provision(installed=bool(kept))

    def be_installed(self) -> None:
        """Wait for the configuration, write the disk, tell Omni, restart."""
        said = ""
        while not (state := patience.until_done(lambda: self._call("GET", f"/machines/{self.uuid}")))["applies_config"]:
            if state["config_refusal"] != said:
                said = state["config_refusal"]
                say(f"not configured yet: {said}")
            time.sleep(_LOOK_SECONDS)
        say(f"configured for Talos {state['version']}")
        lab_installer.mark_first_disk("")
        self.meta.write(self._token)
        # Talos ends the installation by a reboot, which looks like an error in its events.
        event = {"uuid": self.uuid, "sequence": "install", "action": "NOOP", "fatal": "unix.Reboot"}
        patience.until_done(lambda: self._call("POST", "/event", event))
        power.restart("installed")

    def _provision(self, *, installed: bool) -> Any:
        request = {
            "uuid": self.uuid,
            "token": self.documents.token,
            "unique_token": self._token,
            "installed": installed,
        }
        return self._call("POST", "/provision", request)

    def _call(self, method: str, target: str, body: Mapping[str, object] | None = None) -> Any:
        return json.loads(_ask(self.documents.omni, method, target, None if body is None else json.dumps(body)))


def _get(url: str) -> str:
    parts = urlsplit(url)
    return _ask(parts.netloc, "GET", f"{parts.path}?{parts.query}", None)


def _ask(address: str, method: str, target: str, body: str | None) -> str:
    """
    One HTTP request.

    Raises:
        TemporaryError: For any answer but 200, or none.
    """
    connection = http.client.HTTPConnection(address, timeout=_CALL_SECONDS)
    try:
        connection.request(method, target, body, {"content-type": "application/json"} if body else {})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        problem = f"{method} http://{address}{target.partition('?')[0]}: {error!r}"
        raise TemporaryError(problem, retry_after=timedelta(seconds=1)) from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        problem = f"{method} http://{address}{target.partition('?')[0]}: {answer.status} {text.strip()[:200]}"
        raise TemporaryError(problem, retry_after=timedelta(seconds=1))
    return text


# --- the agent -------------------------------------------------------------------------------------------------------


class _ThisMachine(Machine):
    """The computer that all of this runs on."""

    def reboot(self) -> None:
        """Restart it, after the answer."""
        self.reboots += 1
        threading.Timer(_REBOOT_SECONDS, power.restart, ["the provider wants it"]).start()


def _this_machine(uuid: str) -> Machine:
    bmc = json.loads(BMCS.read_text(encoding="ascii")).get(uuid)
    ipmi = None if bmc is None else lab_ipmi.Ipmi(bmc)
    return _ThisMachine(uuid, ipmi=ipmi, disks=machines.own_disks())


async def _serve(address: str, this: Machine, certificates: str) -> None:
    """Be the agent until the machine restarts."""
    trust = ssl.create_default_context(cadata=certificates) if certificates else None
    if trust is not None:
        trust.set_alpn_protocols(["h2"])
    await TalosAgent(address, this, trust=trust, restarts_after=1.0, say=lambda words: say(f"agent: {words}")).run()


if __name__ == "__main__":
    main()

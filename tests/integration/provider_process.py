"""One `bootwright serve` for the tests of a file that talk to it over HTTP: as a process, on one end of a cable."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.test_serve import Daemon, configuration, serving
from tests.integration.wires import Wire, wire

ADDRESS = "10.77.0.1"
MAC = "52:54:00:12:34:56"
SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """A whole answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body, for people."""
        return self.body.decode(errors="replace")


@dataclass(frozen=True)
class ProviderProcess:
    """Where it answers."""

    folder: Path
    assets: Path
    cable: Wire
    daemon: Daemon

    @property
    def operator_socket(self) -> Path:
        """The operator API."""
        return self.folder / "operator.sock"

    def boot(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask the boot listener; the target is sent as it stands."""
        return exchange(http.client.HTTPConnection(ADDRESS, 8080, timeout=SECONDS), method, target, headers)

    def agent(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask the agent listener; its certificate is another test's business."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(ADDRESS, 8443, timeout=SECONDS, context=context)
        return exchange(connection, method, target, headers, body)

    def operator(self, method: str, target: str, body: bytes | None = None) -> Answer:
        """Ask the operator API."""
        return exchange(UnixConnection(self.operator_socket), method, target, None, body)

    def ticket(self, mac: str = MAC) -> str:
        """Boot as a machine does, as far as its script."""
        script = self.boot("GET", f"/machine.ipxe?mac={mac}&platform=efi").text
        found = re.search(r"bootwright\.ticket=(\S+)", script)
        assert found is not None, script
        return found[1]

    def enrolment(self, ticket: str, mac: str = MAC, nonce: str = "0" * 32) -> dict[str, object]:
        """An agent's first words."""
        names = ("uuid", "serial", "board_serial", "chassis_serial")
        named = dict.fromkeys(names, "")
        return {**named, "ticket": ticket, "nonce": nonce, "macs": [mac], "firmware": "uefi", "agent_version": "1"}

    def enrolled(self, mac: str = MAC) -> tuple[str, str]:
        """Token and id of a machine that has just booted the agent."""
        body = json.dumps(self.enrolment(self.ticket(mac), mac)).encode()
        answer = self.agent("POST", "/agent/v1/enrol", body)
        assert answer.status == 200, answer.text
        document: dict[str, Any] = json.loads(answer.body)
        return document["token"], document["machine_id"]


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("operator", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """One request on a connection of its own."""
    with contextlib.closing(connection):
        connection.request(method, target, body, dict(headers or {}))
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, names, answer.read())


@contextlib.contextmanager
def provider_process(folder: Path, **changes: object) -> Iterator[ProviderProcess]:
    """Start it, and stop it in order."""
    assets = Path(os.environ.get("BOOTWRIGHT_ASSETS_DIR", ".bootwright/assets")).resolve()
    with wire(f"{ADDRESS}/24") as cable, serving(configuration(folder, assets, **changes)) as daemon:
        yield ProviderProcess(folder, assets, cable, daemon)

"""A fake Omni as a process, and machines that boot by HTTP as iPXE does."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tests.integration.provider_process import Answer, ProviderProcess, UnixConnection, exchange

PATIENCE = 30.0  # seconds
FACTORY = "127.0.0.1:18081"
_PORTS = (("listen", "endpoint"), ("machines", "machines"))
"""Options, and where the process says what became of them."""
FILES = {
    "kernel-amd64": b"kernel" * 20_000,
    "initramfs-amd64.xz": b"disk" * 30_000,
    "kernel-arm64": b"arm kernel",
    "initramfs-arm64.xz": b"arm disk",
    "metal-amd64-secureboot-uki.efi": b"signed" * 1000,
}


@dataclass
class OmniProcess:
    """The process; `where` it answers stays the same when it is killed and started again."""

    folder: Path
    arguments: tuple[str, ...] = ()
    where: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with what is on its disk."""
        files = self.folder / "files"
        command = ("-m", "provider.lab.omni", "--state", str(self.folder), "--files", str(files), "--factory", FACTORY)
        same = [f"--{option}={urlsplit(self.where[key]).netloc}" for option, key in _PORTS if key in self.where]
        self._process = subprocess.Popen([sys.executable, *command, *self.arguments, *same], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.where = json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        """As kill -9 does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In order."""
        assert self._end(signal.SIGTERM) == 0

    def _end(self, how: signal.Signals) -> int:
        assert self._process is not None
        with self._process as process:
            process.send_signal(how)
            return process.wait(PATIENCE)

    def do(self, verb: str, **arguments: object) -> Any:
        """One of the desk's verbs, or `faults/...`."""
        answer = self._ask("POST", f"/v1/{verb}", json.dumps(arguments).encode())
        return answer["result"]

    def machine(self, uuid: str) -> Any:
        """Everything about a machine; None if there is none."""
        connection = UnixConnection(self.folder / "desk.sock")
        answer = exchange(connection, "GET", f"/v1/machines/{uuid}")
        return None if answer.status == 404 else json.loads(answer.body)

    def provider(self) -> Any:
        """The one provider."""
        (found,) = self._ask("GET", "/v1/providers")["providers"]
        return found

    def tell(self, target: str, body: dict[str, str]) -> None:
        """What a machine tells it through SideroLink."""
        address = urlsplit(self.where["machines"]).netloc
        answer = exchange(http.client.HTTPConnection(address), "POST", target, body=json.dumps(body).encode())
        assert answer.status == 200, answer.text

    def join(self, uuid: str, configuration: str) -> Answer:
        """As Talos does with its configuration."""
        (url,) = re.findall(r"apiUrl: (\S+)", configuration)
        address, token = urlsplit(url).netloc, unquote(url.partition("jointoken=")[2])
        body = {"uuid": uuid, "token": token}
        answer = self._provision(address, body)
        if json.loads(answer.body).get("pending"):
            answer = self._provision(address, body | {"unique_token": json.loads(answer.body)["unique_token"]})
        return answer

    def _provision(self, address: str, body: dict[str, object]) -> Answer:
        return exchange(http.client.HTTPConnection(address), "POST", "/provision", body=json.dumps(body).encode())

    def _ask(self, method: str, target: str, body: bytes | None = None) -> Any:
        answer = exchange(UnixConnection(self.folder / "desk.sock"), method, target, body=body)
        assert answer.status == 200, answer.text
        return json.loads(answer.body)


@contextlib.contextmanager
def omni_process(folder: Path, *arguments: str) -> Iterator[OmniProcess]:
    """Start it, with its Image Factory, and stop it in order."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (files / name).write_bytes(content)
    omni = OmniProcess(folder, arguments)
    omni.start()
    try:
        yield omni
    finally:
        omni.stop()


@dataclass(frozen=True)
class Ipxe:
    """A machine as far as its boot loader goes."""

    provider: ProviderProcess
    uuid: str
    mac: str
    build: str = "x86_64"
    platform: str = "efi"

    def script(self, again: str = "") -> str:
        """What it is told to do."""
        query = f"mac={self.mac}&uuid={self.uuid}&platform={self.platform}&buildarch={self.build}"
        answer = self.provider.boot("GET", f"/machine.ipxe?{query}{f'&again={quote(again)}' if again else ''}")
        assert answer.status == 200, answer.text
        return answer.text

    def booted(self) -> Booted:
        """Do what the script says, and wait where it says so, until a kernel would start."""
        return self.load(self.patient_script())

    def patient_script(self) -> str:
        """The script that does something, after those that say to wait."""
        script = self.script()
        end = time.monotonic() + PATIENCE
        while (waits := re.search(r"again=([a-z]+) ", script)) is not None:
            assert time.monotonic() < end, script
            time.sleep(0.2)
            script = self.script(waits[1])
        return script

    def load(self, script: str) -> Booted:
        """Load what a script names."""
        kernel = re.search(r"^kernel (\S+) (.*) \|\| ", script, re.MULTILINE)
        assert kernel is not None, script
        initrds = re.findall(r"^initrd --name \S+ (\S+) ", script, re.MULTILINE)
        return Booted(script, self._load(kernel[1]), tuple(map(self._load, initrds)), kernel[2].split())

    def _load(self, url: str) -> bytes:
        assert url.startswith("http://10.77.0.1:8080/"), url
        answer = self.provider.boot("GET", url.removeprefix("http://10.77.0.1:8080"))
        assert answer.status == 200, answer.text
        assert answer.headers["content-length"] == str(len(answer.body))
        return answer.body


@dataclass(frozen=True)
class Booted:
    """What was loaded, and how it was started."""

    script: str
    kernel: bytes
    initrds: tuple[bytes, ...]
    arguments: list[str]

    def argument(self, name: str) -> str:
        """The value of `NAME=VALUE`."""
        (found,) = [each.partition("=")[2] for each in self.arguments if each.startswith(f"{name}=")]
        return found


def eventually(holds: Callable[[], object]) -> None:
    """Wait until it holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.1)

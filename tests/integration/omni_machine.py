"""
A whole machine for tests with Omni: a power API, firmware that boots from the network, the agent, a Talos that is installed.

It does by itself what a real one does, and waits for whoever is away; so a test may kill anybody, and look at the end only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

from tests.integration.omni_process import Ipxe, OmniProcess
from tests.integration.provider_process import ProviderProcess

T = TypeVar("T")

PAUSE = 0.1
"""Seconds between two looks at what is not there yet."""

_AWAY = (OSError, http.client.HTTPException, AssertionError)
"""How the helpers of these tests say that somebody is away, or refuses."""


class _EndedError(Exception):
    """The machine was switched off, or booted again."""


class SimulatedMachine:
    """One machine; it is off until somebody switches it on."""

    def __init__(self, provider: ProviderProcess, omni: OmniProcess, number: int, *, wipe_seconds: float = 0.5) -> None:
        self.uuid = f"5c7b0d5e-5b7c-4d35-9d3b-{number:012x}"
        self.did: Counter[str] = Counter()
        """Boots, by `agent`, `install`, `disk` and `nothing`; and `wipe begun`, `wipe done`, `wipe broken`."""
        self.power_api = ""
        self._ipxe = Ipxe(provider, self.uuid, f"52:54:00:00:00:{number:02x}")
        self._provider, self._omni, self._wipe_seconds = provider, omni, wipe_seconds
        self._wipes_at_install: int | None = None
        self._is_on = False
        self._boots = 0
        """How often it was switched; whatever was begun before that ends."""
        self._switched = threading.Condition()

    @contextlib.contextmanager
    def plugged_in(self) -> Iterator[None]:
        """Its power API answers meanwhile."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.power_api = f"127.0.0.1:{server.server_port}"
        threads = [threading.Thread(target=each) for each in (server.serve_forever, self._live)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._switch(None)
            server.shutdown()
            server.server_close()
            for thread in threads:
                thread.join()

    @property
    def is_on(self) -> bool:
        """As its power API says."""
        return self._is_on

    @property
    def is_installed(self) -> bool:
        """Whether a system is on its disk: none survives a wipe."""
        return self._wipes_at_install == self.did["wipe done"]

    def command(self, verb: str) -> None:
        """What its power API, or its button, is told."""
        if verb == "reboot" or (verb == "poweron" and not self._is_on):
            self._switch(True)
        elif verb == "poweroff":
            self._switch(False)

    def _switch(self, on: bool | None) -> None:
        """On (again), off, or None: pull the plug for good."""
        with self._switched:
            self._is_on = bool(on)
            self._boots = -1 if on is None else self._boots + 1
            self._switched.notify_all()

    # --- what it does by itself ---

    def _live(self) -> None:
        boot = 0
        while boot >= 0:
            if self._is_on:
                with contextlib.suppress(_EndedError):
                    self._boot(boot)
            boot = self._wait_for_switch(boot)

    def _wait_for_switch(self, boot: int) -> int:
        with self._switched:
            self._switched.wait_for(lambda: self._boots != boot)
            return self._boots

    def _insist(self, boot: int, call: Callable[[], T]) -> T:
        """Call until it works, as long as this boot goes on."""
        while self._boots == boot:
            try:
                return call()
            except _AWAY:
                time.sleep(PAUSE)
        raise _EndedError

    def _boot(self, boot: int) -> None:
        script = self._insist(boot, self._ipxe.patient_script)
        if "starting the agent" in script:
            self.did["agent"] += 1
            self._run_agent(boot, script)
        elif "installing Talos" in script:
            self.did["install"] += 1
            self._insist(boot, lambda: self._ipxe.load(script))
            self._wipes_at_install = self.did["wipe done"]
            self._run_talos(boot)
        elif self.is_installed:
            self.did["disk"] += 1
            self._run_talos(boot)
        else:
            self.did["nothing"] += 1

    def _run_talos(self, boot: int) -> None:
        event = {"uuid": self.uuid, "sequence": "boot", "action": "START"}
        self._insist(boot, lambda: self._omni.tell("/event", event))

    def _run_agent(self, boot: int, script: str) -> None:
        booted = self._insist(boot, lambda: self._ipxe.load(script))
        self._insist(boot, self._join)
        ca = self._provider.folder / f"{self.uuid}.pem"
        ca.write_bytes(self._insist(boot, lambda: self._provider.boot("GET", "/ca.pem")).body)
        command = [sys.executable, "-m", "provider.lab.omni.talos_agent", "--uuid", self.uuid, "--ca", str(ca)]
        command += ["--address", booted.argument("metal.provider.address"), "--restarts-after", str(PAUSE)]
        command += ["--wipe-seconds", str(self._wipe_seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
            watching = threading.Thread(target=self._listen, args=(agent,))
            watching.start()
            self._wait_for_switch(boot)
            agent.kill()
            watching.join()

    def _join(self) -> None:
        configuration = self._provider.boot("GET", "/config")
        assert configuration.status == 200
        answer = self._omni.join(self.uuid, configuration.text)
        assert json.loads(answer.body).get("pending") is False, answer.text

    def _listen(self, agent: subprocess.Popen[bytes]) -> None:
        assert agent.stdout is not None
        for line in agent.stdout:
            self.did[json.loads(line)["event"]] += 1


def _handler(machine: SimulatedMachine) -> type[BaseHTTPRequestHandler]:
    """The power API of Sidero's QEMU helpers (`provider.bmc.http_power`)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(json.dumps({"PoweredOn": machine.is_on}).encode())

        def do_POST(self) -> None:
            machine.command(self.path.removeprefix("/"))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: the test says what it wants to know."""

    return Handler

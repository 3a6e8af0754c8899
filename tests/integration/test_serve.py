"""`bootwright serve` as a process: how it starts, refuses to start, serves and stops."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from provider.netboot import sockets
from provider.wire import pxe
from tests.integration.wires import must, run, wire

PATIENCE = 30.0  # seconds


def configuration(folder: Path, assets: Path, **changes: object) -> Path:
    """An ordinary configuration file for the cable's end."""
    document = {
        "provider": {"id": "test", "state_dir": str(folder / "state")},
        "network": {
            "interfaces": [
                {"name": "wire-ours", "dhcp": "server", "pool": {"first": "10.77.0.100", "last": "10.77.0.199"}}
            ]
        },
        "operator": {"socket": str(folder / "operator.sock")},
        "assets_dir": str(assets),
        **changes,
    }
    path = folder / "provider.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def serve(config: Path) -> list[str]:
    return [sys.executable, "-m", "provider", "serve", "--config", str(config)]


def refused(config: Path, *wrapper: str) -> str:
    """What it says when it does not start."""
    done = run(*wrapper, *serve(config), timeout=PATIENCE)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


class Daemon:
    """`bootwright serve` as systemd sees it, over as many starts as there are."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self.log = config.parent / "provider.log"
        self.process: subprocess.Popen[bytes]
        self._systemd: socket.socket

    def start(self) -> None:
        """Run it until systemd would hear that it is ready."""
        notify = self._config.parent / "notify"
        notify.unlink(missing_ok=True)
        environment = {**os.environ, "NOTIFY_SOCKET": str(notify)}
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._systemd.bind(str(notify))
        self._systemd.settimeout(PATIENCE)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(serve(self._config), env=environment, stderr=log)
        try:
            assert self._systemd.recv(100) == b"READY=1"
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """As kill -9 does."""
        with self.process, self._systemd:
            self.process.kill()

    def stop(self) -> None:
        """In order. Whatever was done to it, it left no traceback."""
        with self.process, self._systemd:
            self.process.terminate()
            assert self.process.wait(PATIENCE) == 0
        assert "Traceback" not in self.log.read_text()


@contextlib.contextmanager
def serving(config: Path) -> Iterator[Daemon]:
    """Run it, and stop it in order."""
    daemon = Daemon(config)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def test_wrong_configuration_comes_before_everything(tmp_path: Path, assets: Path) -> None:
    """A wrong setting is found when ports are open, or one at a time."""
    config = configuration(tmp_path, assets, tfpt={}, log={"level": "loud"})
    said = refused(config)
    assert "tfpt: no such setting; did you mean tftp?" in said
    assert "log.level" in said
    assert not (tmp_path / "state").exists()


def test_missing_profile_file_is_named(tmp_path: Path, assets: Path) -> None:
    """A kernel that is not there is found out by the first machine."""
    said = refused(configuration(tmp_path, assets, profiles={"x": {"kernel": "gone"}}))
    assert "profiles.x: cannot read" in said
    assert not (tmp_path / "state").exists()


def test_missing_assets_say_how_to_make_them(tmp_path: Path) -> None:
    """Somebody who forgot to build the assets gets a traceback."""
    with wire():
        assert "bootwright assets build" in refused(configuration(tmp_path, tmp_path / "none"))


def test_missing_interface_is_named(tmp_path: Path, assets: Path) -> None:
    """A misspelt interface is a traceback."""
    assert "no interface wire-ours" in refused(configuration(tmp_path, assets))


def test_no_privilege_says_which(tmp_path: Path, assets: Path) -> None:
    """Somebody who is not root is not told what is missing."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    config = configuration(tmp_path, assets)
    nobody = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    with wire():
        said = refused(config, *nobody)
    assert "no privilege to open UDP port 67 on wire-ours" in said
    assert "CAP_NET_BIND_SERVICE" in said


def test_taken_port_says_who_might_have_it(tmp_path: Path, assets: Path) -> None:
    """A second DHCP server on the host is a traceback."""
    config = configuration(tmp_path, assets)
    with wire() as cable:
        holder = sockets.bind_udp(cable.ours, 67)
        said = refused(config)
        holder.close()
    assert "UDP port 67 on wire-ours is taken" in said
    assert "ss -ulpn" in said


def test_second_daemon_on_one_state_is_refused(tmp_path: Path, assets: Path) -> None:
    """Two daemons on one state undo each other's work."""
    config = configuration(tmp_path, assets)
    with wire(), serving(config):
        assert "another daemon uses the state folder" in refused(config)


def test_everything_that_is_advertised_is_served(tmp_path: Path, assets: Path) -> None:
    """DHCP names a boot file that TFTP or HTTP does not have (invariant 10); dnsmasq puts `.0` behind it (edge case 38)."""
    config = configuration(tmp_path, assets)
    with wire() as cable, serving(config):
        must(*cable.inside("ip", "addr", "add", "10.77.0.9/24", "dev", cable.theirs))
        for name in sorted(pxe.BOOT_LOADERS & {path.name for path in (assets / "boot").iterdir()}):
            for url in (
                f"tftp://10.77.0.1/{name}",
                f"http://10.77.0.1:8080/assets/boot/{name}",
                f"tftp://10.77.0.1/{name}.0",
            ):
                must(*cable.inside("curl", "-sf", "-o", str(tmp_path / "got"), url))
                assert (tmp_path / "got").read_bytes() == (assets / "boot" / name).read_bytes()
        script = must(*cable.inside("curl", "-sf", "http://10.77.0.1:8080/boot.ipxe"))
        assert script.startswith("#!ipxe")
        assert "http://10.77.0.1:8080/machine.ipxe?mac=" in script
        autoexec = must(*cable.inside("curl", "-sSf", "tftp://10.77.0.1/autoexec.ipxe"))
        assert autoexec.replace("dhcp ||\n", "", 1) == script, "newer builds of iPXE look there first"


def test_boot_files_of_the_operator(tmp_path: Path, assets: Path) -> None:
    """A newer iPXE that somebody dropped in is not what machines get, or one that none can run is taken."""
    folder = tmp_path / "boot-files"
    folder.mkdir()
    (folder / "undionly.kpxe").write_bytes(b"\0a newer iPXE")
    config = configuration(tmp_path, assets, boot_files="boot-files")
    with wire("10.77.0.1/24") as cable:
        must(*cable.inside("ip", "addr", "add", "10.77.0.9/24", "dev", cable.theirs))
        with serving(config):
            for url in ("tftp://10.77.0.1/undionly.kpxe", "http://10.77.0.1:8080/assets/boot/undionly.kpxe"):
                assert must(*cable.inside("curl", "-sSf", url)) == "\0a newer iPXE"
        (folder / "snponly.efi").touch()
        assert "snponly.efi: it is empty" in refused(config)


def test_a_machine_without_trust_learns_no_secret(tmp_path: Path, assets: Path) -> None:
    """The plain listener gives away state, or lets somebody walk out of its folder (invariant 8)."""
    config = configuration(tmp_path, assets)
    with wire() as cable, serving(config):
        must(*cable.inside("ip", "addr", "add", "10.77.0.9/24", "dev", cable.theirs))
        for path in ("/assets/../state/secret.key", "/assets/%2e%2e/state/secret.key", "/assets/manifest.json/..", "/"):
            status = must(*cable.inside(*_curl_status("--path-as-is", f"http://10.77.0.1:8080{path}")))
            assert status in ("404", "400"), path
        for path in ("../state/secret.key", "..\\state\\secret.key", "/etc/passwd"):
            done = run(*cable.inside("curl", "-s", "-o", "/dev/null", "--path-as-is", f"tftp://10.77.0.1/{path}"))
            assert done.returncode != 0, path
        for path in ("/agent/v1/work", "/agent/v1/inventory", "/v1/machines"):
            status = must(*cable.inside(*_curl_status("-k", f"https://10.77.0.1:8443{path}")))
            assert status in ("401", "404", "405"), path


def _curl_status(*arguments: str) -> list[str]:
    return ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *arguments]


def test_operator_sees_a_machine_that_asked(tmp_path: Path, assets: Path) -> None:
    """A machine that asked for a script is not listed, not explained, or its events are missing."""
    config = configuration(tmp_path, assets)
    operator = tmp_path / "operator.sock"
    with wire() as cable, serving(config):
        must(*cable.inside("ip", "addr", "add", "10.77.0.9/24", "dev", cable.theirs))
        url = "http://10.77.0.1:8080/machine.ipxe?mac=52-54-00-12-34-56&uuid=nonsense&platform=efi"
        script = must(*cable.inside("curl", "-sf", url))
        assert "bootwright.ticket=" in script
        listed = json.loads(_bootwright("machine", "list", "--json", socket_=operator))["machines"]
        assert [each["macs"] for each in listed] == [["52:54:00:12:34:56"]]
        machine = listed[0]["id"]
        assert "nobody accepted it yet" in _bootwright("machine", "explain", machine[:6], socket_=operator)
        assert "boot.script_served" in _events(machine, operator)
        assert "wipe-due" in _accepted(machine, operator)
        assert oct(operator.stat().st_mode & 0o777) == "0o660"
    assert not operator.exists()


def _accepted(machine: str, operator: Path) -> str:
    _bootwright("machine", "accept", machine, socket_=operator)
    return _bootwright("machine", "explain", machine, socket_=operator)


def _events(machine: str, operator: Path) -> str:
    """Events are written a moment after they are noted."""
    end = time.monotonic() + PATIENCE
    while "boot.script_served" not in (said := _bootwright("machine", "events", machine, socket_=operator)):
        assert time.monotonic() < end, said
    return said


def _bootwright(*arguments: str, socket_: Path) -> str:
    return must(sys.executable, "-m", "provider", *arguments, "--socket", str(socket_))


def test_kill_needs_no_repair(tmp_path: Path, assets: Path) -> None:
    """After `kill -9` something must be removed by hand before the next start (invariant 9)."""
    config = configuration(tmp_path, assets)
    with wire():
        for _ in range(2):
            environment = {**os.environ, "NOTIFY_SOCKET": ""}
            with subprocess.Popen(serve(config), env=environment, stderr=subprocess.DEVNULL) as daemon:
                end = time.monotonic() + PATIENCE
                while run(*_status(tmp_path)).returncode != 0:
                    assert time.monotonic() < end
                daemon.kill()
        with serving(config):
            must(*_status(tmp_path))
    shutil.rmtree(tmp_path / "state")


def _status(folder: Path) -> list[str]:
    return [sys.executable, "-m", "provider", "status", "--socket", str(folder / "operator.sock")]

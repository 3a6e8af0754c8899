"""The configuration file: what is accepted, and how what is wrong is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from provider.domain.errors import SettingsError
from provider.settings import load
from provider.settings.models import DhcpMode, Settings

ROOT = Path(__file__).parents[3]
SERVER = """network:
  interfaces:
    - name: eth1
      dhcp: server
      pool: {first: 10.0.0.1, last: 10.0.0.9}
"""
LEAST = "network:\n  interfaces:\n    - {name: eth1}\n"


def loaded(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "provider.yaml"
    path.write_text(text)
    return load.load(path)


def problems(tmp_path: Path, text: str) -> list[str]:
    """What `load` complains of, without the folder."""
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, text)
    return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]


def test_example_is_valid() -> None:
    """The example that everybody starts from does not load."""
    settings = load.load(ROOT / "config" / "provider.yaml")
    assert settings.network.interfaces[0].dhcp is DhcpMode.SERVER


def test_example_names_every_setting() -> None:
    """A setting exists that the example does not tell of."""
    text = (ROOT / "config" / "provider.yaml").read_text()
    missing = [name for name in _names(Settings) if f"{name}:" not in text]
    assert set(missing) <= {"password", "uuid", "serial"}, "these are alternatives that the comments name"
    assert all(name in text for name in missing)


def _names(model: type[BaseModel]) -> set[str]:
    found = set(model.model_fields)
    for field in model.model_fields.values():
        for part in _models(field.annotation):
            found |= _names(part)
    return found


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def test_least_file(tmp_path: Path) -> None:
    """A file with only what must be there does not load, or a default changed unnoticed."""
    settings = loaded(tmp_path, LEAST)
    assert settings.network.interfaces[0].dhcp is DhcpMode.PROXY
    assert settings.power.minimum_reboot_interval == timedelta(minutes=15)
    assert settings.manager is None


def test_addresses_in_short(tmp_path: Path) -> None:
    """One pool needs a list around it, or one address two ends."""
    text = SERVER + "      exclude: [10.0.0.3, {first: 10.0.0.5, last: 10.0.0.6}]\n"
    interface = loaded(tmp_path, text).network.interfaces[0]
    assert [(str(each.first), str(each.last)) for each in (*interface.pool, *interface.exclude)] == [
        ("10.0.0.1", "10.0.0.9"),
        ("10.0.0.3", "10.0.0.3"),
        ("10.0.0.5", "10.0.0.6"),
    ]


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    """A relative path depends on the folder that the daemon was started in."""
    settings = loaded(tmp_path, LEAST + "assets_dir: assets\nprofiles: {x: {kernel: k, initrds: [i]}}\n")
    assert settings.assets_dir == tmp_path / "assets"
    assert settings.profiles["x"].kernel == tmp_path / "k"
    assert settings.profiles["x"].initrds == (tmp_path / "i",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            LEAST + "tftp:\n  blok_size: 512\n",
            "provider.yaml:5: tftp.blok_size: no such setting; did you mean block_size?",
        ),
        (LEAST + "tfpt: {}\n", "provider.yaml:4: tfpt: no such setting; did you mean tftp?"),
        ("tftp: {}\n", "provider.yaml:1: network: is missing"),
        (
            "network:\n  interfaces:\n    - name: eth1\n      dhcp: server\n",
            "provider.yaml:1: network: eth1: dhcp: server needs a pool (first, last), or subnets behind relays",
        ),
        (LEAST + "power:\n  poll_interval: soon\n", "provider.yaml:5: power.poll_interval: write a duration as 30s"),
        (LEAST + "tftp:\n  port: 99999\n", "provider.yaml:5: tftp.port: input should be less than or equal to 65535"),
        (LEAST + "tftp: {}\ntftp: {}\n", "provider.yaml:5: tftp: is written twice"),
        (
            LEAST + "manager: {url: 'ws://example.com/', token_file: t}\n",
            "provider.yaml:4: manager: ws:// sends the token",
        ),
        (
            LEAST + "bmcs:\n  - {machine: {}, address: a, user: u, password: p}\n",
            "bmcs[0].machine: give exactly one of",
        ),
        (
            LEAST + "bmcs:\n  - {machine: {serial: x}, address: a, user: u, password: p, system: blade1}\n",
            "bmcs[0]: a BMC has systems in Redfish alone",
        ),
        (LEAST + "power: {redfish: {ca_file: c}}\n", "power.redfish: ca_file is of no use without `verify: true`"),
        (LEAST + "power: {redfish: {verify: true, https: false}}\n", "no certificate to verify without https"),
        (LEAST + "power: {redfish: {use: sometimes}}\n", "power.redfish.use: "),
        (SERVER + "      exclude: [10.0.0.x]\n", "provider.yaml:6: network.interfaces[0].exclude[0].first: "),
        (
            SERVER + "      conflict_probe: 1m\n",
            "network.interfaces[0].conflict_probe: input should be less than or equal to 2 seconds",
        ),
        (SERVER + "      reservations: [{address: 10.0.0.1}]\n", "give exactly one of mac, uuid, circuit_id"),
        (SERVER + "      reservations: [{address: a.example.com, mac: x}]\n", "reservations[0].address: "),
        (SERVER + "      reservations: [{address: 10.0.0.1, uuid: 0}]\n", "reservations[0].uuid: "),
        (
            SERVER + "      reservations: [{address: 10.0.0.1, uuid: 03000200-0400-0500-0006-000700080009}]\n",
            "which many machines have",
        ),
        (SERVER + "      reservations: [{address: 10.0.0.1, circuit_id: '0x1'}]\n", "not pairs of hex digits"),
        (SERVER + "      search: [a..b]\n", "'a..b' is not a domain name"),
        (LEAST + "  subnets: [{network: 10.1.0.0/16}]\n", "need an interface with dhcp: server"),
        (SERVER + "  subnets: [{network: 10.1.0.1/16}]\n", "network.subnets[0].network: "),
        (
            SERVER + "  subnets: [{network: 10.1.0.0/16}, {network: 10.1.2.0/24}]\n",
            "10.1.0.0/16 and 10.1.2.0/24 overlap",
        ),
        (
            SERVER + "  subnets:\n    - network: 10.1.0.0/16\n      pool: {first: 10.1.0.0, last: 10.1.0.9}\n",
            "provider.yaml:7: network.subnets[0]: 10.1.0.0 cannot be leased in 10.1.0.0/16",
        ),
        ("a: [\n", "provider.yaml:2: this is not YAML"),
        ("\tx: 1\n", "provider.yaml:1: this is not YAML"),
        ("", "provider.yaml:1: the file holds no settings"),
        ("- 1\n", "provider.yaml:1: the file holds no settings"),
    ],
)
def test_problem_is_told(tmp_path: Path, text: str, expected: str) -> None:
    """Somebody with a typing error gets no line, no setting, or no idea what to write instead."""
    assert any(expected in problem for problem in problems(tmp_path, text)), problems(tmp_path, text)


def test_all_problems_at_once(tmp_path: Path) -> None:
    """One mends a file problem by problem, with a start of the daemon between."""
    text = LEAST + "tftp: {blok_size: 1, port: 0}\nlog: {level: loud}\n"
    assert len(problems(tmp_path, text)) == 3


def test_password_is_not_repeated(tmp_path: Path) -> None:
    """A mistake beside a password prints it (invariant 8)."""
    text = LEAST + "bmcs:\n  - {machine: {mac: x}, address: a, user: u, password: [hunter2]}\n"
    assert "hunter2" not in "\n".join(problems(tmp_path, text))
    settings = loaded(tmp_path, LEAST + "bmcs:\n  - {machine: {serial: S}, address: a, user: u, password: hunter2}\n")
    assert "hunter2" not in repr(settings)


def test_missing_file_says_where_to_start(tmp_path: Path) -> None:
    """The first start ends in a traceback."""
    with pytest.raises(SettingsError, match="No such file") as caught:
        load.load(tmp_path / "none.yaml")
    assert "config/provider.yaml" in caught.value.hint


def test_missing_files_are_named(tmp_path: Path) -> None:
    """A profile's kernel that is not there is found out by the first machine that boots it."""
    settings = loaded(tmp_path, LEAST + "profiles: {x: {kernel: gone}}\n")
    assert load.check(settings) == [f"profiles.x: cannot read {tmp_path}/gone: No such file or directory"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("profiles_dir: .\n", "provider.yaml:4: profiles_dir: everybody can fetch what is in"),
        ("profiles_dir: /\n", "and this file is there"),
        ("profiles_dir: p\nprovider: {state_dir: p/state}\n", "and provider.state_dir is there"),
        ("boot_files: link\nprovider: {state_dir: p}\n", "provider.yaml:4: boot_files: everybody can fetch"),
        ("boot_files: p\nmanager: {url: 'wss://m/', token_file: p/t}\n", "and manager.token_file is there"),
        (
            "profiles_dir: p\nbmcs:\n  - {machine: {serial: S}, address: a, user: u, password_file: p/x/../secret}\n",
            "and bmcs[0].password_file is there",
        ),
    ],
)
def test_what_is_for_nobody_is_not_served(tmp_path: Path, text: str, expected: str) -> None:
    """Everybody on the network can fetch a key or a password (invariant 8)."""
    (tmp_path / "p").mkdir()
    (tmp_path / "link").symlink_to("p")
    assert any(expected in problem for problem in problems(tmp_path, LEAST + text)), problems(tmp_path, LEAST + text)


def test_pipe_is_no_kernel(tmp_path: Path) -> None:
    """The daemon hangs when it starts, in a FIFO that a profile names."""
    os.mkfifo(tmp_path / "kernel")
    settings = loaded(tmp_path, LEAST + "profiles: {x: {kernel: kernel}}\n")
    assert load.check(settings) == [f"profiles.x: {tmp_path / 'kernel'} is no file"]

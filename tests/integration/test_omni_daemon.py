"""`bootwright serve` with Omni as its manager: machines boot by HTTP as iPXE does, and Omni says what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.image_factory import ImageFactory
from tests.integration.omni_client import FINALIZER
from tests.integration.omni_process import FACTORY, FILES, Booted, Ipxe, OmniProcess, eventually, omni_process
from tests.integration.provider_process import ProviderProcess, provider_process
from tests.integration.test_serve import configuration, refused
from tests.unit.wire import pgp_keys

pytestmark = pytest.mark.timeout(180)

UUID, MAC = "5c7b0d5e-5b7c-4d35-9d3b-000000000001", "52:54:00:00:00:01"
OTHER_UUID, SIGNED_MAC = "5c7b0d5e-5b7c-4d35-9d3b-000000000002", "52:54:00:00:00:02"
EXTRA = "apiVersion: v1alpha1\nkind: ResolverConfig\n"


@contextlib.contextmanager
def serving(
    folder: Path, omni: OmniProcess, *, power: dict[str, str] | None = None, **talos: object
) -> Iterator[ProviderProcess]:
    """A provider whose manager this Omni is."""
    key = folder / "key"
    if not key.exists():
        key.write_text(omni.do("create_provider", provider="bm"))
    (folder / "extra.yaml").write_text(EXTRA)
    manager = {"kind": "omni", "endpoint": omni.where["endpoint"], "key_file": "key"}
    site = {
        "factory_url": f"http://{FACTORY}",
        "extra_machine_configuration": "extra.yaml",
        "machines": [{"mac": SIGNED_MAC}],
        **talos,
    }
    provider = {"state_dir": str(folder / "state"), "labels": {"rack": "12"}}
    with provider_process(folder, provider=provider, manager=manager, talos=site, power=power or {}) as process:
        yield process


@contextlib.contextmanager
def both(folder: Path, *arguments: str, **talos: object) -> Iterator[tuple[OmniProcess, ProviderProcess]]:
    with omni_process(folder / "omni", *arguments) as omni, serving(folder, omni, **talos) as provider:
        eventually(lambda: provider.boot("GET", "/config").status == 200)
        yield omni, provider


def operator(provider: ProviderProcess, target: str) -> Any:
    answer = provider.operator("GET", target)
    assert answer.status == 200, answer.text
    return json.loads(answer.body)


def events(provider: ProviderProcess, machine: str, name: str) -> list[Any]:
    found = operator(provider, f"/v1/events?machine={machine}&limit=1000")["events"]
    return [event for event in found if event["name"] == name]


@contextlib.contextmanager
def agent_of(booted: Booted, provider: ProviderProcess) -> Iterator[None]:
    """Sidero's agent, as the kernel line says where it finds us; it trusts the CA that is in its configuration."""
    ca = provider.folder / "ca.pem"
    ca.write_bytes(provider.boot("GET", "/ca.pem").body)
    command = [sys.executable, "-m", "provider.lab.omni.talos_agent", "--uuid", UUID, "--ca", str(ca)]
    command += ["--address", booted.argument("metal.provider.address")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def test_a_machine_from_its_first_boot_to_its_disk(tmp_path: Path) -> None:
    """Something on the way from firmware to cluster is missing: the agent's Talos, the way to us, the cluster's, or the disk."""
    with both(tmp_path) as (omni, provider):
        machine = Ipxe(provider, UUID, MAC)
        assert omni.provider()["id"] == "bm"
        booted = machine.booted()
        assert "starting the agent in Talos v1.13.7" in booted.script
        assert (booted.kernel, booted.initrds) == (FILES["kernel-amd64"], (FILES["initramfs-amd64.xz"],))
        assert booted.argument("metal.provider.address") == "https://10.77.0.1:50043"
        config = provider.boot("GET", booted.argument("talos.config").removeprefix("http://10.77.0.1:8080"))
        assert config.headers["content-type"].startswith("text/plain")
        assert config.headers["content-length"] == str(len(config.body))
        ca = provider.boot("GET", "/ca.pem").text
        assert all(f"  {line}\n" in config.text for line in ca.splitlines())
        assert config.text.endswith(EXTRA)
        assert omni.join(UUID, config.text).status == 200
        eventually(lambda: FINALIZER in omni.machine(UUID)["infra"]["finalizers"])
        assert "starting the agent" in machine.script(), "it is pending"

        omni.do("accept", machine=UUID)
        omni.do("set_bmc", machine=UUID, address="127.0.9.9", username="u", password="p")
        eventually(lambda: (omni.machine(UUID)["status"] or {}).get("labels", {}).get("rack") == "12")
        assert "starting the agent" in machine.script(), "it has to be wiped"
        with agent_of(booted, provider):
            eventually(lambda: omni.machine(UUID)["status"]["spec"].get("ready_to_use"))
        assert [event["data"]["disks"] for event in events(provider, UUID, "wipe.finished")] == [0]
        omni.do("allocate", machine=UUID, version="1.13.6", extensions=["siderolabs/zfs"])
        omni.do("set_arguments", machine=UUID, arguments="debug=1 quiet")
        eventually(lambda: "debug=1" in machine.script())
        installing = machine.booted()
        assert "installing Talos v1.13.6" in installing.script
        assert installing.argument("talos.config").endswith(f"/config?u={UUID}")
        assert "quiet" in installing.arguments
        assert not any(each.startswith("metal.provider") for each in installing.arguments)
        eventually(lambda: omni.machine(UUID)["applies_config"])

        sequence = {"uuid": UUID, "sequence": "boot", "action": "START"}
        omni.tell("/event", sequence)
        eventually(lambda: "going on to the next boot device" in machine.script().splitlines()[1])
        eventually(lambda: omni.machine(UUID)["status"]["spec"]["installed"])

        omni.do("cordon", machine=UUID)
        eventually(lambda: "nothing to boot from here" in machine.script())
        (files,) = {event["data"]["file"] for event in events(provider, UUID, "boot.file_served")} - {"initrd-0"}
        assert files == "kernel"


def test_rejected(tmp_path: Path) -> None:
    """A machine that somebody rejected boots something from us."""
    with both(tmp_path) as (omni, provider):
        machine = Ipxe(provider, UUID, MAC)
        omni.join(UUID, provider.boot("GET", "/config").text)
        omni.do("reject", machine=UUID)
        eventually(lambda: "it was rejected" in machine.script())
        assert "nothing to boot from here" in machine.script()


def test_other_machines(tmp_path: Path) -> None:
    """An arm64 machine gets a kernel for x86, or one with Secure Boot what its firmware refuses."""
    with both(tmp_path) as (_, provider):
        arm = Ipxe(provider, UUID, MAC, build="arm64").booted()
        assert (arm.kernel, arm.initrds) == (FILES["kernel-arm64"], (FILES["initramfs-arm64.xz"],))
        assert "console=ttyAMA0" in arm.arguments
        signed = Ipxe(provider, OTHER_UUID, SIGNED_MAC).booted()
        assert (signed.kernel, signed.initrds) == (FILES["metal-amd64-secureboot-uki.efi"], ())
        bios = replace(Ipxe(provider, OTHER_UUID, SIGNED_MAC), platform="pcbios").script()
        assert "no Secure Boot, nothing to boot from here" in bios
        eventually(lambda: events(provider, OTHER_UUID, "boot.script_impossible"))
        (event,) = events(provider, OTHER_UUID, "boot.script_impossible")
        assert event["data"]["hint"] == "boot it by UEFI, or without Secure Boot"


def test_factory_is_away(tmp_path: Path) -> None:
    """A machine goes to its disk because the factory is away, or one that was fetched before cannot boot any more."""
    away = "127.0.0.1:18999"
    with both(tmp_path, factory_url=f"http://{away}") as (_, provider):
        machine = Ipxe(provider, UUID, MAC)
        script = machine.script()
        assert "the image factory at 127.0.0.1 cannot be reached" in script
        assert "again=waiting || goto wait_" in script
        assert "again=waiting" in machine.script("waiting")
        eventually(lambda: events(provider, UUID, "boot.postponed"))
        (event,) = events(provider, UUID, "boot.postponed")
        assert event["data"]["reason"].startswith("the image factory at 127.0.0.1 cannot be reached")
        assert len(events(provider, UUID, "boot.script_served")) == 1
    with both(tmp_path) as (_, provider):
        assert Ipxe(provider, UUID, MAC).booted().kernel == FILES["kernel-amd64"]
    # The factory's port is another program's, the next time; what was fetched is on disk.
    files = tmp_path / "omni" / "files"
    for name in FILES:
        (files / name).unlink()
    with omni_process(tmp_path / "omni") as omni, serving(tmp_path, omni) as provider:
        for name in FILES:
            (files / name).unlink()
        other = Ipxe(provider, OTHER_UUID, "52:54:00:00:00:03")
        assert other.booted().kernel == FILES["kernel-amd64"]


def test_omni_is_away_for_a_while(tmp_path: Path) -> None:
    """With Omni away nobody boots, a restart forgets how machines join or where images come from, or the link stays away."""
    with omni_process(tmp_path / "omni") as omni:
        with serving(tmp_path, omni, factory_url=None) as provider:
            eventually(lambda: provider.boot("GET", "/config").status == 200)
            eventually(lambda: operator(provider, "/v1/status")["talos"]["factory"] == f"http://{FACTORY}")
            assert Ipxe(provider, UUID, MAC).booted().kernel == FILES["kernel-amd64"]
        omni.do("faults/down")
        with serving(tmp_path, omni, factory_url=None) as provider:
            assert provider.boot("GET", "/config").status == 200
            assert operator(provider, "/v1/status")["talos"]["factory"] == f"http://{FACTORY}"
            assert Ipxe(provider, UUID, MAC).booted().kernel == FILES["kernel-amd64"]
            status = operator(provider, "/v1/status")["manager"]
            eventually(lambda: "cannot be reached" in operator(provider, "/v1/status")["manager"]["last_error"])
            assert (status["url"], status["connected"]) == (omni.where["endpoint"], False)
            omni.do("faults/up")
            eventually(lambda: operator(provider, "/v1/status")["manager"]["connected"])
            omni.join(UUID, provider.boot("GET", "/config").text)
            eventually(lambda: FINALIZER in omni.machine(UUID)["infra"]["finalizers"])


def test_before_omni_was_ever_there(tmp_path: Path) -> None:
    """A machine boots an agent that never finds Omni, or its history does not say what it waits for."""
    with omni_process(tmp_path / "omni") as omni:
        omni.do("create_account", name="ops", role="Reader")
        (tmp_path / "key").write_text(omni.do("create_provider", provider="bm"))
        omni.do("faults/down")
        with serving(tmp_path, omni) as provider:
            answer = provider.boot("GET", f"/config?u={UUID}")
            assert (answer.status, answer.text) == (503, "Omni has not told yet how machines join\n")
            assert provider.boot("HEAD", "/config").status == 503
            assert "Omni has not told yet how machines join" in Ipxe(provider, UUID, MAC).script()
            omni.do("faults/up")
            assert Ipxe(provider, UUID, MAC).booted().kernel == FILES["kernel-amd64"]
            assert provider.boot("HEAD", "/config").status == 200


def test_a_storm_fetches_once(tmp_path: Path) -> None:
    """Each of a hundred machines fetches the image for itself, or one that came early waits in a request for minutes."""
    host, port = FACTORY.split(":")
    assert host == "127.0.0.1"

    async def main() -> None:
        factory = ImageFactory()
        with omni_process(tmp_path / "omni", "--factory", "127.0.0.1:0") as omni:
            async with factory.serving(int(port)):
                loop = asyncio.get_running_loop()
                with ThreadPoolExecutor(40) as pool:
                    await loop.run_in_executor(pool, boot_many, tmp_path, omni, 100)
        assert factory.count("POST /schematics") == 1
        assert factory.count("GET /image") == 2

    asyncio.run(main())


def boot_many(folder: Path, omni: OmniProcess, number: int) -> None:
    with serving(folder, omni) as provider, ThreadPoolExecutor(20) as pool:
        eventually(lambda: provider.boot("GET", "/config").status == 200)
        machines = [Ipxe(provider, "", f"52:54:00:00:01:{each:02x}") for each in range(number)]
        kernels = {booted.kernel for booted in pool.map(Ipxe.booted, machines)}
    assert len(kernels) == 1


def test_key_that_has_expired(tmp_path: Path) -> None:
    """A rack loses DHCP and all else because a key has expired, and nobody is told why machines do not get to Omni."""
    with omni_process(tmp_path / "omni") as omni:
        omni.do("create_provider", provider="bm")
        key = pgp_keys.Key(bytes(range(32)), lifetime=3600)
        (tmp_path / "key").write_text(pgp_keys.account_text(pgp_keys.armored(key.secret)))
        with serving(tmp_path, omni) as provider:
            eventually(
                lambda: "the service account key expired" in operator(provider, "/v1/status")["manager"]["last_error"]
            )
            assert provider.boot("GET", "/boot.ipxe").status == 200
            said = (tmp_path / "provider.log").read_text()
            assert "omni.key_expired" in said
            assert "omnictl infraprovider renewkey bm" in said


def test_another_providers_key(tmp_path: Path, assets: Path) -> None:
    """A rack works with the key of another one."""
    (tmp_path / "key").write_text(pgp_keys.account_text(pgp_keys.armored(pgp_keys.Key(bytes(range(32))).secret)))
    manager = {"kind": "omni", "endpoint": "https://omni.example.com", "key_file": "key"}
    said = refused(configuration(tmp_path, assets, manager=manager))
    assert "provider.id: it is 'test', and the key in" in said
    assert not (tmp_path / "state").exists()


def test_grpc_is_not_loaded_for_others(tmp_path: Path) -> None:
    """Every rack pays for gRPC with memory and time."""
    with provider_process(tmp_path) as provider:
        assert operator(provider, "/v1/status")["manager"] is None
        assert not has_grpc(tmp_path)
    (tmp_path / "other").mkdir()
    with both(tmp_path / "other"):
        assert has_grpc(tmp_path / "other")


def has_grpc(folder: Path) -> bool:
    (maps,) = [path.read_text() for path in Path("/proc").glob("[0-9]*/maps") if _is_ours(path.parent, folder)]
    return "cygrpc" in maps


def _is_ours(process: Path, folder: Path) -> bool:
    return str(folder / "provider.yaml").encode() in (process / "cmdline").read_bytes()

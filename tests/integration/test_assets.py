"""
Building the image for real, without a network: from the packages that an earlier build left in the cache.

`./dev test` builds the assets first, so the cache is there; somebody who runs these tests alone on a fresh system is told.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bootassets import architectures, base_layer, build, manifest
from tests.unit.bootassets import test_cpio


@pytest.fixture(scope="module")
def cache() -> Path:
    """The cache of this user, if it can do for a build."""
    found = build.default_cache()
    if base_layer.find(found, architectures.find("x86_64")) is None:
        pytest.skip("no base layer in the cache: run `bootwright assets build` first")
    return found


def test_two_builds_one_hash(cache: Path, tmp_path: Path) -> None:
    """Breaks if anything of this moment (time, order, paths, hash seed) gets into the image."""
    (tmp_path / "cache").mkdir()
    subprocess.run(["cp", "-a", cache / "apt-amd64", tmp_path / "cache/apt-amd64"], check=True)
    fresh = build.build(tmp_path / "a place with another name", cache_dir=tmp_path / "cache")
    cached = build.build(tmp_path / "b", cache_dir=cache)
    assert fresh.files == cached.files


def test_image_holds_what_a_boot_needs(cache: Path, tmp_path: Path) -> None:
    """Breaks if a part that every boot needs is not in the image, or the image outgrows its limit."""
    made = build.build(tmp_path, cache_dir=cache)
    assert set(made.files) == {
        "boot/grubx64.efi", "boot/ipxe.efi", "boot/shimx64.efi", "boot/snponly.efi", "boot/undionly.kpxe",
        "x86_64/initramfs.zst", "x86_64/vmlinuz",
    }  # fmt: skip
    initramfs = tmp_path / "x86_64/initramfs.zst"
    assert initramfs.stat().st_size < 25_000_000
    names = _names(initramfs)
    assert {"init", "usr/bin/busybox", "usr/bin/kmod", "usr/bin/python3", "dev/console"} <= names
    assert {"usr/lib/bootwright/provider/agent/__main__.py", "usr/lib/bootwright/udhcpc"} <= names
    for part in ("/_ssl.cpython-", "/libcrypto.so.", "/nvme.ko", "/e1000e.ko", "/ipmi_si.ko", "/modules.dep.bin"):
        assert any(part in f"/{name}" for name in names), part


def _unpacked(packed: bytes) -> bytes:
    """All frames of a zstd file; empty if anything stands behind the last one, such as the padding that the kernel skips."""
    done = subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def _names(initramfs: Path) -> set[str]:
    """List both layers, as the kernel unpacks them: one archive after the other."""
    packed = initramfs.read_bytes()
    assert len(packed) % 4 == 0
    raw = next(raw for padding in range(4) if (raw := _unpacked(packed[: len(packed) - padding])))
    base, end = test_cpio.unpack_one(raw, 0)
    agent, end = test_cpio.unpack_one(raw, end)
    assert end == len(raw)
    return {entry.name for entry in (*base, *agent)}


def test_killed_build_leaves_the_old_assets(cache: Path, tmp_path: Path) -> None:
    """Breaks if `kill -9` in the middle of a build leaves an assets folder that cannot be booted from, or rubbish."""
    out, own = tmp_path / "out", tmp_path / "cache"
    before = build.build(out, cache_dir=cache)
    own.mkdir()
    subprocess.run(["cp", "-a", cache / "apt-amd64", own / "apt-amd64"], check=True)
    program = (
        "import pathlib, sys; from bootassets import build\n"
        "build.build(pathlib.Path(sys.argv[1]), cache_dir=pathlib.Path(sys.argv[2]), force=True,"
        " progress=lambda step, done: print(step, flush=True))"
    )
    for last_step in ("unpacking", "packing the agent"):
        process = subprocess.Popen([sys.executable, "-c", program, out, own], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert any(line.strip() == last_step for line in process.stdout)
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
        assert manifest.verify(out) == before
    (out / ".new-abandoned").mkdir(exist_ok=True)
    (out / "x86_64/vmlinuz").write_bytes(b"damaged")
    assert build.build(out, cache_dir=cache) == before
    assert sorted(path.name for path in out.iterdir()) == ["boot", "manifest.json", "x86_64"]


def test_command_line(cache: Path, tmp_path: Path) -> None:
    """Breaks if `bootwright assets` cannot be used by scripts: JSON on standard output, all else on standard error."""
    command = [Path(sys.executable).with_name("bootwright"), "assets"]
    built = subprocess.run([*command, "build", "--dir", tmp_path, "--json"], check=True, capture_output=True, text=True)
    document = json.loads(built.stdout)
    assert document["ok"]
    assert document["images"]["x86_64"]["kernel"] == "x86_64/vmlinuz"
    assert "packing the agent" in built.stderr
    subprocess.run([*command, "verify", "--dir", tmp_path], check=True, capture_output=True)
    (tmp_path / "x86_64/vmlinuz").write_bytes(b"")
    broken = subprocess.run([*command, "verify", "--dir", tmp_path], check=False, capture_output=True, text=True)
    assert broken.returncode == 1
    assert "hint: run: bootwright assets build" in broken.stderr

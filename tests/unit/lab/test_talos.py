"""The stand-in for Talos: what is packed of it, what it reads, and what it keeps on the disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bootassets import agent_layer, userland
from provider.domain.errors import PermanentError
from provider.domain.secret import Secret
from provider.lab import disks, lab_talos, talos
from provider.wire import siderolink
from provider.wire.siderolink import ConnectionParameters

CA = "-----BEGIN CERTIFICATE-----\nMIIB\nAAAA\n-----END CERTIFICATE-----\n"


def _configuration(*others: str) -> str:
    parameters = ConnectionParameters("grpc://10.77.0.1:9445", Secret("v2:a+b/c="), 8091, 8092)
    return siderolink.machine_config(siderolink.join_documents(parameters), *others).reveal()


def test_program_runs_on_what_is_packed(tmp_path: Path) -> None:
    """The stand-in imports what is not in its image, and the machine hangs at boot."""
    for name, source in {**agent_layer.files(), **talos.files()}.items():
        copy = tmp_path / Path(name).relative_to(agent_layer.HOME)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import provider.lab.lab_talos; print(*sys.modules)"
    # -I -S: no site-packages, no current folder.
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert "h2" in loaded
    assert loaded & userland._STDLIB_LEFT_OUT <= set(talos.STANDARD_LIBRARY)


def test_documents_of_our_own() -> None:
    """A machine does not join, or does not trust the provider."""
    trusted = _configuration(siderolink.trusted_roots(CA), "apiVersion: v1alpha1\nkind: ResolverConfig\n")
    assert lab_talos.read_documents(trusted) == lab_talos.Documents("10.77.0.1:9445", "v2:a+b/c=", CA)
    assert lab_talos.read_documents(_configuration()).certificates == ""


def test_documents_that_are_not_whole() -> None:
    """The lab's machines join by documents that a real Talos would not join by."""
    whole = _configuration()
    for missing in ("SideroLinkConfig", "EventSinkConfig", "KmsgLogConfig"):
        with pytest.raises(PermanentError, match=missing):
            lab_talos.read_documents(whole.replace(f"kind: {missing}", "kind: Other"))
    with pytest.raises(PermanentError, match="join token"):
        lab_talos.read_documents(whole.replace("jointoken", "token"))


def test_meta_outlives_boots_and_no_wipe(tmp_path: Path) -> None:
    """An installed machine forgets the token that Omni knows it by, or a used disk has one."""
    disk = disks.DiskImage(tmp_path / "disk", "SERIAL", "virtio-blk-pci", 16 * disks.MIB)
    disk.prefill()
    meta = lab_talos.Meta(disk.path)
    assert meta.read() == ""
    meta.write('{"Token": "t"}')
    assert meta.read() == '{"Token": "t"}'
    with disk.path.open("r+b") as image:
        image.write(bytes(disks.MIB))
    assert meta.read() == ""


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody without the `test` extra sees a traceback, or a lab that waits for an Omni that does not start."""
    talos.require_libraries()
    monkeypatch.setattr(talos, "LIBRARIES", ("h2", "no_such_library"))
    with pytest.raises(PermanentError, match="no_such_library") as caught:
        talos.require_libraries()
    assert "bootwright[test]" in caught.value.hint

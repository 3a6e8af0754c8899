"""When something is built, and what a build that dies leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from bootassets import agent_layer, base_layer, build, manifest, programs
from bootassets.architectures import Architecture
from bootassets.userland import Interpreter
from provider.domain.errors import PermanentError


@dataclass
class Workshop:
    """Stands in for apt and the compressor: counts what is built, and can be told to fail."""

    cache: Path
    bases_built: int = 0
    agents_built: int = 0
    agent_source: str = "agent 1"
    trouble: list[str] = field(default_factory=list)
    caches: set[Path] = field(default_factory=set)

    def build_base(
        self, cache: Path, architecture: Architecture, progress: Callable[[str, float], None]
    ) -> base_layer.BaseLayer:
        self.bases_built += 1
        self.caches.add(cache)
        folder = cache / f"base-of-test-{architecture.name}"
        (folder / "boot").mkdir(parents=True, exist_ok=True)
        (folder / f"boot/{architecture.name}.efi").write_bytes(b"nbp")
        (folder / "vmlinuz").write_bytes(b"kernel")
        (folder / "base.cpio.zst").write_bytes(f"base {self.bases_built};".encode())
        information = base_layer.Information("Debian 12", "6.1.0", {"python3": "3.11"}, ("a note",))
        (folder / "information.json").write_text(json.dumps(asdict(information)))
        return base_layer.BaseLayer(folder, architecture)

    def find_base(self, cache: Path, architecture: Architecture) -> base_layer.BaseLayer | None:
        folder = cache / f"base-of-test-{architecture.name}"
        return base_layer.BaseLayer(folder, architecture) if folder.exists() else None

    def build_agent(self, interpreter: Interpreter, scratch: Path) -> bytes:
        scratch.mkdir()
        if self.trouble:
            raise PermanentError(self.trouble.pop())
        self.agents_built += 1
        return self.agent_source.encode()


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Put the workshop in the place of the real layers."""
    found = Workshop(tmp_path / "cache")
    monkeypatch.setattr(base_layer, "build", found.build_base)
    monkeypatch.setattr(base_layer, "find", found.find_base)
    monkeypatch.setattr(base_layer, "digest", lambda architecture: "recipe 1")
    monkeypatch.setattr(agent_layer, "build", found.build_agent)
    monkeypatch.setattr(agent_layer, "digest", lambda: found.agent_source)
    monkeypatch.setattr(programs, "require_all", lambda: None)
    return found


def test_first_build_is_complete(workshop: Workshop, tmp_path: Path) -> None:
    """Breaks if the result does not verify, or the layers are not one after the other in the initramfs."""
    made = build.build(tmp_path / "out", cache_dir=workshop.cache)
    assert manifest.verify(tmp_path / "out") == made
    assert (tmp_path / "out/x86_64/initramfs.zst").read_bytes() == b"base 1;agent 1\0\0", "padded to a multiple of four"
    assert (tmp_path / "out/boot/x86_64.efi").read_bytes() == b"nbp"
    assert made.notes == ("x86_64: a note",)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["boot", "manifest.json", "x86_64"]


def test_second_build_does_nothing(workshop: Workshop, tmp_path: Path) -> None:
    """Breaks if every start of the lab builds again."""
    first = build.build(tmp_path / "out", cache_dir=workshop.cache)
    assert build.build(tmp_path / "out", cache_dir=workshop.cache) == first
    assert (workshop.bases_built, workshop.agents_built) == (1, 1)


def test_another_architecture_joins_the_first(workshop: Workshop, tmp_path: Path) -> None:
    """Breaks if an image for arm64 takes away the one for x86-64, or is forgotten by the next build."""
    build.build(tmp_path / "out", cache_dir=workshop.cache)
    made = build.build(tmp_path / "out", ["arm64"], cache_dir=workshop.cache)
    assert list(made.images) == ["x86_64", "aarch64"]
    assert {"boot/x86_64.efi", "boot/aarch64.efi", "aarch64/vmlinuz"} < set(made.files)
    workshop.agent_source = "agent 2"
    build.build(tmp_path / "out", cache_dir=workshop.cache)
    for name in ("x86_64", "aarch64"):
        assert b"agent 2" in (tmp_path / "out" / name / "initramfs.zst").read_bytes()
    assert workshop.bases_built == 2


def test_changed_agent_packs_only_the_agent(workshop: Workshop, tmp_path: Path) -> None:
    """Breaks if a change to the agent is not taken, or downloads the world again."""
    build.build(tmp_path / "out", cache_dir=workshop.cache)
    workshop.agent_source = "agent 2"
    build.build(tmp_path / "out", cache_dir=workshop.cache)
    assert (tmp_path / "out/x86_64/initramfs.zst").read_bytes() == b"base 1;agent 2\0\0"
    assert workshop.bases_built == 1


def test_force_builds_everything(workshop: Workshop, tmp_path: Path) -> None:
    """Breaks if there is no way to newer packages."""
    build.build(tmp_path / "out", cache_dir=workshop.cache)
    build.build(tmp_path / "out", cache_dir=workshop.cache, force=True)
    assert workshop.bases_built == 2


def test_damaged_file_is_mended(workshop: Workshop, tmp_path: Path) -> None:
    """Breaks if a file that rotted stays as it is because the sources did not change."""
    build.build(tmp_path / "out", cache_dir=workshop.cache)
    (tmp_path / "out/x86_64/vmlinuz").write_bytes(b"rotten")
    build.build(tmp_path / "out", cache_dir=workshop.cache)
    assert (tmp_path / "out/x86_64/vmlinuz").read_bytes() == b"kernel"


def test_build_that_dies_leaves_the_old_assets(workshop: Workshop, tmp_path: Path) -> None:
    """Breaks if a failed build takes away what machines boot from."""
    first = build.build(tmp_path / "out", cache_dir=workshop.cache)
    workshop.agent_source = "agent 2"
    workshop.trouble.append("no space left")
    with pytest.raises(PermanentError, match="no space left"):
        build.build(tmp_path / "out", cache_dir=workshop.cache)
    assert manifest.verify(tmp_path / "out") == first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["boot", "manifest.json", "x86_64"]


def test_unknown_architecture(tmp_path: Path) -> None:
    """Breaks if an architecture that we cannot build gives anything but a clear answer."""
    with pytest.raises(PermanentError, match="riscv64"):
        build.build(tmp_path / "out", ["riscv64"], cache_dir=tmp_path)


def test_relative_folders(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if apt gets a relative folder, which it takes to be below its own root (seen)."""
    monkeypatch.chdir(tmp_path)
    build.build(Path("out"), cache_dir=Path("cache"))
    assert workshop.caches == {tmp_path / "cache"}


def test_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if the cache ignores where the user wants caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert build.default_cache() == Path("/somewhere/bootwright")
